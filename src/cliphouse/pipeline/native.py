"""Rows as a block of ClickHouse's Native format: the layout the engine keeps in memory, so that inserting is copying.

A block is the number of columns and of rows, then for each column its name, its type and its values: fixed-width
values as they are, a String as a varint length and its bytes, an Array as the running ends of its rows followed by all
elements. See https://clickhouse.com/docs/interfaces/formats/Native. Why this and no library: docs/decisions/0003.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cliphouse.pipeline.read import Batch
from cliphouse.schema import METADATA_COLUMNS, embedding_type
from cliphouse.types import ROWS_PER_SHARD, Storage
from cliphouse.vectors import bfloat16_words


def block(batch: Batch, *, shard: int, storage: Storage) -> Iterator[bytes]:
    """The batch as one block with the columns INSERT_COLUMNS, in pieces; absent metadata becomes defaults."""
    rows = len(batch.image)
    ids = np.arange(batch.start, batch.start + rows, dtype=np.int64) + shard * ROWS_PER_SHARD
    yield varint(2 + len(METADATA_COLUMNS) + 1) + varint(rows)
    yield _header("id", "Int64") + ids.astype("<i8").tobytes()
    for column, (kind, _) in METADATA_COLUMNS.items():
        values = batch.metadata.get(column)
        if kind == "Float32":
            yield _header(column, kind) + floats(values, rows)
        elif kind == "Int32":
            yield _header(column, kind) + integers(values, rows)
        else:  # a LowCardinality column takes plain strings too
            yield _header(column, "String") + strings(values, rows)
    for column, vectors in (("image_embedding", batch.image), ("text_embedding", batch.text)):
        yield _header(column, embedding_type(storage))
        yield from arrays(vectors, rows, storage)


def varint(number: int) -> bytes:
    """`number` in base 128, lowest digits first (LEB128)."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def strings(values: pa.Array | None, rows: int) -> bytes:
    """A String column; null becomes "". The bytes are the source's own, whatever they are."""
    if values is None or pa.types.is_null(values.type):
        return b"\0" * rows
    if not pa.types.is_binary(values.type) and not pa.types.is_large_binary(values.type):
        values = values.cast(pa.large_string())  # numbers as text, dictionaries as values
    values = values.cast(pa.large_binary()).fill_null(b"")
    lengths, positions = np.unique(pc.binary_length(values).to_numpy(zero_copy_only=False), return_inverse=True)
    prefixes = pa.array([varint(int(length)) for length in lengths], pa.large_binary()).take(pa.array(positions))
    joined = pc.binary_join_element_wise(prefixes, values, pa.scalar(b"", pa.large_binary()))
    _, offsets, data = joined.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[joined.offset : joined.offset + rows + 1]
    return bytes(memoryview(data)[ends[0] : ends[-1]]) if data is not None and rows else b""


def floats(values: pa.Array | None, rows: int) -> bytes:
    """A Float32 column; null and what is no number become NaN."""
    if values is None:
        return np.full(rows, np.nan, dtype="<f4").tobytes()
    numbers: NDArray[np.floating] = _numbers(values, pa.float64()).to_numpy(zero_copy_only=False)
    return numbers.astype("<f4").tobytes()


def integers(values: pa.Array | None, rows: int) -> bytes:
    """An Int32 column; null, what is no number and what does not fit become 0."""
    if values is None:
        return bytes(4 * rows)
    numbers = np.nan_to_num(_numbers(values, pa.float64()).to_numpy(zero_copy_only=False), posinf=0, neginf=0)
    numbers[np.abs(numbers) > np.iinfo(np.int32).max] = 0
    encoded: bytes = numbers.astype("<i4").tobytes()
    return encoded


def arrays(vectors: NDArray[np.float32] | None, rows: int, storage: Storage) -> Iterator[bytes]:
    """An Array column of equal rows; without `vectors`, of empty ones."""
    if vectors is None:
        yield bytes(8 * rows)
        return
    yield (np.arange(1, rows + 1, dtype="<u8") * vectors.shape[1]).tobytes()
    yield (bfloat16_words(vectors).astype("<u2") if storage == "bfloat16" else vectors.astype("<f4")).tobytes()


def _numbers(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """`values` as numbers, text included, null where they are none."""
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        numeric = pc.match_substring_regex(values, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
        values = pc.if_else(numeric, values, pa.scalar(None, values.type))
    elif pa.types.is_null(values.type):
        return pa.nulls(len(values), kind)
    return values.cast(kind, safe=False)


def _header(name: str, kind: str) -> bytes:
    return b"".join(varint(len(text)) + text for text in (name.encode(), kind.encode()))
