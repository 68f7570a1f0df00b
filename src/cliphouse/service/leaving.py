"""A client that goes away takes its work with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cliphouse.service.pool import Stream


class Leaving:
    """Cancels what answers a request when its client has gone, which an application that only computes does not notice.

    What `receive` gives is read one message ahead of the application, for a client's leaving comes that way.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        messages: asyncio.Queue[Message] = asyncio.Queue(1)
        gone, answered = asyncio.Event(), False

        async def noting(message: Message) -> None:
            nonlocal answered
            await send(message)
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)

        async def ahead() -> Message:
            return await messages.get()

        work = asyncio.ensure_future(self._app(scope, ahead, noting))

        async def listen() -> None:
            message = await receive()
            while message["type"] != "http.disconnect":
                await messages.put(message)
                message = await receive()
            if not answered:
                gone.set()
                work.cancel()
            await messages.put(message)

        listener = asyncio.ensure_future(listen())
        try:
            await work
        except asyncio.CancelledError:
            if not gone.is_set():  # the server ends
                work.cancel()
                raise
        finally:
            listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listener


class Streamed(StreamingResponse):
    """The items of a stream as an answer; a client that goes away ends the work that makes them."""

    def __init__(
        self, stream: Stream[bytes] | Stream[str], media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(stream, media_type=media_type, headers=headers)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()
