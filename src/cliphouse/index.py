"""Building, watching and dropping vector indexes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cliphouse import catalog, costs, notes
from cliphouse.costs import Choice
from cliphouse.engine import Engine, machine_memory_bytes
from cliphouse.errors import EngineError, InsufficientMemory, UsageError
from cliphouse.hardware import detect, machine
from cliphouse.notes import Notes
from cliphouse.queries import EF_SEARCH
from cliphouse.schema import (
    MERGE_LIMIT_BYTES,
    IndexDefinition,
    add_index,
    drop_index,
    identifier,
    index_name,
    materialize_index,
    merge_limit,
    parse_index,
)
from cliphouse.types import (
    EFFORT_NAMES,
    CollectionInfo,
    IndexConfig,
    IndexState,
    IvfConfig,
    Progress,
    ProgressCallback,
    Query,
)
from cliphouse.units import size

_POLL_SECONDS = 0.2
#: usearch grows its buffers by doubling at times, and the part's vectors pass through memory beside the graph.
_BUILD_OVERHEAD = 1.25
#: The size estimate is within 1 %; what is nearer than this to complete is complete.
_SIZE_TOLERANCE = 0.02


def estimate_bytes(config: IndexConfig, *, rows: int, dim: int) -> int:
    """Memory that the graph takes, built or searched."""
    return rows * config.bytes_per_row(dim)


@dataclass(frozen=True, slots=True)
class FoundIndex:
    """A vector index of a table: its definition, and its bytes on disk and in memory (0 while it is not built)."""

    definition: IndexDefinition
    disk_bytes: int
    memory_bytes: int


def definitions(engine: Engine, collection: str) -> dict[str, FoundIndex]:
    """The collection's vector indexes by column."""
    sql = (
        "SELECT name, expr, type_full, data_compressed_bytes, data_uncompressed_bytes\n"
        "FROM system.data_skipping_indices\n"
        "WHERE database = currentDatabase() AND table = {name:String} AND type = 'vector_similarity'"
    )
    found = {}
    for name, expression, type_full, disk, memory in engine.query(Query(sql=sql, parameters={"name": collection})).rows:
        if definition := parse_index(name, expression, type_full):
            found[definition.column] = FoundIndex(definition, int(disk), int(memory))
    return found


def identity(engine: Engine, collection: str, definition: IndexDefinition) -> str:
    """What tells a graph from one of another table, or with other parameters, that has its name."""
    return f"{catalog.folder(engine, collection)}: {describe(definition.config)}"


def states(engine: Engine, collection: str, known: Notes | None = None) -> list[IndexState]:
    """The collection's graphs as they stand, by name; `known` tells what the engine does not remember of them."""
    indexes = definitions(engine, collection)
    if not indexes:
        return []
    parts = _parts(engine, collection)
    building = _building(engine, collection)
    rows = sum(part.rows for part in parts)
    known = known or {}
    curves = {
        column: notes.curve_of(known, column, "hnsw", identity(engine, collection, found.definition))
        for column, found in indexes.items()
    }
    return sorted(
        (
            IndexState(
                name=found.definition.name,
                column=column,
                config=found.definition.config,
                rows_indexed=_rows_indexed(found, parts, [each.definition for each in indexes.values()]),
                rows_total=rows,
                disk_bytes=found.disk_bytes,
                memory_bytes=found.memory_bytes,
                building=found.definition.name in building,
                build_seconds=known.get((column, "hnsw", "ready"), {}).get("seconds"),
                effort=curve.own if (curve := curves[column]) else EF_SEARCH,
                tuned=curve.wanted if curve else None,
            )
            for column, found in indexes.items()
        ),
        key=lambda state: state.name,
    )


