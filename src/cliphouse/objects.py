"""Files from object stores and from this machine's own folders: s3://, gs://, az://, file://."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cliphouse import storage
from cliphouse.errors import DownloadFailed
from cliphouse.files import HEAD_BYTES, Part, Peek
from cliphouse.pace import Busy, Pace, persist
from cliphouse.types import Progress, ProgressCallback

if TYPE_CHECKING:
    from obstore.store import ObjectStore

#: One request brings this much, so that nothing that came is lost, and no request lasts long.
_PIECE = 8 << 20
SCHEMES = (*storage.STORES, "file")


def receive(
    base: str,
    name: str,
    part: Part,
    *,
    label: str,
    patience: float,
    pace: Pace,
    progress: ProgressCallback | None = None,
) -> None:
    """Bring `part` to the full length of the object `name` below `base`; what has come is gone on with.

    Raises:
        UsageError: `base` is no address of a store.
        DownloadFailed: there is no such object, it may not be read, or five attempts brought nothing.
        Stopped: `pace` has been told to stop; what came is kept.
        OSError: it cannot be written.
    """
    import obstore

    store, where = _open(base, patience), f"{base}/{name}"

    def attempt() -> bool:
        with _as_ours(where):
            found = obstore.head(store, name)
        mark, size = found["e_tag"] or "", found["size"]
        same = bool(mark) and part.mark == mark
        had = part.size if same and part.size <= size else 0
        with part.path.open("ab" if had else "wb") as stream:
            part.remember(mark)
            while had < size:
                with _as_ours(where):
                    stop = min(size, had + pace.helping(_PIECE))
                    piece = obstore.get(store, name, options={"range": (had, stop), "if_match": mark or None}).bytes()
                had += stream.write(piece)
                if progress:
                    progress(Progress(label=label, done=had, total=size, unit="bytes"))
                pace.took(len(piece))
        return True

    try:
        persist(pace, attempt, lambda: part.size)
    except Busy as error:
        raise DownloadFailed(where, str(error)) from error


def peek(base: str, name: str, *, patience: float, pace: Pace) -> Peek:
    """The length and the first bytes of an object, or why they are not shown.

    Raises:
        UsageError: `base` is no address of a store.
        DownloadFailed: the store cannot be reached.
        Stopped: `pace` has been told to stop.
    """
    import obstore

    seen = Peek(refusal="nothing was asked")

    def attempt() -> bool:
        nonlocal seen
        try:
            with _as_ours(f"{base}/{name}"):
                answer = obstore.get(_open(base, patience), name, options={"range": (0, HEAD_BYTES)})
                seen = Peek(size=answer.meta["size"], head=bytes(answer.bytes()))
        except DownloadFailed as error:
            seen = Peek(refusal=error.reason)
        return True

    try:
        persist(pace, attempt, attempts=3)
    except Busy as error:
        raise DownloadFailed(base, str(error)) from error
    return seen


def _open(base: str, patience: float) -> ObjectStore:
    from obstore.store import LocalStore

    parts = urlsplit(base)
    if parts.scheme == "file":
        folder = Path(unquote(parts.path))
        if not folder.is_dir():
            raise DownloadFailed(base, "there is no such folder")
        return LocalStore(folder)
    # A whole request may take long on a slow line; what must not is a moment without a byte.
    return storage.open_store(base, patience=patience, timeout=timedelta(hours=1), retries={"max_retries": 0})


@contextmanager
def _as_ours(where: str) -> Iterator[None]:
    """Say what obstore says inside in our own errors: not here, not allowed, or perhaps later."""
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError as error:
        raise DownloadFailed(where, "there is no such file") from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise DownloadFailed(where, "it may not be read with the name that the environment gives, if any") from error
    except exceptions.PreconditionError as error:
        raise Busy("the file was changed meanwhile") from error
    except exceptions.BaseError as error:
        raise Busy(_line(error)) from error


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
