"""Files in object storage and on the web, listed, and read at any place: s3://, gs://, az://, https://.

Credentials, endpoints and regions come from the variables that obstore knows.
"""

from __future__ import annotations

import io
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cliphouse.addresses import WEB, encoded, scheme, shown, shown_within
from cliphouse.errors import SourceUnavailable, UsageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

#: Variables of which one tells that a store of this kind is to be asked with a name; without them it is asked without.
#: Left to itself, the library would look for a cloud machine's own credentials, for a long time, anywhere else.
_CREDENTIALS = {
    "s3": (
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_SKIP_SIGNATURE",
    ),
    "gs": (
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "GOOGLE_SKIP_SIGNATURE",
    ),
    "az": (
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_STORAGE_TOKEN",
        "AZURE_CLIENT_ID",
        "AZURE_SKIP_SIGNATURE",
    ),
}
STORES = tuple(_CREDENTIALS)

#: The two ends of a file, which tell what it is, are fetched when it is opened, and nothing else.
_END = 64 * 2**10
#: After that one request brings this much: far more than the time to the first byte costs, and little to bring twice.
_BLOCK = 4 * 2**20
#: So many blocks are under way ahead of a reader that goes from one to the next.
_AHEAD = 4
#: So many are kept, 96 MiB: parquet columns are read side by side, and each has its own place.
_KEPT = 24
_RETRIES: Any = {
    "max_retries": 4,
    "retry_timeout": timedelta(minutes=2),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 3},
}


def can_list(url: str) -> bool:
    """Whether one may ask what is below it; the web does not tell."""
    return scheme(url) not in WEB


def files_below(url: str) -> list[str]:
    """The addresses of the files directly below `url`.

    Raises:
        UsageError: this is no address of a store.
        SourceUnavailable: it cannot be listed.
    """
    import obstore

    base = url.rstrip("/")
    with _as_ours(url):
        found = obstore.list_with_delimiter(_store(base))
    return [f"{base}/{entry['path'].rpartition('/')[2]}" for entry in found["objects"]]


