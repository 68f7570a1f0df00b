"""What long jobs tell when they end, and what a collection tells of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cliphouse.types import IndexState, Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A collection as it stands; sizes in bytes.

    `total_bytes` is all that the table has on disk, indexes included; `disk_bytes` is by column, and 0 for columns of
    small parts that keep all columns in one file. `encoder` is "" when unnamed. `quarantined` are shards that were
    passed over, and why; `left_out` and `kept` count bad rows by kind, as the loads reported them.
    """

    collection: str
    database: str
    engine_version: str
    rows: int
    shards: tuple[int, ...]
    encoder: str
    dim: int
    storage: Storage
    total_bytes: int
    disk_bytes: Mapping[str, int]
    indexes: tuple[IndexState, ...]
    quarantined: Mapping[int, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What a load did: rows and shards brought in, and shards that were there already.

    Of `rows_read` rows in the files `left_out` counts, by kind, those that are not in the table, and `kept` those that
    are in spite of what is wrong with them. `quarantined` are shards that were passed over, and why.
    """

    rows: int
    rows_read: int
    loaded: tuple[int, ...]
    skipped: tuple[int, ...]
    seconds: float
    quarantined: Mapping[int, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)
    #: Shards that came in without text embeddings.
    without_text: tuple[int, ...] = ()
    #: Vector indexes that do not cover the new rows yet.
    stale_indexes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedReport:
    """What embedding a source did.

    `pictures` are new, `captioned` of them have a text embedding, `known` were there before; `skipped` counts by reason
    those that could not be embedded, and `skipped_list` is the file that names each. `unmatched` counts, by the path of
    a table beside the pictures, its rows that name none of them; tables are read only where there are new pictures.
    """

    encoder: str
    dim: int
    pictures: int
    captioned: int
    known: int
    skipped: Mapping[str, int]
    skipped_list: Path | None
    shards: tuple[int, ...]
    seconds: float
    #: Vector indexes that do not cover the new rows yet.
    stale_indexes: tuple[str, ...] = ()
    unmatched: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadReport:
    """What a download did, in numbers of shards.

    `fetched` are whole now and had files to fetch; `present` were whole before; `held` were in the collection, so that
    nothing of them was asked for; `loaded` are in it now, with `rows` new rows of `rows_read` in their files;
    `left_out` and `kept` count bad rows as in `LoadReport`. `failed` says of each other shard why. `files` are whole
    that came in this run; `received_bytes` are all that came, those of other files too.
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
    rows_read: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)
    #: Vector indexes that do not cover the new rows yet.
    stale_indexes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteReport:
    """What a deletion did: `rows` are gone from every answer; `again` are shards that `load` may bring in again.

    `freed_bytes` is what a purge took from the disk, and `held_bytes` what queries that still run keep there for now.
    """

    rows: int
    again: tuple[int, ...] = ()
    freed_bytes: int = 0
    held_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DenyReport:
    """What a change of the deny list did: entries read, entries new or taken out, rows deleted for them."""

    entries: int
    changed: int
    rows: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs between the table and the files: where, what it is in each."""

    shard: int | None
    what: str
    files: str
    table: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCheck:
    """One shard's rows by three accounts: its files, the ledger (None if it does not know it), the table.

    `deleted` rows were deleted on purpose; `left_out` were never meant to enter. `sampled` were compared.
    """

    shard: int
    files: int
    ledger: int | None
    table: int
    deleted: int
    left_out: int
    sampled: int
    differences: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a comparison of the table with the files found; `differences` has the first of `different` in all."""

    shards: tuple[ShardCheck, ...]
    differences: tuple[Difference, ...]
    different: int
    seconds: float

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return self.different == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export wrote: rows and files, and its bytes."""

    rows: int
    files: tuple[Path, ...]
    total_bytes: int
    seconds: float
