"""Errors as problem+json (RFC 9457): one shape for every answer that is not what was asked for."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from cliphouse.errors import Busy, CliphouseError

MEDIA_TYPE = "application/problem+json"
#: Set in the state of a request whose answers tell errors as `{"message": ...}`, as clip-retrieval does.
MESSAGE_ALONE = "message_alone"


class Problem(BaseModel):
    """What went wrong, and how to mend it."""

    type: str = Field(description="The kind of problem, for programs", examples=["dimension-mismatch"])
    title: str = Field(description="The HTTP status in words", examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(description="One line for people, with the next step")
    request_id: str | None = None
    errors: list[dict[str, Any]] = Field(default=[], description="Which fields of the request are wrong, if some are")


def kind(error: type[BaseException]) -> str:
    """The name of an error class as a problem's type: `unknown-item`."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in error.__name__).lstrip("-")


def answer(
    request: Request,
    status: int,
    type_: str,
    detail: str,
    *,
    errors: list[dict[str, Any]] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """A problem as an answer."""
    if getattr(request.state, MESSAGE_ALONE, False):
        return JSONResponse({"message": detail}, status, headers)
    problem = Problem(
        type=type_,
        title=HTTPStatus(status).phrase,
        status=status,
        detail=" ".join(detail.split()),  # which may repeat what was sent
        request_id=getattr(request.state, "request_id", None),
        errors=errors or [],
    )
    return JSONResponse(problem.model_dump(), status, headers, MEDIA_TYPE)


def of_error(request: Request, error: CliphouseError) -> JSONResponse:
    """The answer to a request that ended with one of our errors."""
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Busy) else None
    return answer(request, error.http_status, kind(type(error)), str(error), headers=headers)


def of_http(request: Request, error: HTTPException) -> JSONResponse:
    """The answer to a request that no route takes, or that the framework refused."""
    status = HTTPStatus(error.status_code)
    type_, detail = status.phrase.lower().replace(" ", "-"), str(error.detail)
    if status is HTTPStatus.NOT_FOUND:
        detail = f"there is nothing at {request.url.path}; /api/v1/openapi.json lists what there is"
    elif status is HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        detail = f"{request.url.path} does not take {request.method}" + (f"; it takes {allowed}" if allowed else "")
    return answer(request, status, type_, detail, headers=dict(error.headers or {}))
