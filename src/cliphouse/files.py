"""Files on their way to their place: in parts, under a lock, known by their sum."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: As much of a file's beginning as tells what it is.
HEAD_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Peek:
    """A file as its source shows it: its length, if that is said, and its first bytes; or why it is not shown."""

    size: int | None = None
    head: bytes = b""
    refusal: str = ""


class Part:
    """What has come of the file `target`: it gathers in `target` + ".part" until it is whole.

    Beside it `target` + ".part.etag" holds by what its source knows it again. Without that mark a part is not gone on
    with: nobody could tell whether the rest belongs to it.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self._mark = target.with_name(target.name + ".part.etag")

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def mark(self) -> str:
        """By what its source knows it again; empty if nothing has come, or nothing is known."""
        return self._mark.read_text() if self.size and self._mark.exists() else ""

    def remember(self, mark: str) -> None:
        """Note by what the source knows the file again; empty for nothing."""
        if mark:
            self._mark.write_text(mark)
        else:
            self._mark.unlink(missing_ok=True)

    def discard(self) -> None:
        """Throw away what has come."""
        self.path.unlink(missing_ok=True)
        self._mark.unlink(missing_ok=True)

    def finish(self) -> None:
        """Put what has come in its place, in one step, when the disk has it."""
        with self.path.open("rb") as stream:
            os.fsync(stream.fileno())
        self.path.replace(self.target)
        self._mark.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` if no other process or thread does; whether it is held. It ends with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("ab") as stream:
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


def sum_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
