"""Files from the web: resumed where they stopped, checked by their sum, and in place only when they are whole."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cliphouse.errors import ChecksumMismatch, DownloadFailed
from cliphouse.types import Progress, ProgressCallback

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

_CHUNK = 1 << 20
_ATTEMPTS = 5
#: Seconds without a byte before an attempt is given up.
_PATIENCE = 30.0
#: Seconds of rest after the first fruitless attempt; then twice, three times, four times that.
_PAUSE = 1.0


class _Busy(Exception):
    """The server may answer better later."""


def download(url: str, target: Path, *, sha256: str | None = None, progress: ProgressCallback | None = None) -> str:
    """Fetch `url` into `target` and return its sha256, in hexadecimal.

    Bytes gather in `target` + ".part"; a later call goes on behind them if the server still has the same file. Without
    `sha256` the sum that the hub declares (`X-Linked-ETag`, as Hugging Face does for large files) is checked, if any.

    Raises:
        DownloadFailed: the server cannot be reached, refuses, or breaks off five times without a new byte.
        ChecksumMismatch: the file is another one; what came is thrown away.
    """
    import urllib3

    part, mark = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.etag")
    target.parent.mkdir(parents=True, exist_ok=True)
    declared: str | None = None
    with urllib3.PoolManager(timeout=_PATIENCE, retries=False) as pool:
        attempts = _ATTEMPTS
        while True:
            had = part.stat().st_size if part.exists() else 0
            try:
                whole, linked = _receive(pool, url, part, mark, target.name, progress)
                declared = linked or declared
                if whole:
                    break
                reason = "the connection was cut"
            except (urllib3.exceptions.HTTPError, _Busy) as error:
                reason = _reason(error)
            now = part.stat().st_size if part.exists() else 0
            attempts = _ATTEMPTS if now > had else attempts - 1
            if not attempts:
                raise DownloadFailed(url, reason)
            time.sleep(_PAUSE * (_ATTEMPTS - attempts))
    found, wanted = sum_of(part), sha256 or declared
    if wanted and found != wanted:
        part.unlink()
        mark.unlink(missing_ok=True)
        raise ChecksumMismatch(url, expected=wanted, found=found)
    part.replace(target)
    mark.unlink(missing_ok=True)
    return found


def sum_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _receive(
    pool: PoolManager, url: str, part: Path, mark: Path, label: str, progress: ProgressCallback | None
) -> tuple[bool, str | None]:
    """One attempt: whether the file is whole now, and the sha256 that the server declares for it."""
    had = part.stat().st_size if part.exists() and mark.exists() else 0
    headers = {"User-Agent": "cliphouse", "Accept-Encoding": "identity"}
    if had:  # the rest, if the file is still the one that we began; else all of it
        headers |= {"Range": f"bytes={had}-", "If-Range": mark.read_text()}
    linked: list[str | None] = []
    answer = _follow(pool, url, headers, linked)
    try:
        if answer.status == 416:  # nothing behind what we have: it was whole, or it is another file
            total = _total(answer, 0)
            if total != had:
                part.unlink()
            return total == had, linked[-1]
        if answer.status == 429 or answer.status >= 500:
            raise _Busy(f"the server answered {answer.status} {answer.reason or ''}".rstrip())
        if answer.status not in (200, 206):
            raise DownloadFailed(url, f"the server answered {answer.status} {answer.reason or ''}".rstrip())
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
        return total is None or had == total, linked[-1]
    finally:
        answer.release_conn()
        answer.close()


def _follow(pool: PoolManager, url: str, headers: dict[str, str], linked: list[str | None]) -> BaseHTTPResponse:
    """The answer behind redirects; a hub declares the sum on the redirect, not on the file."""
    linked.append(None)
    for _ in range(10):
        answer = pool.request("GET", url, headers=headers, preload_content=False, redirect=False)
        etag = re.fullmatch(r'(?:W/)?"?([0-9a-f]{64})"?', answer.headers.get("X-Linked-ETag", ""))
        if etag:
            linked.append(etag[1])
        location = answer.get_redirect_location()
        if not location:
            return answer
        answer.drain_conn()
        url = _join(url, str(location))
    raise DownloadFailed(url, "too many redirects")


def _join(url: str, location: str) -> str:
    from urllib.parse import urljoin

    return urljoin(url, location)


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
