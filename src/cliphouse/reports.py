"""What long work says when it has ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadReport:
    """What a download did, in numbers of shards.

    `fetched` are whole now and had files to fetch; `present` were whole before; `held` were in the collection, so that
    nothing of them was asked for; `loaded` are in it now, with `rows` new rows. `failed` says of each other shard why.
    `files` are whole that came in this run; `received_bytes` are all that came, those of other files too.
    """

    directory: Path
    fetched: tuple[int, ...]
    present: tuple[int, ...]
    held: tuple[int, ...]
    failed: Mapping[int, str]
    files: int
    received_bytes: int
    seconds: float
    loaded: tuple[int, ...] = ()
    rows: int = 0
    #: Vector indexes that do not cover the new rows yet.
    stale_indexes: tuple[str, ...] = ()
