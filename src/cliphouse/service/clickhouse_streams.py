"""Bodies between the event loop, which talks to the client, and the thread, which talks to the engine."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator, Sequence

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
    """The pieces of an answer on their way from a thread.

    The last `held` bytes stay in the thread until more come or the work is done: a short answer is sent as a whole,
    with its length, and costs no switch between the two; an error on the way to it still has its status.
    """

    def __init__(self, held: int) -> None:
        self._loop, self._held = asyncio.get_running_loop(), held
        self._last = b""
        self._pieces: deque[bytes] = deque()
        self._room = threading.Semaphore(_WAITING_PIECES)
        self._closed = False
        self.ready = self._loop.create_future()

    def write(self, piece: bytes) -> None:
        """Hand over a piece, from the thread; waits while too many are on their way.

        Raises:
            ClientGone: nobody reads any more.
        """
        if self._last and len(self._last) + len(piece) > self._held:
            self._room.acquire()
            self._pieces.append(self._last)
            self._last = b""
            if not self._closed:
                self._loop.call_soon_threadsafe(self._wake)
        if self._closed:
            raise ClientGone("the client went away")
        self._last = self._last + piece if self._last else piece

    def _wake(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)

    def take(self) -> bytes | None:
        """The next piece, if there is one; if not, `ready` says when."""
        if self.ready.done():
            self.ready = self._loop.create_future()
        if not self._pieces:
            return None
        self._room.release()
        return self._pieces.popleft()

    def last(self) -> bytes:
        """What is left when the work is done and all is taken."""
        return self._last

    def close(self) -> None:
        """Read no more; a thread that waits goes on and is told."""
        self._closed = True
        self._room.release()