def choose(engine: Engine, info: CollectionInfo, column: str, recall: float) -> Choice:
    """The kind of index that suits `column` on the machine of the engine, and why; "exact" for none.

    Raises:
        UsageError: there are no rows, or the recall is none.
    """
    rows, empty = _count(engine, info.name, column)
    if rows == 0:
        raise UsageError(f"collection {info.name!r} has no rows to index; load some first")
    said = 0 if engine.capabilities.embedded else engine.capabilities.memory_bytes
    place = getattr(engine.location, "path", None)  # a server's disk, and none, are as fast as the measured one
    here = detect(place)[0] if place else machine()
    chosen = costs.choose(
        rows=rows,
        dim=info.dim,
        memory_bytes=said or here.memory_bytes,
        cores=int(engine.query(Query(sql="SELECT getSetting('max_threads')")).rows[0][0]),
        recall=recall,
        disk_read=here.disk_read,
        disk_write=here.disk_write,
    )
    if chosen.kind != "hnsw":
        return chosen
    if empty:
        return Choice("ivf", f"{empty:,} of {rows:,} rows have no {column}, and an hnsw index needs one in every row")
    try:  # the engine may have less room than such machines have
        check_memory(engine, estimate_bytes(IndexConfig(), rows=rows, dim=info.dim), rows)
    except InsufficientMemory as error:
        room = f"{size(error.needed_bytes)} of memory, {size(error.available_bytes)} are available to it"
        return Choice("ivf", f"the graph of an hnsw index over {rows:,} rows takes {room}")
    return chosen


def build(
    engine: Engine, info: CollectionInfo, column: str, config: IndexConfig, progress: ProgressCallback | None
) -> IndexState:
    """Build the index on `column` for all rows that lack it, and return its state.

    The table is merged to one part before its first build, for one graph is searched faster than several. A first
    build that is interrupted leaves the table as it was; a later one keeps the parts it had finished. The engine stops
    at the end of a block of 8192 rows, which takes it some seconds.

    Raises:
        UsageError: the column has an index with other parameters, or rows without an embedding.
        InsufficientMemory: the graph would not fit.
        EngineError: the engine gave the build up.
    """
    indexes = definitions(engine, info.name)
    existing = indexes.get(column)
    if existing and existing.definition.config != config:
        raise UsageError(
            f"{column} has an index with other parameters ({describe(existing.definition.config)}); "
            f"drop it first: cliphouse index drop --column {column}"
        )
    rows, empty = _count(engine, info.name, column)
    if rows == 0:
        raise UsageError(f"collection {info.name!r} has no rows to index; load some first")
    if empty:
        raise UsageError(
            f"{empty} of {rows} rows have no {column}, and an index needs one in every row; delete those first: "
            f'cliphouse delete --where "empty({column})" --purge'
        )
    others = sum(found.memory_bytes for other, found in indexes.items() if other != column)
    check_memory(engine, estimate_bytes(config, rows=rows, dim=info.dim), rows, others)
    parts = _parts(engine, info.name)
    if not indexes and (len(parts) > 1 or any(part.has_deleted for part in parts)):
        # Merged before any index is defined: once one is, a merge builds it, unseen and not to be interrupted.
        engine.command(f"OPTIMIZE TABLE {identifier(info.name)} FINAL")
    elif hidden := _count(engine, info.name, column, with_deleted=True)[1]:
        raise UsageError(
            f"{hidden} deleted rows without {column} are still on disk, and an index takes in deleted rows too; "
            "remove them first: cliphouse delete --purge"
        )
    if not existing:
        engine.command(add_index(info.name, column, info.dim, config))
    name = existing.definition.name if existing else index_name(column)
    missing = sum(state.rows_total - state.rows_indexed for state in states(engine, info.name) if state.name == name)
    engine.command(materialize_index(info.name, name))
    started = time.perf_counter()
    try:
        _wait(engine, info.name, name, missing, progress)
    except BaseException:
        try:
            if progress:
                progress(Progress(label=f"{name}: stopping after this block", done=0, total=1))
        finally:
            _stop(engine, info.name, name)
            if not existing:
                engine.command(drop_index(info.name, name))
        raise
    protect(engine, info.name)
    before = notes.build_of(notes.read(engine, info.name), column, "hnsw", "ready") if existing else None
    seconds = time.perf_counter() - started + (before.seconds if before else 0.0)
    notes.write(engine, info.name, column, "hnsw", notes.Build(token="", seconds=seconds), "ready")
    return next(state for state in states(engine, info.name) if state.name == name)


