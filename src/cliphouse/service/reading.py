"""Statements of strangers on the engine: only reading, with limits that they cannot change."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cliphouse.engine import Engine
from cliphouse.errors import EngineError, StatementRefused, StorageError, TimedOut
from cliphouse.service.settings import Settings
from cliphouse.service.vet import Statement
from cliphouse.units import size

#: The largest whole number that every reader of JSON reads as it is; those beyond become texts.
_SAFE = 2**53
_WIDE = re.compile(r"U?Int(64|128|256)")
#: How values become JSON: what has no number there is null (NaN), what would lose digits is a text (Decimal).
_AS_JSON: Mapping[str, int | float | str] = {
    "output_format_json_quote_64bit_integers": 0,
    "output_format_json_quote_denormals": 0,
    "output_format_json_quote_decimals": 1,
}


@dataclass(frozen=True, slots=True)
class Table:
    """An answer as values of JSON; `truncated` says that there are more rows."""

    columns: list[tuple[str, str]]
    rows: list[list[Any]]
    truncated: bool


class _TooLarge(OSError):
    """More comes than anybody may take."""


def limits(settings: Settings) -> dict[str, int | float | str]:
    """What every statement from outside runs under: time, memory (none on disk), rows and bytes of the answer."""
    return {
        "max_execution_time": settings.timeout,
        "timeout_overflow_mode": "throw",
        "max_memory_usage": settings.max_sql_memory,
        "max_bytes_before_external_sort": 0,
        "max_bytes_ratio_before_external_sort": 0,
        "max_bytes_before_external_group_by": 0,
        "max_bytes_ratio_before_external_group_by": 0,
        "max_result_bytes": settings.max_sql_bytes,
        "result_overflow_mode": "throw",
        "allow_introspection_functions": 0,
    }


def answer(engine: Engine, statement: Statement, settings: Settings, rows: int) -> Table:
    """The first rows that a statement answers with.

    Raises:
        StatementRefused: the engine says that the statement is wrong, or that it needs more than it may have.
        TimedOut: it took too long.
    """
    plan = statement.sql.startswith("EXPLAIN")  # which would show the limit
    bounds = {**statement.settings, **limits(settings), **_AS_JSON} | ({} if plan else {"limit": rows + 1})
    text = bytearray()

    def take(piece: bytes) -> None:
        text.extend(piece)
        if len(text) > settings.max_sql_bytes:
            raise _TooLarge

    try:
        with engine.session() as session:
            session.restrict(bounds)
            session.run(statement.sql, take, parameters={}, format="JSONCompact")
    except _TooLarge:
        raise _too_large(settings) from None
    except StorageError:
        raise
    except EngineError as error:
        if error.name == "TIMEOUT_EXCEEDED":
            raise TimedOut(settings.timeout) from error
        if error.name == "TOO_MANY_ROWS_OR_BYTES":
            raise _too_large(settings) from error
        if error.code is None:
            raise
        raise StatementRefused(str(error)) from error
    found = json.loads(bytes(text))
    columns = [(str(column["name"]), str(column["type"])) for column in found["meta"]]
    wide = [place for place, (_, kind) in enumerate(columns) if _WIDE.search(kind)]
    data: list[list[Any]] = found["data"]
    for row in data:
        for place in wide:
            row[place] = _exact(row[place])
    return Table(columns, data[:rows], len(data) > rows)


def _too_large(settings: Settings) -> StatementRefused:
    return StatementRefused(f"its answer is larger than {size(settings.max_sql_bytes)}; select fewer rows or columns")


def _exact(value: Any) -> Any:
    """The value, with whole numbers that JavaScript would round as texts."""
    match value:
        case bool():
            return value
        case int():
            return value if abs(value) <= _SAFE else str(value)
        case list():
            return [_exact(each) for each in value]
        case dict():
            return {key: _exact(each) for key, each in value.items()}
    return value
