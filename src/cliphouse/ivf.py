"""The inverted lists of a collection as they stand: which there are, and which rows they answer for.

Nothing tells the lists when the collection changes: rows come by loading, by `add` and by SQL. So what they hold is
compared with the collection, shard by shard, whenever the parts of either have changed: by the sums of hashes that
`facts` keeps of each part. Rows that the lists do not hold as they are now are searched exactly, in the collection
itself.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cliphouse import attempts, catalog, facts, notes
from cliphouse.clusters import Clusters
from cliphouse.engine import Engine, arrow_table
from cliphouse.facts import Known, Seen, ShardFacts
from cliphouse.lists import TableColumn, building_prefix, clusters_name, lists_name, shard_ends
from cliphouse.notes import Build, Notes
from cliphouse.queries import default_nprobe
from cliphouse.schema import CLUSTER_COLUMN, EMBEDDING_COLUMNS, identifier
from cliphouse.types import CollectionInfo, IndexState, IvfConfig, Query

#: A condition with more runs of ids than this takes longer to analyse than a scan.
_MAX_RUNS = 500
#: Mutations that leave the rows that stay as they are.
_HARMLESS = re.compile(
    r"\(?(DELETE |UPDATE `?_row_exists`? |APPLY DELETED MASK|(MATERIALIZE|DROP|CLEAR) (INDEX|PROJECTION|STATISTICS))"
)
#: The engine forgets all but so many mutations that are done (`finished_mutations_to_keep`).
_MUTATIONS_KEPT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The rows that lists answer for.

    `within` is the condition for them in the lists, None if all are right; `tail` the condition for the others in the
    collection, None if there are no others.
    """

    rows: int
    total: int
    within: str | None
    tail: str | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lists:
    """An inverted-list index that can be searched. `shares` remembers how many rows pass a filter.

    `seen` is what the coverage was found by, None if the collection was changed in place.
    """

    table: str
    column: str
    build: Build
    clusters: Clusters
    coverage: Coverage
    columns: frozenset[str]
    seen: Seen | None
    shares: OrderedDict[str, float] = field(default_factory=OrderedDict)

    @property
    def name(self) -> str:
        """As the tutorial names indexes, with the kind: image_ivf."""
        return index_name(self.column)


def index_name(column: str) -> str:
    """What the index on `column` is called: image_embedding has image_ivf."""
    return column.removesuffix("_embedding") + "_ivf"


def all_tables(engine: Engine, collection: str) -> list[str]:
    """The tables of lists, of clusters and of assignments, of this and earlier builds."""
    prefixes = [lists_name(collection, column, "") for column in EMBEDDING_COLUMNS]
    sql = (
        "SELECT name FROM system.tables WHERE database = currentDatabase()\n"
        "AND (startsWith(name, {image:String}) OR startsWith(name, {text:String})) ORDER BY name"
    )
    return [
        str(row[0]) for row in engine.query(Query(sql=sql, parameters={"image": prefixes[0], "text": prefixes[1]})).rows
    ]


def row_tables(engine: Engine, collection: str) -> list[str]:
    """The tables among them that hold copies of rows."""
    found = all_tables(engine, collection)
    return [name for name in found if clusters_name(name) in found]


def columns_of(engine: Engine, table: str) -> list[TableColumn]:
    """The columns of a table, in order."""
    sql = (
        "SELECT name, type, default_kind, default_expression FROM system.columns\n"
        "WHERE database = currentDatabase() AND table = {table:String} ORDER BY position"
    )
    return [TableColumn(*map(str, row)) for row in engine.query(Query(sql=sql, parameters={"table": table})).rows]


def find(engine: Engine, info: CollectionInfo, known: Notes, column: str, before: Lists | None = None) -> Lists | None:
    """The lists of `column` that can be searched now; what `before` holds of the same build is not read again."""
    build = _ready(engine, info.name, known, column)
    if build is None:
        return None
    table = lists_name(info.name, column, build.token)
    same = before is not None and before.build == build
    columns = columns_of(engine, table)
    seen = _compare(engine, info.name, column, build, columns, known, before.seen if before else None)
    return Lists(
        table=table,
        column=column,
        build=build,
        clusters=before.clusters if before and same else read_clusters(engine, table, info.dim),
        coverage=coverage(engine, info.name, column, seen),
        columns=frozenset(each.name for each in columns) - {CLUSTER_COLUMN},
        seen=seen,
    )


