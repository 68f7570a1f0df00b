"""Files from the web: resumed where they stopped, checked by their sum, and in place only when they are whole."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from cliphouse.errors import ChecksumMismatch, DownloadFailed, UsageError, WeightsNotStored
from cliphouse.types import Progress, ProgressCallback

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

_CHUNK = 1 << 20
_ATTEMPTS = 5
#: Seconds without a byte before an attempt is given up.
_PATIENCE = 30.0
#: Seconds of rest after the first fruitless attempt; then twice, three times, four times that.
_PAUSE = 1.0
_ELSEWHERE = "name a mirror with --base-url, or convert a file you have: cliphouse encoder export NAME --from FILE"


class _Busy(Exception):
    """The server may answer better later."""


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
    progress: ProgressCallback | None = None,
) -> Receipt:
    """Fetch `url` into `target`; its sha256 must be one of `accept`.

    Bytes gather in `target` + ".part"; a later call goes on behind them if the server still has the same file. Without
    `accept` the sum that the hub declares (`X-Linked-ETag`, as Hugging Face does for large files) is checked. If there
    is none either, nothing is fetched unless `unverified`. Only one process may fetch a target at a time: see `locked`.

    Raises:
        UsageError: `url` is not http or https.
        DownloadFailed: the server cannot be reached, refuses, names no sum, or breaks off five times without new bytes.
        ChecksumMismatch: the file is another one; what came is thrown away.
        WeightsNotStored: the disk is full, or the folder cannot be written.
    """
    import urllib3

    if not _is_web(url):
        raise UsageError(f"{url!r} is no address to download from; it must begin with https:// or http://")
    part, mark = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.etag")
    declared: _Sum | None = None
    with writing(part), _Web() as web:
        part.parent.mkdir(parents=True, exist_ok=True)
        attempts = _ATTEMPTS
        while True:
            had = part.stat().st_size if part.exists() else 0
            try:
                answer, linked = _ask(web, url, part, mark)
                declared = linked or declared
                if not (accept or declared or unverified) and answer.status in (200, 206, 416):
                    answer.close()
                    raise DownloadFailed(
                        url,
                        "neither cliphouse nor the server names its sha256",
                        advice="give the sum you know with --sha256 HEX, or take it as it is with --unverified",
                    )
                if _receive(answer, url, part, mark, target.name, progress):
                    break
                reason = "the connection was cut"
            except urllib3.exceptions.LocationValueError as error:  # no host, a scheme that urllib3 does not know
                raise DownloadFailed(url, _reason(error), advice=_ELSEWHERE) from error
            except (urllib3.exceptions.HTTPError, _Busy, ConnectionError, TimeoutError) as error:
                reason = _reason(error)
            now = part.stat().st_size if part.exists() else 0
            attempts = _ATTEMPTS if now > had else attempts - 1
            if not attempts:
                raise DownloadFailed(url, reason)
            time.sleep(_PAUSE * (_ATTEMPTS - attempts))
        found = sum_of(part)
        wanted, same = accept[0] if accept else "", found in accept
        if not accept and declared:
            wanted, same = declared.value, declared.fits(part, found)
        if wanted and not same:
            part.unlink()
            mark.unlink(missing_ok=True)
            raise ChecksumMismatch(url, expected=wanted, found=found)
        part.replace(target)
        mark.unlink(missing_ok=True)
    return Receipt(found, declared=declared.kind if declared and not accept else "")


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` if no other process does; whether it is held. It vanishes with the process."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with writing(path):
            stream = path.open("ab")
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            if not path.exists() or path.stat().st_ino != os.fstat(stream.fileno()).st_ino:
                continue  # its holder removed it between our opening and locking it
            try:
                yield True
            finally:
                path.unlink(missing_ok=True)
            return


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of what the system refuses inside, which file it was and why.

    Raises:
        WeightsNotStored: it refused.
    """
    try:
        yield
    except OSError as error:
        raise WeightsNotStored(error.filename or path, error.strerror or str(error)) from error


def sum_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _Web:
    """Connections, through the proxies that the environment names."""

    def __init__(self) -> None:
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
            self._pools[proxy] = _pool(proxy)
        return self._pools[proxy].request("GET", url, headers=headers, preload_content=False, redirect=False)


