"""How hard each index must look for the wanted recall: measured, and noted for searches to go by."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cliphouse import notes, ready
from cliphouse.encoders.chosen import Chosen
from cliphouse.engine import Engine
from cliphouse.errors import UsageError
from cliphouse.evaluation import IndexTuning, QueryOrigin, Tuning, TuningOptions, TuningPoint
from cliphouse.hits import SearchPlan
from cliphouse.measures import percentile
from cliphouse.notes import Curve
from cliphouse.searcher import Searcher
from cliphouse.trials import Judge, Questions, Trial, ask, asked_k, halves, warm_up
from cliphouse.truth import QuerySet
from cliphouse.types import (
    EFFORT_NAMES,
    MAX_EF_SEARCH,
    CollectionInfo,
    IndexKind,
    IndexState,
    IvfConfig,
    ProgressCallback,
    SearchParams,
)

#: Efforts are measured up to this recall, if more is not wanted, for searches that ask for more.
_ALSO = 0.99
#: The least efforts that are tried: less saves no time. Of lists it is a share.
_LEAST_EF_SEARCH, _LEAST_SHARE = 16, 1 / 256
#: The least effort for a recall is found to within this factor.
_NEAR = 1.1


def tune(
    engine: Engine,
    info: CollectionInfo,
    searcher: Searcher,
    chosen: Chosen,
    options: TuningOptions,
    progress: ProgressCallback | None = None,
) -> Tuning:
    """Measure what efforts each index that is ready needs for its recall, and store that for searches to go by.

    Effort doubles until the wanted recall and 0.99 are reached, or the index has no more to give; then the step to the
    wanted one is narrowed. What counts is the least recall of the kinds of queries: mostly, captions are the harder.
    One half of the queries chooses; what the chosen effort reaches is told of the other half.

    Raises:
        UsageError: no index is ready, there are too few rows, or the queries do not fit; `RowsChanged`.
        EngineError: ClickHouse failed; indexes that were finished stay tuned.
    """
    started, column = time.perf_counter(), f"{options.column}_embedding"
    states = [
        state
        for state in ready.states(engine, info)
        if state.column == column and state.rows_indexed and not state.building
    ]
    if not states:
        raise UsageError(
            f"{column} has no vector index to tune; build one: cliphouse index build --column {options.column}"
        )
    questions = Questions(engine, info, options.as_evaluation(), progress)
    queries = questions.all(chosen)
    truths, report = questions.truths(queries, ())
    if not all(np.isfinite(truths[each.origin, None].distances).all() for each in queries):
        raise UsageError(f"collection {info.name!r} has too few rows to tune an index for k {options.k}")
    split = [halves(each, truths[each.origin, None]) for each in queries]
    choosing, confirming = (
        [(each, Judge(engine, info, column, each, truth)) for each, truth in half if len(each)]
        for half in zip(*split, strict=True)
    )
    tuned = []
    for state in states:
        tuner = _Tuner(searcher, choosing, state, options, progress)
        name, kind = state.name, state.config.kind
        if reason := tuner.unable():
            tuned.append(IndexTuning(name=name, kind=kind, unable=reason))
            continue
        measured = ready.identity(engine, info, column, kind)
        points = tuner.points()
        curve = Curve(
            wanted=options.recall,
            k=options.k,
            points=[(each.effort, each.recall) for each in points],
            of=measured,
        )
        confirmed = tuner.measure(curve.own, confirming) if len(confirming) == len(choosing) else None
        questions.check()
        notes.write(engine, info.name, column, kind, curve, "tuned")
        reached = curve.effort(options.recall) is not None
        tuned.append(
            IndexTuning(name=name, kind=kind, points=points, effort=curve.own, confirmed=confirmed, reached=reached)
        )
    return Tuning(
        collection=info.name,
        column=options.column,
        recall=options.recall,
        k=options.k,
        indexes=tuple(tuned),
        truth=report,
        seconds=time.perf_counter() - started,
    )


class _Tuner:
    """The search for the efforts of one index."""

    def __init__(
        self,
        searcher: Searcher,
        judged: Sequence[tuple[QuerySet, Judge]],
        state: IndexState,
        options: TuningOptions,
        progress: ProgressCallback | None,
    ) -> None:
        self._searcher, self._judged = searcher, judged
        self._state, self._options, self._progress = state, options, progress
        self._kind: IndexKind = state.config.kind
        self._points: dict[int, TuningPoint] = {}

    def unable(self) -> str:
        """Why the index answers no search like these, whatever the effort; "" if it does."""
        plans = (self._plan(self._least, self._kind), self._plan(self._least))
        return next((plan.reason for plan in plans if plan.path != self._kind), "")

    def points(self) -> tuple[TuningPoint, ...]:
        """The efforts that were measured, least first."""
        most, goal = self._most(), max(self._options.recall, _ALSO)
        effort = min(self._least, most)
        while self._measure(effort).recall < goal and effort < most:
            effort = min(2 * effort, most)
        self._narrow(self._options.recall)
        return tuple(self._points[effort] for effort in sorted(self._points))

    @property
    def _least(self) -> int:
        if isinstance(self._state.config, IvfConfig):
            return max(1, int(_LEAST_SHARE * self._state.config.nlist))
        return max(_LEAST_EF_SEARCH, self._options.k + 1)

    def _most(self) -> int:
        """The whole index, or as much of it as is still faster than an exact search."""
        config = self._state.config
        most = config.nlist if isinstance(config, IvfConfig) else min(self._state.rows_total, MAX_EF_SEARCH)
        most = max(most, self._least)
        if self._plan(most).path == self._kind:
            return most
        # The least that is known not to answer, and the most that is known to.
        beyond, within = most, self._least
        while beyond - within > 1:
            middle = (within + beyond) // 2
            within, beyond = (middle, beyond) if self._plan(middle).path == self._kind else (within, middle)
        return within

    def _narrow(self, recall: float) -> None:
        """Measure between the most effort that is too little for `recall` and the least that is enough."""
        little = max((effort for effort, point in self._points.items() if point.recall < recall), default=0)
        enough = min((effort for effort in self._points if effort > little), default=0)
        while little and enough - little > 1 and enough > _NEAR * little:
            middle = min(max(round(math.sqrt(little * enough)), little + 1), enough - 1)
            little, enough = (little, middle) if self._measure(middle).recall >= recall else (middle, enough)

    def _measure(self, effort: int) -> TuningPoint:
        self._points[effort] = self.measure(effort, self._judged)
        return self._points[effort]

    def measure(self, effort: int, judged: Sequence[tuple[QuerySet, Judge]]) -> TuningPoint:
        """What one effort reaches with these queries."""
        recalls: dict[QueryOrigin, float] = {}
        seconds: list[float] = []
        for queries, judge in judged:
            trial = Trial(queries=queries, params=self._params(queries, effort))
            warm_up(self._searcher, trial)
            label = f"{self._state.name}: {EFFORT_NAMES[self._kind]} {effort}, {queries.origin}"
            ask(self._searcher, trial, self._options.k, label, progress=self._progress)
            # Where the index gave too few rows an exact search answered: right, and what an index is there to avoid.
            recalls[queries.origin] = judge.recall_by(trial, self._kind)
            seconds += trial.seconds
        p50_ms = 1000 * percentile(seconds, 50)
        return TuningPoint(effort=effort, recalls=recalls, p50_ms=p50_ms)

    def _plan(self, effort: int, kind: IndexKind | None = None) -> SearchPlan:
        """What a search with this effort would take: of itself, or by an index of the `kind` as far as that can be."""
        queries = max((each for each, _ in self._judged), key=lambda each: asked_k(each, self._options.k))
        params = replace(self._params(queries, effort), kind=kind)
        return self._searcher.statement(queries.vectors[0], None, params)[1]

    def _params(self, queries: QuerySet, effort: int) -> SearchParams:
        return SearchParams(
            k=asked_k(queries, self._options.k),
            column=self._options.column,
            kind=self._kind,
            ef_search=effort if self._kind == "hnsw" else None,
            nprobe=effort if self._kind == "ivf" else None,
        )
