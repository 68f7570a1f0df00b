"""Bodies between the event loop, which talks to the client, and the thread, which talks to the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from starlette.types import Message, Receive

from cliphouse.errors import EngineError
from cliphouse.service.clickhouse_blocks import Unpacker

#: So many pieces of an answer may wait for a slow client; the engine waits for it then.
_WAITING_PIECES = 4


class ClientGone(ConnectionError):
    """The client has closed its connection."""


class Incoming:
    """The body of a request, opened as it comes; its beginning is read in the event loop, the rest in a thread."""

    def __init__(self, receive: Receive, unpackers: Sequence[Unpacker]) -> None:
        self._receive, self._unpackers = receive, unpackers
        self._loop = asyncio.get_running_loop()
        self.ended = False
        self.failure: Exception | None = None
        self._over = asyncio.Event()

    async def beginning(self, size: int) -> bytes:
        """More than `size` bytes, or all there are."""
        found = bytearray()
        while not self.ended and len(found) <= size:
            found += await self.piece()
        return bytes(found)

    async def piece(self) -> bytes:
        """What has come next.

        Raises:
            ClientGone: the client went away before the end.
            EngineError: it is not compressed as the request says.
        """
        try:
            data = await self._next()
            self._unpack_end()
        except (ClientGone, EngineError) as error:
            self.failure = error
            raise
        finally:
            if self.ended or self.failure:
                self._over.set()
        return data

    async def _next(self) -> bytes:
        message: Message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client went away")
        data: bytes = message.get("body", b"")
        self.ended = not message.get("more_body", False)
        for unpacker in self._unpackers:
            data = unpacker.take(data)
        return data

    def _unpack_end(self) -> None:
        if self.ended:
            for unpacker in self._unpackers:
                unpacker.end()

    async def gone(self) -> Exception:
        """Wait until the body cannot be read, or the client has gone away after it."""
        await self._over.wait()
        while self.failure is None and (await self._receive())["type"] != "http.disconnect":
            pass
        return self.failure or ClientGone("the client went away")

    async def drain(self, most: int) -> bool:
        """Read on without a look, so that the connection can be used again; False if there is more than that."""
        while not self.ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return False
            most -= len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
            if most < 0:
                return False
        return True

    def rest(self) -> Iterator[bytes]:
        """What comes after the beginning, for a thread."""
        while not self.ended:
            yield asyncio.run_coroutine_threadsafe(self.piece(), self._loop).result()


class Outgoing:
    """The pieces of an answer on their way from a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(_WAITING_PIECES)
        self._closed = False

    def write(self, piece: bytes) -> None:
        """Hand over a piece, from the thread; waits while too many are on their way.

        Raises:
            ClientGone: nobody reads any more.
        """
        if not self._closed:
            asyncio.run_coroutine_threadsafe(self._pieces.put(piece), self._loop).result()
        if self._closed:
            raise ClientGone("the client went away")

    async def next(self, work: asyncio.Future[Any]) -> bytes | None:
        """The next piece; None when there is none and `work`, which writes them, has ended."""
        if not self._pieces.empty():
            return self._pieces.get_nowait()
        if work.done():
            return None
        getting = asyncio.ensure_future(self._pieces.get())
        try:
            await asyncio.wait((getting, work), return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            getting.cancel()
            raise
        if getting.done():
            return getting.result()
        getting.cancel()
        with suppress(asyncio.CancelledError):
            return await getting
        return None if self._pieces.empty() else self._pieces.get_nowait()

    def close(self) -> None:
        """Read no more; a thread that waits goes on and is told."""
        self._closed = True
        while not self._pieces.empty():
            self._pieces.get_nowait()