def _proxy(url: str) -> str:
    """The proxy that the environment wants for `url`; empty for none."""
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _pool(proxy: str) -> PoolManager:
    import urllib3

    if not proxy:
        return urllib3.PoolManager(timeout=_PATIENCE, retries=False)
    who = urlsplit(proxy)
    secret = f"{unquote(who.username)}:{unquote(who.password or '')}" if who.username else None
    headers = urllib3.make_headers(proxy_basic_auth=secret) if secret else None
    try:
        return urllib3.ProxyManager(proxy, proxy_headers=headers, timeout=_PATIENCE, retries=False)
    except urllib3.exceptions.ProxySchemeUnknown as error:
        raise UsageError(f"the proxy {who.scheme}://{who.hostname} cannot be used; name one with http://") from error


@dataclass(frozen=True, slots=True)
class _Sum:
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


def _ask(web: _Web, url: str, part: Path, mark: Path) -> tuple[BaseHTTPResponse, _Sum | None]:
    """The server's answer for what `part` lacks, and the sum that it declares for the whole."""
    had = part.stat().st_size if part.exists() and mark.exists() else 0
    headers = {"User-Agent": "cliphouse", "Accept-Encoding": "identity"}
    if had:  # the rest, if the file is still the one that we began; else all of it
        headers |= {"Range": f"bytes={had}-", "If-Range": mark.read_text()}
    declared: _Sum | None = None
    for _ in range(10):
        answer = web.get(url, headers)
        declared = _declared(answer) or declared  # a hub declares it on the redirect, not on the file
        location = answer.get_redirect_location()
        if not location:
            return answer, declared
        answer.drain_conn()
        url = urljoin(url, str(location))
        if not _is_web(url):
            raise DownloadFailed(url, "the server sends us to an address that is not of the web", advice=_ELSEWHERE)
    raise DownloadFailed(url, "too many redirects", advice=_ELSEWHERE)


def _declared(answer: BaseHTTPResponse) -> _Sum | None:
    etag = answer.headers.get("X-Linked-ETag", "")
    if not etag and "X-Repo-Commit" in answer.headers:  # Hugging Face, a file that git itself holds
        etag = answer.headers.get("ETag", "")
    match = re.fullmatch(r'(?:W/)?"?([0-9a-f]{64}|[0-9a-f]{40})"?', etag)
    return _Sum(match[1]) if match else None


def _receive(
    answer: BaseHTTPResponse, url: str, part: Path, mark: Path, label: str, progress: ProgressCallback | None
) -> bool:
    """Write what the answer brings behind what is there; whether the file is whole now."""
    had = part.stat().st_size if part.exists() and mark.exists() else 0
    said = f"the server answered {answer.status} {answer.reason or ''}".rstrip()
    try:
        if answer.status == 416:  # nothing behind what we have: it was whole, or it is another file
            total = _total(answer, 0)
            if total != had:
                part.unlink()
            return total == had
        if answer.status in (408, 429) or answer.status >= 500:
            raise _Busy(said)
        if answer.status not in (200, 206):
            raise DownloadFailed(url, said, advice=_ELSEWHERE)
        if answer.status == 200:
            had = 0
        _remember(mark, answer)
        total = _total(answer, had)
        with part.open("ab" if had else "wb") as stream:
            while chunk := answer.read1(_CHUNK):  # what there is: a cut loses nothing that has come
                stream.write(chunk)
                had += len(chunk)
                if progress:
                    progress(Progress(label=label, done=had, total=total or had, unit="bytes"))
        return total is None or had == total
    finally:
        answer.release_conn()
        answer.close()


def _is_web(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _remember(mark: Path, answer: BaseHTTPResponse) -> None:
    """Keep what tells this file from a later one; without it a broken download starts again."""
    etag = answer.headers.get("ETag", "")
    name = etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")
    if name:
        mark.write_text(name)
    else:
        mark.unlink(missing_ok=True)


def _total(answer: BaseHTTPResponse, had: int) -> int | None:
    """The length of the whole file, if the server says."""
    if match := re.search(r"/(\d+)$", answer.headers.get("Content-Range", "")):
        return int(match[1])
    length = answer.headers.get("Content-Length", "")
    return had + int(length) if length.isdigit() else None


def _reason(error: Exception) -> str:
    text = str(error.__cause__ or error)
    return re.sub(r"<[^>]*>:? ?", "", text).strip() or type(error).__name__
