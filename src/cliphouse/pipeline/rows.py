"""What every kind of shard looks like once it is open: rows as its files hold them, streamed or picked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cliphouse.errors import MissingColumn, ShardError, UsageError
from cliphouse.schema import DESCRIBING_COLUMNS, METADATA_COLUMNS


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a shard as its files hold them, unchecked; `numbers` says which.

    Vectors are of shape (rows, dim), in any floating type; `metadata` is by the table's column. The rows of `textless`
    have no text embedding, whatever is in its place.
    """

    numbers: NDArray[np.int64]
    image: NDArray[np.floating]
    text: NDArray[np.floating] | None
    metadata: Mapping[str, pa.Array]
    textless: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Vectors:
    """One column's embeddings as they are stored, shape (rows, dim); rows in `empty` are stored as empty arrays."""

    stored: NDArray[np.uint16] | NDArray[np.float32]
    empty: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a shard that are to be stored; `similarity` among the metadata is Float32, null where it is unknown."""

    numbers: NDArray[np.int64]
    image: Vectors
    text: Vectors | None
    metadata: Mapping[str, pa.Array]


class OpenShard(Protocol):
    """A shard whose files agree with each other: `rows` rows of `dim` dimensions."""

    @property
    def number(self) -> int:
        """The shard's number."""
        ...

    @property
    def source(self) -> str:
        """The file, or address, that stands for it in messages and in the ledger."""
        ...

    @property
    def rows(self) -> int:
        """How many rows it has."""
        ...

    @property
    def dim(self) -> int:
        """The length of its vectors."""
        ...

    @property
    def has_text(self) -> bool:
        """Whether it has text embeddings."""
        ...

    @property
    def ours(self) -> bool:
        """Whether cliphouse wrote it."""
        ...

    def where(self, column: str, row: int) -> str:
        """Where a value is, for messages: file and row."""
        ...

    def fingerprint(self) -> str:
        """A short name for the contents, found without reading all of them."""
        ...

    def batches(self, rows: int) -> Iterator[Rows]:
        """All rows in order, at most `rows` at a time.

        Raises:
            ShardError: a file cannot be read after all.
        """
        ...

    def take(self, numbers: NDArray[np.int64]) -> Rows:
        """The rows of these numbers, ascending.

        Raises:
            ShardError: a file cannot be read.
        """
        ...

    def checksums(self) -> Mapping[str, str]:
        """The XXH3 sum of each file, by its kind; reads what `batches` has not read already."""
        ...


def sources(names: list[str], given: Mapping[str, str], *, path: str, shard: int) -> dict[str, str]:
    """Which column of a file fills each column of the table: the one that was `given`, else the first known alias.

    Raises:
        UsageError: a given column is not there.
        MissingColumn: nothing would describe the pictures.
        ShardError: one of them is there twice.
    """
    by_lower = {name.lower(): name for name in reversed(names)}
    found = {
        column: by_lower[alias]
        for column, (_, aliases) in METADATA_COLUMNS.items()
        for alias in aliases[::-1]
        if alias in by_lower
    }
    for column in given.keys() & METADATA_COLUMNS.keys():
        if given[column] not in names:
            raise UsageError(
                f"{path} has no column {given[column]!r} to fill {column} from; it has: {', '.join(names)}"
            )
        found[column] = given[column]
    if not set(DESCRIBING_COLUMNS) & found.keys():
        raise MissingColumn(path, DESCRIBING_COLUMNS, names, shard=shard)
    for source in found.values():
        check_once(names, source, path=path, shard=shard)
    return found


def check_once(names: list[str], column: str, *, path: str, shard: int) -> None:
    """A file may have columns of one name, of which nobody can tell which is meant.

    Raises:
        ShardError: this column is one of them.
    """
    if (count := names.count(column)) > 1:
        raise ShardError(
            f"{path} has {count} columns named {column!r}; name another with --map, or write the file again with one",
            shard=shard,
        )
