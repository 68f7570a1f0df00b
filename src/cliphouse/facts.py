"""What the parts of two tables hold, shard by shard, so that a copy of rows can be compared with the rows themselves.

Parts never change, so what was found out of one holds for good, and is kept in a note. A part is known by the hash of
all its files. One whose rows were hidden by a deletion since has the other files of a part that is known, of the same
size and age: then only the hidden rows are read. (As in git, files that were a moment old when they were looked at do
not count: others of the same second would look the same.)
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass

from cliphouse.engine import Engine
from cliphouse.lists import TableColumn, contents, copied, part_ends, part_facts, shard_facts
from cliphouse.types import Query

#: Files younger than this may have the age, in seconds, of others that are written yet.
_SETTLED_SECONDS = 2


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """What a table, or a part, has of one shard; `sum` is over hashes of all that the rows hold."""

    rows: int
    first: int
    last: int
    sum: int

    def __add__(self, other: ShardFacts) -> ShardFacts:
        return ShardFacts(
            self.rows + other.rows,
            min(self.first, other.first),
            max(self.last, other.last),
            (self.sum + other.sum) % 2**64,
        )


Shards = Mapping[int, ShardFacts]


@dataclass(frozen=True, slots=True)
class PartFacts:
    """The rows of a part that are shown, and those that are hidden.

    `body` tells its files, but for what hides rows; it is "" while they are too young to be told from others by age.
    """

    body: str
    shown: Shards
    hidden: Shards


#: What is known of parts, by the hash of their files.
Known = Mapping[str, PartFacts]


@dataclass(frozen=True, slots=True)
class Seen:
    """The parts of a collection and of its lists as they are now: pairs of hash and facts (two may be the same).

    `content` is the expression that was summed.
    """

    content: str
    collection: Sequence[tuple[str, PartFacts]]
    lists: Sequence[tuple[str, PartFacts]]

    @property
    def known(self) -> Known:
        """All of them by hash."""
        return dict((*self.collection, *self.lists))


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    hash: str
    body: str


def content_of(columns: Sequence[TableColumn], lists: Sequence[TableColumn], column: str) -> str:
    """What is hashed of each row: all that both the collection and its lists store."""
    names = {each.name for each in copied(columns, column)}
    return contents([each for each in copied(lists, column) if each.name in names], column)


def of_table(engine: Engine, table: str, content: str, condition: str, known: Known) -> list[tuple[str, PartFacts]]:
    """What the parts of a table hold of the rows of a condition; only parts that are not `known` are read."""
    found = dict(known)
    read: dict[_Part, PartFacts] = {}
    while True:
        parts = _parts(engine, table)
        # What was read of a part that was merged away meanwhile may be nothing.
        found |= {part.hash: read[part] for part in parts if part in read}
        missing = [part for part in parts if part.hash not in found]
        if not missing:
            return [(part.hash, found[part.hash]) for part in parts]
        bodies = {facts.body: facts for facts in found.values() if facts.body}
        masked = {part: bodies[part.body] for part in missing if part.body in bodies}
        read = _after_deletion(engine, table, content, condition, masked)
        read |= _read(engine, table, content, condition, [part for part in missing if part not in read])


def of_rows(engine: Engine, table: str, content: str, condition: str) -> dict[int, ShardFacts]:
    """What a table has of each shard, by all its rows of the condition."""
    rows = engine.query(Query(sql=shard_facts(table, content, condition))).rows
    return {int(shard): ShardFacts(*map(int, found)) for shard, *found in rows}


def total(parts: Iterable[tuple[str, PartFacts]]) -> dict[int, ShardFacts]:
    """What parts hold together."""
    found: dict[int, ShardFacts] = {}
    for _, part in parts:
        for shard, facts in part.shown.items():
            found[shard] = found[shard] + facts if shard in found else facts
    return found


def between(parts: Iterable[tuple[str, PartFacts]], shard: int, first: int, last: int) -> ShardFacts | None:
    """What parts hold of a shard between two ids; None if one of them has rows both there and elsewhere, or none."""
    each = [part.shown[shard] for _, part in parts if shard in part.shown]
    inside = [facts for facts in each if first <= facts.first and facts.last <= last]
    if len(inside) + sum(facts.last < first or last < facts.first for facts in each) < len(each) or not inside:
        return None
    found = inside[0]
    for facts in inside[1:]:
        found += facts
    return found


def packed(known: Known) -> str:
    """As a text that is small, for a note."""
    told = [[key, part.body, _told(part.shown), _told(part.hidden)] for key, part in known.items()]
    return base64.urlsafe_b64encode(zlib.compress(json.dumps(told, separators=(",", ":")).encode())).decode()


def unpacked(text: str) -> Known:
    """What `packed` was given.

    Raises:
        ValueError, TypeError: it is something else.
    """
    try:
        told = json.loads(zlib.decompress(base64.urlsafe_b64decode(text)))
    except zlib.error as error:
        raise ValueError(str(error)) from error
    return {key: PartFacts(body, _untold(shown), _untold(hidden)) for key, body, shown, hidden in told}


def _told(shards: Shards) -> list[tuple[int, ...]]:
    return [(shard, *astuple(facts)) for shard, facts in shards.items()]


def _untold(told: Iterable[Sequence[int]]) -> Shards:
    return {shard: ShardFacts(*facts) for shard, *facts in told}


def _parts(engine: Engine, table: str) -> list[_Part]:
    of_table = "database = currentDatabase() AND table = {name:String} AND active"
    sql = (
        "SELECT parts.name, hash_of_all_files, files.body FROM system.parts AS parts LEFT JOIN\n(\n"
        "    SELECT name, if(max(column_modification_time) < now() - {settled:Int32},\n"
        "    hex(cityHash64(any(partition_id), any(min_block_number), any(max_block_number), any(rows),\n"
        "    arraySort(groupArray((column, column_data_compressed_bytes, column_modification_time))))), '') AS body\n"
        f"    FROM system.parts_columns WHERE {of_table} AND column != '_row_exists' GROUP BY name\n"
        f") AS files ON files.name = parts.name\nWHERE {of_table} AND rows > 0 ORDER BY parts.name"
    )
    parameters = {"name": table, "settled": _SETTLED_SECONDS}
    return [
        _Part(*(str(each or "") for each in row)) for row in engine.query(Query(sql=sql, parameters=parameters)).rows
    ]


def _read(engine: Engine, table: str, content: str, condition: str, parts: Sequence[_Part]) -> dict[_Part, PartFacts]:
    """The facts of parts, by all their rows."""
    shown, hidden = _halves(engine, part_facts(table, content, condition), parts)
    return {part: PartFacts(part.body, shown.get(part, {}), hidden.get(part, {})) for part in parts}


def _after_deletion(
    engine: Engine, table: str, content: str, condition: str, before: Mapping[_Part, PartFacts]
) -> dict[_Part, PartFacts]:
    """The facts of parts of which some rows were hidden since, by those alone."""
    parts = list(before)
    _, hidden = _halves(engine, part_facts(table, content, f"NOT _row_exists AND {condition}"), parts)
    found = {}
    for part in parts:
        shown, now = before[part].shown, hidden.get(part, {})
        left = {
            shard: _without(facts, before[part].hidden.get(shard), now.get(shard)) for shard, facts in shown.items()
        }
        found[part] = PartFacts(part.body, {shard: facts for shard, facts in left.items() if facts.rows}, now)
    # A first or last row that is gone: whichever is the first or last now is read.
    outer = [
        part
        for part in parts
        if any(_reaches(found[part].hidden.get(shard), facts) for shard, facts in found[part].shown.items())
    ]
    ends = _rows_by_part(engine, part_ends(table, condition), outer)
    for part in outer:
        known = {int(shard): (int(first), int(last)) for shard, first, last in ends.get(part, ())}
        shown = {
            shard: ShardFacts(facts.rows, *known.get(shard, (facts.first, facts.last)), facts.sum)
            for shard, facts in found[part].shown.items()
        }
        found[part] = PartFacts(part.body, shown, found[part].hidden)
    return found


def _without(shown: ShardFacts, before: ShardFacts | None, now: ShardFacts | None) -> ShardFacts:
    rows = shown.rows + (before.rows if before else 0) - (now.rows if now else 0)
    rest = shown.sum + (before.sum if before else 0) - (now.sum if now else 0)
    return ShardFacts(rows, shown.first, shown.last, rest % 2**64)


def _reaches(hidden: ShardFacts | None, shown: ShardFacts) -> bool:
    return hidden is not None and (hidden.first <= shown.first or hidden.last >= shown.last)


def _halves(
    engine: Engine, sql: str, parts: Sequence[_Part]
) -> tuple[dict[_Part, dict[int, ShardFacts]], dict[_Part, dict[int, ShardFacts]]]:
    """Of each part the shards that are shown, and those that are hidden."""
    shown: dict[_Part, dict[int, ShardFacts]] = {}
    hidden: dict[_Part, dict[int, ShardFacts]] = {}
    for part, rows in _rows_by_part(engine, sql, parts).items():
        for shard, is_shown, *facts in rows:
            (shown if is_shown else hidden).setdefault(part, {})[int(shard)] = ShardFacts(*map(int, facts))
    return shown, hidden


def _rows_by_part(engine: Engine, sql: str, parts: Sequence[_Part]) -> dict[_Part, list[tuple[int, ...]]]:
    """Rows of a statement whose first column names a part."""
    found: dict[_Part, list[tuple[int, ...]]] = {}
    if not parts:
        return found
    by_name = {part.name: part for part in parts}
    for name, *row in engine.query(Query(sql=sql, parameters={"parts": list(by_name)})).rows:
        found.setdefault(by_name[str(name)], []).append(tuple(row))
    return found