def drop(engine: Engine, collection: str, column: str) -> str:
    """Drop the index on `column`; return its name.

    Raises:
        UsageError: there is none.
    """
    existing = definitions(engine, collection).get(column)
    if existing is None:
        raise UsageError(f"{column} of {collection!r} has no vector index")
    engine.command(drop_index(collection, existing.definition.name))
    notes.forget(engine, collection, column, "hnsw", "ready")
    notes.forget(engine, collection, column, "hnsw", "tuned")
    if len(definitions(engine, collection)) == 0:
        engine.command(f"ALTER TABLE {identifier(collection)} MODIFY SETTING {merge_limit(MERGE_LIMIT_BYTES)}")
    return existing.definition.name


def describe(config: IndexConfig | IvfConfig) -> str:
    """The parameters in one line."""
    if isinstance(config, IvfConfig):
        return f"{config.kind}, {config.nlist:,} clusters" if config.nlist else config.kind
    return f"{config.kind}, m {config.m}, ef_construction {config.ef_construction}, {config.quantization}"


def describe_effort(state: IndexState) -> str:
    """What searches take by themselves, and what that is known to reach."""
    if state.effort is None:
        column = state.column.removesuffix("_embedding")
        again = f"cliphouse index build --kind {state.config.kind} --column {column}"
        return "searches do not use it yet" + ("" if state.building else f"; its build was broken off, go on: {again}")
    effort = f"searches take {EFFORT_NAMES[state.config.kind]} {state.effort}"
    if state.tuned is None:
        return f"{effort}, of unknown recall; measure it with: cliphouse tune"
    return f"{effort}, tuned for a recall of {state.tuned:g}"


def check_memory(engine: Engine, graph_bytes: int, rows: int, other_bytes: int = 0) -> None:
    """Refuse a build that memory cannot hold, before it starts; `other_bytes` is what other indexes need beside it.

    Raises:
        InsufficientMemory: for the build, or for the cache that searches need (a graph that does not fit is read
            again from disk for every query).
    """
    limit = engine.capabilities.memory_bytes or machine_memory_bytes()
    advice = "use a coarser --quantization (i8, b1) or a smaller --m, or search exactly"
    needed = int(graph_bytes * _BUILD_OVERHEAD)
    if needed > limit:
        raise InsufficientMemory(
            f"building the index over {rows} rows", needed_bytes=needed, available_bytes=limit, advice=advice
        )
    cache = engine.capabilities.vector_cache_bytes
    if cache and graph_bytes + other_bytes > cache:
        raise InsufficientMemory(
            f"searching the index over {rows} rows, with the table's other indexes,",
            needed_bytes=graph_bytes + other_bytes,
            available_bytes=cache,
            advice=f"{advice}; the cache is vector_similarity_index_cache_size",
        )


@dataclass(frozen=True, slots=True)
class _Part:
    rows: int
    bytes_on_disk: int
    index_bytes: int
    has_deleted: bool


def _parts(engine: Engine, collection: str) -> list[_Part]:
    sql = (
        "SELECT rows, bytes_on_disk, secondary_indices_uncompressed_bytes, has_lightweight_delete FROM system.parts\n"
        "WHERE database = currentDatabase() AND table = {name:String} AND active"
    )
    found = engine.query(Query(sql=sql, parameters={"name": collection})).rows
    return [_Part(int(rows), int(disk), int(indexes), bool(deleted)) for rows, disk, indexes, deleted in found]


