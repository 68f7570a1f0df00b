"""Searches of a collection measured against the truth: recall, latency, throughput, and what they read."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
from numpy.typing import NDArray

from cliphouse import catalog, index, stream
from cliphouse.encoders.chosen import Chosen
from cliphouse.engine import Engine
from cliphouse.errors import EngineError, InvalidFilter, InvalidVector, MissingTruth, UsageError
from cliphouse.evaluation import (
    PER_MILLE,
    Asked,
    Evaluation,
    EvaluationOptions,
    Filter,
    Point,
    QueryOrigin,
    TruthReport,
)
from cliphouse.hits import Hits
from cliphouse.measures import latency_summary, recall_at_k
from cliphouse.schema import identifier
from cliphouse.searcher import Searcher
from cliphouse.statements import is_closed
from cliphouse.truth import NOBODY, Neighbours, Pair, QuerySet, Store, compute, distances, fingerprint
from cliphouse.types import (
    CollectionInfo,
    IndexKind,
    IndexState,
    Progress,
    ProgressCallback,
    Query,
    SearchParams,
    SearchPath,
)
from cliphouse.vectors import query_vector

#: Searches before the first that counts: they load graphs, and put columns into the engine's cache.
_WARM_UP = 3
#: A point has at least so many queries, if there are as many, however long they take.
_FEWEST = 20
EF_SEARCH = (64, 128, 256, 512, 1024)

Truths = Mapping[tuple[QueryOrigin, str | None], Neighbours]


def evaluate(
    engine: Engine,
    info: CollectionInfo,
    searcher: Searcher,
    chosen: Chosen,
    options: EvaluationOptions,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Measure the searches of a collection as `options` say.

    Without a filter: what a search takes by itself, an exact search, and each index that is ready at several efforts.
    Under each filter: what a search takes by itself, and an exact search.

    Raises:
        UsageError: there are no rows, the queries do not fit, `InvalidFilter`; `MissingTruth` or `StaleTruth` where
            the truth is to be there.
        EngineError: ClickHouse failed.
    """
    started = time.perf_counter()
    work = _Evaluator(engine, info, searcher, options, progress)
    queries = [*work.own(chosen), *work.sampled()]
    if not queries:
        raise UsageError(f"collection {info.name!r} has no embeddings to take queries from; load some rows first")
    filters = work.filters()
    truths, truth = work.truths(queries, filters)
    if not all(np.isfinite(truths[each.origin, None].distances).any() for each in queries):
        raise UsageError(f"collection {info.name!r} has too few rows to be evaluated; load some more")
    runs = [] if options.truth == "only" else list(work.runs(queries, filters, truths))
    return Evaluation(
        collection=info.name,
        database=str(engine.location),
        engine_version=engine.capabilities.version,
        rows=catalog.count_rows(engine, info.name),
        encoder=info.encoder,
        dim=info.dim,
        storage=info.storage,
        column=options.column,
        k=options.k,
        seed=options.seed,
        cores=os.cpu_count() or 1,
        indexes=tuple(work.indexes),
        truth=truth,
        points=tuple(work.points(runs, truths)),
        seconds=time.perf_counter() - started,
    )


def efforts(state: IndexState, k: int) -> list[dict[str, int]]:
    """Search efforts that show how an index trades recall for latency, least first."""
    kind: IndexKind = state.config.kind
    if kind == "hnsw":
        return [{"ef_search": effort} for effort in EF_SEARCH if effort > k] or [{"ef_search": k + 1}]
    clusters = int(getattr(state.config, "nlist", 0)) or max(1, int(state.rows_total**0.5))
    least, most = max(1, clusters // 256), max(1, clusters // 4)
    return [{"nprobe": 2**power} for power in range(most.bit_length()) if least <= 2**power]


def _at(params: SearchParams, effort: Mapping[str, int]) -> SearchParams:
    return replace(params, ef_search=effort.get("ef_search"), nprobe=effort.get("nprobe"))


@dataclass(slots=True, kw_only=True)
class _Run:
    """One way to search and what it did; `answers` are the ids of each, `NOBODY` where there were fewer than k."""

    queries: QuerySet
    filter: Filter | None
    asked: Asked
    effort: Mapping[str, int]
    params: SearchParams
    paths: Counter[SearchPath] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)
    queries_per_second: dict[int, float] = field(default_factory=dict)
    read_bytes: float = 0
    resident_bytes: int = 0

    @property
    def where(self) -> str | None:
        return self.filter.where if self.filter else None


