"""A statement of ClickHouse's HTTP interface on the engine: what may run, under which limits, and what is killed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cliphouse.engine import Answer, Engine, Guest
from cliphouse.errors import StatementRefused
from cliphouse.service import vet
from cliphouse.service.clickhouse_errors import refused
from cliphouse.service.clickhouse_forms import Table
from cliphouse.service.clickhouse_request import Arguments, Statement
from cliphouse.service.settings import Settings
from cliphouse.service.vet_names import SETTINGS
from cliphouse.types import literal

#: Settings that a reader may have besides those of its statements: how values are written, and what only marks or
#: slows its own statement.
_HARMLESS = SETTINGS | {
    *("log_comment", "max_threads", "max_block_size", "date_time_output_format", "date_time_input_format", "readonly"),
    *("extremes", "session_timezone", "use_query_cache", "async_insert", "wait_for_async_insert", "max_query_size"),
    *("result_overflow_mode", "timeout_overflow_mode", "allow_experimental_analyzer", "enable_analyzer", "limit"),
    *(
        "cast_string_to_dynamic_use_inference",
        "http_headers_progress_interval_ms",
        "offset",
        "log_queries",
        "allow_suspicious_low_cardinality_types",
        "receive_timeout",
        "send_timeout",
    ),
}
_FORMATS = re.compile(r"output_format_\w+|format_(csv|tsv|json|binary|custom|regexp|pretty)_?\w*|max_result_\w+")

#: What may stand in the condition of a KILL QUERY of somebody who may only read.
_CONDITION = frozenset(
    {"query_id", "initial_query_id", "user", "query", "elapsed", "Settings", "query_kind", "and", "or", "not", "in"}
    | {"like", "ilike", "startsWith", "currentUser", "has", "hasAny", "between", "is", "null"}
)
_WORD = re.compile(r"'(?:[^'\\]|\\.|'')*'|([A-Za-z_]\w*)")
_KILL = re.compile(r"KILL\s+QUERY\s+WHERE\s+(.*?)(?:\s+(SYNC|ASYNC|TEST))?", re.IGNORECASE | re.DOTALL)


@dataclass(slots=True)
class Job:
    """A statement with what comes with it."""

    statement: Statement
    arguments: Arguments
    database: str | None
    form: str
    writes: bool  # whether it may
    rows: Iterable[bytes] = ()
    tables: Sequence[Table] = ()


def run(
    engine: Engine, guest: Guest, job: Job, limits: Settings, write: Callable[[bytes], object], *, keep: bool
) -> Answer:
    """Do it; the answer goes to `write`. With `keep` the guest gets its settings back.

    Raises:
        EngineError: ClickHouse or this server refused it.
    """
    statement, parameters = job.statement, job.arguments.parameters
    settings = dict(job.arguments.settings)
    sql = statement.sql
    if not limits.allow_writes:
        try:
            vetted = vet.read_statement(engine, sql, database=job.database)
        except StatementRefused as error:
            raise refused("ACCESS_DENIED", str(error)) from error
        sql = vetted.sql
        settings = _limited({**settings, **{name: str(value) for name, value in vetted.settings.items()}}, limits)
    elif (settings.pop("readonly", "0") != "0" or not job.writes) and not statement.reads:
        raise refused("READONLY", "Cannot execute query in readonly mode: use POST for queries that modify data")
    with guest.with_settings(settings, job.database, keep=keep):
        for table in job.tables:
            structure = vet.check_structure(engine, table.structure)
            guest.table(table.name, structure, table.form, table.data)
        if not limits.allow_writes:
            # Drivers ask which settings they may send: all that are let through above, not none.
            guest.only_read(settable=_table(statement.words) == ("SYSTEM", "SETTINGS"))
        if statement.reads:
            return guest.run(statement.verb, sql, job.form, parameters, write)
        if statement.data is not None:
            return guest.insert(sql, statement.form or "Values", parameters, job.rows)
        return guest.change(sql, job.form, parameters, write)


def _table(words: tuple[str, ...]) -> tuple[str, ...]:
    """The table that a simple statement reads, as two words."""
    place = words.index("FROM") if "FROM" in words else len(words)
    return tuple(word for word in words[place + 1 : place + 4] if word)


def _limited(settings: dict[str, str], limits: Settings) -> dict[str, str]:
    """A reader's settings, none above the limits."""
    found = {}
    for name, value in settings.items():
        if name in ("max_execution_time", "max_memory_usage", "readonly"):
            continue
        if name not in _HARMLESS and not _FORMATS.fullmatch(name):
            raise refused("READONLY", f"Cannot modify {name!r} setting in readonly mode")
        found[name] = value
    found["max_execution_time"] = _least(settings.get("max_execution_time"), limits.timeout)
    found["max_memory_usage"] = _least(settings.get("max_memory_usage"), limits.max_sql_memory)
    return found


def _least(asked: str | None, limit: float) -> str:
    try:
        wanted = float(asked or 0)
    except ValueError:
        raise refused("BAD_ARGUMENTS", f"{asked!r} is no number") from None
    return f"{min(wanted, limit) if wanted > 0 else limit:.0f}"


def kill(
    guest: Guest,
    job: Job,
    ours: dict[str, str],
    write: Callable[[bytes], object],
    *,
    anything: bool,
) -> Answer:
    """KILL QUERY, of those that run for the same user only: `ours` has their marks and query_ids.

    Raises:
        EngineError: the condition has more than a reader may use, unless it may have `anything`.
    """
    found = _KILL.fullmatch(job.statement.sql)
    if found is None:
        raise refused("SYNTAX_ERROR", "Syntax error: write KILL QUERY WHERE condition [SYNC | ASYNC | TEST]")
    condition, how = found[1], (found[2] or "ASYNC").upper()
    if not anything:
        for word in _WORD.finditer(condition):
            if word[1] and word[1] not in _CONDITION and word[1].lower() not in _CONDITION:
                raise refused("ACCESS_DENIED", f"{word[1]} cannot stand in the condition of a KILL QUERY here")
    seen = guest.processes(ours)
    chosen = f"FROM ({seen}) WHERE {condition}\n"
    marks = guest.query(f"SELECT mark {chosen}", "TSVRaw", job.arguments.parameters).decode().splitlines()
    status = literal({"TEST": "unknown_status", "SYNC": "finished"}.get(how, "waiting"))
    answer = guest.query(
        f"SELECT {status} AS kill_status, query_id, user, query {chosen}", job.form, job.arguments.parameters
    )
    if marks and how != "TEST":
        guest.kill(marks, wait=how == "SYNC")
    write(answer)
    return Answer()
