"""How to download, and what is done with what came."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from cliphouse.errors import UsageError
from cliphouse.pipeline.mirrors import FILES, Kind
from cliphouse.reports import LoadReport, Status
from cliphouse.types import LoadOptions, ProgressCallback, Storage
from cliphouse.web import PATIENCE

Keep = Literal["all", "none"]
PARALLEL = 4
_LONGEST_PATIENCE = 86_400.0


class Loader(Protocol):
    """What shards are loaded into: a `Collection`."""

    def exists(self) -> bool:
        """Whether it is there yet."""
        ...

    def status(self) -> Status:
        """What it holds."""
        ...

    def load(
        self,
        directory: Path,
        *,
        shards: Iterable[int],
        storage: Storage | None,
        options: LoadOptions | None,
        progress: ProgressCallback | None,
    ) -> LoadReport:
        """Bring shards in."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to download: which of the files, how many at once, how fast, how long to wait for a byte; and how to load."""

    text: bool = True
    parallel: int = PARALLEL
    limit_rate: float | None = None
    patience: float = PATIENCE
    keep: Keep = "all"
    storage: Storage | None = None
    load: LoadOptions | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.parallel <= 64:
            raise UsageError(f"parallel must be from 1 to 64 files at once, got {self.parallel}")
        if self.limit_rate is not None and not 1 <= self.limit_rate < math.inf:
            raise UsageError(f"limit_rate must be at least 1 byte a second, got {self.limit_rate}")
        if not 0 < self.patience <= _LONGEST_PATIENCE:
            raise UsageError(f"patience must be more than 0 seconds and at most a day, got {self.patience}")
        if self.keep not in ("all", "none"):
            raise UsageError(f"keep must be 'all' or 'none', got {self.keep!r}")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The files of a shard, in the order they are fetched."""
        return tuple(kind for kind in FILES if self.text or kind != "text")

    @property
    def window(self) -> int | None:
        """How many shards may be on disk at once if loaded ones are deleted: those at work, and one being loaded."""
        return 2 + (self.parallel - 1) // len(self.kinds) if self.keep == "none" else None