class _Evaluator:
    """The parts of one evaluation."""

    def __init__(
        self,
        engine: Engine,
        info: CollectionInfo,
        searcher: Searcher,
        options: EvaluationOptions,
        progress: ProgressCallback | None,
    ) -> None:
        self._engine, self._info, self._searcher = engine, info, searcher
        self._options, self._progress = options, progress
        self._column = f"{options.column}_embedding"
        self.indexes = [state for state in index.states(engine, info.name) if state.column == self._column]

    # -- what is asked ------------------------------------------------------------------------------------------------

    def own(self, chosen: Chosen) -> list[QuerySet]:
        """The user's queries, if there are any."""
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

    def sampled(self) -> list[QuerySet]:
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

    def filters(self) -> list[Filter]:
        """The conditions to measure under; one that no row has is left out."""
        conditions = [f"cityHash64(id) % 1000 < {share}" for share in PER_MILLE] if self._options.filters else []
        if self._options.where:
            conditions.append(self._options.where)
        found = []
        for where in conditions:
            if not is_closed(where):
                raise InvalidFilter(where, "its parentheses do not match, or it is more than one expression")
            sql = f"SELECT countIf({where}\n), count() FROM {identifier(self._info.name)}"
            try:
                rows, total = map(int, self._engine.query(Query(sql=sql)).rows[0])
            except EngineError as error:
                raise InvalidFilter(where, str(error)) from error
            if rows:
                found.append(Filter(where=where, rows=rows, share=rows / total))
        return found

    def truths(self, queries: Sequence[QuerySet], filters: Sequence[Filter]) -> tuple[Truths, TruthReport]:
        """The true neighbours: kept ones, and where that is allowed those that are computed now, and kept."""
        started, k = time.perf_counter(), self._options.k
        store = Store(self._engine, self._info, self._column)
        conditions = [None, *(each.where for each in filters)]
        found: dict[tuple[QueryOrigin, str | None], Neighbours] = {}
        lacking: list[tuple[QuerySet, str | None]] = []
        for each in queries:
            for condition in conditions:
                try:
                    found[each.origin, condition] = store.find(each, condition, k)
                except MissingTruth:
                    if self._options.truth == "stored":
                        raise
                    lacking.append((each, condition))
        if lacking:
            incomplete = [each for each in queries if any(each is other for other, _ in lacking)]
            wanted = [each for each in conditions if any(each == other for _, other in lacking)]
            computed = compute(self._engine, self._info, self._column, incomplete, wanted, k, self._progress)
            for each, condition in lacking:
                found[each.origin, condition] = computed[each.origin, condition]
                store.keep(each, condition, computed[each.origin, condition])
        total = sum(map(len, queries)) * len(conditions)
        new = sum(len(each) for each, _ in lacking)
        return found, TruthReport(queries=total, computed=new, seconds=time.perf_counter() - started)

    # -- measuring ----------------------------------------------------------------------------------------------------

    def runs(self, queries: Sequence[QuerySet], filters: Sequence[Filter], truths: Truths) -> Iterator[_Run]:
        """Measure every way to search."""
        ready = [state for state in self.indexes if state.rows_indexed and not state.building]
        for each in queries:
            k = self._options.k + (each.rows is not None)  # one more: its own row may come, and is passed over
            for condition in (None, *filters):
                where = condition.where if condition else None
                if not np.isfinite(truths[each.origin, where].distances).any():
                    continue  # the few rows that have it are those the queries were taken from
                base = SearchParams(k=k, column=self._options.column, where=where)
                ways: list[tuple[Asked, dict[str, int], SearchParams]] = [("exact", {}, replace(base, exact=True))]
                if ready:
                    ways.insert(0, ("search", {}, base))
                for state in ready if condition is None else ():
                    ways += [
                        (state.config.kind, effort, _at(replace(base, kind=state.config.kind), effort))
                        for effort in efforts(state, k)
                    ]
                for asked, effort, params in ways:
                    run = _Run(queries=each, filter=condition, asked=asked, effort=effort, params=params)
                    self._measure(run)
                    yield run

    def _measure(self, run: _Run) -> None:
        queries, k = run.queries, self._options.k
        label = " ".join([run.queries.origin, run.asked, *(f"{name} {value}" for name, value in run.effort.items())])
        label += f", {run.filter.share:.2%} of the rows" if run.filter else ""
        for vector in queries.vectors[:_WARM_UP]:
            self._search(vector, run)
        read, started = self._engine.read_bytes(), time.perf_counter()
        for number, vector in enumerate(queries.vectors):
            before = time.perf_counter()
            if number >= _FEWEST and before - started > self._options.seconds:
                break
            hits = self._search(vector, run)
            run.seconds.append(time.perf_counter() - before)
            run.paths[hits.plan.path] += 1
            own = None if queries.rows is None else int(queries.rows[number])
            ids = [hit.id for hit in hits if hit.id != own][:k]
            run.answers.append(ids + [NOBODY] * (k - len(ids)))
            if self._progress:
                self._progress(Progress(label=label, done=number + 1, total=len(queries), unit="queries"))
        run.read_bytes = (self._engine.read_bytes() - read) / len(run.seconds)
        run.queries_per_second[1] = len(run.seconds) / sum(run.seconds)
        if self._options.clients > 1:
            run.queries_per_second[self._options.clients] = self._together(run, self._options.clients)
        run.resident_bytes = self._engine.resident_bytes()

    def _together(self, run: _Run, clients: int) -> float:
        """Queries answered in a second by `clients` that ask at once, each as soon as it has its answer."""
        numbers, stop = count(), threading.Event()
        total = max(len(run.seconds), 2 * clients)
        started = time.perf_counter()

        def client() -> int:
            answered = 0
            while (number := next(numbers)) < total and not stop.is_set():
                if number >= 2 * clients and time.perf_counter() - started > self._options.seconds:
                    break
                self._search(run.queries.vectors[number % len(run.queries)], run)
                answered += 1
            return answered

        with ThreadPoolExecutor(clients, thread_name_prefix="cliphouse-client") as pool:
            futures = [pool.submit(client) for _ in range(clients)]
            try:
                answered = sum(future.result() for future in futures)
            except BaseException:
                stop.set()
                self._engine.cancel()
                raise
        return answered / (time.perf_counter() - started)

    def _search(self, vector: NDArray[np.float32], run: _Run) -> Hits:
        return self._searcher.run(vector, None, run.params)

    # -- judging ------------------------------------------------------------------------------------------------------

    def points(self, runs: Sequence[_Run], truths: Truths) -> Iterator[Point]:
        """Each run with its recall.

        The distances of what was found are true ones, whatever distance the search gave: those of the truth, and of
        rows that are not in it, computed the same way. A row that is not there, or that the filter excludes, has none.
        """
        known: dict[tuple[QueryOrigin, str | None], dict[Pair, float]] = {}
        for (origin, where), truth in truths.items():
            found = known[origin, where] = {}
            for query, row in zip(*np.nonzero(truth.ids != NOBODY), strict=True):
                found[int(query), int(truth.ids[query, row])] = float(truth.distances[query, row])
            same = [run for run in runs if (run.queries.origin, run.where) == (origin, where)]
            given = {(query, row) for run in same for query, ids in enumerate(run.answers) for row in ids}
            unknown = {pair for pair in given if pair not in found and pair[1] != NOBODY}
            if unknown:
                vectors = same[0].queries.vectors
                found |= distances(self._engine, self._info, self._column, where, vectors, unknown)
        for run in runs:
            key = run.queries.origin, run.where
            yield self._point(run, truths[key], known[key])

    def _point(self, run: _Run, truth: Neighbours, known: Mapping[Pair, float]) -> Point:
        recalls = []
        for query, ids in enumerate(run.answers):
            exact = truth.distances[query][np.isfinite(truth.distances[query])]
            found = [known.get((query, row), np.inf) for row in dict.fromkeys(ids)]
            if len(exact):
                recalls.append(recall_at_k(np.array(found), exact, k=len(exact)))
        times = latency_summary([1000 * each for each in run.seconds])
        return Point(
            queries=run.queries.origin,
            filter=run.filter,
            asked=run.asked,
            effort=run.effort,
            answered=dict(run.paths),
            recall=float(np.mean(recalls)),
            p50_ms=times["p50_ms"],
            p90_ms=times["p90_ms"],
            p99_ms=times["p99_ms"],
            queries_per_second=run.queries_per_second,
            read_bytes=run.read_bytes,
            resident_bytes=run.resident_bytes,
        )
