"""Opening shards of either kind."""

from __future__ import annotations

from collections.abc import Mapping

from cliphouse.pipeline.npy import open_npy
from cliphouse.pipeline.rows import OpenShard
from cliphouse.types import Shard


def open_shard(shard: Shard, columns: Mapping[str, str] | None = None) -> OpenShard:
    """Open a shard and check what can be checked without reading its vectors.

    `columns` names, for columns of the table, the columns of the file that fill them, where they are not the usual.

    Raises:
        UsageError: a file has no such column.
        ShardError: the files are not as they should be, or do not agree.
        DimensionMismatch: image and text embeddings differ in length.
    """
    return open_npy(shard, columns or {})
