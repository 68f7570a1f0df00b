"""One file of a shard: from the first mirror that has it whole, gone on with where an earlier run stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cliphouse.errors import DownloadFailed
from cliphouse.files import Part, locked
from cliphouse.pace import Pace
from cliphouse.pipeline import mirrors, whole
from cliphouse.pipeline.mirrors import Kind, Places
from cliphouse.types import ProgressCallback

#: Seconds between two looks at a file that another process fetches.
_LOOK = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A file to bring. Mirrors before `first` have failed it already; with `anew` the one that is there is wrong."""

    number: int
    kind: Kind
    target: Path
    first: int = 0
    anew: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Came:
    """A whole file: its rows, and from which mirror it came in this run; None if it was there."""

    task: Task
    rows: int
    mirror: int | None = None


def bring(task: Task, places: Places, *, patience: float, pace: Pace, progress: ProgressCallback | None = None) -> Came:
    """See to it that the file of `task` is in its place and whole. One that is, is not fetched again.

    A file is first all that its header or footer says, then in its place. If another process fetches it, that one is
    waited for.

    Raises:
        DownloadFailed: no mirror has it; the reason of each is in the message.
        Stopped: `pace` has been told to stop; what came is kept.
        OSError: it cannot be written.
    """
    target, kind = task.target, task.kind
    with _alone(target.with_name(target.name + ".lock"), pace):
        if not task.anew and (rows := _present(target, kind)) is not None:
            return Came(task=task, rows=rows)
        part, reasons = Part(target), []
        for position in range(task.first, len(places)):
            try:
                place = places[position]
                mirrors.receive(
                    place.base,
                    place.layout.path(kind, task.number),
                    part,
                    promised=whole.promised if kind != "metadata" else _unsaid,
                    patience=patience,
                    pace=pace,
                    progress=progress,
                )
                rows = whole.rows_in(part.path, kind)
            except DownloadFailed as error:
                reasons.append(f"{error.url}: {error.reason}")
            except whole.NotWhole as error:
                part.discard()
                reasons.append(f"{place.address(kind, task.number)}: {error}")
            else:
                part.finish()
                return Came(task=task, rows=rows, mirror=position)
    raise DownloadFailed(target.name, "; ".join(reasons) or "there is no other mirror to fetch it from")


def _unsaid(_: Path) -> None:
    """A parquet file does not say how long it is before it ends."""


def _present(target: Path, kind: Kind) -> int | None:
    """The rows of the file that is there, if it is and is whole."""
    try:
        return whole.rows_in(target, kind)
    except (FileNotFoundError, whole.NotWhole):
        return None


@contextmanager
def _alone(lock: Path, pace: Pace) -> Iterator[None]:
    """Hold the lock file, when nobody else does."""
    while True:
        with locked(lock) as mine:
            if mine:
                yield
                return
        pace.rest(_LOOK)
