"""One connection that keeps its state, for SQL that people type."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from cliphouse import statements
from cliphouse.errors import EngineError, UsageError
from cliphouse.schema import identifier
from cliphouse.types import literal

if TYPE_CHECKING:
    import pyarrow as pa

    from cliphouse.engine.client import Engine
    from cliphouse.engine.connection import Connection

#: chDB streams the answers of these only; others are short.
_STREAMED = re.compile(r"\s*(SELECT|WITH)\b", re.IGNORECASE)

#: What formats answer to a type that they do not know.
_UNFIT = frozenset({"UNKNOWN_TYPE", "ILLEGAL_COLUMN", "BAD_ARGUMENTS"})


def arrow_table(engine: Engine, statement: str, parameters: Mapping[str, Any]) -> pa.Table:
    """The answer to one statement as an Arrow table, empty for a statement that answers nothing.

    Raises:
        UsageError: it is more than one statement, or names a format.
        EngineError: ClickHouse failed.
    """
    import pyarrow as pa

    if len(statements.split(statement)) > 1:
        raise UsageError("give one statement at a time; Engine.session keeps state between them")
    if statements.names_format(statement):
        raise UsageError("leave the FORMAT clause out: the answer is an Arrow table")
    # The driver binds lists, not arrays.
    bound = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in parameters.items()}
    answer = io.BytesIO()
    form = "ArrowStream" if statements.takes_format(statement) else None
    with engine.session() as session:
        session.run(statement, answer.write, parameters=bound, format=form)
    if form is None or not answer.tell():
        return pa.table({})
    return pa.ipc.open_stream(answer.getvalue()).read_all()


class Session:
    """One stateful connection, for SQL that people type."""

    def __init__(self, engine: Engine, connection: Connection) -> None:
        self._engine, self._connection = engine, connection
        self._reads_only = False

    def restrict(self, settings: Mapping[str, int | float | str]) -> None:
        """From now on statements can only read, under these settings, which they cannot change.

        An embedded engine then knows no table functions that reach outside either; on a server it is left to the user's
        grants, for the driver's own settings must travel.
        """
        level = 1 if self._engine.capabilities.embedded else 2
        changes = ", ".join(f"{identifier(name)} = {literal(value)}" for name, value in settings.items())
        sql = f"SET {changes}, readonly = {level}" if changes else f"SET readonly = {level}"
        self._engine.run_on(self._connection, lambda connection: connection.client.command(sql), sql=sql)
        self._reads_only = True

    def run(
        self,
        sql: str,
        write: Callable[[bytes], object],
        *,
        parameters: Mapping[str, Any],
        format: str | None,  # noqa: A002
    ) -> None:
        """Run one statement and `write` its answer as bytes, in `format` (a ClickHouse output format) if there is one.

        Raises:
            UsageError: the format cannot hold the embeddings as they are stored.
            EngineError: ClickHouse failed.
            OSError: `write` did; it comes through as it is.
        """
        failures: list[OSError] = []

        def deliver(chunk: bytes) -> None:
            try:
                write(chunk)
            except OSError as error:  # the reader's fault or wish, not the engine's
                failures.append(error)
                raise

        def work(connection: Connection) -> None:
            if not _STREAMED.match(sql):
                deliver(connection.client.raw_query(sql, parameters=dict(parameters), fmt=format))
                return
            answer = cast("BinaryIO", connection.client.raw_stream(sql, parameters=dict(parameters), fmt=format))
            try:
                while chunk := answer.read(1 << 20):
                    deliver(chunk)
            finally:
                answer.close()

        try:
            with nullcontext() if self._reads_only else self._engine.writing():
                self._engine.run_on(self._connection, work, sql=sql)
        except EngineError as error:
            if failures:
                raise failures[0] from None
            if format and error.name in _UNFIT and (columns := self._bfloat16_columns(sql, parameters)):
                casts = ", ".join(f"{column}::Array(Float32)" for column in columns)
                raise UsageError(f"the format {format} has no BFloat16; select {casts} instead") from error
            raise

    def _bfloat16_columns(self, sql: str, parameters: Mapping[str, Any]) -> list[str]:
        """The columns of the answer to `sql` that are made of BFloat16."""

        def work(connection: Connection) -> list[str]:
            rows = connection.client.query(f"DESCRIBE TABLE ({sql}\n)", parameters=dict(parameters)).result_rows
            return [str(row[0]) for row in rows if "BFloat16" in str(row[1])]

        try:
            return self._engine.run_on(self._connection, work, sql=sql)
        except EngineError:  # then that was not the trouble
            return []
