"""One URL says where the data is."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from cliphouse.errors import UsageError

_FORMS = "use a directory, chdb:///path, chdb://memory, or clickhouse://user:password@host:8123/database"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedLocation:
    """A chDB database in this process; `path` is absolute, or None for one in memory."""

    path: Path | None

    def __str__(self) -> str:
        return "chdb://memory" if self.path is None else str(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLocation:
    """A ClickHouse server's HTTP interface. The password is in no printed form."""

    host: str
    port: int
    user: str = "default"
    password: str = field(default="", repr=False)
    database: str = "default"
    secure: bool = False
    verify: bool = True

    def __str__(self) -> str:
        scheme = "clickhouses" if self.secure else "clickhouse"
        return f"{scheme}://{self.user}@{self.host}:{self.port}/{self.database}"


Location = EmbeddedLocation | ServerLocation


def parse_url(url: str) -> Location:
    """The place `url` names.

    `chdb:///path` or a bare path, `chdb://memory`, `clickhouse://user:password@host:8123/database`, `clickhouses://`
    for TLS (port 8443 by default; `?verify=0` accepts any certificate). User and password may be percent-encoded.

    Raises:
        UsageError: it is none of these. The message never repeats the URL, which may hold a password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        if not url:
            raise UsageError(f"the database URL is empty; {_FORMS}")
        if re.match(r"(clickhouses?|chdb|https?):", url):
            raise UsageError(f"{url.partition(':')[0]}: is not followed by //; {_FORMS}")
        return EmbeddedLocation(path=Path(url).expanduser().resolve())
    if scheme == "chdb":
        if rest in ("memory", ":memory:"):
            return EmbeddedLocation(path=None)
        if not rest.startswith("/") or rest == "/":
            raise UsageError(f"chdb://{rest} names no directory; write chdb:///absolute/path or chdb://memory")
        return EmbeddedLocation(path=Path(unquote(rest)).resolve())
    if scheme in ("clickhouse", "clickhouses"):
        return _server(url, secure=scheme == "clickhouses")
    raise UsageError(f"{scheme}:// is not a database URL; {_FORMS}")


def _server(url: str, *, secure: bool) -> ServerLocation:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError(f"the host or port in the {url.partition('://')[0]}:// URL is not valid; {_FORMS}") from None
    if not parts.hostname:
        raise UsageError(f"the {parts.scheme}:// URL names no host; {_FORMS}")
    if "@" in parts.path or "/" in parts.path.strip("/"):
        raise UsageError(f"the {parts.scheme}:// URL is not valid: percent-encode /, @ and : in user and password")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    verify = options.pop("verify", "1")
    if options or verify not in ("0", "1"):
        raise UsageError("the one option a clickhouses:// URL takes is ?verify=0 or ?verify=1")
    return ServerLocation(
        host=parts.hostname,
        port=port or (8443 if secure else 8123),
        user=unquote(parts.username or "default"),
        password=unquote(parts.password or ""),
        database=unquote(parts.path.strip("/")) or "default",
        secure=secure,
        verify=verify == "1",
    )