def _rows_indexed(found: FoundIndex, parts: Sequence[_Part], all_indexes: Sequence[IndexDefinition]) -> int:
    """Rows that the index covers.

    The engine says how large each index is and how large all indexes of each part are, not which part has which. Their
    sizes follow from the parameters, so parts with all or with none are told exactly; the rest is an estimate.
    """
    if found.memory_bytes == 0:
        return 0
    row_bytes = found.definition.config.bytes_per_row(found.definition.dim)
    full_row_bytes = sum(each.config.bytes_per_row(each.dim) for each in all_indexes)
    complete = sum(
        part.rows for part in parts if part.index_bytes >= part.rows * full_row_bytes * (1 - _SIZE_TOLERANCE)
    )
    possible = sum(part.rows for part in parts if part.index_bytes > 0)
    if len(all_indexes) == 1:
        return possible
    estimate = round(found.memory_bytes / row_bytes)
    if estimate >= possible * (1 - _SIZE_TOLERANCE):
        return possible
    return max(complete, min(estimate, possible))


def _mutation(collection: str, index: str) -> str:
    command = f"MATERIALIZE INDEX {index})"
    return (
        f"database = currentDatabase() AND table = '{collection}' AND NOT is_done "
        f"AND position(command, '{command}') > 0"
    )


def _building(engine: Engine, collection: str) -> set[str]:
    sql = (
        "SELECT extract(command, 'MATERIALIZE INDEX `?([A-Za-z0-9_]+)') FROM system.mutations\n"
        "WHERE database = currentDatabase() AND table = {name:String} AND NOT is_done"
    )
    return {str(row[0]) for row in engine.query(Query(sql=sql, parameters={"name": collection})).rows}


def _count(engine: Engine, collection: str, column: str, *, with_deleted: bool = False) -> tuple[int, int]:
    """Rows, and those without an embedding in `column`; `with_deleted`, also of rows that are only hidden."""
    sql = f"SELECT count(), countIf(empty({identifier(column)})) FROM {identifier(collection)}"
    sql += f"\nSETTINGS apply_deleted_mask = {int(not with_deleted)}"
    rows, empty = engine.query(Query(sql=sql)).rows[0]
    return int(rows), int(empty)


def _wait(engine: Engine, collection: str, index: str, missing: int, progress: ProgressCallback | None) -> None:
    pause = threading.Event()
    unfinished = Query(sql=f"SELECT latest_fail_reason FROM system.mutations WHERE {_mutation(collection, index)}")
    before, reached = _vectors_added(engine), 0
    while waiting := engine.query(unfinished).rows:
        if reason := waiting[0][0]:
            raise EngineError(
                f"building {index} failed: {' '.join(reason.split())}", sql=materialize_index(collection, index)
            )
        if progress:
            reached = max(reached, min(_vectors_added(engine) - before, missing - 1))
            progress(Progress(label=index, done=reached, total=missing))
        pause.wait(_POLL_SECONDS)
    if progress:
        progress(Progress(label=index, done=missing, total=missing))


def _stop(engine: Engine, collection: str, index: str) -> None:
    """End the running build: killing a mutation alone lets it build its part to the end."""
    table = identifier(collection)
    running = Query(
        sql="SELECT count() FROM system.merges\n"
        "WHERE database = currentDatabase() AND table = {name:String} AND is_mutation",
        parameters={"name": collection},
    )
    engine.command(f"SYSTEM STOP MERGES {table}")
    try:
        engine.command(f"KILL MUTATION WHERE {_mutation(collection, index)} ASYNC")
        while engine.query(running).rows[0][0]:
            threading.Event().wait(_POLL_SECONDS)
    finally:
        engine.command(f"SYSTEM START MERGES {table}")


def _vectors_added(engine: Engine) -> int:
    """Vectors that went into any graph since the engine started: `system.merges` counts them when they are read, which
    is long before. On a server that builds other graphs too, progress runs ahead."""
    rows = engine.query(Query(sql="SELECT value FROM system.events WHERE event = 'USearchAddCount'")).rows
    return int(rows[0][0]) if rows else 0


def protect(engine: Engine, collection: str) -> None:
    """Keep background merges away from the indexed part: merging it would build its graph again, for hours.

    Smaller new parts still merge with each other; the next build takes them in.
    """
    largest = max(part.bytes_on_disk for part in _parts(engine, collection))
    engine.command(f"ALTER TABLE {identifier(collection)} MODIFY SETTING {merge_limit(largest)}")
