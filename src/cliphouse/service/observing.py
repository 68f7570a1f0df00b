"""Around every request: its id, its line in the log, its place in the metrics, and an answer if something breaks."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cliphouse.service import problems
from cliphouse.service.logs import event
from cliphouse.service.metrics import Metrics

REQUEST_ID = "X-Request-Id"
#: What somebody else may have named a request: nothing that could break a line of the log.
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: What the log says of a request whose client went before there was an answer (nginx's number).
GONE = 499


class Observer:
    """The outermost layer: whatever happens inside, there is an answer, a line and a count."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        broke: Exception | None = None
        try:
            await self._app(scope, receive, noting)
        except Exception as error:  # told in the log; outside it is nobody's business
            broke = error
            if status:
                raise  # half an answer cannot be mended: the server breaks the connection off
            await _broken(scope)(scope, receive, noting)
        finally:
            seconds = time.perf_counter() - began
            self._metrics.answered(scope["method"], route_of(scope), status or GONE, seconds)
            event(
                "request",
                level=logging.ERROR if broke else logging.INFO,
                error=broke,
                request_id=request_id,
                method=scope["method"],
                path=scope["path"],
                status=status or GONE,
                ms=round(seconds * 1000, 1),
                key=scope["state"].get("key"),
            )


def _broken(scope: Scope) -> ASGIApp:
    detail = "the service failed at this; its log says more under the id of the request"
    return problems.answer(Request(scope), 500, "internal-error", detail)


def route_of(scope: Scope) -> str:
    """The template of the route that took a request, as `/api/v1/items/{id}`."""
    template: str | None = getattr(scope.get("route"), "path_format", None)
    if template is None:
        return "other"
    # A router that stands under a prefix knows only the end of the path.
    end = template.format(**scope.get("path_params", {}))
    path: str = scope["path"]
    return (path.removesuffix(end) if path.endswith(end) else "") + template
