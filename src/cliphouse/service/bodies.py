"""How much a request may bring."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cliphouse.service import problems
from cliphouse.units import size


class BodyLimit:
    """Refuses a body that is too large, by what its header says, and otherwise where it grows over the limit."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # What is no number the server refuses itself.
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._most:
            await self._refuse(scope, receive, send)
            return
        came, over, started = 0, False, False

        async def counted() -> Message:
            nonlocal came, over
            message = await receive()
            came += len(message.get("body", b""))
            if came <= self._most:
                return message
            over = True
            return {"type": "http.disconnect"}  # ends the reading, whoever reads

        async def unless_over(message: Message) -> None:
            nonlocal started
            if over and not started:
                return  # what the application makes of the end of its body is nobody's business
            started = True
            await send(message)

        try:
            await self._app(scope, counted, unless_over)
        except Exception:
            if not over:
                raise
        if over and not started:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        detail = f"the body is larger than {size(self._most)}, the most that this service takes"
        # The rest of the body is not read, so the connection cannot go on.
        refusal = problems.answer(Request(scope), 413, "body-too-large", detail, headers={"Connection": "close"})
        await refusal(scope, receive, send)
