"""Rows leave the collection at once, and stay away.

Each deletion first writes the ids of its rows to a table of its own, by which the engine then deletes them. So a killed
deletion can be repeated, a shard that is loaded again leaves out what was deleted from it, and `verify` knows what is
missing on purpose. Why: docs/decisions/0014.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cliphouse import catalog, index, ivf, notes
from cliphouse.engine import Engine, arrow_table
from cliphouse.errors import EngineError, InvalidFilter, StorageFull, UsageError
from cliphouse.reports import DeleteReport
from cliphouse.schema import create_deleted, deleted_name, identifier, ledger_name
from cliphouse.statements import is_closed
from cliphouse.types import ROWS_PER_SHARD, CollectionInfo, Progress, ProgressCallback, Query, shard_ranges

#: The ids of one statement, as text, stay below the engine's limit on a query (256 KiB).
_IDS_AT_ONCE = 5_000
#: Each range of ids in a condition costs a millisecond to analyse.
_FEW_RUNS = 100
#: The engine holds the ids that one statement deletes in memory.
_ROWS_AT_ONCE = 10_000_000
_POLL_SECONDS = 0.2
#: The engine looks for old files in our tables every ten seconds, in others at times every five minutes.
_REMOVAL_SECONDS = 60

T = TypeVar("T")

#: Asked with the number of rows; False leaves everything as it is.
Confirm = Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class Selection:
    """Some rows of the table: a condition, and the values of its placeholders."""

    condition: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


def by_condition(engine: Engine, info: CollectionInfo, where: str) -> list[Selection]:
    """The rows for which a SQL condition holds.

    Raises:
        InvalidFilter: it is not one expression, or fails.
    """
    if not where.strip():
        raise UsageError("the condition is empty; for every row write: true")
    if not is_closed(where):
        raise InvalidFilter(where, "its parentheses do not match, or it is more than one expression")
    try:
        engine.query(Query(sql=f"SELECT 1 FROM {identifier(info.name)} WHERE ({where}\n) LIMIT 1"))
    except EngineError as error:
        raise InvalidFilter(where, str(error)) from error
    return [Selection(f"({where}\n)")]


def by_ids(ids: Iterable[int]) -> list[Selection]:
    """The rows with these ids.

    Raises:
        UsageError: one cannot be an id.
    """
    numbers = sorted(set(ids))
    if wrong := [number for number in numbers[:1] + numbers[-1:] if not -(2**63) <= number < 2**63]:
        raise UsageError(f"{wrong[0]} is no id; `cliphouse search` prints ids")
    return [Selection("id IN {ids:Array(Int64)}", {"ids": chunk}) for chunk in _chunks(numbers, _IDS_AT_ONCE)]


def by_shards(numbers: Iterable[int]) -> list[Selection]:
    """The rows of these shards: by runs of ids, or where those are many by their numbers."""
    shards = sorted(set(numbers))
    runs = [run.partition("-") for run in shard_ranges(shards).split(",") if run]
    if 0 < len(runs) <= _FEW_RUNS:
        ranges = [id_range(int(first), int(last or first)) for first, _, last in runs]
        return [Selection(f"({' OR '.join(ranges)})")]
    return [
        Selection(f"({id_range(some[0], some[-1])} AND intDiv(id, {ROWS_PER_SHARD}) IN ({_listed(some)}))")
        for some in _chunks(shards, _IDS_AT_ONCE)
    ]


def delete(
    engine: Engine,
    info: CollectionInfo,
    *,
    where: str | None = None,
    ids: Iterable[int] | None = None,
    shards: Iterable[int] | None = None,
    purge: bool = False,
    confirm: Confirm | None = None,
    progress: ProgressCallback | None = None,
) -> DeleteReport:
    """Delete the rows of a condition, of ids or of shards; with `purge`, free the disk of all that was ever deleted.

    Rows of a condition and of ids do not come back when their shard is loaded again. Shards are forgotten by the ledger
    and come back.

    Raises:
        UsageError: not one of the three is given, or none of the shards is known.
        InvalidFilter: the condition is not valid.
        StorageFull: a purge would not fit the disk.
        EngineError: ClickHouse failed; the same call again finishes the work.
    """
    given = [name for name, value in (("where", where), ("ids", ids), ("shards", shards)) if value is not None]
    if len(given) > 1 or not (given or purge):
        raise UsageError("say which rows to delete, in one way: a condition, ids, or shards")
    if "id" not in info.columns:
        raise UsageError(f"table {info.name!r} was not made by cliphouse and has no column id to delete by")
    report = DeleteReport(rows=0)
    if shards is not None:
        report = _delete_shards(engine, info, sorted(set(shards)), confirm)
    elif given:
        chosen = by_ids(ids) if ids is not None else by_condition(engine, info, where or "")
        rows = count(engine, info.name, chosen)
        if rows and (confirm is None or confirm(rows)):
            report = DeleteReport(rows=remove(engine, info.name, chosen, progress))
    if purge:
        freed, held = _purge(engine, info, progress)
        report = DeleteReport(rows=report.rows, again=report.again, freed_bytes=freed, held_bytes=held)
    return report


def count(engine: Engine, collection: str, chosen: Sequence[Selection]) -> int:
    """How many rows they are; no row may be in two of them."""
    table = identifier(collection)
    return sum(
        int(_value(engine, f"SELECT count() FROM {table} WHERE {rows.condition}", rows.parameters)) for rows in chosen
    )


def remove(
    engine: Engine, collection: str, chosen: Iterable[Selection], progress: ProgressCallback | None = None
) -> int:
    """Delete rows for good; return how many. Nothing answers with them when this returns.

    Raises:
        EngineError: ClickHouse failed; the same call again finishes the work.
    """
    table, remembered = identifier(collection), identifier(deleted_name(collection))
    deletion = uuid.uuid4().hex
    engine.command(create_deleted(collection))
    for rows in chosen:
        engine.command(
            f"INSERT INTO {remembered} (id, deletion) SELECT id, '{deletion}' FROM {table} WHERE {rows.condition}",
            rows.parameters,
        )
    sql = (
        f"SELECT intDiv(id, {ROWS_PER_SHARD}) AS number, count() FROM {remembered}\n"
        f"WHERE deletion = '{deletion}' GROUP BY number ORDER BY number"
    )
    found = [(int(number), int(rows)) for number, rows in engine.query(Query(sql=sql)).rows]
    total, done = sum(rows for _, rows in found), 0
    try:
        for first, last, size in _groups(found):
            ids = id_range(first, last)
            within = f"SELECT id FROM {remembered} WHERE deletion = '{deletion}' AND {ids}"
            _forget_everywhere(engine, collection, Selection(f"{ids} AND id IN ({within})"))
            done += size
            if progress:
                progress(Progress(label="deleting", done=done, total=total))
    except EngineError:
        # A mutation that failed would be tried for ever, and hold up those after it.
        engine.command(
            "KILL MUTATION WHERE database = currentDatabase() AND table IN {names:Array(String)} AND NOT is_done "
            f"AND position(command, '{deletion}') > 0",
            {"names": [collection, *ivf.row_tables(engine, collection)]},
        )
        raise
    ivf.remember(engine, collection)
    return total


def deleted_rows(engine: Engine, collection: str, shard: int) -> int:
    """Rows of a shard that were deleted on purpose and are to stay away."""
    if not catalog.exists(engine, deleted_name(collection)):
        return 0
    sql = f"SELECT uniqExact(id) FROM {identifier(deleted_name(collection))} WHERE {id_range(shard, shard)}"
    return int(_value(engine, sql))


def deleted_of(engine: Engine, collection: str, shard: int) -> NDArray[np.int64]:
    """The rows of a shard that were deleted on purpose and are to stay away, by their numbers, ascending."""
    if not catalog.exists(engine, deleted_name(collection)):
        return np.empty(0, np.int64)
    sql = f"SELECT DISTINCT id FROM {identifier(deleted_name(collection))} WHERE {id_range(shard, shard)} ORDER BY id"
    found = arrow_table(engine, sql, {})
    ids = found.column("id").to_numpy() if found.num_rows else np.empty(0, np.int64)
    return np.asarray(ids, np.int64) - shard * ROWS_PER_SHARD


def id_range(first: int, last: int) -> str:
    """The condition for the rows of the shards from `first` to `last`."""
    return f"(id BETWEEN {first * ROWS_PER_SHARD} AND {(last + 1) * ROWS_PER_SHARD - 1})"


def forget(engine: Engine, table: str, rows: Selection) -> None:
    """Delete rows of any of our tables, and wait until no answer has them; nothing remembers that they were there."""
    sql = f"DELETE FROM {identifier(table)} WHERE {rows.condition} SETTINGS lightweight_deletes_sync = 2"
    engine.command(sql, rows.parameters)


def _forget_everywhere(engine: Engine, collection: str, rows: Selection) -> None:
    """Delete rows of the collection, and their copies in the lists of its indexes, by a condition on ids."""
    forget(engine, collection, rows)
    for lists in ivf.row_tables(engine, collection):
        forget(engine, lists, rows)


def _delete_shards(
    engine: Engine, info: CollectionInfo, numbers: Sequence[int], confirm: Confirm | None
) -> DeleteReport:
    """Delete whole shards, and forget that they were loaded and what was deleted from them."""
    ledger, remembered = ledger_name(info.name), deleted_name(info.name)
    chosen = by_shards(numbers)
    known: list[int] = []
    if catalog.exists(engine, ledger):
        found = engine.query(Query(sql=f"SELECT DISTINCT shard FROM {identifier(ledger)}")).rows
        known = sorted({int(row[0]) for row in found}.intersection(numbers))
    rows = count(engine, info.name, chosen)
    if not rows and not known:
        raise UsageError(
            f"collection {info.name!r} has no shard {shard_ranges(numbers)}; `cliphouse status` lists those it has"
        )
    if confirm is not None and not confirm(rows):
        return DeleteReport(rows=0)
    for each in chosen:
        _forget_everywhere(engine, info.name, each)  # lists may hold rows that were deleted by SQL
        if catalog.exists(engine, remembered):
            forget(engine, remembered, each)
    for some in _chunks(known, _IDS_AT_ONCE):  # last: a shard that the ledger does not know must have no rows
        forget(engine, ledger, Selection(f"shard IN ({_listed(some)})"))
    ivf.remember(engine, info.name)
    return DeleteReport(rows=rows, again=tuple(known))


def _purge(engine: Engine, info: CollectionInfo, progress: ProgressCallback | None) -> tuple[int, int]:
    """Take deleted rows off the disk, in the collection and in the copies that its indexes hold; return the bytes freed
    and those still held.

    Raises:
        StorageFull: the disk has no room for the largest part beside the old one.
    """
    copies, known = ivf.row_tables(engine, info.name), notes.read(engine, info.name)
    for lists in copies:
        for rows in ivf.gone(engine, info.name, lists, known):
            forget(engine, lists, Selection(rows))
    tables = (info.name, *copies)
    freed = sum(_mask(engine, table, progress) for table in tables)
    held = _wait_for_removal(engine, tables, progress)
    ivf.remember(engine, info.name)
    if index.definitions(engine, info.name):
        index.protect(engine, info.name)
    return freed, held


def _mask(engine: Engine, table: str, progress: ProgressCallback | None) -> int:
    """Write the parts of a table that have deleted rows anew, without them; return the bytes saved.

    The engine builds the vector indexes of those parts again on the way.
    """
    of_table = "database = currentDatabase() AND table = {name:String}"
    name = {"name": table}
    marked = f"FROM system.parts WHERE {of_table} AND active AND has_lightweight_delete"
    size = f"SELECT sum(bytes_on_disk) FROM system.parts WHERE {of_table} AND active"
    before = int(_value(engine, size, name))
    if int(_value(engine, f"SELECT count() {marked}", name)):
        _check_room(engine, f"SELECT max(bytes_on_disk), any(disk_name) {marked}", name)
        engine.command(f"ALTER TABLE {identifier(table)} APPLY DELETED MASK SETTINGS mutations_sync = 0")
        _wait_for_mask(engine, table, progress)
    return max(0, before - int(_value(engine, size, name)))


def _wait_for_removal(engine: Engine, tables: Sequence[str], progress: ProgressCallback | None) -> int:
    """Let the engine remove old files, a little later and not while a query reads them; return the bytes still held."""
    old = (
        "SELECT sum(bytes_on_disk) FROM system.parts\n"
        "WHERE database = currentDatabase() AND table IN {names:Array(String)} AND NOT active"
    )
    try:
        for table in tables:
            engine.command(f"ALTER TABLE {identifier(table)} MODIFY SETTING old_parts_lifetime = 0")
        until = time.monotonic() + _REMOVAL_SECONDS
        while (held := int(_value(engine, old, {"names": list(tables)}))) and time.monotonic() < until:
            if progress:
                progress(
                    Progress(label="waiting until the engine has removed old files", done=0, total=1, unit="parts")
                )
            threading.Event().wait(_POLL_SECONDS)
    finally:
        for table in tables:
            engine.command(f"ALTER TABLE {identifier(table)} RESET SETTING old_parts_lifetime")
    return held


def _wait_for_mask(engine: Engine, collection: str, progress: ProgressCallback | None) -> None:
    ours = (
        "database = currentDatabase() AND table = {name:String} AND NOT is_done "
        "AND position(command, 'APPLY DELETED MASK') > 0"
    )
    name, total = {"name": collection}, 1
    pending = Query(sql=f"SELECT parts_to_do, latest_fail_reason FROM system.mutations WHERE {ours}", parameters=name)
    while waiting := engine.query(pending).rows:
        left = max(int(parts) for parts, _ in waiting)
        if reason := next((reason for _, reason in waiting if reason), ""):
            engine.command(f"KILL MUTATION WHERE {ours}", name)  # it would be tried for ever
            raise EngineError(f"purging {collection} failed: {' '.join(str(reason).split())}")
        total = max(total, left)
        if progress:
            progress(Progress(label="purging", done=total - left, total=total, unit="parts"))
        threading.Event().wait(_POLL_SECONDS)


def _check_room(engine: Engine, largest: str, parameters: Mapping[str, Any]) -> None:
    needed, disk = engine.query(Query(sql=largest, parameters=parameters)).rows[0]
    found = engine.query(
        Query(
            sql="SELECT path, unreserved_space FROM system.disks WHERE name = {disk:String}", parameters={"disk": disk}
        )
    ).rows
    if found and int(found[0][1]) < int(needed):
        raise StorageFull(str(found[0][0]))


def _groups(found: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Runs of shards as (first, last, rows), each of a number of rows that a statement can hold."""
    first, last, held = -1, -1, 0
    for number, rows in found:
        if held and held + rows > _ROWS_AT_ONCE:
            yield first, last, held
            held = 0
        if not held:
            first = number
        last, held = number, held + rows
    if held:
        yield first, last, held


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _chunks(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _value(engine: Engine, sql: str, parameters: Mapping[str, Any] | None = None) -> Any:
    return engine.query(Query(sql=sql, parameters=parameters or {})).rows[0][0] or 0
