"""One search: which path it takes, the statement, and the proof that an exact answer is exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliphouse import index, queries
from cliphouse.engine import Engine, Result
from cliphouse.errors import EngineError, InvalidFilter
from cliphouse.hits import Hit, Hits, SearchPlan
from cliphouse.schema import identifier
from cliphouse.statements import is_closed
from cliphouse.types import HIT_COLUMNS, CollectionInfo, Query, SearchParams
from cliphouse.vectors import DISTANCE_TOLERANCE, rounding_error

#: The share of the uncompressed cache that one column may take.
_CACHE_SHARE = 0.9


def plan(engine: Engine, info: CollectionInfo, params: SearchParams) -> SearchPlan:
    """Which path a search with these parameters takes, and why."""
    if params.exact:
        return SearchPlan(path="exact", reason="asked for")
    found = index.definitions(engine, info.name).get(params.embedding_column)
    if found is None:
        return SearchPlan(path="exact", reason=f"{params.embedding_column} has no vector index")
    if found.memory_bytes == 0:
        return SearchPlan(path="exact", reason=f"the index {found.definition.name} is not built yet")
    if params.k > queries.MAX_INDEX_K:
        return SearchPlan(path="exact", reason=f"k is over {queries.MAX_INDEX_K}, the most an index answers")
    name = found.definition.name
    parts, parts_with_deletes = _count_parts(engine, info)
    if parts > 1 and params.where:
        # Each part gives its own candidates before rows are filtered out, so far rows of one part can take the place
        # of near rows of another, and still make k.
        reason = f"a filter and {parts} parts: the index could miss nearer rows"
        return SearchPlan(path="exact", reason=reason)
    if not parts_with_deletes or params.where:  # what is deleted is filtered out too
        return SearchPlan(path="hnsw", reason=f"the index {name} is ready", index=name)
    if not (spare := queries.spare(params.k)):
        reason = f"some rows are deleted, and with k {params.k} the index has none to spare for them"
        return SearchPlan(path="exact", reason=reason)
    reason = f"the index {name} is ready; deleted rows are taken out of {params.k + spare} that it gives"
    return SearchPlan(path="hnsw", reason=reason, index=name, spare=spare)


def statement(
    engine: Engine, info: CollectionInfo, target: NDArray[np.float32], params: SearchParams, *, keep: bool
) -> tuple[Query, SearchPlan]:
    """The statement that `run` starts with, and the plan behind it.

    Raises:
        InvalidFilter: the `where` condition is not one expression.
    """
    if params.where and not is_closed(params.where):
        raise InvalidFilter(params.where, "its parentheses do not match, or it is more than one expression")
    chosen = plan(engine, info, params)
    if chosen.path == "hnsw":
        return queries.by_index(info, target, params, spare=chosen.spare), chosen
    if info.storage == "bfloat16":
        return queries.scan(info, target, params, cached=keep), chosen
    return queries.exact(info, target, params, cached=keep), chosen


def run(engine: Engine, info: CollectionInfo, target: NDArray[np.float32], params: SearchParams, *, keep: bool) -> Hits:
    """The rows nearest to `target`. With `keep`, an exact search keeps the column in the engine's uncompressed cache.

    An index that gives fewer than k rows is not believed: the rest was filtered away after it gave its candidates, or
    was deleted since it was built. If rows were deleted it is asked for as many as it can give, and otherwise, or if
    that does not help, the search is done again exactly.

    Raises:
        InvalidFilter: the `where` condition is not one expression, or fails alone.
        EngineError: ClickHouse failed.
    """
    first, chosen = statement(engine, info, target, params, keep=keep)
    result = _answer(engine, info, first, params)
    if chosen.path == "hnsw":
        if len(result.rows) < params.k and 0 < chosen.spare < (most := queries.MAX_INDEX_K - params.k):
            chosen = replace(chosen, spare=most)
            result = _answer(engine, info, queries.by_index(info, target, params, spare=most), params)
        if len(result.rows) == params.k:
            return _hits(result, chosen, params)
        reason = f"the index {chosen.index} gave only {len(result.rows)} of {params.k} rows"
        hits = run(engine, info, target, replace(params, exact=True, kind=None), keep=keep)
        return Hits(hits, replace(hits.plan, reason=reason), params.columns)
    if result.rows and result.columns[-1] == queries.HORIZON:
        result, horizon = _split_horizon(result)
        distances = [row[result.columns.index("distance")] for row in result.rows]
        error = rounding_error(target) + DISTANCE_TOLERANCE
        if not queries.is_complete(distances, horizon, params.k, error):
            result = _answer(engine, info, queries.exact(info, target, params), params)
            chosen = replace(chosen, rescanned=True)
    return _hits(result, chosen, params)


def fits_cache(engine: Engine, info: CollectionInfo, column: str) -> bool:
    """Whether the engine's uncompressed cache has room for all of an embedding column."""
    sql = (
        "SELECT sum(column_data_uncompressed_bytes) FROM system.parts_columns\n"
        "WHERE database = currentDatabase() AND table = {name:String} AND column = {column:String} AND active"
    )
    found = engine.query(Query(sql=sql, parameters={"name": info.name, "column": column}))
    return int(found.rows[0][0] or 0) < _CACHE_SHARE * engine.capabilities.uncompressed_cache_bytes


def _count_parts(engine: Engine, info: CollectionInfo) -> tuple[int, int]:
    """The table's parts, and those of them with deleted rows."""
    sql = (
        "SELECT count(), countIf(has_lightweight_delete) FROM system.parts\n"
        "WHERE database = currentDatabase() AND table = {name:String} AND active"
    )
    parts, deleted = engine.query(Query(sql=sql, parameters={"name": info.name})).rows[0]
    return int(parts), int(deleted)


def _answer(engine: Engine, info: CollectionInfo, query: Query, params: SearchParams) -> Result:
    try:
        return engine.query(query)
    except EngineError:
        if params.where:
            _check_filter(engine, info, params.where)
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


def _hits(result: Result, chosen: SearchPlan, params: SearchParams) -> Hits:
    standard = {*HIT_COLUMNS, "distance"}
    hits = []
    for row in result.rows:
        values: dict[str, Any] = dict(zip(result.columns, row, strict=True))
        similarity = values["similarity"]
        values["similarity"] = None if similarity is None or similarity != similarity else float(similarity)
        more = {name: value for name, value in values.items() if name not in standard}
        hits.append(Hit(**{name: values[name] for name in standard}, more=more))
    return Hits(hits, chosen, params.columns)
