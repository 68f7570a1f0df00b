"""Talking to ClickHouse: one class for the embedded engine and for servers, over clickhouse-connect."""

from __future__ import annotations

import logging
import os
import signal
import threading
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import clickhouse_connect
from clickhouse_connect.driver.exceptions import Error as DriverError

from cliphouse.engine.answers import Capabilities, Result
from cliphouse.engine.blocks import Block, opened
from cliphouse.engine.connection import Connection, Work, current
from cliphouse.engine.embedded import (
    directory_holder,
    machine_memory_bytes,
    prepare_directory,
    process_memory_bytes,
    register_function,
    server_options,
)
from cliphouse.engine.faults import map_error
from cliphouse.engine.guest import MARK, Guest
from cliphouse.engine.insert import pour, send, until_failure
from cliphouse.engine.session import Session
from cliphouse.engine.url import EmbeddedLocation, Location, parse_url
from cliphouse.errors import (
    DirectoryInUse,
    EngineError,
    StorageError,
    UsageError,
)
from cliphouse.types import Query, literal

# The driver logs what it raises; without a handler Python would print that beside our one line.
logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())

_CONNECT_TIMEOUT_SECONDS = 10
_RECEIVE_TIMEOUT_SECONDS = 600
#: After Ctrl-C the kill is repeated this often, and given up after the second figure.
_KILL_INTERVAL_SECONDS, _KILL_PATIENCE_SECONDS = 0.1, 5.0

T = TypeVar("T")

#: How often something was written to each embedded database of this process: it has one writer, this process.
_writes: dict[Location, int] = {}


