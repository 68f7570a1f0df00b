"""Opening shards of either kind."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from cliphouse.errors import ShardError, UsageError
from cliphouse.pipeline.merged import open_merged
from cliphouse.pipeline.native import numbers
from cliphouse.pipeline.npy import open_npy
from cliphouse.pipeline.rows import OpenShard
from cliphouse.schema import EMBEDDING_COLUMNS, METADATA_COLUMNS
from cliphouse.types import MergedShard, Shard

_SAMPLE_ROWS = 1024
#: Types of the table that hold numbers.
_NUMBERS = ("Int32", "Nullable(Float32)")


def open_shard(shard: Shard | MergedShard, columns: Mapping[str, str] | None = None) -> OpenShard:
    """Open a shard and check what can be checked without reading its vectors.

    `columns` names, for columns of the table, the columns of the file that fill them, where they are not the usual.

    Raises:
        UsageError: the table or a file has no such column.
        ShardError: the files are not as they should be, or do not agree.
        DimensionMismatch: image and text embeddings differ in length.
    """
    columns = columns or {}
    merged = isinstance(shard, MergedShard)
    known = (*METADATA_COLUMNS, *(EMBEDDING_COLUMNS if merged else ()))
    if unknown := [column for column in columns if column not in known]:
        raise UsageError(
            f"{unknown[0]!r} is no column that {'a merged' if merged else 'the'} parquet file fills; there are: "
            f"{', '.join(known)}"
        )
    opened = open_merged(shard, columns) if isinstance(shard, MergedShard) else open_npy(shard, columns)
    _check_numbers(opened, columns)
    return opened


def _check_numbers(shard: OpenShard, columns: Mapping[str, str]) -> None:
    """Columns of numbers that were told to come from text: a slip, which would fill each row with 0.

    Raises:
        ShardError: the first rows hold something, and none of it a number.
    """
    wanted = [column for column in columns if METADATA_COLUMNS.get(column, ("String", ()))[0] in _NUMBERS]
    first = next(shard.batches(min(shard.rows, _SAMPLE_ROWS)), None) if wanted and shard.rows else None
    if first is None:
        return
    for column in wanted:
        values = first.metadata[column]
        if values.null_count < len(values) and not _any_number(values):
            raise ShardError(
                f"the column {columns[column]} of {shard.source} is to fill {column}, and holds no numbers but "
                f"{values.type}; name another with --map {column}=COLUMN",
                shard=shard.number,
            )


def _any_number(values: pa.Array) -> bool:
    try:
        return bool(np.isfinite(numbers(values, pa.float64()).to_numpy(zero_copy_only=False)).any())
    except pa.ArrowException:
        return False
