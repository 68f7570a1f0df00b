"""Rows in ClickHouse's Native format on their way into an engine, while the next ones are still being made.

A server takes them as the body of a request. For an embedded engine the driver would write every byte to a file first,
for the engine to read: here it reads a named pipe, and nothing is written twice.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client

from cliphouse.engine.connection import Connection
from cliphouse.schema import identifier
from cliphouse.types import literal

Piece = bytes | memoryview

#: What Linux lets a user's pipe hold; elsewhere pipes keep their size.
_PIPE_BYTES = 2**20
#: How often a writer looks whether a reader has come.
_LOOK_SECONDS = 0.002


#: The engine gathers blocks until they have this much, and writes that as a part. More of it would be in memory several
#: times; of less there would be more parts, of each of which the merge holds a piece.
_PART_BYTES = 48 * 2**20
#: A block of more rows the engine would cut in two.
_MAX_BLOCK_ROWS = 2**24


def _settings(token: str) -> dict[str, Any]:
    """What every such insert wants: few large parts, and no index that is built on the way."""
    settings: dict[str, Any] = {
        "async_insert": 0,
        "materialize_skip_indexes_on_insert": 0,
        "min_insert_block_size_rows": 0,
        "min_insert_block_size_bytes": _PART_BYTES,
        "max_insert_block_size": _MAX_BLOCK_ROWS,
    }
    return settings | ({"insert_deduplication_token": token} if token else {})


def until_failure(
    pieces: Iterable[Piece], connection: Connection, failures: list[BaseException]
) -> Generator[Piece, None, None]:
    """The pieces until one fails, which goes to `failures`: inside the driver it would pass for a broken connection."""
    try:
        for piece in pieces:
            if connection.lost:  # interrupted: nobody waits for the rest
                return
            yield piece
    except BaseException as error:  # noqa: BLE001
        failures.append(error)


def send(client: Client, table: str, columns: Sequence[str], pieces: Iterable[Piece], token: str) -> None:
    """Insert into a server."""
    client.raw_insert(table, list(columns), (bytes(piece) for piece in pieces), settings=_settings(token), fmt="Native")


def pour(client: Client, table: str, columns: Sequence[str], pieces: Iterable[Piece], token: str) -> None:
    """Insert into the embedded engine of this process. `pieces` must not raise."""
    names = ", ".join(map(identifier, columns))
    settings = ", ".join(f"{name} = {literal(value)}" for name, value in _settings(token).items())

    def read(path: Path) -> None:
        source = f"FROM INFILE {literal(str(path))} SETTINGS {settings} FORMAT Native"
        client.command(f"INSERT INTO {identifier(table)} ({names}) {source}")

    _feed(pieces, read)


def _feed(pieces: Iterable[Piece], read: Callable[[Path], None]) -> None:
    """Run `read` on the path of a pipe while a thread writes `pieces` into it.

    `read` sees the end of the file after the last piece. When it returns, or raises, writing ends.
    """
    with tempfile.TemporaryDirectory(prefix="cliphouse-") as folder:
        path = Path(folder) / "rows.native"
        os.mkfifo(path, 0o600)
        done = threading.Event()
        writer = threading.Thread(target=_write, args=(path, pieces, done), name="cliphouse-feed", daemon=True)
        writer.start()
        try:
            read(path)
        finally:
            done.set()
            writer.join()


def _write(path: Path, pieces: Iterable[Piece], done: threading.Event) -> None:
    try:
        descriptor = _open(path, done)
        if descriptor is None:
            return
        try:
            for piece in pieces:
                left = memoryview(piece)
                while left:
                    left = left[os.write(descriptor, left) :]
        finally:
            os.close(descriptor)
    except BrokenPipeError:  # the reader has seen enough, or failed and says so itself
        pass


def _open(path: Path, done: threading.Event) -> int | None:
    """The pipe, open to write; None if its reader ended without opening it."""
    while True:
        try:
            # Without O_NONBLOCK this would wait for ever for a reader that failed before it opened the pipe.
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            if done.wait(_LOOK_SECONDS):
                return None
            continue
        os.set_blocking(descriptor, True)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return descriptor
