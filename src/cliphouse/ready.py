"""What can answer the searches of a collection now: its graphs and its inverted lists, looked at when parts change."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cliphouse import index, ivf, notes
from cliphouse.engine import Engine
from cliphouse.index import FoundIndex
from cliphouse.ivf import Lists
from cliphouse.lists import lists_name, notes_name
from cliphouse.notes import Curve, Notes
from cliphouse.schema import EMBEDDING_COLUMNS
from cliphouse.types import CollectionInfo, IndexKind, IndexState, Query

#: A statement may leave work behind that changes parts later, a deletion that it does not wait for say.
_FRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ready:
    """The indexes of a collection by column. `parts_with_deletes` counts parts that hide rows which graphs know.

    Lists are those of the columns that were `looked_at`; of others, those that were there before.
    """

    fingerprint: tuple[Any, ...]
    writes: int | None
    at: float
    looked_at: frozenset[str]
    parts: int
    parts_with_deletes: int
    graphs: Mapping[str, FoundIndex]
    lists: Mapping[str, Lists]
    curves: Mapping[tuple[str, IndexKind], Curve] = field(default_factory=dict)


#: No index at all.
NOTHING = Ready(
    fingerprint=(),
    writes=None,
    at=0.0,
    looked_at=frozenset(),
    parts=0,
    parts_with_deletes=0,
    graphs={},
    lists={},
)


def look(engine: Engine, info: CollectionInfo, column: str, before: Ready | None) -> Ready:
    """What can answer searches in `column` now. If no part has changed since `before`, only the parts are asked for.

    Whatever changes rows or indexes, in this process or another, makes a part with a new name. To an embedded database
    nobody but this process writes, so that for a moment not even the parts are asked for.
    """
    writes, now = engine.writes(), time.monotonic()
    known_column = before is not None and column in before.looked_at
    fresh = before is not None and writes is not None and before.writes == writes
    if before is not None and known_column and fresh and now - before.at < _FRESH_SECONDS:
        return before
    fingerprint, parts, deleted = _parts(engine, info.name)
    unchanged = before is not None and before.fingerprint == fingerprint
    if before is not None and unchanged and known_column:
        return replace(before, writes=writes, at=now)
    known = notes.read(engine, info.name)
    lists = dict(before.lists) if before else {}
    found = ivf.find(engine, info, known, column, lists.pop(column, None))
    if found is not None:
        lists[column] = found
    looked_at = before.looked_at | {column} if before and unchanged else frozenset({column})
    graphs = index.definitions(engine, info.name)
    return Ready(
        fingerprint=fingerprint,
        writes=writes,
        at=now,
        looked_at=looked_at,
        parts=parts,
        parts_with_deletes=deleted,
        graphs=graphs,
        lists=lists,
        curves=_curves(engine, info, known, graphs),
    )


def identity(engine: Engine, info: CollectionInfo, column: str, kind: IndexKind) -> str:
    """What tells the index that is there now from any other of its column and kind."""
    if kind == "ivf":
        build = notes.build_of(notes.read(engine, info.name), column, "ivf", "ready")
        return build.token if build else ""
    graph = index.definitions(engine, info.name).get(column)
    return index.identity(engine, info.name, graph.definition) if graph else ""


def _curves(
    engine: Engine, info: CollectionInfo, known: Notes, graphs: Mapping[str, FoundIndex]
) -> dict[tuple[str, IndexKind], Curve]:
    """What was tuned of the indexes that are there."""
    curves: dict[tuple[str, IndexKind], Curve] = {}
    for column in EMBEDDING_COLUMNS:
        build, graph = notes.build_of(known, column, "ivf", "ready"), graphs.get(column)
        if build and (curve := notes.curve_of(known, column, "ivf", build.token)):
            curves[column, "ivf"] = curve
        if graph:
            measured = index.identity(engine, info.name, graph.definition)
            if curve := notes.curve_of(known, column, "hnsw", measured):
                curves[column, "hnsw"] = curve
    return curves


def states(engine: Engine, info: CollectionInfo) -> list[IndexState]:
    """All vector indexes of the collection as they stand, by name."""
    known = notes.read(engine, info.name)
    found = [*index.states(engine, info.name, known), *ivf.states(engine, info, known)]
    return sorted(found, key=lambda state: state.name)


def _parts(engine: Engine, collection: str) -> tuple[tuple[Any, ...], int, int]:
    """What tells the state of all tables from another, and of the collection its parts and those with deleted rows."""
    sql = (
        "SELECT table, count(), countIf(has_lightweight_delete), groupBitXor(cityHash64(path)),\n"
        "groupBitXor(secondary_indices_compressed_bytes)\n"
        "FROM system.parts WHERE database = currentDatabase() AND active\n"
        "AND (table IN {tables:Array(String)}\n"
        "OR startsWith(table, {image:String}) OR startsWith(table, {text:String}))\n"
        "GROUP BY table ORDER BY table"
    )
    parameters = {
        "tables": [collection, notes_name(collection)],
        "image": lists_name(collection, "image_embedding", ""),
        "text": lists_name(collection, "text_embedding", ""),
    }
    rows = engine.query(Query(sql=sql, parameters=parameters)).rows
    own = next((row for row in rows if row[0] == collection), (collection, 0, 0))
    return tuple(rows), int(own[1]), int(own[2])
