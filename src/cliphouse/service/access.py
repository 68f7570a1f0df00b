"""Who may ask, by which name of the host, and how often."""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cliphouse.service import problems
from cliphouse.service.settings import Settings

#: What anybody may ask: whether the service lives, and the page, which asks for the key itself.
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/favicon.ico"})
OPEN_FOLDER = "/static/"

#: Names by which a service that listens on loopback is meant. A page of another site that has its own name lead
#: to 127.0.0.1 sends that name.
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})

#: So many askers are remembered; whoever has not asked for longest is forgotten.
_REMEMBERED = 10_000
#: Whoever was silent for so long may ask at once for as much as this takes at his rate.
_BURST_SECONDS = 2.0


def fingerprint(key: str) -> str:
    """What stands for a key in logs: tells keys apart and gives nothing away."""
    return hashlib.sha256(key.encode()).hexdigest()[:8]


class Keys:
    """The keys that open the service, compared in a time that does not depend on how much of one is right."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def has(self, key: str) -> bool:
        """Whether `key` is one of them."""
        given, found = _digest(key), False
        for digest in self._digests:
            found |= hmac.compare_digest(digest, given)
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class Rate:
    """So many requests a second for each asker, after a pause two seconds' worth at once (a token bucket)."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = per_second, clock
        self._most = max(1.0, per_second * _BURST_SECONDS)
        self._askers: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when that was

    def wait(self, asker: str) -> float:
        """Take one request; or the seconds until there is one."""
        now = self._clock()
        left, then = self._askers.pop(asker, (self._most, now))
        left = min(self._most, left + (now - then) * self._rate)
        seconds = 0.0 if left >= 1 else (1 - left) / self._rate
        self._askers[asker] = (left - 1 if left >= 1 else left, now)
        if len(self._askers) > _REMEMBERED:
            self._askers.popitem(last=False)
        return seconds


def key_of(headers: Headers) -> str | None:
    """The key that a request brings: `Authorization: Bearer KEY` or `X-API-Key: KEY`.

    Or as a password, which is all that clients can send that take nothing but an address: http://:KEY@host.
    """
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:
            return ""
    return value.strip() if scheme.lower() == "bearer" else headers.get("x-api-key")


class Gate:
    """Lets a request through that comes to the right host, with a key where one is needed, and not too often."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._hosts = app, frozenset(settings.hosts)
        self._keys = Keys(settings.api_keys)
        self._rate = Rate(settings.rate) if settings.rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        refused = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refused or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        if self._hosts and host_of(request.headers) not in self._hosts:
            detail = (
                "the Host header names another host than this service was started for; "
                "ask for it as localhost, or start it with --host"
            )
            return problems.answer(request, 421, "wrong-host", detail)
        if request.url.path in OPEN_PATHS or request.url.path.startswith(OPEN_FOLDER):
            return None
        key = key_of(request.headers)
        allowed = not self._keys or (key is not None and self._keys.has(key))
        known = fingerprint(key) if self._keys and allowed and key else None
        request.state.key = known
        if self._rate:
            address = request.client.host if request.client else "?"
            if seconds := self._rate.wait(known or address):
                return _come_again(request, seconds)
        if not allowed:
            what = "this needs an API key" if key is None else "this API key is not known here"
            detail = f"{what}; send Authorization: Bearer KEY, or X-API-Key: KEY"
            return problems.answer(request, 401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
        return None


def _come_again(request: Request, seconds: float) -> Response:
    detail = f"too many requests; come again in {seconds:.1f} s"
    headers = {"Retry-After": str(math.ceil(seconds))}
    return problems.answer(request, 429, "too-many-requests", detail, headers=headers)


def host_of(headers: Headers) -> str:
    """The name in the Host header, without a port."""
    host = headers.get("host", "").strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")
