"""Ids and embeddings out of an engine in its Native format, block by block, as arrays over the bytes as they came.

A server sends them as the body of its answer. Of an embedded engine the driver would copy every byte three times, which
takes longer than reading the column: here the arrays lie over the engine's own buffers. The format: see
`pipeline.native`, which writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
from clickhouse_connect.driver.exceptions import DatabaseError
from numpy.typing import NDArray

from cliphouse.engine.connection import Connection
from cliphouse.engine.url import EmbeddedLocation
from cliphouse.types import literal

#: What is read of a server's answer at a time.
_PIECE_BYTES = 2**20
#: How an element of an embedding arrives: bfloat16 as its 16-bit words.
_ELEMENTS: Mapping[str, np.dtype[Any]] = {"Array(BFloat16)": np.dtype("<u2"), "Array(Float32)": np.dtype("<f4")}
_CODE, _NAME = re.compile(r"Code: (\d+)"), re.compile(r"\(([A-Z][A-Z0-9_]{2,})\)\s*$")

#: Bytes, and what must stay alive as long as they are read.
_Piece = tuple[memoryview, object]


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows: `ids` of shape (rows,), `vectors` of shape (rows, dim), as words of bfloat16 or as float32.

    The arrays are valid for as long as the block is.
    """

    ids: NDArray[np.int64]
    vectors: NDArray[np.uint16] | NDArray[np.float32]
    owner: object


@contextmanager
def opened(connection: Connection, location: object, sql: str, dim: int) -> Iterator[Iterator[Block]]:
    """The blocks that `sql` answers with: a column of Int64 and one of embeddings. Leaving early ends the query.

    Raises:
        DatabaseError: from the iterator: ClickHouse failed, or an embedding has not `dim` numbers.
    """
    if isinstance(location, EmbeddedLocation):
        with _embedded(location, connection.mark, sql) as pieces:
            yield _blocks(_Bytes(pieces), dim)
        return
    answer = cast("BinaryIO", connection.client.raw_stream(sql, fmt="Native"))
    try:
        yield _blocks(_Bytes(_read(answer)), dim)
    finally:
        answer.close()


@contextmanager
def _embedded(location: EmbeddedLocation, mark: str, sql: str) -> Iterator[Iterator[_Piece]]:
    import chdb

    connect: Any = chdb.connect
    handle = connect(str(location.path or ":memory:"))  # of its own: the driver's would be blocked
    try:
        handle.query(f"SET log_comment = {literal(mark)}")  # `Work.cancel` finds it by this
        answer = handle.send_query(sql, "Native")
        try:
            yield _views(answer)
        finally:
            answer.close()
    except RuntimeError as error:  # chDB's own have no codes
        code, name = _CODE.search(str(error)), _NAME.search(str(error).partition("\n")[0])
        message = str(error)[code.start() :] if code else str(error)
        raise DatabaseError(message, code=int(code[1]) if code else None, name=name and name[1]) from error
    finally:
        handle.close()


def _views(answer: Any) -> Iterator[_Piece]:
    for chunk in answer:
        wrapped = chunk.get_memview()
        yield wrapped.view(), (chunk, wrapped)


def _read(answer: BinaryIO) -> Iterator[_Piece]:
    while piece := answer.read(_PIECE_BYTES):
        yield memoryview(piece), None


class _Bytes:
    """Pieces as one run of bytes; what lies within one piece is not copied."""

    def __init__(self, pieces: Iterator[_Piece]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")
        self.owner: object = None

    def at_end(self) -> bool:
        while not self._rest:
            found = next(self._pieces, None)
            if found is None:
                return True
            self._rest, self.owner = found
        return False

    def take(self, count: int) -> memoryview:
        if len(self._rest) < count:
            parts, missing = [bytes(self._rest)], count - len(self._rest)
            while missing > 0:
                piece = next(self._pieces, None)
                if piece is None:
                    raise DatabaseError("the answer ended in the middle of a block")
                parts.append(bytes(piece[0]))
                missing -= len(parts[-1])
            self._rest, self.owner = memoryview(b"".join(parts)), None
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def varint(self) -> int:
        number = shift = 0
        while True:
            digit = self.take(1)[0]
            number |= (digit & 0x7F) << shift
            if digit < 0x80:
                return number
            shift += 7

    def text(self) -> str:
        return bytes(self.take(self.varint())).decode()


def _blocks(source: _Bytes, dim: int) -> Iterator[Block]:
    while not source.at_end():
        source.varint()  # two columns
        rows = source.varint()
        source.text(), source.text()
        # The block's own end may be the end of a piece: what it lies over is taken with its last byte.
        ids, owner = np.frombuffer(source.take(8 * rows), "<i8"), source.owner
        source.text()
        element = _ELEMENTS[source.text()]
        if not rows:
            continue
        ends = np.frombuffer(source.take(8 * rows), "<u8")
        lengths = np.diff(ends, prepend=np.uint64(0))
        if (lengths != dim).any():
            wrong = int(np.argmax(lengths != dim))
            raise DatabaseError(f"row {ids[wrong]} has an embedding of {lengths[wrong]} numbers, not {dim}")
        vectors = np.frombuffer(source.take(rows * dim * element.itemsize), element).reshape(rows, dim)
        yield Block(ids, vectors, (owner, source.owner))
