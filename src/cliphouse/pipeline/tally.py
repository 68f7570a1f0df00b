"""How far several files are, together."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from cliphouse.files import Part
from cliphouse.pipeline.fetch import Task
from cliphouse.pipeline.mirrors import Kind
from cliphouse.types import Progress, ProgressCallback

#: The progress of all files together goes by this name.
OVERALL = "all files"


@dataclass(slots=True)
class Tally:
    """The progress of all files together, in bytes; files not begun count with the size that they have elsewhere."""

    sizes: Mapping[Kind, int]
    tell: ProgressCallback | None
    total: int = 0
    done: int = 0
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, task: Task) -> None:
        """A file is to come."""
        had = Part(task.target).size
        size = max(had, self.sizes.get(task.kind, 0))
        self._seen[task.target.name] = (had, size)
        self.done += had
        self.total += size

    def take(self, progress: Progress) -> None:
        """A file has come so far."""
        if self.tell is None:
            return
        with self._lock:  # the steps of all files are told in their order
            done, size = self._seen.get(progress.label, (0, 0))
            self.done += progress.done - done
            self.total += progress.total - size
            self._seen[progress.label] = (progress.done, progress.total)
            self.tell(progress)
            self.tell(Progress(label=OVERALL, done=self.done, total=self.total, unit="bytes"))

    def over(self, task: Task) -> None:
        """Nothing more comes of a file, whole or not."""
        if task.target.name in self._seen:
            done, _ = self._seen[task.target.name]
            self.take(Progress(label=task.target.name, done=done, total=done, unit="bytes"))
