"""Text columns as the table stores them."""

from __future__ import annotations

import pyarrow as pa


def as_bytes(values: pa.Array | pa.ChunkedArray | None) -> list[bytes]:
    """Values as bytes: null as none, numbers as text. A column that is absent, or all null, is an empty list."""
    if values is None or pa.types.is_null(values.type):
        return []
    if not pa.types.is_binary(values.type) and not pa.types.is_large_binary(values.type):
        values = values.cast(pa.large_string())
    plain: list[bytes] = values.cast(pa.large_binary()).fill_null(b"").to_pylist()
    return plain
