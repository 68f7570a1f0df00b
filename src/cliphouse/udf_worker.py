"""The process that a ClickHouse server keeps for `encode_text` and `encode_image`: rows in, vectors out.

Started by the script that `cliphouse udf export` writes. The server sends a chunk as a line with its number of rows and
the rows in RowBinary, as Nullable(String); it waits for as many Array(Float32). NULL has no embedding and becomes an
empty array. What cannot be encoded is said in one line on standard error, which the server turns into the error of the
query; the rows are answered all the same, so that the process, with its model, stays for the next one.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from cliphouse.encoders import load_encoder, open_image
from cliphouse.encoders.access import ImageAccess
from cliphouse.errors import CliphouseError

#: Rows that are encoded together. Their vectors are sent at once, so the server's read timeout is for one batch.
BATCH_ROWS = {"text": 64, "image": 16}
#: The server reads 4 KiB of a message before it reads the rows.
_LONGEST_MESSAGE = 2000

Encode = Callable[[Sequence[bytes]], NDArray[np.float32]]


def read_chunks(source: BinaryIO) -> Iterator[list[bytes | None]]:
    """The chunks of rows that `source` holds, until it ends.

    Raises:
        EOFError: it ends within a chunk.
    """
    while header := source.readline():
        yield [_read_row(source) for _ in range(int(header))]


def _read_row(source: BinaryIO) -> bytes | None:
    is_null = _read(source, 1)[0]
    return None if is_null else _read(source, _read_varint(source))


def _read_varint(source: BinaryIO) -> int:
    value = shift = 0
    while (byte := _read(source, 1)[0]) >= 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
    return value | byte << shift


def _read(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise EOFError("the server's rows end too early")
    return data


def _array(vector: NDArray[np.float32]) -> bytes:
    size, varint = len(vector), bytearray()
    while size >= 0x80:
        varint.append(size & 0x7F | 0x80)
        size >>= 7
    varint.append(size)
    return bytes(varint) + np.ascontiguousarray(vector, dtype="<f4").tobytes()


_EMPTY = _array(np.empty(0, dtype=np.float32))


def serve(source: BinaryIO, sink: BinaryIO, report: BinaryIO, load: Callable[[], Encode], batch_rows: int) -> None:
    """Answer every chunk of `source` on `sink`; the first row of one that cannot be encoded is told to `report`.

    Raises:
        CliphouseError: `load` did; it is called when the first chunk is read, once.
    """
    encode = None
    for chunk in read_chunks(source):
        # Not before the chunk is read: leaving a writer alone would hide the reason behind a broken pipe.
        encode = encode or load()
        answered = 0
        try:
            for start in range(0, len(chunk), batch_rows):
                batch = chunk[start : start + batch_rows]
                given = [value for value in batch if value is not None]
                vectors = iter(encode(given) if given else ())
                sink.write(b"".join(_EMPTY if value is None else _array(next(vectors)) for value in batch))
                sink.flush()
                answered += len(batch)
        except CliphouseError as error:
            complain(report, str(error))  # first, so that the server has it when the rows are complete
            sink.write(_EMPTY * (len(chunk) - answered))
            sink.flush()


def complain(report: BinaryIO, message: str) -> None:
    """Write one line, of a length that the server reads as a whole."""
    line = " ".join(message.split()).encode(errors="backslashreplace")
    report.write(line[:_LONGEST_MESSAGE].decode(errors="ignore").encode() + b"\n")  # whole characters
    report.flush()


def encoding(kind: Literal["text", "image"], encoder: str, images: ImageAccess) -> Encode:
    """The function from rows of `kind` to vectors.

    Raises:
        UnknownEncoder, EncoderUnavailable: the encoder cannot run here.
    """
    loaded = load_encoder(encoder)
    if kind == "text":
        return lambda rows: loaded.encode_texts([row.decode(errors="replace") for row in rows])
    return lambda rows: loaded.encode_images([open_image(images.check(os.fsdecode(row))) for row in rows])


def main() -> None:
    """Serve standard input until it ends; leave with the error's exit code if there can be no answers at all."""
    parser = argparse.ArgumentParser(prog="cliphouse_encode", description="Started by a ClickHouse server.")
    parser.add_argument("kind", choices=list(BATCH_ROWS))
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--allow", action="append", type=Path, default=[])
    options = parser.parse_args()
    with _own(sys.stdin, "rb") as source, _own(sys.stdout, "wb") as sink, _own(sys.stderr, "wb") as report:
        try:
            images = ImageAccess(tuple(options.allow))
            load = lambda: encoding(options.kind, options.encoder, images)  # noqa: E731
            serve(source, sink, report, load, BATCH_ROWS[options.kind])
        except BrokenPipeError:
            os._exit(1)  # the server has gone; there is nobody to tell
        except Exception as error:  # noqa: BLE001  # a traceback would be the query's message
            with suppress(OSError):
                own = isinstance(error, CliphouseError)
                complain(report, str(error) if own else f"cliphouse failed: {type(error).__name__}: {error}")
            sys.exit(getattr(error, "exit_code", 1))


def _own(stream: object, mode: str) -> BinaryIO:
    """The pipe behind a standard stream, which libraries then write to without harm: what they print goes nowhere."""
    number: int = stream.fileno()  # type: ignore[attr-defined]
    pipe = os.dup(number)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, number)
    os.close(nowhere)
    return os.fdopen(pipe, mode)  # type: ignore[return-value]


if __name__ == "__main__":
    main()
