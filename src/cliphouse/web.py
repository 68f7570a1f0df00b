"""Files from the web: gone on with where they stopped, and checked by their sum where there is one.

With `web_public`, what speaks HTTP.
"""

from __future__ import annotations

import hashlib
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from cliphouse.addresses import shown
from cliphouse.errors import ChecksumMismatch, DownloadFailed, UsageError
from cliphouse.files import HEAD_BYTES, Part, Peek, sum_of
from cliphouse.pace import Busy, Pace, persist
from cliphouse.types import Progress, ProgressCallback

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

#: Seconds without a byte before an attempt is given up.
PATIENCE = 30.0
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Receipt:
    """What came: its sha256 in hexadecimal, and which sum the server itself declared, if that was compared."""

    sha256: str
    declared: str


def download(
    url: str,
    target: Path,
    *,
    accept: Sequence[str] = (),
    unverified: bool = False,
    elsewhere: str = "",
    progress: ProgressCallback | None = None,
) -> Receipt:
    """Fetch `url` into `target`; its sha256 must be one of `accept`.

    A later call goes on where this one was cut. Without `accept` the sum that the hub declares (`X-Linked-ETag`, as
    Hugging Face does for large files) is checked. If there is none either, nothing is fetched unless `unverified`.
    Only one process may fetch a target at a time: see `files.locked`.

    Raises:
        UsageError: `url` is not http or https.
        DownloadFailed: as `receive` says, or there is no sum; `elsewhere` is the advice if this address will not do.
        ChecksumMismatch: the file is another one; what came is thrown away.
        OSError: it cannot be written.
    """
    part = Part(target)
    part.path.parent.mkdir(parents=True, exist_ok=True)
    declared = receive(
        url, part, needs_sum=not (accept or unverified), elsewhere=elsewhere, label=target.name, progress=progress
    )
    found = sum_of(part.path)
    wanted, same = accept[0] if accept else "", found in accept
    if not accept and declared:
        wanted, same = declared.value, declared.fits(part.path, found)
    if wanted and not same:
        part.discard()
        raise ChecksumMismatch(shown(url), expected=wanted, found=found)
    part.finish()
    return Receipt(found, declared=declared.kind if declared and not accept else "")


def receive(
    url: str,
    part: Part,
    *,
    label: str,
    elsewhere: str = "",
    needs_sum: bool = False,
    promised: Callable[[Path], int | None] = lambda _: None,
    patience: float = PATIENCE,
    pace: Pace | None = None,
    progress: ProgressCallback | None = None,
) -> Sum | None:
    """Bring `part` to its full length, and return the sum that the server declares for the file.

    What has come is gone on with if the server still has the same file and can. `promised` reads from a part how
    long the file says it is, for servers that do not.

    Raises:
        UsageError: `url` is not http or https.
        DownloadFailed: the server cannot be reached, refuses, or breaks off five times without new bytes; with
            `needs_sum`, it declares none.
        Stopped: `pace` has been told to stop; what came is kept.
        OSError: it cannot be written.
    """
    check_address(url)
    pace = pace or Pace()
    declared: Sum | None = None
    with _Web(patience) as web:

        def attempt() -> bool:
            nonlocal declared
            with _as_busy(url, elsewhere):
                answer, linked = _follow(web, url, _rest_of(part), elsewhere)
                declared = linked or declared
                if needs_sum and not declared and answer.status in (200, 206, 416):
                    answer.close()
                    raise DownloadFailed(
                        url,
                        "neither cliphouse nor the server names its sha256",
                        advice="give the sum you know with --sha256 HEX, or take it as it is with --unverified",
                    )
                return _write(answer, url, part, label, elsewhere, promised, pace, progress)

        try:
            persist(pace, attempt, lambda: part.size)
        except Busy as error:
            raise DownloadFailed(url, str(error)) from error
    return declared


