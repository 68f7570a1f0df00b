"""Who may ask over ClickHouse's HTTP interface: by which key, from where, and how often."""

from __future__ import annotations

import base64
import binascii
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import Scope

from cliphouse.service.access import Keys, Rate, fingerprint, host_of
from cliphouse.service.clickhouse_errors import refused
from cliphouse.service.clickhouse_request import Arguments
from cliphouse.service.settings import Settings


class Door:
    """Lets requests in by the settings of one service."""

    def __init__(self, settings: Settings) -> None:
        self._hosts, self._keys = settings.hosts, Keys(settings.api_keys)
        self._rate = Rate(settings.rate) if settings.rate else None

    def user(self, scope: Scope, asked: Arguments) -> str:
        """The name of who asks. Where there are keys, the password is one of them and the name has its fingerprint.

        Raises:
            EngineError: he may not, or not yet again.
        """
        headers = Headers(scope=scope)
        self._guard(headers)
        user, password = _credentials(headers, asked)
        if self._keys:
            if not self._keys.has(password):
                name, wrong = ("AUTHENTICATION_FAILED", "no") if password else ("REQUIRED_PASSWORD", "")
                raise refused(name, f"{user}: Authentication failed: the password is {wrong or 'a'} key of the service")
            scope["state"]["key"] = known = fingerprint(password)
            user = f"{user} {known}"
        if self._rate:
            client = scope.get("client") or ("?",)
            if seconds := self._rate.wait(user if self._keys else client[0]):
                raise refused("QUOTA_EXCEEDED", f"Quota exceeded: too many requests; come again in {seconds:.1f} s")
        return user

    def _guard(self, headers: Headers) -> None:
        """Only programs may ask, and pages of this very host: a browser sends what any page on the web tells it to."""
        if self._hosts and host_of(headers) not in self._hosts:
            raise refused("ACCESS_DENIED", "the Host header names another host than this service was started for")
        origin = headers.get("origin")
        foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        if foreign or (origin is not None and origin.partition("://")[2] != headers.get("host")):
            raise refused("ACCESS_DENIED", "pages of other sites may not ask")


def _credentials(headers: Headers, asked: Arguments) -> tuple[str, str]:
    """User and password: of the URL, of the Authorization header, or of ClickHouse's own headers, which win."""
    user, password = asked.given.get("user", ""), asked.given.get("password", "")
    scheme, _, token = headers.get("authorization", "").partition(" ")
    with suppress(ValueError, binascii.Error):
        if scheme.lower() == "basic":
            user, _, password = base64.b64decode(token).decode().partition(":")
        elif scheme.lower() == "bearer":
            password = token.strip()
    return headers.get("x-clickhouse-user", user) or "default", headers.get("x-clickhouse-key", password)
