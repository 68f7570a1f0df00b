"""One search: which path it takes, the statement, and the proof that an exact answer is exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliphouse import queries
from cliphouse.engine import Engine, Result
from cliphouse.errors import EngineError, InvalidFilter, UsageError
from cliphouse.hits import Hit, Hits, SearchPlan
from cliphouse.index import FoundIndex
from cliphouse.ivf import Lists
from cliphouse.ready import Ready
from cliphouse.schema import CLUSTER_COLUMN, identifier
from cliphouse.statements import is_closed
from cliphouse.types import HIT_COLUMNS, CollectionInfo, IndexKind, Query, SearchParams
from cliphouse.vectors import DISTANCE_TOLERANCE, rounding_error

#: The share of the uncompressed cache that one column may take.
_CACHE_SHARE = 0.9
#: Lists that know less of the collection than this would leave most of it to be compared one by one.
_LEAST_COVERED = 0.5
#: Reading more of the lists than this takes longer than reading the collection, which is stored in one run.
_MOST_PROBED = 0.5
#: So many pages look into the same clusters. A row that one page finds and the one before did not is on neither.
_PAGES = 10
#: Clusters that tell how many rows pass a filter.
_SAMPLED_CLUSTERS = 64
#: Filters whose shares are remembered, the newest: those of a service may differ in every request.
_SHARES_KEPT = 256


def plan(engine: Engine, ready: Ready, params: SearchParams) -> SearchPlan:
    """Which path a search with these parameters takes, and why.

    Raises:
        UsageError: the index of the `kind` that is to answer is not there, or its recall is not known.
    """
    if params.exact:
        return SearchPlan(path="exact", reason="asked for")
    if params.recall == 1:
        return SearchPlan(path="exact", reason="a recall of 1 is asked for")
    plans: dict[str, SearchPlan] = {}
    if params.kind != "hnsw" and (lists := ready.lists.get(params.embedding_column)):
        plans["ivf"] = _plan_lists(engine, ready, lists, params)
    if params.kind != "ivf" and (graph := ready.graphs.get(params.embedding_column)):
        plans["hnsw"] = _plan_graph(ready, graph, params)
    if params.kind and params.kind not in plans:
        raise UsageError(
            f"{params.embedding_column} has no {params.kind} index; build one: "
            f"cliphouse index build --kind {params.kind} --column {params.column}"
        )
    # Lists first: they filter before the cut, know what was deleted, and give as many rows as are wanted.
    first = ("hnsw", "ivf") if params.ef_search and not params.nprobe else ("ivf", "hnsw")
    return next(
        (plans[kind] for kind in first if kind in plans and plans[kind].path != "exact"),
        next(iter(plans.values()), SearchPlan(path="exact", reason=f"{params.embedding_column} has no vector index")),
    )


def _plan_graph(ready: Ready, found: FoundIndex, params: SearchParams) -> SearchPlan:
    name, reach = found.definition.name, params.offset + params.k
    if found.memory_bytes == 0:
        return SearchPlan(path="exact", reason=f"the index {name} is not built yet")
    if reach > queries.MAX_INDEX_K:
        what = "k is" if not params.offset else "offset and k together are"
        return SearchPlan(path="exact", reason=f"{what} over {queries.MAX_INDEX_K}, the most an hnsw index answers")
    if ready.parts > 1 and params.where:
        # Each part gives its own candidates before rows are filtered out, so far rows of one part can take the place
        # of near rows of another, and still make k.
        reason = f"a filter and {ready.parts} parts: the index could miss nearer rows"
        return SearchPlan(path="exact", reason=reason)
    effort = params.ef_search or _tuned(ready, "hnsw", params)
    if effort is None:
        return SearchPlan(path="exact", reason=f"no effort of {name} was found to reach a recall of {params.recall}")
    if not ready.parts_with_deletes or params.where:  # what is deleted is filtered out too
        return SearchPlan(path="hnsw", reason=f"the index {name} is ready", index=name, effort=effort)
    if not (spare := queries.spare(reach)):
        reason = f"some rows are deleted, and with k {params.k} the index has none to spare for them"
        return SearchPlan(path="exact", reason=reason)
    reason = f"the index {name} is ready; deleted rows are taken out of {reach + spare} that it gives"
    return SearchPlan(path="hnsw", reason=reason, index=name, effort=effort, spare=spare)


def _plan_lists(engine: Engine, ready: Ready, lists: Lists, params: SearchParams) -> SearchPlan:
    covered = lists.coverage
    if covered.rows < covered.total * _LEAST_COVERED:
        reason = f"the index {lists.name} knows {covered.rows:,} of {covered.total:,} rows as they are now; build again"
        return SearchPlan(path="exact", reason=reason)
    if missing := sorted({*queries.selected(params)} - lists.columns):
        return SearchPlan(path="exact", reason=f"the index {lists.name} has no column {missing[0]}")
    other = "text_embedding" if params.column == "image" else "image_embedding"
    if strange := next((name for name in (other, CLUSTER_COLUMN) if name in (params.where or "")), None):
        return SearchPlan(path="exact", reason=f"the index {lists.name} has no column {strange} to filter by")
    base = params.nprobe or _tuned(ready, "ivf", params, default=queries.default_nprobe(len(lists.clusters)))
    if base is None:
        return SearchPlan(
            path="exact", reason=f"no effort of {lists.name} was found to reach a recall of {params.recall}"
        )
    share = _share(engine, lists, params.where) if params.where else 1.0
    if share is None:
        return SearchPlan(path="exact", reason=f"the index {lists.name} cannot tell what the filter leaves")
    effort = queries.probes_for(base, max(params.k, (params.offset + params.k) // _PAGES), share)
    if effort > _MOST_PROBED * len(lists.clusters) and not params.kind:
        rows = share * covered.total
        reason = (
            f"about {rows:,.0f} rows pass the filter" if params.where else f"k {params.k} and offset {params.offset}"
        )
        return SearchPlan(path="exact", reason=f"{reason}: as quick without the index {lists.name}")
    reason = f"the index {lists.name} is ready"
    if covered.rows < covered.total:
        reason += f"; {covered.total - covered.rows:,} rows that it does not know are compared one by one"
    return SearchPlan(path="ivf", reason=reason, index=lists.name, effort=min(effort, len(lists.clusters)))


def _tuned(ready: Ready, kind: IndexKind, params: SearchParams, default: int = queries.EF_SEARCH) -> int | None:
    """The effort for the recall that is asked for, by what `tune` measured; None if nothing measured reached it.

    Raises:
        UsageError: a recall is asked for and nothing was measured.
    """
    curve = ready.curves.get((params.embedding_column, kind))
    if curve is None:
        if params.recall is None:
            return default
        if params.kind is None and any(column == params.embedding_column for column, _ in ready.curves):
            return None  # another index was measured, and may answer
        raise UsageError(
            f"no recall of the {kind} index on {params.embedding_column} is known; measure it first: cliphouse tune "
            f"--column {params.column}"
        )
    return curve.own if params.recall is None else curve.effort(params.recall)


def _share(engine: Engine, lists: Lists, where: str) -> float | None:
    """About which share of the rows pass a filter, by a few clusters from all over the collection.

    None if the filter fails here: it may still be right, with a newer column than the lists have, or by the distance.
    """
    share = lists.shares.get(where)
    if share is None:
        step = -(-len(lists.clusters) // _SAMPLED_CLUSTERS)
        sample = np.arange(step // 2, len(lists.clusters), step)
        sql = (
            f"SELECT countIf({where}\n), count() FROM {identifier(lists.table)}\n"
            f"WHERE {identifier(CLUSTER_COLUMN)} IN {{sample:Array(UInt32)}}"
        )
        query = Query(sql=sql, parameters={"sample": sample.tolist()})
        try:
            passed, rows = engine.query(query).rows[0]
        except EngineError:
            return None
        lists.shares[where] = share = (int(passed) + 0.5) / (int(rows) + 1)
        while len(lists.shares) > _SHARES_KEPT:
            lists.shares.popitem(last=False)
    return share


def statement(
    engine: Engine,
    info: CollectionInfo,
    ready: Ready,
    target: NDArray[np.float32],
    params: SearchParams,
    *,
    keep: bool,
) -> tuple[Query, SearchPlan]:
    """The statement that `run` starts with, and the plan behind it.

    Raises:
        InvalidFilter: the `where` condition is not one expression.
        UsageError: the index that is asked for is not there.
    """
    if params.where and not is_closed(params.where):
        raise InvalidFilter(params.where, "its parentheses do not match, or it is more than one expression")
    chosen = plan(engine, ready, params)
    if chosen.path == "hnsw":
        return queries.by_index(info, target, _with_effort(params, chosen), spare=chosen.spare), chosen
    if chosen.path == "ivf":
        lists = ready.lists[params.embedding_column]
        return queries.by_lists(
            info,
            target,
            params,
            lists=lists.table,
            probes=lists.clusters.best(target, chosen.effort or 1),
            within=lists.coverage.within,
            tail=lists.coverage.tail,
        ), chosen
    if info.storage == "bfloat16":
        return queries.scan(info, target, params, cached=keep), chosen
    return queries.exact(info, target, params, cached=keep), chosen


def _with_effort(params: SearchParams, chosen: SearchPlan) -> SearchParams:
    return replace(params, ef_search=chosen.effort)


def run(
    engine: Engine,
    info: CollectionInfo,
    ready: Ready,
    target: NDArray[np.float32],
    params: SearchParams,
    *,
    keep: bool,
) -> Hits:
    """The rows nearest to `target`. With `keep`, an exact search keeps the column in the engine's uncompressed cache.

    An index that gives fewer than k rows is not believed: the rest was filtered away after it gave its candidates, or
    was deleted since it was built, or lies in other clusters. If rows were deleted a graph is asked for as many as it
    can give, and otherwise, or if that does not help, the search is done again exactly.

    Raises:
        InvalidFilter: the `where` condition is not one expression, or fails alone.
        UsageError: the index that is asked for is not there.
        EngineError: ClickHouse failed.
    """
    ran, chosen = statement(engine, info, ready, target, params, keep=keep)
    result = _answer(engine, info, ran, params.where)
    if chosen.path != "exact":
        reach = params.offset + params.k
        if len(result.rows) < params.k and 0 < chosen.spare < (most := queries.MAX_INDEX_K - reach):
            chosen = replace(chosen, spare=most)
            ran = queries.by_index(info, target, _with_effort(params, chosen), spare=most)
            result = _answer(engine, info, ran, params.where)
        if len(result.rows) == params.k:
            return hits(result, replace(chosen, ran=ran), params)
        reason = f"the index {chosen.index} gave only {len(result.rows)} of {params.k} rows"
        exactly = replace(params, exact=True, kind=None)
        found = run(engine, info, ready, target, exactly, keep=keep)
        return Hits(found, replace(found.plan, reason=reason), params.columns)
    if result.rows and result.columns[-1] == queries.HORIZON:
        result, horizon = _split_horizon(result)
        distances = [row[result.columns.index("distance")] for row in result.rows]
        error = rounding_error(target) + DISTANCE_TOLERANCE
        if not queries.is_complete(distances, horizon, params.k, error):
            ran = queries.exact(info, target, params)
            result = _answer(engine, info, ran, params.where)
            chosen = replace(chosen, rescanned=True)
    return hits(result, replace(chosen, ran=ran), params)


def fits_cache(engine: Engine, info: CollectionInfo, column: str) -> bool:
    """Whether the engine's uncompressed cache has room for all of an embedding column."""
    sql = (
        "SELECT sum(column_data_uncompressed_bytes) FROM system.parts_columns\n"
        "WHERE database = currentDatabase() AND table = {name:String} AND column = {column:String} AND active"
    )
    found = engine.query(Query(sql=sql, parameters={"name": info.name, "column": column}))
    return int(found.rows[0][0] or 0) < _CACHE_SHARE * engine.capabilities.uncompressed_cache_bytes