class Engine:
    """A ClickHouse engine, embedded or remote. Safe to use from several threads: each call has its own connection.

    Every method raises `EngineError` (or a kind of it) where ClickHouse fails. Ctrl-C in the main thread kills the
    running query and then raises KeyboardInterrupt.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        first = self._open()
        self._idle.append(first)
        try:
            self.capabilities = self._ask_capabilities()
        except BaseException:
            self.close()  # or the directory would stay taken
            raise

    def query(self, query: Query) -> Result:
        """The rows that `query` answers with."""

        def work(connection: Connection) -> Result:
            answer = connection.client.query(query.sql, parameters=dict(query.parameters))
            return Result(tuple(answer.column_names), [tuple(row) for row in answer.result_rows])

        return self._call(work, sql=query.sql)

    @contextmanager
    def blocks(self, sql: str, dim: int) -> Iterator[Iterator[Block]]:
        """The ids and embeddings that `sql` selects, block by block, without a copy where the engine is embedded.

        To be read by one thread at a time, which may change from block to block; leaving early ends the query.
        """
        try:
            with self._borrowed() as connection, opened(connection, self.location, sql, dim) as found:
                yield found
        except DriverError as error:
            raise map_error(error, self.location, sql) from error

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Run a statement for its effect."""
        with self.writing():
            self._call(lambda connection: connection.client.command(sql, parameters=dict(parameters or {})), sql=sql)

    def writes(self) -> int | None:
        """A number that grows whenever somebody may have written to the database; None if others could, unseen."""
        return _writes.get(self.location, 0) if self.capabilities.embedded else None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around whatever may write."""
        try:
            yield
        finally:
            _writes[self.location] = _writes.get(self.location, 0) + 1

    def insert_native(
        self, table: str, columns: Sequence[str], pieces: Iterable[bytes | memoryview], *, token: str = ""
    ) -> None:
        """Insert rows that are already in ClickHouse's Native format, as one insert; each block becomes a part.

        `table` and `columns` are names, not yet quoted; an index on the table is not built on the way. With a `token`,
        a table with a deduplication window takes the same insert once. If `pieces` raises, the rows it gave before may
        have been inserted; its error comes through as it is.
        """
        failures: list[BaseException] = []

        def work(connection: Connection) -> None:
            given = until_failure(pieces, connection, failures)
            insert = pour if self.capabilities.embedded else send
            insert(connection.client, table, columns, given, token)

        try:
            with self.writing():
                self._call(work, sql=f"INSERT INTO {table}")
        except EngineError:
            if not failures:  # else the engine only saw its consequence, a block that ends in the middle
                raise
        if failures:
            raise failures[0]

    def work(self) -> AbstractContextManager[Work]:
        """What this thread asks in the block, and threads that join the work: to be broken off together."""
        return Work(self._cancel).joined()

    def _cancel(self, marks: Sequence[str]) -> None:
        ours = f"hasAny([Settings['log_comment'], Settings['{MARK}']], {literal(marks)})"
        self.command(f"KILL QUERY WHERE {ours} AND query_kind IN ('Select', 'Insert', 'Optimize') ASYNC")

    def release_memory(self) -> None:
        """Let an embedded engine give back what it holds and does not use; by itself it waits for some seconds."""
        if self.capabilities.embedded:
            self.command("SYSTEM JEMALLOC PURGE")

    def resident_bytes(self) -> int:
        """Memory of the process that holds the engine; where a server does not say, what the engine has allocated."""
        if self.capabilities.embedded:
            return process_memory_bytes()
        allocated = "SELECT toUInt64(greatest(value, 0)) FROM system.metrics WHERE metric = 'MemoryTracking'"
        try:
            resident = "SELECT toUInt64(value) FROM system.asynchronous_metrics WHERE metric = 'MemoryResident'"
            rows = self.query(Query(sql=resident)).rows or self.query(Query(sql=allocated)).rows
        except EngineError as error:
            if error.name not in ("ACCESS_DENIED", "UNKNOWN_TABLE"):
                raise
            rows = self.query(Query(sql=allocated)).rows
        return int(rows[0][0])

    def read_bytes(self) -> int:
        """Bytes of columns, uncompressed, that queries took up from disk or cache since the engine started."""
        rows = self.query(Query(sql="SELECT value FROM system.events WHERE event = 'SelectedBytes'")).rows
        return int(rows[0][0]) if rows else 0

    def guest(self) -> Guest:
        """A connection for statements of others, to be closed by the caller.

        Raises:
            UsageError: the engine is a server, which has guests of its own.
        """
        if not isinstance(self.location, EmbeddedLocation):
            raise UsageError("others can be let in only to an embedded database")
        return Guest(self.location, self.writing)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A connection that keeps its state (SET, USE, temporary tables) from statement to statement."""
        connection, work = self._open(stateful=True), current()
        try:
            with work.runs(connection.mark) if work else nullcontext():
                yield Session(self, connection)
        finally:
            connection.close()

    def install_function(self, name: str, function: Callable[[str], bytes]) -> None:
        """Make a Python function callable in SQL as `name(String)`, for as long as this process lives.

        Raises:
            UsageError: the engine is a server, which cannot call into this process.
        """
        if not self.capabilities.embedded:
            raise UsageError("functions can be installed only in an embedded database")
        register_function(name, function)

    @property
    def is_open(self) -> bool:
        """Whether `close` has not been called yet."""
        return not self._closed

    def close(self) -> None:
        """Close every connection; an embedded engine lets go of its directory."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
        for connection in idle:
            connection.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Engine {self.location}>"

    # -- connections ------------------------------------------------------------------------------------------------

    def _open(self, *, stateful: bool = False) -> Connection:
        mark = f"cliphouse-{uuid.uuid4()}"
        settings: dict[str, Any] = {"log_comment": mark}
        try:
            if isinstance(self.location, EmbeddedLocation):
                # Without rescoring, distances are those of the index's rounded vectors.
                settings |= {"async_insert": 0, "vector_search_with_rescoring": 1}
                client = clickhouse_connect.get_client(
                    interface="chdb",
                    path=str(self.location.path or ":memory:"),
                    chdb_options=server_options(machine_memory_bytes()),
                    settings=settings,
                    show_clickhouse_errors="scrub",
                )
            else:
                place = self.location
                client = clickhouse_connect.get_client(
                    interface="https" if place.secure else "http",
                    host=place.host,
                    port=place.port,
                    username=place.user,
                    password=place.password,
                    database=place.database,
                    verify=place.verify,
                    settings=settings,
                    session_id=mark if stateful else None,
                    autogenerate_session_id=False,
                    connect_timeout=_CONNECT_TIMEOUT_SECONDS,
                    send_receive_timeout=_RECEIVE_TIMEOUT_SECONDS,
                    client_name="cliphouse",
                    show_clickhouse_errors="scrub",
                )
        except DriverError as error:
            raise map_error(error, self.location) from error
        return Connection(client, mark, stateful)

    @contextmanager
    def _borrowed(self) -> Iterator[Connection]:
        with self._lock:
            if self._closed:
                raise UsageError("the database is closed; open it again")
            connection = self._idle.pop() if self._idle else None
        connection = connection or self._open()
        work = current()
        try:
            with work.runs(connection.mark) if work else nullcontext():
                yield connection
        finally:
            with self._lock:
                reusable = not self._closed and not connection.lost
                if reusable:
                    self._idle.append(connection)
            if not reusable:
                connection.close()

    def _call(self, work: Callable[[Connection], T], *, sql: str) -> T:
        with self._borrowed() as connection:
            return self.run_on(connection, work, sql=sql)

    def run_on(self, connection: Connection, work: Callable[[Connection], T], *, sql: str) -> T:
        """Run `work` with errors mapped and, in the main thread, so that Ctrl-C kills its query.

        The engine does not notice signals, so the query runs in a thread of its own while this one waits.
        """
        try:
            if threading.current_thread() is not threading.main_thread():
                return work(connection)
            return self._run_interruptibly(connection, work, sql)
        except (DriverError, OSError) as error:
            raise map_error(error, self.location, sql) from error

    def _run_interruptibly(self, connection: Connection, work: Callable[[Connection], T], sql: str) -> T:
        results: list[T] = []
        failures: list[BaseException] = []
        done = threading.Event()

        def target() -> None:
            try:
                results.append(work(connection))
            except BaseException as error:  # noqa: BLE001  # handed to the waiting thread as it is
                failures.append(error)
            finally:
                done.set()

        try:
            # Starting is inside: it waits for the thread, and Ctrl-C may come while the query already runs.
            threading.Thread(target=target, name="cliphouse-query", daemon=True).start()
            done.wait()
        except KeyboardInterrupt:
            # A second Ctrl-C must not break off the kill, or the query would go on alone.
            previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                self._kill(connection, done, sql)
            finally:
                signal.signal(signal.SIGINT, previous)
            raise
        if failures:
            raise failures[0]
        return results[0]

    def _kill(self, connection: Connection, done: threading.Event, sql: str) -> None:
        """Kill what runs on `connection`, again and again until it has ended: it may only be about to start.

        It is found by its mark; in a session whose user has set another log_comment, by its text.
        """
        connection.lost = True
        ours = f"Settings['log_comment'] = '{connection.mark}'"
        if connection.stateful:
            ours += f" OR (startsWith(query, {literal(sql)}) AND Settings['log_comment'] NOT LIKE 'cliphouse-%')"
        killer = self._open()
        try:
            for _ in range(int(_KILL_PATIENCE_SECONDS / _KILL_INTERVAL_SECONDS)):
                killer.client.command(f"KILL QUERY WHERE {ours} ASYNC")
                if done.wait(_KILL_INTERVAL_SECONDS):
                    connection.lost = False
                    return
        finally:
            killer.close()

    def _ask_capabilities(self) -> Capabilities:
        wanted = ("max_server_memory_usage", "uncompressed_cache_size", "vector_similarity_index_cache_size")
        sql = f"SELECT name, toUInt64OrZero(value) FROM system.server_settings WHERE name IN {wanted}"
        try:
            values = dict(self.query(Query(sql=sql)).rows)
        except EngineError as error:
            if error.name not in ("ACCESS_DENIED", "UNKNOWN_TABLE"):
                raise
            values = {}  # a restricted user; everything works without these, more carefully
        version = self.query(Query(sql="SELECT version()")).rows[0][0]
        return Capabilities(
            version=str(version),
            embedded=isinstance(self.location, EmbeddedLocation),
            memory_bytes=int(values.get(wanted[0], 0)),
            uncompressed_cache_bytes=int(values.get(wanted[1], 0)),
            vector_cache_bytes=int(values.get(wanted[2], 0)),
        )


#: Engines of this process, to tell whether an embedded one is open.
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def connect(url: str, *, create: bool = True) -> Engine:
    """The engine at `url` (see `parse_url`). With `create`, a missing data directory is made.

    Raises:
        UsageError, UnknownDatabase: `url` is not valid, or names nothing and `create` is False.
        DirectoryInUse, StorageError: the directory cannot be used.
        EngineUnavailable, AuthenticationFailed: the server cannot.
    """
    location = parse_url(url)
    if isinstance(location, EmbeddedLocation):
        _check_single(location)
        if location.path is not None:
            prepare_directory(location.path, create=create)
    try:
        engine = Engine(location)
    except EngineError as error:
        if isinstance(location, EmbeddedLocation) and location.path is not None:
            holder = directory_holder(location.path)
            if holder not in (None, os.getpid()):  # it came between our look and our opening
                raise DirectoryInUse(location.path, holder) from error
        raise
    _engines.add(engine)
    return engine


def _check_single(location: EmbeddedLocation) -> None:
    """Refuse a second database: chDB has one for the whole process."""
    for engine in list(_engines):
        held = engine.location
        if engine.is_open and isinstance(held, EmbeddedLocation) and held != location:
            raise StorageError(
                f"this process already has {held} open, and an embedded engine serves one database at a time; "
                f"close it before opening {location}"
            )
