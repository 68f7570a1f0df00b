"""The worker's protocol: bytes in, bytes out, whatever the rows hold."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliphouse.errors import InvalidVector
from cliphouse.udf_worker import read_chunks, serve

ROW = st.none() | st.binary(max_size=300)
CHUNKS = st.lists(st.lists(ROW, max_size=40), max_size=5)


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def sent(chunks: list[list[bytes | None]]) -> bytes:
    """What a server writes: a header and RowBinary of Nullable(String)."""
    rows = (b"\1" if row is None else b"\0" + varint(len(row)) + row for chunk in chunks for row in chunk)
    return b"".join(f"{len(chunk)}\n".encode() + b"".join(next(rows) for _ in chunk) for chunk in chunks)


def answered(data: bytes, rows: int) -> list[list[float]]:
    """The arrays that a server reads from RowBinary of Array(Float32), with nothing left over."""
    stream, arrays = io.BytesIO(data), []
    for _ in range(rows):
        size = shift = 0
        while True:
            (byte,) = stream.read(1)
            size, shift = size | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                break
        arrays.append(list(struct.unpack(f"<{size}f", stream.read(4 * size))))
    assert stream.read() == b""
    return arrays


def lengths(rows: Sequence[bytes]) -> np.ndarray:
    """An encoder of 200 dimensions that says how long a row is, and refuses one that begins with a zero."""
    if any(row.startswith(b"\0") for row in rows):
        raise InvalidVector("it begins\nwith a zero")
    return np.array([[len(row)] * 200 for row in rows], dtype=np.float32)


@given(chunks=CHUNKS)
def test_the_rows_arrive_as_they_were_sent(chunks: list[list[bytes | None]]) -> None:
    assert list(read_chunks(io.BytesIO(sent(chunks)))) == chunks


@given(chunks=CHUNKS, batch_rows=st.integers(1, 50))
def test_every_row_is_answered_in_its_place(chunks: list[list[bytes | None]], batch_rows: int) -> None:
    """A chunk that holds a bad row is complained of once, and leaves the next chunk unharmed."""
    sink, report = io.BytesIO(), io.BytesIO()
    serve(io.BytesIO(sent(chunks)), sink, report, lambda: lengths, batch_rows)
    arrays = iter(answered(sink.getvalue(), sum(map(len, chunks))))
    bad = 0
    for chunk in chunks:
        refused = next((i for i, row in enumerate(chunk) if row and row.startswith(b"\0")), len(chunk))
        bad += refused < len(chunk)
        whole = refused // batch_rows * batch_rows if refused < len(chunk) else len(chunk)
        for i, row in enumerate(chunk):
            assert next(arrays) == ([] if row is None or i >= whole else [float(len(row))] * 200)
    assert report.getvalue() == b"it begins with a zero\n" * bad


@given(chunk=st.lists(ROW, min_size=1, max_size=40), cut=st.floats(0, 1, exclude_max=True))
def test_a_chunk_that_ends_too_early_is_an_error(chunk: list[bytes | None], cut: float) -> None:
    header, _, rows = sent([chunk]).partition(b"\n")
    with pytest.raises(EOFError, match="too early"):
        list(read_chunks(io.BytesIO(header + b"\n" + rows[: int(cut * len(rows))])))


def test_the_encoder_is_loaded_after_the_first_chunk_and_once() -> None:
    loads: list[int] = []
    source = io.BytesIO(sent([[b"a"], [b"b"]]))

    def load() -> object:
        loads.append(source.tell())
        return lengths

    serve(source, io.BytesIO(), io.BytesIO(), load, 64)
    assert len(loads) == 1
    with pytest.raises(EOFError, match="too early"):
        serve(io.BytesIO(b"2\n\0\1a"), io.BytesIO(), io.BytesIO(), load, 64)
    assert len(loads) == 1