def _answer(engine: Engine, info: CollectionInfo, query: Query, where: str | None) -> Result:
    try:
        return engine.query(query)
    except EngineError:
        if where:
            _check_filter(engine, info, where)
        raise


def _check_filter(engine: Engine, info: CollectionInfo, where: str) -> None:
    """Blame the condition if it fails on its own."""
    try:
        engine.query(Query(sql=f"SELECT 1 FROM {identifier(info.name)} WHERE ({where}\n) LIMIT 1"))
    except EngineError as error:
        raise InvalidFilter(where, str(error)) from error


def _split_horizon(result: Result) -> tuple[Result, float]:
    """The rows without their last column, and that column's one value."""
    return Result(result.columns[:-1], [row[:-1] for row in result.rows]), float(result.rows[0][-1])


def hits(result: Result, chosen: SearchPlan, params: SearchParams) -> Hits:
    """Rows that a statement of ours answered with, as hits."""
    standard = {*HIT_COLUMNS, "distance"}
    found = []
    for row in result.rows:
        values: dict[str, Any] = dict(zip(result.columns, row, strict=True))
        similarity = values["similarity"]
        values["similarity"] = None if similarity is None or similarity != similarity else float(similarity)
        more = {name: value for name, value in values.items() if name not in standard}
        found.append(Hit(**{name: values[name] for name in standard}, more=more))
    return Hits(found, chosen, params.columns)