def peek(url: str, *, patience: float = PATIENCE, pace: Pace | None = None) -> Peek:
    """The length and the first bytes of a file, without the rest, or why the server will not show them.

    Raises:
        UsageError: `url` is not http or https.
        DownloadFailed: the server cannot be reached, or is busy three times.
        Stopped: `pace` has been told to stop.
    """
    check_address(url)
    seen = Peek(refusal="nothing was asked")
    with _Web(patience) as web:

        def attempt() -> bool:
            nonlocal seen
            with _as_busy(url, ""):
                answer, _ = _follow(web, url, {"Range": f"bytes=0-{HEAD_BYTES - 1}"}, "")
                try:
                    _refuse_all_but_files(answer, url, "")
                    seen = Peek(size=_total(answer, 0), head=answer.read(HEAD_BYTES))
                except DownloadFailed as error:
                    seen = Peek(refusal=error.reason)
                finally:
                    answer.close()
            return True

        try:
            persist(pace or Pace(), attempt, attempts=3)
        except Busy as error:
            raise DownloadFailed(url, str(error)) from error
    return seen


def check_address(url: str) -> None:
    """An address is one of the web.

    Raises:
        UsageError: it is not.
    """
    if not _is_web(url):
        raise UsageError(f"{shown(url)!r} is no address to download from; it must begin with https:// or http://")


class _Web:
    """Connections, through the proxies that the environment names."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._pools: dict[str, PoolManager] = {}

    def __enter__(self) -> _Web:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.clear()

    def get(self, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """The answer of one server, its body unread and redirects not followed."""
        proxy = _proxy(url)
        if proxy not in self._pools:
            self._pools[proxy] = _pool(proxy, self._patience)
        parts = urlsplit(url)
        headers = {"Authorization": _basic(parts)} | dict(headers) if parts.username is not None else headers
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        return self._pools[proxy].request("GET", url, headers=headers, preload_content=False, redirect=False)


def _basic(parts: SplitResult) -> str:
    """The user and password of an address as a server takes them."""
    secret = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return f"Basic {b64encode(secret.encode()).decode()}"


def _proxy(url: str) -> str:
    """The proxy that the environment wants for `url`; empty for none."""
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _pool(proxy: str, patience: float) -> PoolManager:
    import urllib3

    if not proxy:
        return urllib3.PoolManager(timeout=patience, retries=False)
    who = urlsplit(proxy)
    secret = f"{unquote(who.username)}:{unquote(who.password or '')}" if who.username else None
    headers = urllib3.make_headers(proxy_basic_auth=secret) if secret else None
    try:
        return urllib3.ProxyManager(proxy, proxy_headers=headers, timeout=patience, retries=False)
    except urllib3.exceptions.ProxySchemeUnknown as error:
        raise UsageError(f"the proxy {who.scheme}://{who.hostname} cannot be used; name one with http://") from error


@dataclass(frozen=True, slots=True)
class Sum:
    """What the hub declares: a sha256, or for small files the sum that git gives them."""

    value: str

    @property
    def kind(self) -> str:
        """What it is called."""
        return "sha256" if len(self.value) == 64 else "git sum"

    def fits(self, path: Path, sha256: str) -> bool:
        """Whether the file at `path`, whose sha256 is known, has this sum."""
        if self.kind == "sha256":
            return self.value == sha256
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == self.value


@contextmanager
def _as_busy(url: str, elsewhere: str) -> Iterator[None]:
    """What the network does inside may go better later, but for an address without a host."""
    import urllib3

    try:
        yield
    except urllib3.exceptions.LocationValueError as error:  # no host, a scheme that urllib3 does not know
        raise DownloadFailed(url, _reason(error), advice=elsewhere) from error
    except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise Busy(_reason(error)) from error
    except UsageError:
        raise
    except ValueError as error:  # a redirect to no address, a number with more digits than Python reads, ...
        raise DownloadFailed(url, f"the server's answer makes no sense: {error}", advice=elsewhere) from error


def _rest_of(part: Part) -> dict[str, str]:
    """Ask for what `part` lacks if the file is still the one that we began, else for all of it."""
    return {"Range": f"bytes={part.size}-", "If-Range": part.mark} if part.mark else {}


def _follow(web: _Web, url: str, headers: Mapping[str, str], elsewhere: str) -> tuple[BaseHTTPResponse, Sum | None]:
    """The server's answer, and the sum that it declares for the file."""
    headers = {"User-Agent": "cliphouse", "Accept-Encoding": "identity"} | dict(headers)
    declared: Sum | None = None
    for _ in range(10):
        answer = web.get(url, headers)
        declared = _declared(answer) or declared  # a hub declares it on the redirect, not on the file
        location = answer.get_redirect_location()
        if not location:
            return answer, declared
        answer.drain_conn()
        url = _led(url, str(location))
        if not _is_web(url):
            raise DownloadFailed(url, "the server sends us to an address that is not of the web", advice=elsewhere)
    raise DownloadFailed(url, "too many redirects", advice=elsewhere)


