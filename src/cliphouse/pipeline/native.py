"""Rows as a block of ClickHouse's Native format: the layout the engine keeps in memory, so that inserting is copying.

A block is the number of columns and of rows, then for each column its name, its type and its values: fixed-width
values as they are, a String as a varint length and its bytes, an Array as the running ends of its rows followed by all
elements. See https://clickhouse.com/docs/interfaces/formats/Native. Why this and no library: docs/decisions/0003.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cliphouse.pipeline.rows import Batch, Vectors
from cliphouse.schema import EMBEDDING_COLUMNS, METADATA_COLUMNS, embedding_type
from cliphouse.types import ROWS_PER_SHARD, Storage

Piece = bytes | memoryview
#: Lengths of strings whose prefixes are kept ready.
_SHORT = 2**14


def block(batch: Batch, *, shard: int, storage: Storage, columns: Mapping[str, str]) -> Iterator[Piece]:
    """The batch as one block, in pieces; `columns` are those of the table, with their types, that are to be filled.

    Absent metadata becomes defaults.
    """
    rows = len(batch.numbers)
    vectors = dict(zip(EMBEDDING_COLUMNS, (batch.image, batch.text), strict=True))
    yield varint(len(columns)) + varint(rows)
    for column, kind in columns.items():
        if column in vectors:
            yield header(column, embedding_type(storage))
            yield from arrays(vectors[column], rows)
        elif column == "id":
            yield header(column, "Int64") + (batch.numbers + shard * ROWS_PER_SHARD).astype("<i8").tobytes()
        else:
            yield from _metadata(column, kind, batch.metadata.get(column), rows)


def _metadata(column: str, kind: str, values: pa.Array | None, rows: int) -> Iterator[Piece]:
    if METADATA_COLUMNS[column][0] == "Int32":
        yield header(column, "Int32") + integers(values, rows)
    elif column != "similarity":  # a LowCardinality column takes plain strings too
        yield header(column, "String")
        yield strings(values, rows)
    elif "Nullable" in kind:
        yield header(column, "Nullable(Float32)") + nulls(values, rows) + floats(values, rows)
    else:  # a table made by hand
        yield header(column, "Float32") + floats(values, rows)


def varint(number: int) -> bytes:
    """`number` in base 128, lowest digits first (LEB128)."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def strings(values: pa.Array | None, rows: int) -> Piece:
    """A String column; null becomes "". The bytes are the source's own, whatever they are."""
    if values is None or pa.types.is_null(values.type):
        return b"\0" * rows
    if not pa.types.is_binary(values.type) and not pa.types.is_large_binary(values.type):
        values = values.cast(pa.large_string())  # numbers as text, dictionaries as values
    values = values.cast(pa.large_binary()).fill_null(b"")
    joined = pc.binary_join_element_wise(_prefixes(pc.binary_length(values)), values, pa.scalar(b"", pa.large_binary()))
    _, offsets, data = joined.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[joined.offset : joined.offset + rows + 1]
    return memoryview(data).cast("B")[ends[0] : ends[-1]] if data is not None and rows else b""


def _prefixes(lengths: pa.Array) -> pa.Array:
    """The varint of each length."""
    if (longest := pc.max(lengths).as_py()) is None or longest < _SHORT:
        return _short_prefixes().take(lengths)
    values, positions = np.unique(lengths.to_numpy(zero_copy_only=False), return_inverse=True)
    return pa.array([varint(int(value)) for value in values], pa.large_binary()).take(pa.array(positions))


@cache
def _short_prefixes() -> pa.Array:
    return pa.array([varint(length) for length in range(_SHORT)], pa.large_binary())


def floats(values: pa.Array | None, rows: int) -> bytes:
    """A Float32 column; null and what is no number become NaN."""
    if values is None:
        return np.full(rows, np.nan, dtype="<f4").tobytes()
    found: NDArray[np.floating] = numbers(values, pa.float64()).to_numpy(zero_copy_only=False)
    return found.astype("<f4").tobytes()


def nulls(values: pa.Array | None, rows: int) -> bytes:
    """The map of nulls that goes before a Nullable column."""
    return b"\1" * rows if values is None else values.is_null().cast(pa.uint8()).to_numpy().tobytes()


def integers(values: pa.Array | None, rows: int) -> bytes:
    """An Int32 column; null, what is no number and what does not fit become 0."""
    if values is None:
        return bytes(4 * rows)
    found = np.nan_to_num(numbers(values, pa.float64()).to_numpy(zero_copy_only=False), posinf=0, neginf=0)
    found[np.abs(found) > np.iinfo(np.int32).max] = 0
    encoded: bytes = found.astype("<i4").tobytes()
    return encoded


def arrays(vectors: Vectors | None, rows: int) -> Iterator[Piece]:
    """An Array column of bfloat16 words or float32 numbers; without `vectors`, of empty arrays."""
    if vectors is None:
        yield bytes(8 * rows)
        return
    stored, dim = vectors.stored, vectors.stored.shape[1]
    if vectors.empty is None:
        ends = np.arange(1, rows + 1, dtype="<u8") * dim
    else:
        ends = np.cumsum(np.where(vectors.empty, 0, dim)).astype("<u8")
        stored = stored[~vectors.empty]
    yield ends.tobytes()
    little = np.ascontiguousarray(stored, stored.dtype.newbyteorder("<"))
    if little.size:
        yield little.data.cast("B")


def numbers(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """`values` as numbers, text included, null where they are none."""
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        numeric = pc.match_substring_regex(values, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
        values = pc.if_else(numeric, values, pa.scalar(None, values.type))
    elif pa.types.is_null(values.type):
        return pa.nulls(len(values), kind)
    return values.cast(kind, safe=False)


def header(name: str, kind: str) -> bytes:
    """What goes before a column's values: its name and its type."""
    return b"".join(varint(len(text)) + text for text in (name.encode(), kind.encode()))
