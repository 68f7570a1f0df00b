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
from cliphouse.notes import Curve
from cliphouse.schema import EMBEDDING_COLUMNS
from cliphouse.types import CollectionInfo, IndexKind, IndexState, Query

#: A statement may leave work behind that changes parts later, a deletion that it does not wait for say.
_FRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ready:
    """The indexes of a collection by column. `parts_with_deletes` counts parts that hide rows which graphs know."""

    fingerprint: tuple[Any, ...]
    writes: int | None
    looked_at: float
    parts: int
    parts_with_deletes: int
    graphs: Mapping[str, FoundIndex]
    lists: Mapping[str, Lists]
    curves: Mapping[tuple[str, IndexKind], Curve] = field(default_factory=dict)


#: No index at all.
NOTHING = Ready(fingerprint=(), writes=None, looked_at=0.0, parts=0, parts_with_deletes=0, graphs={}, lists={})


def look(engine: Engine, info: CollectionInfo, before: Ready | None) -> Ready:
    """What can answer now. If no part has changed since `before`, that is it: only the parts are asked for.

    Whatever changes rows or indexes, in this process or another, makes a part with a new name. To an embedded database
    nobody but this process writes, so that for a moment not even the parts are asked for.
    """
    writes, now = engine.writes(), time.monotonic()
    fresh = before is not None and writes is not None and before.writes == writes
    if before is not None and fresh and now - before.looked_at < _FRESH_SECONDS:
        return before
    fingerprint, parts, deleted = _parts(engine, info.name)
    if before is not None and before.fingerprint == fingerprint:
        return replace(before, writes=writes, looked_at=now)
    known = notes.read(engine, info.name)
    lists = {}
    curves: dict[tuple[str, IndexKind], Curve] = {}
    kinds: tuple[IndexKind, ...] = ("hnsw", "ivf")
    for column in EMBEDDING_COLUMNS:
        found = ivf.find(engine, info, known, column, before.lists.get(column) if before else None)
        if found is not None:
            lists[column] = found
        for kind in kinds:
            if curve := notes.curve_of(known, column, kind):
                curves[column, kind] = curve
    return Ready(
        fingerprint=fingerprint,
        writes=writes,
        looked_at=now,
        parts=parts,
        parts_with_deletes=deleted,
        graphs=index.definitions(engine, info.name),
        lists=lists,
        curves=curves,
    )


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