def remember(engine: Engine, collection: str, columns: Iterable[str] = EMBEDDING_COLUMNS) -> None:
    """Note what the lists of `columns` and the collection hold, so that nobody has to read rows to compare them, and
    up to which mutation no row was changed: the engine will forget those before."""
    for column in columns:
        known = notes.read(engine, collection)
        build = _ready(engine, collection, known, column)
        if build is None:
            continue
        _, mutation = origin(engine, collection)  # first: what comes later is not to be believed
        listed = columns_of(engine, lists_name(collection, column, build.token))
        if seen := _compare(engine, collection, column, build, listed, known):
            note = notes.Facts(
                token=build.token, mutation=mutation, content=seen.content, parts=facts.packed(seen.known)
            )
            notes.write(engine, collection, column, "ivf", note, "facts")


def _ready(engine: Engine, collection: str, known: Notes, column: str) -> Build | None:
    """The build that answers, with the last mutation that is known to have changed none of its rows."""
    build = notes.build_of(known, column, "ivf", "ready")
    if build is None:
        return None
    table = lists_name(collection, column, build.token)
    if not catalog.exists(engine, table) or not catalog.exists(engine, clusters_name(table)):
        return None
    noted = notes.facts_of(known, column, build.token)
    return replace(build, mutation=max(build.mutation, noted.mutation)) if noted else build


def _compare(
    engine: Engine,
    collection: str,
    column: str,
    build: Build,
    listed: list[TableColumn],
    known: Notes,
    before: Seen | None = None,
) -> Seen | None:
    """What the parts of a collection and of a build hold now; None if the collection was changed in place."""
    if was_changed(engine, collection, build):
        return None
    return _see(engine, collection, column, build.token, listed, known, before)


def _see(
    engine: Engine,
    collection: str,
    column: str,
    token: str,
    listed: list[TableColumn],
    known: Notes,
    before: Seen | None = None,
) -> Seen:
    content = facts.content_of(columns_of(engine, collection), listed, column)
    parts: Known = {}
    if (noted := notes.facts_of(known, column, token)) and noted.content == content:
        parts = noted.known
    if before and before.content == content:
        parts = {**parts, **before.known}
    return Seen(
        content,
        facts.of_table(engine, collection, content, with_embedding(column), parts),
        facts.of_table(engine, lists_name(collection, column, token), content, "true", parts),
    )


def read_clusters(engine: Engine, lists: str, dim: int) -> Clusters:
    """The clusters of a build."""
    sql = f"SELECT centroid, radius, rows FROM {identifier(clusters_name(lists))} ORDER BY cluster"
    found = arrow_table(engine, sql, {}).combine_chunks()
    centroids = np.asarray(found.column("centroid").combine_chunks().flatten(), np.float32)
    return Clusters(
        centroids.reshape(found.num_rows, dim),
        np.asarray(found.column("radius"), np.float32),
        np.asarray(found.column("rows"), np.int64),
    )


def sizes(engine: Engine, lists: str, count: int) -> NDArray[np.int64]:
    """How many rows each of `count` clusters has in the lists."""
    cluster = identifier(CLUSTER_COLUMN)
    rows = engine.query(Query(sql=f"SELECT {cluster}, count() FROM {identifier(lists)} GROUP BY {cluster}")).rows
    found = np.zeros(count, np.int64)
    for number, held in rows:
        found[number] = held
    return found


def ends(engine: Engine, table: str, condition: str = "true") -> dict[int, tuple[int, int, int]]:
    """Of each shard in a table: its rows, and their first and last id."""
    rows = engine.query(Query(sql=shard_ends(table, condition))).rows
    return {int(shard): (int(count), int(first), int(last)) for shard, count, first, last in rows}


