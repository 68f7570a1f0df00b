"""Which file is fetched next, for several threads: shard by shard, and no further ahead than is allowed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue

from cliphouse.pipeline.fetch import Came, Task
from cliphouse.pipeline.mirrors import FILES, Kind
from cliphouse.pipeline.whole import odd_ones


@dataclass(frozen=True, slots=True)
class Whole:
    """All files of a shard are there and agree; `came` are those that were fetched."""

    number: int
    came: tuple[Came, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """A shard that cannot be had whole, and why; `came` are the files that were fetched nevertheless."""

    number: int
    reason: str
    came: tuple[Came, ...]


@dataclass(slots=True)
class _Open:
    """A shard at work: its files that nobody has taken yet, those being fetched, and those that are there."""

    todo: deque[Task]
    tasks: tuple[Task, ...]
    running: int = 0
    there: dict[Kind, Came] = field(default_factory=dict)
    fetched: list[Came] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    disagreement: str = ""
    #: A file that came is outvoted by files that were there before: those may be of an edition that is gone.
    outdated: bool = False


class Board:
    """Hands out tasks, and tells in `events` how each shard ends; at most `window` shards are open at once.

    A shard is open from the first of its files until `release`.
    """

    def __init__(self, shards: Mapping[int, Sequence[Task]], window: int) -> None:
        self.events: SimpleQueue[Whole | Failed | BaseException] = SimpleQueue()
        self._waiting = deque(shards.items())
        self._open: dict[int, _Open] = {}
        self._window = window
        self._changed = threading.Condition()
        self._closed = False

    def take(self) -> Task | None:
        """The next file to fetch; waits for one, and is None when no more will come."""
        with self._changed:
            while not self._closed and (self._open or self._waiting):
                for shard in self._open.values():
                    if shard.todo:
                        shard.running += 1
                        return shard.todo.popleft()
                if self._waiting and len(self._open) < self._window:
                    number, tasks = self._waiting.popleft()
                    self._open[number] = _Open(deque(tasks), tuple(tasks))
                else:
                    self._changed.wait()
        return None

    def came(self, came: Came) -> None:
        """A file is there and whole."""
        with self._changed:
            shard = self._open[came.task.number]
            shard.there[came.task.kind] = came
            if came.mirror is not None:
                shard.fetched.append(came)
            self._settle(came.task.number, shard)

    def failed(self, task: Task, reason: str) -> None:
        """A file cannot be had; those of its shard that nobody has begun are left alone."""
        with self._changed:
            shard = self._open[task.number]
            shard.reasons.append(reason)
            shard.todo.clear()
            self._settle(task.number, shard)

    def release(self, number: int) -> None:
        """A shard is done with, and another may be begun."""
        with self._changed:
            del self._open[number]
            self._changed.notify_all()

    def close(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _settle(self, number: int, shard: _Open) -> None:
        shard.running -= 1
        if shard.running or shard.todo:
            return
        if shard.reasons and shard.outdated:
            shard.outdated = False
            for known in (shard.there, shard.fetched, shard.reasons):
                known.clear()
            shard.todo.extend(replace(task, anew=True) for task in shard.tasks)
            self._changed.notify_all()
            return
        if shard.reasons:
            reason = "; ".join(filter(None, [shard.disagreement, *shard.reasons]))
            self.events.put(Failed(number, reason, tuple(shard.fetched)))
            return
        rows = {kind: shard.there[kind].rows for kind in FILES if kind in shard.there}
        odd = [shard.there.pop(kind) for kind in odd_ones(rows)]
        again = [_again(came) for came in odd]
        shard.fetched = [came for came in shard.fetched if came.task.kind in shard.there]
        if not again:
            self.events.put(Whole(number, tuple(shard.fetched)))
            return
        shard.outdated = not shard.disagreement and any(came.mirror is not None for came in odd) and not shard.fetched
        shard.disagreement = "row counts differ: " + ", ".join(f"{kind} {count:,}" for kind, count in rows.items())
        shard.todo.extend(again)
        self._changed.notify_all()


def _again(came: Came) -> Task:
    """The same file, from the next mirror. What came in this run is thrown away, what was there is only replaced."""
    if came.mirror is None:
        return replace(came.task, anew=True)
    came.task.target.unlink(missing_ok=True)
    return replace(came.task, first=came.mirror + 1)
