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

from cliphouse import catalog, ready
from cliphouse.encoders.chosen import Chosen
from cliphouse.engine import Engine
from cliphouse.errors import EngineError, InvalidFilter, UsageError
from cliphouse.evaluation import PER_MILLE, Asked, Evaluation, EvaluationOptions, Filter, Point
from cliphouse.measures import latency_summary
from cliphouse.schema import identifier
from cliphouse.searcher import Searcher
from cliphouse.statements import is_closed
from cliphouse.trials import Judge, Questions, Trial, Truths, ask, asked_k, warm_up
from cliphouse.truth import QuerySet
from cliphouse.types import CollectionInfo, IndexState, IvfConfig, ProgressCallback, Query, SearchParams

#: Efforts of an HNSW index to show.
EF_SEARCH = (64, 128, 256, 512, 1024)


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
            the truth is to be there; `RowsChanged` where rows came, went or changed meanwhile.
        EngineError: ClickHouse failed.
    """
    started = time.perf_counter()
    questions = Questions(engine, info, options, progress)
    queries = questions.all(chosen)
    work = _Evaluator(engine, info, searcher, options, progress)
    filters = work.filters()
    truths, truth = questions.truths(queries, [each.where for each in filters])
    if not all(np.isfinite(truths[each.origin, None].distances).any() for each in queries):
        raise UsageError(f"collection {info.name!r} has too few rows to be evaluated; load some more")
    runs = [] if options.truth == "only" else list(work.runs(queries, filters, truths))
    points = tuple(work.points(runs, truths))
    questions.check()
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
        points=points,
        seconds=time.perf_counter() - started,
    )


def efforts(state: IndexState, k: int) -> list[dict[str, int]]:
    """Search efforts that show how an index trades recall for latency, least first."""
    if isinstance(state.config, IvfConfig):
        least, most = max(1, state.config.nlist // 128), max(1, state.config.nlist // 4)
        return [{"nprobe": least * 2**power} for power in range((most // least).bit_length())]
    return [{"ef_search": effort} for effort in EF_SEARCH if effort > k] or [{"ef_search": k + 1}]


def _at(params: SearchParams, effort: Mapping[str, int]) -> SearchParams:
    return replace(params, ef_search=effort.get("ef_search"), nprobe=effort.get("nprobe"))


@dataclass(slots=True, kw_only=True)
class _Run(Trial):
    """One way to search and what it did."""

    filter: Filter | None
    asked: Asked
    effort: Mapping[str, int]
    recall: float = 0
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
        self.indexes = [state for state in ready.states(engine, info) if state.column == self._column]

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

    # -- measuring ----------------------------------------------------------------------------------------------------

    def runs(self, queries: Sequence[QuerySet], filters: Sequence[Filter], truths: Truths) -> Iterator[_Run]:
        """Measure every way to search."""
        usable = [state for state in self.indexes if state.rows_indexed and not state.building]
        for each in queries:
            k = asked_k(each, self._options.k)
            for condition in (None, *filters):
                where = condition.where if condition else None
                if not np.isfinite(truths[each.origin, where].distances).any():
                    continue  # the few rows that have it are those the queries were taken from
                base = SearchParams(k=k, column=self._options.column, where=where)
                for state in usable if condition is None else ():
                    self._warm_up(each, state, base)
                ways: list[tuple[Asked, dict[str, int], SearchParams]] = [("exact", {}, replace(base, exact=True))]
                if usable:
                    ways.insert(0, ("search", {}, base))
                for state in usable if condition is None else ():
                    ways += [
                        (state.config.kind, effort, _at(replace(base, kind=state.config.kind), effort))
                        for effort in efforts(state, k)
                    ]
                for asked, effort, params in ways:
                    run = _Run(queries=each, filter=condition, asked=asked, effort=effort, params=params)
                    self._measure(run)
                    yield run

    def _warm_up(self, queries: QuerySet, state: IndexState, base: SearchParams) -> None:
        """Ask once with the most effort, so that no effort finds less in the caches than one that is measured later."""
        kind = state.config.kind
        params = _at(replace(base, kind=kind), efforts(state, base.k)[-1])
        label = f"{queries.origin} {kind}, warming up"
        trial = Trial(queries=queries, params=params)
        ask(self._searcher, trial, self._options.k, label, seconds=self._options.seconds, progress=self._progress)

    def _measure(self, run: _Run) -> None:
        label = " ".join([run.queries.origin, run.asked, *(f"{name} {value}" for name, value in run.effort.items())])
        label += f", {run.filter.share:.2%} of the rows" if run.filter else ""
        warm_up(self._searcher, run)
        read, options = self._engine.read_bytes(), self._options
        ask(self._searcher, run, options.k, label, seconds=options.seconds, progress=self._progress)
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
                self._searcher.run(run.queries.vectors[number % len(run.queries)], None, run.params)
                answered += 1
            return answered

        with self._engine.work() as work, ThreadPoolExecutor(clients, "cliphouse-client", work.join) as pool:
            futures = [pool.submit(client) for _ in range(clients)]
            try:
                answered = sum(future.result() for future in futures)
            except BaseException:
                stop.set()
                work.cancel()
                raise
        return answered / (time.perf_counter() - started)

    # -- judging ------------------------------------------------------------------------------------------------------

    def points(self, runs: Sequence[_Run], truths: Truths) -> Iterator[Point]:
        """Each run with its recall."""
        for (origin, where), truth in truths.items():
            same = [run for run in runs if (run.queries.origin, run.where) == (origin, where)]
            if same:
                judge = Judge(self._engine, self._info, self._column, same[0].queries, truth, where)
                for run, recall in zip(same, judge.recalls(same), strict=True):
                    run.recall = recall
        yield from map(self._point, runs)

    def _point(self, run: _Run) -> Point:
        times = latency_summary([1000 * each for each in run.seconds])
        return Point(
            queries=run.queries.origin,
            filter=run.filter,
            asked=run.asked,
            effort=run.effort,
            answered=dict(Counter(run.paths)),
            recall=run.recall,
            p50_ms=times["p50_ms"],
            p90_ms=times["p90_ms"],
            p99_ms=times["p99_ms"],
            queries_per_second=run.queries_per_second,
            read_bytes=run.read_bytes,
            resident_bytes=run.resident_bytes,
        )
