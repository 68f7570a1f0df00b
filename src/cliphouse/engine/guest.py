"""Statements of others, as they wrote them: bytes in, bytes out, in any of ClickHouse's formats.

A guest speaks to chDB without the driver, which would put its own settings, formats and errors between the two. Its
connection keeps what SET, USE and temporary tables change; what comes with one statement is taken back after it.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliphouse.engine.connection import current
from cliphouse.engine.embedded import failures
from cliphouse.engine.faults import one_line
from cliphouse.engine.url import EmbeddedLocation
from cliphouse.errors import EngineError
from cliphouse.types import literal

#: The setting that tells a guest's statements from others: a map that nothing but an HTTP server would read. Guests
#: have log_comment for themselves.
MARK = "http_response_headers"

#: Of these chDB sends the blocks of an answer one by one as they come. Formats with something around their rows it
#: would wrap anew for each block: those go through a pipe, which takes longer and holds no more.
_IN_BLOCKS = frozenset(
    {"Native", "TabSeparated", "TSV", "TabSeparatedRaw", "TSVRaw", "Raw", "CSV", "RowBinary", "LineAsString"}
    | {"JSONEachRow", "JSONLines", "NDJSON", "JSONCompactEachRow"}
)
_STREAMED = frozenset({"SELECT", "WITH", "FROM", "("})
_PIECE_BYTES = 2**20
_VERSION = r"(?:\s*\(version [^()]*(?:\([^()]*\))?\))?"
_ERROR = re.compile(
    rf"Code: (\d+)\. (?:DB::Exception: )?(.*?)(?:\s*\(([A-Z][A-Z0-9_]{{2,}})\))?{_VERSION}\s*\Z", re.DOTALL
)

#: What every guest begins with: our own connections have the last two as well.
_FIRST = {"implicit_select": "0", "async_insert": "0", "vector_search_with_rescoring": "1"}


@dataclass(slots=True)
class Answer:
    """What a statement did, where chDB says so."""

    rows_read: int = 0
    bytes_read: int = 0
    rows_written: int = 0
    bytes_written: int = 0


class Guest:
    """One connection for statements of others. Not for two threads at once."""

    def __init__(self, location: EmbeddedLocation, writing: Callable[[], AbstractContextManager[None]]) -> None:
        import chdb

        self.mark = f"{{'cliphouse':'{uuid.uuid4().hex}'}}"
        self._writing = writing
        connect: Any = chdb.connect
        self._errors = (RuntimeError, chdb.ChdbError)
        self._handle = connect(str(location.path or ":memory:"))
        self._set({**_FIRST, MARK: self.mark})

    def close(self) -> None:
        """Forget the connection and its temporary tables."""
        self._handle.close()

    @contextmanager
    def with_settings(self, settings: Mapping[str, str], database: str | None, *, keep: bool) -> Iterator[None]:
        """Settings and database of one statement; with `keep`, what was before is restored after it."""
        before = self._values(settings) if keep and settings else {}
        place = self.query("SELECT currentDatabase()", "TSVRaw").decode().rstrip("\n") if keep and database else None
        try:
            if database:
                self.query(f"USE {_quoted(database)}", "Null")
            self._set(settings)
            yield
        finally:
            for name, value in before.items():
                self.query(f"SET {name} = {'DEFAULT' if value is None else literal(value)}", "Null")
            if place:
                self.query(f"USE {_quoted(place)}", "Null")

    def only_read(self, *, settable: bool = False) -> None:
        """Have the engine refuse whatever writes or reaches outside, and new settings, from now on.

        Where they are `settable`, it refuses to change this alone, and says of settings that they can be set.
        """
        self._set({"readonly": "2" if settable else "1"})

    def query(self, sql: str, form: str, parameters: Mapping[str, str] | None = None) -> bytes:
        """The whole answer to a short statement.

        Raises:
            EngineError: ClickHouse failed; `said` is its message.
        """
        answer: list[bytes] = []
        self.run("", sql, form, parameters or {}, answer.append)
        return b"".join(answer)

    def run(
        self, verb: str, sql: str, form: str, parameters: Mapping[str, str], write: Callable[[bytes], object]
    ) -> Answer:
        """Run a statement that begins with `verb` and names no format; `write` its answer in `form`, piece by piece.

        What `write` raises ends the statement and comes through.

        Raises:
            EngineError: as `query`.
        """
        with self._told(sql):
            if verb in _STREAMED and form in _IN_BLOCKS:
                return self._streamed(sql, form, parameters, write)
            if verb in _STREAMED:
                return self._piped(sql, form, parameters, write)
            answer = self._handle.query(sql, form, params=dict(parameters) or None)
            if len(answer):
                write(answer.bytes())
            return _counted(answer)

    def change(self, sql: str, form: str, parameters: Mapping[str, str], write: Callable[[bytes], object]) -> Answer:
        """`run` for a statement that may write."""
        with self._writing():
            return self.run("", sql, form, parameters, write)

    def insert(self, sql: str, form: str, parameters: Mapping[str, str], pieces: Iterable[bytes]) -> Answer:
        """Insert rows in `form`; `sql` says where, without a FORMAT clause. All or none of a block of them are kept.

        If `pieces` raises, nothing more is inserted, and the error comes through.

        Raises:
            EngineError: as `query`.
        """
        self._set({f"param_{name}": value for name, value in parameters.items()})
        with self._writing(), self._told(sql):
            inserter = self._handle.send_insert(sql, form)
            try:
                for piece in pieces:
                    if piece:
                        inserter.append(piece)
                done = inserter.finish()
            finally:
                inserter.close()  # which cancels what is not finished
            return Answer(done.rows_written, done.bytes_written, done.rows_written, done.bytes_written)

    def table(self, name: str, structure: str, form: str, data: bytes) -> None:
        """A temporary table of this connection, with these rows."""
        self.query(f"CREATE OR REPLACE TEMPORARY TABLE {_quoted(name)} ({structure})", "Null")
        self.insert(f"INSERT INTO {_quoted(name)}", form, {}, [data])

    def processes(self, ours: Mapping[str, str]) -> str:
        """A query for `system.processes` of guests with these marks, each with the query_id that it is known by."""
        marks, known = literal(list(ours)), literal(list(ours.values()))
        mark = f"Settings['{MARK}']"
        named = f"transform({mark}, {marks}::Array(String), {known}::Array(String), query_id) AS query_id"
        return (
            f"SELECT * REPLACE ({named}), {mark} AS mark FROM system.processes "
            f"WHERE has({marks}::Array(String), {mark})"
        )

    def kill(self, marks: Sequence[str], *, wait: bool = False) -> None:
        """Kill what guests with these marks run."""
        which = f"has({literal(list(marks))}, Settings['{MARK}'])"
        self.query(f"KILL QUERY WHERE {which} {'SYNC' if wait else 'ASYNC'}", "Null")

    # -- inside -------------------------------------------------------------------------------------------------------

    def _streamed(self, sql: str, form: str, parameters: Mapping[str, str], write: Callable[[bytes], object]) -> Answer:
        total = Answer()
        answer = self._handle.send_query(sql, form, params=dict(parameters) or None)
        try:
            for chunk in answer:
                total.rows_read += chunk.rows_read()
                total.bytes_read += chunk.bytes_read()
                write(chunk.bytes())
        finally:
            answer.close()
        return total

    def _piped(self, sql: str, form: str, parameters: Mapping[str, str], write: Callable[[bytes], object]) -> Answer:
        """The engine writes into a named pipe as if it were a file, which it does piece by piece in any format."""
        answers: list[Answer] = []
        failed: list[BaseException] = []
        with tempfile.TemporaryDirectory(prefix="cliphouse-") as folder:
            path = Path(folder) / "answer"
            os.mkfifo(path, 0o600)

            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            # Held until the statement has ended: the engine may open and close the pipe more than once.
            keeper = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            os.set_blocking(reader, True)

            def ask() -> None:
                try:
                    whole = f"{sql}\nINTO OUTFILE {literal(str(path))} TRUNCATE FORMAT {form}"
                    answers.append(_counted(self._handle.query(whole, "Null", params=dict(parameters) or None)))
                except BaseException as error:  # noqa: BLE001  # raised in the thread that waits
                    failed.append(error)
                finally:
                    os.close(keeper)

            asking = threading.Thread(target=ask, name="cliphouse-guest")
            asking.start()
            try:
                while piece := os.read(reader, _PIECE_BYTES):
                    write(piece)
            finally:
                os.close(reader)
                asking.join()
        if failed:
            raise failed[0]
        return answers[0]

    def _set(self, settings: Mapping[str, str]) -> None:
        if settings:
            self.query("SET " + ", ".join(f"{name} = {literal(value)}" for name, value in settings.items()), "Null")

    def _values(self, names: Iterable[str]) -> dict[str, str | None]:
        """Values of settings; None where nobody has set one."""
        wanted = f"name IN ({literal(list(names))[1:-1]})"
        rows = self.query(f"SELECT name, changed, value FROM system.settings WHERE {wanted}", "TSVRaw").decode()
        found = [line.split("\t", 2) for line in rows.splitlines()]
        return dict.fromkeys(names) | {name: value for name, changed, value in found if changed == "1"}

    @contextmanager
    def _told(self, sql: str) -> Iterator[None]:
        """Errors as ours, and the statement known to the work that this thread belongs to."""
        work = current()
        try:
            with work.runs(self.mark) if work else nullcontext():
                yield
        except self._errors as error:
            if ours := failures.take(str(error)):
                raise ours from error
            raise _error(str(error), sql) from error


def _quoted(name: str) -> str:
    """Any name as SQL writes it."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _counted(answer: Any) -> Answer:
    return Answer(int(answer.rows_read()), int(answer.bytes_read()))


def _error(text: str, sql: str) -> EngineError:
    found = _ERROR.search(text)
    if found is None:
        return EngineError(one_line(text), code=1002, name="UNKNOWN_EXCEPTION", sql=sql, said=text)
    code, said, name = int(found[1]), found[2], found[3]
    return EngineError(one_line(said), code=code, name=name, sql=sql, said=said)