def with_embedding(column: str) -> str:
    """The condition for rows that an index on `column` holds."""
    return f"notEmpty({identifier(column)})"


def coverage(engine: Engine, collection: str, column: str, seen: Seen | None) -> Coverage:
    """Which rows of the collection the lists hold as they are."""
    if seen is None:
        return Coverage(rows=0, total=catalog.count_rows(engine, collection), within="false", tail="true")
    present, copies = facts.total(seen.collection), facts.total(seen.lists)
    total = sum(each.rows for each in present.values())
    right = dict(_right(engine, collection, column, seen, present, copies))
    rows = sum(each.rows for each in right.values())
    doubtful = {
        shard for shard in copies.keys() | present.keys() if shard not in right or present[shard] != right[shard]
    }
    runs = _runs(right, doubtful)
    if len(runs) > _MAX_RUNS:
        return Coverage(rows=0, total=total, within="false", tail="true")
    condition = " OR ".join(between(first, last) for first, last in runs) or "false"
    return Coverage(
        rows=rows,
        total=total,
        within=None if len(right) == len(copies) else f"({condition})",
        tail=None if rows == total else f"NOT ({condition})",
    )


def _right(
    engine: Engine,
    collection: str,
    column: str,
    seen: Seen,
    present: Mapping[int, ShardFacts],
    copies: Mapping[int, ShardFacts],
) -> Iterator[tuple[int, ShardFacts]]:
    """The shards of which the lists hold all rows from the first to the last that they hold, as they are."""
    for shard, mine in copies.items():
        if shard not in present:
            continue
        found: ShardFacts | None = present[shard]
        if found != mine and found and found.rows > mine.rows:
            # Rows may have been added before and behind those that are held.
            found = facts.between(seen.collection, shard, mine.first, mine.last)
            if found is None:
                condition = f"{with_embedding(column)} AND {between(mine.first, mine.last)}"
                found = facts.of_rows(engine, collection, seen.content, condition).get(shard)
        if found == mine:
            yield shard, mine


def covered_now(engine: Engine, collection: str, lists: Lists) -> Coverage:
    """The coverage of lists that have changed since they were found."""
    columns = columns_of(engine, lists.table)
    seen = _compare(engine, collection, lists.column, lists.build, columns, {}, lists.seen)
    return coverage(engine, collection, lists.column, seen)


def gone(engine: Engine, collection: str, lists: str, known: Notes) -> Iterator[str]:
    """Conditions for rows that lists hold and the collection does not, or not as they are: SQL deleted them."""
    column = next(each for each in EMBEDDING_COLUMNS if lists.startswith(lists_name(collection, each, "")))
    token = lists.removeprefix(lists_name(collection, column, ""))
    seen = _see(engine, collection, column, token, columns_of(engine, lists), known)
    present, copies = facts.total(seen.collection), facts.total(seen.lists)
    right = dict(_right(engine, collection, column, seen, present, copies))
    for shard, mine in copies.items():
        if shard not in right:
            ids = between(mine.first, mine.last)
            there = f"SELECT {seen.content} FROM {identifier(collection)} WHERE {ids} AND {with_embedding(column)}"
            yield f"{ids} AND {seen.content} NOT IN ({there})"


def origin(engine: Engine, collection: str) -> tuple[str, int]:
    """Which table the collection is now, and the number of its last mutation; one that is under way is yet to come."""
    known = _mutations(engine, collection)
    unfinished = [number for number, done, _ in known if not done]
    last = min(unfinished) - 1 if unfinished else max((number for number, _, _ in known), default=-1)
    return catalog.folder(engine, collection), last


def was_changed(engine: Engine, collection: str, build: Build) -> bool:
    """Whether rows may have been changed in place since a build began, or are another table's: then nobody knows which
    of its rows are still right."""
    if catalog.folder(engine, collection) != build.source:
        return True
    known = _mutations(engine, collection)
    if any(number > build.mutation and not _HARMLESS.match(command) for number, _, command in known):
        return True
    numbers = {number for number, _, _ in known}
    return len(numbers) >= _MUTATIONS_KEPT and min(numbers) > build.mutation


