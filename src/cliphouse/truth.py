"""The true neighbours of queries: computed by matrix products over all rows, and kept in a table beside them.

A truth is known by what was asked (queries, k, column, filter) and by the rows that it was asked of, so that one that
was computed before rows came, went or changed is told from one that still holds. Merging parts and building indexes
change no row, and no truth.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliphouse import catalog, ivf, stream
from cliphouse.engine import Engine
from cliphouse.errors import MissingTruth, RowsChanged, StaleTruth, UsageError
from cliphouse.evaluation import QueryOrigin
from cliphouse.pipeline import native
from cliphouse.schema import create_truth, identifier, truth_name
from cliphouse.types import CollectionInfo, Progress, ProgressCallback, Query

#: In a list of neighbours that is shorter than k: no row, infinitely far.
NOBODY = -1
#: Changes with how a truth is computed, so that older ones are not taken for it.
_VERSION = 2
#: What makes a condition depend on more than the row it is about: other tables, the time, chance.
_ELSEWHERE = re.compile(
    r"\bselect\b|\bin\s+[^\s(\[]|\b(dict|join)\w+\s*\(|\b(now|today|yesterday|rand)\w*\s*\(", re.IGNORECASE
)
#: Pairs of a query and a row whose distances are computed at once.
_PAIRS = 8192

#: A query by its number, and a row by its id.
Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuerySet:
    """Queries of one origin: float32 vectors of shape (n, dim).

    `rows` are the ids of the rows they were taken from, which are no answers to them; None where they are from
    elsewhere. `key` names the queries for as long as the data are the same.
    """

    origin: QueryOrigin
    key: str
    vectors: NDArray[np.float32]
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """The nearest rows of each query, nearest first, ties by id, and their distances; both of shape (n, k).

    Where fewer than k rows can be an answer, `NOBODY` at an infinite distance fills up.
    """

    ids: NDArray[np.int64]
    distances: NDArray[np.float64]


def compute(
    engine: Engine,
    info: CollectionInfo,
    column: str,
    queries: Sequence[QuerySet],
    conditions: Sequence[str | None],
    k: int,
    progress: ProgressCallback | None = None,
) -> dict[tuple[QueryOrigin, str | None], Neighbours]:
    """The `k` nearest rows of all queries under each condition, in one pass over the embeddings in `column`.

    Every row's distance is estimated by a product in float32. Those that could be among the nearest, whatever
    rounding did to the estimate, are computed in float64 from the stored vector: the answer is that of a full search
    in double precision.

    Raises:
        EngineError: ClickHouse failed.
    """
    filters = [condition for condition in conditions if condition is not None]
    targets = np.concatenate([_unit(each.vectors.astype(np.float64)) for each in queries])
    own = [np.full(len(each), NOBODY) if each.rows is None else each.rows for each in queries]
    excluded = np.concatenate(own), np.concatenate([np.full(len(each), each.rows is not None) for each in queries])
    best = {condition: _Best(targets, excluded, k) for condition in conditions}
    estimator = np.ascontiguousarray(targets.astype(np.float32).T)
    total, done = catalog.count_rows(engine, info.name), 0

    def consume(block: stream.Block) -> None:
        nonlocal done
        estimates = _unit(block.vectors) @ estimator
        for condition, nearest in best.items():
            if condition is None:
                nearest.take(block.ids, block.vectors, estimates)
            else:
                fits = block.flags[filters.index(condition)]
                nearest.take(block.ids[fits], block.vectors[fits], estimates[fits])
        done += len(block.ids)
        if progress:
            progress(Progress(label="true neighbours", done=min(done, total), total=total))

    stream.vectors(engine, info, column, consume, conditions=filters)
    bounds = np.cumsum([0, *(len(each) for each in queries)])
    return {
        (each.origin, condition): Neighbours(found.ids[start:stop], found.distances[start:stop])
        for condition, found in best.items()
        for each, start, stop in zip(queries, bounds[:-1], bounds[1:], strict=True)
    }


def distances(
    engine: Engine,
    info: CollectionInfo,
    column: str,
    where: str | None,
    queries: NDArray[np.float32],
    pairs: Iterable[Pair],
) -> dict[Pair, float]:
    """The true distances of rows that searches answered with, by (query, id); rows that `where` excludes have none.

    Raises:
        EngineError: ClickHouse failed.
    """
    targets = _unit(queries.astype(np.float64))
    asked: dict[int, list[int]] = {}
    for query, row in pairs:
        asked.setdefault(row, []).append(query)
    found: dict[Pair, float] = {}

    def consume(block: stream.Block) -> None:
        for row, vector in zip(block.ids.tolist(), block.vectors, strict=True):
            unit = _unit(vector.astype(np.float64))
            found.update({(query, row): float(1 - targets[query] @ unit) for query in asked[row]})

    wanted = sorted(asked)
    for start in range(0, len(wanted), _PAIRS):
        listed = f"id IN ({', '.join(map(str, wanted[start : start + _PAIRS]))})"
        stream.vectors(engine, info, column, consume, where=f"{listed} AND ({where}\n)" if where else listed)
    return found


class _Best:
    """The nearest rows so far, of all queries."""

    def __init__(
        self, targets: NDArray[np.float64], excluded: tuple[NDArray[np.int64], NDArray[np.bool_]], k: int
    ) -> None:
        self._targets, self._k = targets, k
        self._excluded, self._excludes = excluded
        self.ids = np.full((len(targets), k), NOBODY, np.int64)
        self.distances = np.full((len(targets), k), np.inf)
        # What sums of so many products in float32 can be wrong by, the lengths of the vectors included.
        self._error = targets.shape[1] * 2.0**-22

    def take(self, ids: NDArray[np.int64], vectors: NDArray[np.float32], estimates: NDArray[np.float32]) -> None:
        """Look at some rows; `estimates` are their cosines to all queries, of shape (rows, queries)."""
        if not len(ids):
            return
        least = 1 - self.distances[:, -1] - self._error
        if len(ids) > self._k + 1 and not np.isfinite(least).all():
            # The k best of these are rows already, besides the query's own: what is worse cannot be among the nearest.
            kth = np.partition(estimates, len(ids) - self._k - 1, axis=0)[len(ids) - self._k - 1]
            least = np.maximum(least, kth - 2 * self._error)
        # Hardly any are: in one dimension they are found in a tenth of the time.
        rows, queries = np.divmod(np.flatnonzero(estimates >= least.astype(np.float32)), len(least))
        apart = ~(self._excludes[queries] & (ids[rows] == self._excluded[queries]))
        rows, queries = rows[apart], queries[apart]
        if len(rows):
            self._merge(queries, ids[rows], self._exact(rows, queries, vectors))

    def _exact(
        self, rows: NDArray[np.intp], queries: NDArray[np.intp], vectors: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        exact = np.empty(len(rows))
        for start in range(0, len(rows), _PAIRS):
            chunk = slice(start, start + _PAIRS)
            units = _unit(vectors[rows[chunk]].astype(np.float64))
            exact[chunk] = 1 - np.einsum("ij,ij->i", units, self._targets[queries[chunk]])
        return exact

    def _merge(self, queries: NDArray[np.intp], ids: NDArray[np.int64], exact: NDArray[np.float64]) -> None:
        changed = np.unique(queries)
        all_queries = np.concatenate([np.repeat(changed, self._k), queries])
        all_ids = np.concatenate([self.ids[changed].reshape(-1), ids])
        all_distances = np.concatenate([self.distances[changed].reshape(-1), exact])
        order = np.lexsort((all_ids, all_distances, all_queries))
        starts = np.searchsorted(all_queries[order], changed)
        kept = order[starts[:, None] + np.arange(self._k)]
        self.ids[changed], self.distances[changed] = all_ids[kept], all_distances[kept]


class Store:
    """The truths that are kept beside a collection, of its rows as they are now.

    Raises:
        RowsChanged: a mutation is at work on the rows.
    """

    def __init__(self, engine: Engine, info: CollectionInfo, column: str) -> None:
        self._engine, self._collection, self._column = engine, info.name, column
        self._data = data_fingerprint(engine, info.name, column)
        if ivf.changes(engine, info.name)[2]:
            raise RowsChanged(info.name, "are being changed by a mutation, which system.mutations shows")

    def check(self) -> None:
        """Make sure that the rows are still the same.

        Raises:
            RowsChanged: they are not, so that neighbours and answers are of different rows.
        """
        if data_fingerprint(self._engine, self._collection, self._column) != self._data:
            raise RowsChanged(self._collection, "came, went or changed meanwhile, so that nothing measured is true")

    def find(self, queries: QuerySet, condition: str | None, k: int) -> Neighbours:
        """The kept neighbours of `queries`.

        Raises:
            MissingTruth: they were never computed; `StaleTruth` if the rows were others then.
            UsageError: they are never kept.
        """
        if not is_kept(condition):
            raise UsageError(
                f"true neighbours under {condition!r} are never kept, for it depends on more than the rows; "
                "compute them: --truth auto"
            )
        truth = self._key(queries, condition, k)
        if not catalog.exists(self._engine, truth_name(self._collection)):
            raise MissingTruth(self._collection, queries.origin, k, condition)
        sql = (
            f"SELECT data = {{data:String}}, ids, distances\nFROM {identifier(truth_name(self._collection))} FINAL\n"
            "WHERE truth = {truth:String} ORDER BY query"
        )
        kept = self._engine.query(Query(sql=sql, parameters={"data": self._data, "truth": truth})).rows
        if not kept:
            raise MissingTruth(self._collection, queries.origin, k, condition)
        if len(kept) != len(queries) or not all(row[0] for row in kept):
            raise StaleTruth(self._collection, queries.origin, k, condition)
        ids, distances = np.full((len(kept), k), NOBODY, np.int64), np.full((len(kept), k), np.inf)
        for query, (_, row_ids, row_distances) in enumerate(kept):
            ids[query, : len(row_ids)], distances[query, : len(row_distances)] = row_ids, row_distances
        return Neighbours(ids, distances)

    def keep(self, queries: QuerySet, condition: str | None, found: Neighbours) -> None:
        """Keep the neighbours of `queries`, all or none; those of the same queries and other rows go.

        Under a condition that depends on other tables they are not kept: nothing would tell when those change.
        """
        if not is_kept(condition):
            return
        self._engine.command(create_truth(self._collection))
        rows, k = found.ids.shape
        there = np.isfinite(found.distances)
        ends = there.sum(axis=1).cumsum().astype("<u8").tobytes()
        columns: dict[str, tuple[str, bytes]] = {
            "truth": ("String", _repeated(self._key(queries, condition, k), rows)),
            "data": ("String", _repeated(self._data, rows)),
            "query": ("UInt32", np.arange(rows, dtype="<u4").tobytes()),
            "ids": ("Array(Int64)", ends + found.ids[there].astype("<i8").tobytes()),
            "distances": ("Array(Float64)", ends + found.distances[there].astype("<f8").tobytes()),
        }
        block = native.varint(len(columns)) + native.varint(rows)
        block += b"".join(native.header(name, kind) + values for name, (kind, values) in columns.items())
        self._engine.insert_native(truth_name(self._collection), list(columns), [block])

    def _key(self, queries: QuerySet, condition: str | None, k: int) -> str:
        return fingerprint(_VERSION, self._column, k, queries.origin, queries.key, condition)


def is_kept(condition: str | None) -> bool:
    """Whether the rows of the collection alone decide what fits the condition."""
    return condition is None or not _ELSEWHERE.search(condition)


def data_fingerprint(engine: Engine, collection: str, column: str) -> str:
    """What tells the rows of a table from any others that it has held: the same while no row comes, goes or changes.

    A table that was dropped and made again is another one. Inserted blocks are numbered, and keep the highest number
    when parts merge. Rows that only hide are not counted. Statements that change rows where they are have numbers too,
    and change them some time after: so it counts which of them have ended.
    """
    table = identifier(collection)
    asked = (
        f"SELECT count(), sum(cityHash64(id)), countIf(notEmpty({identifier(column)})) FROM {table}",
        "SELECT partition_id, max(max_block_number) FROM system.parts\n"
        "WHERE database = currentDatabase() AND table = {name:String} AND active AND rows > 0\n"
        "GROUP BY partition_id ORDER BY partition_id",
    )
    rows = [engine.query(Query(sql=sql, parameters={"name": collection})).rows for sql in asked]
    return fingerprint(*rows, ivf.changes(engine, collection))


def fingerprint(*facts: object) -> str:
    """A short name for `facts`, arrays included."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(fact.tobytes() if isinstance(fact, np.ndarray) else repr(fact).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def _repeated(text: str, rows: int) -> bytes:
    """A String column that has the same value in every row."""
    return (native.varint(len(text.encode())) + text.encode()) * rows


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    """The vectors at length 1; one without a direction is as far from everything as any can be."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units: NDArray[Any] = vectors / np.where(lengths > 0, lengths, 1)
    return units
