"""Queries with known neighbours, and searches by them: what evaluating and tuning have in common."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cliphouse import stream
from cliphouse.encoders.chosen import Chosen
from cliphouse.engine import Engine
from cliphouse.errors import InvalidVector, UsageError
from cliphouse.evaluation import EvaluationOptions, QueryOrigin, TruthReport
from cliphouse.hits import Hits
from cliphouse.measures import recall_at_k
from cliphouse.schema import identifier
from cliphouse.searcher import Searcher
from cliphouse.truth import NOBODY, Neighbours, Pair, QuerySet, Store, compute, distances, fingerprint
from cliphouse.types import CollectionInfo, Progress, ProgressCallback, SearchParams, SearchPath
from cliphouse.vectors import query_vector

#: Searches before the first that counts.
_WARM_UP = 3
#: A trial has at least so many queries, if there are as many, however long they take.
_FEWEST = 20
#: An answer that says to be farther than the last true neighbour by this is so: no search rounds a distance by as much.
_SURELY_FARTHER = 1e-4

Truths = Mapping[tuple[QueryOrigin, str | None], Neighbours]


class Questions:
    """The queries that options name, and their true neighbours."""

    def __init__(
        self, engine: Engine, info: CollectionInfo, options: EvaluationOptions, progress: ProgressCallback | None
    ) -> None:
        self._engine, self._info, self._options, self._progress = engine, info, options, progress
        self._column = f"{options.column}_embedding"
        # Before any query is taken from a row: it is to be of the same rows as its neighbours.
        self._store = Store(engine, info, self._column)

    def check(self) -> None:
        """Make sure that all that was read so far is of the same rows.

        Raises:
            RowsChanged: it is not.
        """
        self._store.check()

    def all(self, chosen: Chosen) -> list[QuerySet]:
        """The user's own queries and those from the collection, as far as each are wanted.

        Raises:
            UsageError: there are none, or they do not fit.
        """
        found = [*self._own(chosen), *self._sampled()]
        if not found:
            raise UsageError(
                f"collection {self._info.name!r} has no embeddings to take queries from; load some rows first"
            )
        return found

    def _own(self, chosen: Chosen) -> list[QuerySet]:
        given = self._options.queries
        if given is None:
            return []
        try:
            found = np.atleast_1d(np.asarray(given))
        except ValueError as error:
            raise InvalidVector(f"the queries are not of one length: {error}") from error
        if not found.size:
            raise UsageError("there are no queries in what was given; give one text a line, or one vector a row")
        if found.dtype.kind == "U":
            found = chosen.load(self._info).encode_texts([str(text) for text in found])
        found = np.atleast_2d(found)
        owner = f"collection {self._info.name!r}"
        vectors = np.stack([query_vector(row, dim=self._info.dim, owner=owner) for row in found])
        return [QuerySet(origin="own", key=fingerprint(vectors), vectors=vectors)]

    def _sampled(self) -> list[QuerySet]:
        """Captions and pictures of the collection, by a hash of ids: alike over all of it, and the same every time."""
        rows, seed = self._options.sample_rows, self._options.seed
        found = []
        origins: tuple[QueryOrigin, ...] = ("text", "image") if rows else ()
        for origin in origins:
            column, blocks = f"{origin}_embedding", list[stream.Block]()
            picked = (
                f"SELECT id FROM {identifier(self._info.name)} WHERE notEmpty({identifier(column)})\n"
                f"ORDER BY cityHash64(id, {seed}), id LIMIT {rows}"
            )
            stream.vectors(self._engine, self._info, column, blocks.append, where=f"id IN ({picked})")
            if blocks:
                ids, places = np.unique(np.concatenate([block.ids for block in blocks]), return_index=True)
                # In no order of rows, so that the first of them stand for all where time is short.
                order = np.random.default_rng(seed).permutation(len(ids))
                vectors = np.concatenate([block.vectors for block in blocks])[places[order]]
                key = f"{rows} rows, seed {seed}"
                found.append(QuerySet(origin=origin, key=key, vectors=vectors, rows=ids[order]))
        return found

    def truths(self, queries: Sequence[QuerySet], filters: Iterable[str]) -> tuple[Truths, TruthReport]:
        """The true neighbours without a filter and under each: kept ones, and where that is allowed those that are
        computed now, and kept.

        Raises:
            MissingTruth: they are not there, `StaleTruth` if they are of other rows; and none are to be computed.
            RowsChanged: rows changed while they were computed.
        """
        started, k = time.perf_counter(), self._options.k
        conditions = [None, *filters]
        found: dict[tuple[QueryOrigin, str | None], Neighbours] = {}
        lacking: list[tuple[QuerySet, str | None]] = []
        for each in queries:
            for condition in conditions:
                try:
                    found[each.origin, condition] = self._store.find(each, condition, k)
                except UsageError:
                    if self._options.truth == "stored":
                        raise
                    lacking.append((each, condition))
        if lacking:
            incomplete = [each for each in queries if any(each is other for other, _ in lacking)]
            wanted = [each for each in conditions if any(each == other for _, other in lacking)]
            computed = compute(self._engine, self._info, self._column, incomplete, wanted, k, self._progress)
            self.check()
            for each, condition in lacking:
                found[each.origin, condition] = computed[each.origin, condition]
                self._store.keep(each, condition, computed[each.origin, condition])
        total = sum(map(len, queries)) * len(conditions)
        new = sum(len(each) for each, _ in lacking)
        return found, TruthReport(queries=total, computed=new, seconds=time.perf_counter() - started)


def halves(queries: QuerySet, truth: Neighbours) -> list[tuple[QuerySet, Neighbours]]:
    """The queries with their neighbours, every other one apart; the second half has none where there is one query."""
    return [
        (
            replace(queries, vectors=queries.vectors[half], rows=None if queries.rows is None else queries.rows[half]),
            Neighbours(truth.ids[half], truth.distances[half]),
        )
        for half in (slice(0, None, 2), slice(1, None, 2))
    ]


@dataclass(slots=True, kw_only=True)
class Trial:
    """Searches by some queries in one way, and what came of them.

    Of each query, `answers` are the ids that it found, its own row left out and `NOBODY` where there were fewer than k;
    `stated` are their distances as the search gave them.
    """

    queries: QuerySet
    params: SearchParams
    paths: list[SearchPath] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)
    stated: list[list[float]] = field(default_factory=list)


def asked_k(queries: QuerySet, k: int) -> int:
    """What a search for `k` rows must ask for: one more where the query's own row may come, and is passed over."""
    return k + (queries.rows is not None)