def changes(engine: Engine, collection: str) -> tuple[str, int, int]:
    """Which table the collection is now, the last mutation that changed rows in place, and how many have not ended."""
    found = [(number, done) for number, done, command in _mutations(engine, collection) if not _HARMLESS.match(command)]
    last = max((number for number, _ in found), default=-1)
    return catalog.folder(engine, collection), last, sum(not done for _, done in found)


def between(first: int, last: int) -> str:
    """The condition for ids from `first` to `last`."""
    return f"(id BETWEEN {first} AND {last})"


def states(engine: Engine, info: CollectionInfo, known: Notes) -> list[IndexState]:
    """The collection's inverted-list indexes as they stand, by name."""
    found = []
    for column in EMBEDDING_COLUMNS:
        building = notes.build_of(known, column, "ivf", "building")
        lists = find(engine, info, known, column)
        if lists is None and building is None:
            continue
        tuned = notes.curve_of(known, column, "ivf", lists.build.token if lists else "")
        total = lists.coverage.total if lists else catalog.count_rows(engine, info.name)
        found.append(
            IndexState(
                name=index_name(column),
                column=column,
                config=IvfConfig(nlist=len(lists.clusters)) if lists else (building or Build(token="")).config,
                rows_indexed=lists.coverage.rows if lists else 0,
                rows_total=total,
                disk_bytes=_disk_bytes(engine, lists.table) if lists else 0,
                memory_bytes=lists.clusters.centroids.nbytes if lists else 0,
                building=lists is None and _is_building(engine, info.name, column),
                build_seconds=lists.build.seconds if lists else None,
                effort=tuned.own if tuned else default_nprobe(len(lists.clusters)) if lists else None,
                tuned=tuned.wanted if tuned else None,
            )
        )
    return found


def drop(engine: Engine, collection: str, column: str, *, but: Collection[str] = ()) -> bool:
    """Drop the tables of all builds on `column`, but those with the tokens `but`; whether there were any."""
    prefix = lists_name(collection, column, "")
    kept = [lists_name(collection, column, token) for token in but]
    kept += [clusters_name(lists) for lists in kept]
    tables = [name for name in all_tables(engine, collection) if name.startswith(prefix) and name not in kept]
    for name in tables:
        engine.command(f"DROP TABLE IF EXISTS {identifier(name)} SYNC")
    return bool(tables)


def _is_building(engine: Engine, collection: str, column: str) -> bool:
    """Whether somebody is at it now; a build that was broken off waits for the next one."""
    claims = attempts.found(engine, building_prefix(collection, column))
    return any(not attempts.is_dead(engine, each) for each in claims)


def _disk_bytes(engine: Engine, lists: str) -> int:
    return catalog.total_bytes(engine, lists) + catalog.total_bytes(engine, clusters_name(lists))


def _runs(right: Mapping[int, ShardFacts], wrong: Iterable[int]) -> list[tuple[int, int]]:
    """The ids of the shards that are right, as runs: between two of one run no row is held in vain, or not held."""
    others = np.array(sorted(wrong), np.int64)
    runs: list[tuple[int, int]] = []
    before = None
    for shard in sorted(right):
        apart = before is None or _any_between(others, before, shard)
        if apart or before is None:
            runs.append((right[shard].first, right[shard].last))
        else:
            runs[-1] = (runs[-1][0], right[shard].last)
        before = shard
    return runs


def _any_between(numbers: NDArray[np.int64], first: int, last: int) -> bool:
    return bool(np.searchsorted(numbers, last, "right") > np.searchsorted(numbers, first, "left"))


def _mutations(engine: Engine, collection: str) -> list[tuple[int, bool, str]]:
    """The mutations that the engine remembers: number, whether it is done, and what it does."""
    sql = (
        "SELECT toUInt64(extract(mutation_id, '[0-9]+')), is_done, command FROM system.mutations\n"
        "WHERE database = currentDatabase() AND table = {name:String}"
    )
    rows = engine.query(Query(sql=sql, parameters={"name": collection})).rows
    return [(int(number), bool(done), str(command)) for number, done, command in rows]