def _led(url: str, location: str) -> str:
    """Where a redirect leads. The user and password of an address are for its own server alone."""
    source, target = urlsplit(url), urlsplit(urljoin(url, location))
    same = (source.scheme, source.hostname, source.port) == (target.scheme, target.hostname, target.port)
    return target._replace(netloc=source.netloc).geturl() if same else target.geturl()


def _declared(answer: BaseHTTPResponse) -> Sum | None:
    etag = answer.headers.get("X-Linked-ETag", "")
    if not etag and "X-Repo-Commit" in answer.headers:  # Hugging Face, a file that git itself holds
        etag = answer.headers.get("ETag", "")
    match = re.fullmatch(r'(?:W/)?"?([0-9a-f]{64}|[0-9a-f]{40})"?', etag)
    return Sum(match[1]) if match else None


def _write(
    answer: BaseHTTPResponse,
    url: str,
    part: Part,
    label: str,
    elsewhere: str,
    promised: Callable[[Path], int | None],
    pace: Pace,
    progress: ProgressCallback | None,
) -> bool:
    """Write what the answer brings behind what is there; whether the file is whole now."""
    had = part.size if part.mark else 0
    try:
        if answer.status == 416:  # nothing behind what we have: it was whole, or it is another file
            whole = _total(answer, 0) == had
            if not whole:
                part.discard()
            return whole
        _refuse_all_but_files(answer, url, elsewhere)
        if answer.status == 206 and (_start(answer) != had or (had and _mark(answer) != part.mark)):
            part.discard()  # without our mark it may be another mirror's other file of the same length
            raise Busy("the server sent another part of the file than was asked for")
        if answer.status == 200:
            had = 0
        total = _total(answer, had)
        with part.path.open("ab" if had else "wb") as stream:
            part.remember(_mark(answer) or (part.mark if had else ""))
            while chunk := answer.read1(pace.helping(_CHUNK)):  # what there is: a cut loses nothing that has come
                stream.write(chunk)
                had += len(chunk)
                if progress:
                    progress(Progress(label=label, done=had, total=total or had, unit="bytes"))
                pace.took(len(chunk))
        return had == (total if total is not None else promised(part.path) or had)
    finally:
        answer.release_conn()
        answer.close()


def _refuse_all_but_files(answer: BaseHTTPResponse, url: str, elsewhere: str) -> None:
    """Go on if the answer brings a file.

    Raises:
        Busy: it may bring one later.
        DownloadFailed: it will not.
    """
    said = f"the server answered {answer.status} {answer.reason or ''}".rstrip()
    if answer.status in (408, 429) or answer.status >= 500:
        raise Busy(said, after=_wanted_rest(answer.headers.get("Retry-After", "")))
    if answer.status not in (200, 206):
        raise DownloadFailed(url, said, advice=elsewhere)
    if (packed := answer.headers.get("Content-Encoding", "identity").lower()) != "identity":
        raise DownloadFailed(
            url, f"the server sends it packed as {packed}, though it was asked not to", advice=elsewhere
        )


def _wanted_rest(text: str) -> float:
    """The seconds in a Retry-After, which is a number or a date; 0 for nothing that can be read."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is no number
        return False


def _mark(answer: BaseHTTPResponse) -> str:
    """What tells this file from a later one; without it a broken download starts again."""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")


def _start(answer: BaseHTTPResponse) -> int | None:
    """Where the part begins that the answer brings, if the server says."""
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _total(answer: BaseHTTPResponse, had: int) -> int | None:
    """The length of the whole file, if the server says."""
    if match := re.search(r"/(\d+)$", answer.headers.get("Content-Range", "")):
        return int(match[1])
    length = answer.headers.get("Content-Length", "")
    return had + int(length) if length.isdecimal() else None


def _reason(error: Exception) -> str:
    text = re.sub(r"\S+://\S+", lambda url: shown(url[0]), str(error.__cause__ or error))
    return re.sub(r"<[^>]*>:? ?", "", text).strip() or type(error).__name__
