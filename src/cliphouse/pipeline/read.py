"""Opening shards of either kind."""

from __future__ import annotations

from collections.abc import Mapping

from cliphouse.errors import UsageError
from cliphouse.pipeline.merged import open_merged
from cliphouse.pipeline.npy import open_npy
from cliphouse.pipeline.rows import OpenShard
from cliphouse.schema import EMBEDDING_COLUMNS, METADATA_COLUMNS
from cliphouse.types import MergedShard, Shard


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
    return open_merged(shard, columns) if isinstance(shard, MergedShard) else open_npy(shard, columns)