class RemoteFile(io.RawIOBase):
    """One file, as if it were here: blocks are fetched when they are needed, and ahead of who reads one after another.

    For one thread at a time. `size` is in bytes; `etag` is "" where the server gives none.

    Raises:
        UsageError: this is no address.
        SourceUnavailable: now or at any read: it is not there, may not be read, or was changed since it was opened.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        base, _, name = (url, "", "") if scheme(url) in WEB else url.rpartition("/")
        self._store, self._name = _store(base), name
        self._at = 0
        #: Blocks by number, the one that was wanted longest ago first.
        self._blocks: OrderedDict[int, Future[memoryview]] = OrderedDict()
        #: How many blocks were fetched ahead of those that were wanted last: one more each time, none at first.
        self._runs: dict[int, int] = {}
        self._pool = ThreadPoolExecutor(2 * _AHEAD, thread_name_prefix="cliphouse-storage")
        self.size, self.etag, head = self._fetch(0, _END)
        tail = max(0, self.size - _END)
        self._ends = {0: head, tail: self._load(tail, self.size) if tail else head}

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go there."""
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence])
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """The next `size` bytes, fewer only at the end."""
        end = self.size if size is None or size < 0 else min(self.size, self._at + size)
        for start, piece in self._ends.items():
            if start <= self._at < end <= start + len(piece):
                at, self._at = self._at, end
                return bytes(piece[at - start : end - start])
        pieces = []
        while self._at < end:
            number, start = divmod(self._at, _BLOCK)
            pieces.append(self._block(number)[start : start + end - self._at])
            self._at += len(pieces[-1])
        return b"".join(pieces)

    def close(self) -> None:
        """Forget all blocks; what is under way is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._blocks.clear()
        super().close()

    def _block(self, number: int) -> memoryview:
        ahead = 0
        if number not in self._runs:
            ahead = min(self._runs.pop(number - 1, -1) + 1, _AHEAD)
            self._runs[number] = ahead
        for each in range(number, min(number + ahead + 1, -(-self.size // _BLOCK))):
            if each not in self._blocks:
                self._blocks[each] = self._pool.submit(self._load, each * _BLOCK, (each + 1) * _BLOCK)
        self._blocks.move_to_end(number)
        while len(self._blocks) > _KEPT:
            dropped, _ = self._blocks.popitem(last=False)
            self._runs.pop(dropped, None)
        return self._blocks[number].result()

    def _load(self, start: int, end: int) -> memoryview:
        size, etag, block = self._fetch(start, min(end, self.size))
        if (size, etag) != (self.size, self.etag):
            raise SourceUnavailable(shown(self.url), "it was changed while it was read", "run the same command again")
        return block

    def _fetch(self, start: int, end: int) -> tuple[int, str, memoryview]:
        import obstore

        with _as_ours(self.url):
            answer = obstore.get(self._store, self._name, options={"range": (start, end)})
            return answer.meta["size"], answer.meta["e_tag"] or "", memoryview(answer.bytes())


def check_address(base: str) -> None:
    """An address is that of a store, or one of the web.

    Raises:
        UsageError: it is not, or it holds a key to a store, which the environment is to hold.
    """
    kind, authority = scheme(base), base.partition("://")[2].partition("/")[0]
    if kind not in (*STORES, *WEB) or not authority.rpartition("@")[2]:
        known = ", ".join((*STORES, *WEB))
        raise UsageError(f"{shown(base)!r} is no address of a store; write for example s3://bucket/folder ({known})")
    if kind in STORES and "@" in authority:
        name = _CREDENTIALS[kind][0]
        raise UsageError(f"{shown(base)!r} came with a key in the address; set {name} and what belongs to it instead")


def open_store(base: str, *, patience: float, timeout: timedelta, retries: Any) -> ObjectStore:
    """The store at `base`, which may be a folder in one, or the store of one file on the web.

    `patience` is how many seconds may pass without a byte, `timeout` how long a request may take; `retries` is
    obstore's `RetryConfig`.

    Raises:
        UsageError: `base` is no address of a store.
    """
    from obstore.exceptions import BaseError
    from obstore.store import HTTPStore, from_url

    check_address(base)
    kind = scheme(base)
    client: Any = {
        "timeout": timeout,
        "read_timeout": timedelta(seconds=patience),
        "connect_timeout": timedelta(seconds=min(patience, 10)),
        "allow_http": kind == "http" or os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"),
        "user_agent": "cliphouse",
    }
    try:
        if kind in WEB:  # one file's, for its query may be what allows to read it
            return HTTPStore.from_url(base, client_options=client, retry_config=retries)
        config: Any = {} if _has_credentials(kind) else {"skip_signature": True}
        return from_url(base, config=config, client_options=client, retry_config=retries)
    except (BaseError, ValueError) as error:
        raise UsageError(f"{shown(base)!r} cannot be used: {_line(error)}") from error


def _store(base: str) -> ObjectStore:
    return open_store(
        base if scheme(base) in WEB else encoded(base), patience=30, timeout=timedelta(minutes=5), retries=_RETRIES
    )


def _has_credentials(kind: str) -> bool:
    return any(os.environ.get(name) for name in _CREDENTIALS[kind])


@contextmanager
def _as_ours(url: str) -> Iterator[None]:
    """Say what obstore says inside in one line, with what can be done about it."""
    from obstore import exceptions

    try:
        yield
    except (FileNotFoundError, exceptions.BaseError) as error:
        raise SourceUnavailable(shown(url), *_reason(error, scheme(url))) from error


def _reason(error: Exception, kind: str) -> tuple[str, str]:
    """What is wrong and what to do. Listing gives every failure one class, so that its text must tell."""
    from obstore import exceptions

    text = str(error)
    if re.search(r"NoSuchBucket|ContainerNotFound|specified bucket does not exist", text):
        return "there is no such bucket", "check the address"
    if isinstance(error, FileNotFoundError) or " 404 Not Found" in text:
        return "there is no such file", "check the address"
    refused = isinstance(error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError))
    if refused or re.search(r" (401 Unauthorized|403 Forbidden)", text):
        return _refusal(kind)
    if isinstance(error, exceptions.NotSupportedError):
        return "its server does not give parts of a file", "download the file, and load the copy"
    if "incorrectly configured region" in text or "PermanentRedirect" in text:
        return "the bucket is in another region", "name that in AWS_REGION"
    return _line(error), "check the address and the network, and run the same command again"


def _refusal(kind: str) -> tuple[str, str]:
    if kind in WEB:
        return "its server refuses to give it", "use an address that holds its own permission, or download the file"
    if _has_credentials(kind):
        return "the credentials in the environment may not read it", "use others, or check the address"
    return (
        "it is not public, or not there",
        f"set {_CREDENTIALS[kind][0]} and what belongs to it, or check the address",
    )


def _line(error: Exception) -> str:
    """The first line of what the library says, without its bookkeeping and what addresses in it may hold of secrets."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return shown_within(re.sub(r" in [\d.]+(ns|µs|ms|s)(, after .*?retry_timeout: \S+)?\s+-", ":", line))