def warm_up(searcher: Searcher, trial: Trial) -> None:
    """Search a few times, so that graphs are loaded, and columns are in the engine's cache."""
    for vector in trial.queries.vectors[:_WARM_UP]:
        searcher.run(vector, None, trial.params)


def ask(
    searcher: Searcher,
    trial: Trial,
    k: int,
    label: str,
    *,
    seconds: float = float("inf"),
    progress: ProgressCallback | None = None,
) -> None:
    """Ask the queries of a trial one after the other, for about so many seconds at most."""
    queries, started = trial.queries, time.perf_counter()
    for number, vector in enumerate(queries.vectors):
        before = time.perf_counter()
        if number >= _FEWEST and before - started > seconds:
            break
        hits = searcher.run(vector, None, trial.params)
        trial.seconds.append(time.perf_counter() - before)
        trial.paths.append(hits.plan.path)
        _note(trial, hits, None if queries.rows is None else int(queries.rows[number]), k)
        if progress:
            progress(Progress(label=label, done=number + 1, total=len(queries), unit="queries"))


def _note(trial: Trial, hits: Hits, own: int | None, k: int) -> None:
    found = [hit for hit in hits if hit.id != own][:k]
    lacking = k - len(found)
    trial.answers.append([hit.id for hit in found] + [NOBODY] * lacking)
    trial.stated.append([hit.distance for hit in found] + [float("inf")] * lacking)


class Judge:
    """Tells the recall of answers to one set of queries, under one filter or none.

    It goes by true distances, whatever distances a search gave: those of the truth, and of rows that are not in it,
    computed the same way. A row that is not there, or that the filter excludes, has none.
    """

    def __init__(
        self,
        engine: Engine,
        info: CollectionInfo,
        column: str,
        queries: QuerySet,
        truth: Neighbours,
        where: str | None = None,
    ) -> None:
        self._engine, self._info, self._column, self._where = engine, info, column, where
        self._queries, self._truth = queries, truth
        self._known: dict[Pair, float] = {}
        for query, row in zip(*np.nonzero(truth.ids != NOBODY), strict=True):
            self._known[int(query), int(truth.ids[query, row])] = float(truth.distances[query, row])

    def recalls(self, trials: Sequence[Trial]) -> list[float]:
        """The mean recall@k of each trial, by all its answers."""
        self._learn({(query, row) for trial in trials for query, ids in enumerate(trial.answers) for row in ids})
        return [self._recall(trial.answers) for trial in trials]

    def recall_by(self, trial: Trial, path: SearchPath) -> float:
        """The mean recall@k of one trial, where only answers that came by `path` count.

        Rows are believed that say to be too far to be right; so nothing is read for most of what is wrong.
        """
        answers = []
        for query, (ids, stated) in enumerate(zip(trial.answers, trial.stated, strict=True)):
            true = self._truth.distances[query]
            farthest = np.max(true, where=np.isfinite(true), initial=0.0) + _SURELY_FARTHER
            right = trial.paths[query] == path
            answers.append([row for row, distance in zip(ids, stated, strict=True) if right and distance < farthest])
        self._learn({(query, row) for query, ids in enumerate(answers) for row in ids})
        return self._recall(answers)

    def _learn(self, pairs: set[Pair]) -> None:
        unknown = {pair for pair in pairs if pair not in self._known and pair[1] != NOBODY}
        if unknown:
            vectors = self._queries.vectors
            self._known |= distances(self._engine, self._info, self._column, self._where, vectors, unknown)

    def _recall(self, answers: Sequence[Sequence[int]]) -> float:
        recalls = []
        for query, ids in enumerate(answers):
            exact = self._truth.distances[query][np.isfinite(self._truth.distances[query])]
            found = [self._known.get((query, row), np.inf) for row in dict.fromkeys(ids)]
            if len(exact):
                recalls.append(recall_at_k(np.array(found), exact, k=len(exact)))
        return float(np.mean(recalls))
