"""Embeddings out of the engine in blocks, as fast as it gives them: for work that has to see every row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliphouse.engine import Engine
from cliphouse.errors import EngineError
from cliphouse.schema import identifier
from cliphouse.types import CollectionInfo

#: Rows of a block at most: with 512 dimensions, 16 MiB as float32.
BLOCK_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows: ids, float32 embeddings of shape (rows, dim), and a column of each condition: does the row have it?"""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    flags: tuple[NDArray[np.bool_], ...]


def vectors(
    engine: Engine,
    info: CollectionInfo,
    column: str,
    consume: Callable[[Block], None],
    *,
    where: str | None = None,
    conditions: Sequence[str] = (),
) -> None:
    """Give `consume` every row that has an embedding in `column` and fits `where`, in any order.

    `consume` runs in a thread of its own while this one waits, so that Ctrl-C ends the query; blocks come one after the
    other. What it raises comes through.

    Raises:
        EngineError: ClickHouse failed, or rows have another dimension than the collection.
    """
    table, name = identifier(info.name), identifier(column)
    # The line breaks end trailing comments.
    flags = "".join(f", ifNull(({condition}\n) != 0, 0)" for condition in conditions)
    sql = (
        f"SELECT id, {name}{flags}\nFROM {table}\nWHERE notEmpty({name})"
        + (f" AND ({where}\n)" if where else "")
        + f"\nSETTINGS max_block_size = {BLOCK_ROWS}, preferred_block_size_bytes = 0"
    )
    decoder = _Decoder(info, column, 2 + len(conditions))
    with engine.session() as session:
        session.run(sql, lambda chunk: _each(decoder.feed(chunk), consume), parameters={}, format="Native")


def _each(blocks: Iterator[Block], consume: Callable[[Block], None]) -> None:
    for block in blocks:
        consume(block)


class _Incomplete(Exception):
    """The rest of the block has not come yet."""


class _Decoder:
    """Native blocks of an Int64, an embedding and UInt8 columns, from chunks that end anywhere.

    See https://clickhouse.com/docs/interfaces/formats/Native and `pipeline.native`, which writes them.
    """

    def __init__(self, info: CollectionInfo, column: str, columns: int) -> None:
        self._info, self._column, self._columns = info, column, columns
        self._kind = np.dtype("<u2" if "BFloat16" in info.columns[column] else "<f4")
        self._bytes = bytearray()
        self._needed = 0

    def feed(self, chunk: bytes) -> Iterator[Block]:
        """The blocks that `chunk` completes."""
        self._bytes += chunk
        while len(self._bytes) > self._needed:
            try:
                block, end = self._block()
            except _Incomplete:
                return
            del self._bytes[:end]
            self._needed = 0
            if len(block.ids):
                yield block

    def _block(self) -> tuple[Block, int]:
        columns, at = self._varint(0)
        rows, at = self._varint(at)
        if columns != self._columns:
            raise EngineError(f"the engine sent {columns} columns, {self._columns} were asked for; report this")
        ids, at = self._array(self._skip_header(at), np.dtype("<i8"), rows)
        ends, at = self._array(self._skip_header(at), np.dtype("<u8"), rows)
        dim = self._info.dim
        if rows and (ends != np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(dim)).any():
            lengths = np.diff(ends.astype(np.int64), prepend=0)
            odd = int(np.argmax(lengths != dim))
            raise EngineError(
                f"row {ids[odd]} has {lengths[odd]} dimensions in {self._column}, the collection has {dim}; "
                f"delete it: cliphouse delete --ids {ids[odd]}"
            )
        stored, at = self._array(at, self._kind, rows * dim)
        flags = []
        for _ in range(columns - 2):
            flag, at = self._array(self._skip_header(at), np.dtype("u1"), rows)
            flags.append(flag != 0)
        wide = stored if stored.dtype.kind == "f" else (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return Block(ids, wide.reshape(rows, dim), tuple(flags)), at

    def _array(self, at: int, kind: np.dtype[Any], count: int) -> tuple[NDArray[Any], int]:
        end = at + count * kind.itemsize
        if end > len(self._bytes):
            self._needed = end - 1
            raise _Incomplete
        return np.frombuffer(bytes(memoryview(self._bytes)[at:end]), kind), end

    def _skip_header(self, at: int) -> int:
        """The place after a column's name and type."""
        for _ in range(2):
            length, at = self._varint(at)
            at += length
        return at

    def _varint(self, at: int) -> tuple[int, int]:
        number = shift = 0
        while at < len(self._bytes):
            byte = self._bytes[at]
            number |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return number, at
        raise _Incomplete
