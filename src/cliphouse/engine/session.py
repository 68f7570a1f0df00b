"""One connection that keeps its state, for SQL that people type."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from cliphouse.errors import EngineError

if TYPE_CHECKING:
    from cliphouse.engine.client import Connection, Engine

#: chDB streams the answers of these only; others are short.
_STREAMED = re.compile(r"\s*(SELECT|WITH)\b", re.IGNORECASE)


class Session:
    """One stateful connection, for SQL that people type."""

    def __init__(self, engine: Engine, connection: Connection) -> None:
        self._engine, self._connection = engine, connection

    def run(
        self,
        sql: str,
        write: Callable[[bytes], object],
        *,
        parameters: Mapping[str, Any],
        format: str | None,  # noqa: A002
    ) -> None:
        """Run one statement and `write` its answer, in `format` if the statement can take one."""

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
            self._engine.run_on(self._connection, work, sql=sql)
        except EngineError:
            if failures:
                raise failures[0] from None
            raise
