"""Searches over REST."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.requests import Request

from cliphouse.collection import Collection
from cliphouse.errors import UsageError
from cliphouse.hits import Hits
from cliphouse.service import pictures, targets
from cliphouse.service.contract import (
    HitModel,
    PictureQuery,
    PlanModel,
    SearchOptions,
    SearchQuery,
    SearchRequest,
    SearchResponse,
    Selection,
    Target,
)
from cliphouse.service.selecting import condition_of
from cliphouse.service.state import State, state_of
from cliphouse.service.targets import Wanted
from cliphouse.service.values import plain
from cliphouse.types import Query as Statement
from cliphouse.types import SearchParams

router = APIRouter(tags=["search"])

_PICTURE_BODY = {
    "requestBody": {
        "required": True,
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, with the rows that its statement reads if that was asked."""

    hits: Hits
    rows_read: int | None

    def rows(self, columns: list[str]) -> list[dict[str, Any]]:
        """Each hit as plain columns: the standard ones and `columns`."""
        return [
            {name: value for name, value in hit.as_dict().items() if name not in hit.more or name in columns}
            for hit in self.hits
        ]


@router.post("/search", operation_id="search")
async def search(request: SearchRequest, state: Annotated[State, Depends(state_of)]) -> SearchResponse:
    """The k rows nearest to a text, a picture, a vector or another row, nearest first."""
    return await _answer(state, request, request, request.query)


@router.get("/search", operation_id="search_by_query_string")
async def search_by_query_string(
    query: Annotated[SearchQuery, Query()], state: Annotated[State, Depends(state_of)]
) -> SearchResponse:
    """The same with everything in the query string, for curl and for links."""
    try:
        target = query.target()
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    return await _answer(state, query.selection(), query, target)


@router.post("/search/image", operation_id="search_by_picture", openapi_extra=_PICTURE_BODY)
async def search_by_picture(
    request: Request, query: Annotated[PictureQuery, Query()], state: Annotated[State, Depends(state_of)]
) -> SearchResponse:
    """The k rows nearest to a picture, whose file is the body of the request; the options are in the query string."""
    return await _answer(state, query.selection(), query, await targets.body(request, state.settings))


async def _answer(state: State, selection: Selection, options: SearchOptions, target: Target | bytes) -> SearchResponse:
    began = time.perf_counter()
    if options.k > state.settings.max_k:
        raise UsageError(f"k may be {state.settings.max_k:,} at most here, got {options.k:,}; go on with offset")
    if isinstance(target, bytes):
        wanted = Wanted(await state.encoding.vector(selection.collection, target))
    else:
        wanted = await targets.wanted(target, state, selection.collection)

    def work() -> tuple[Found, list[HitModel]]:
        collection = state.collection_of(selection.collection)
        found = run(collection, state, selection, options, wanted)
        return found, _models(state, collection, found, options.columns)

    found, hits = await state.pool.run(work)
    plan = found.hits.plan
    return SearchResponse(
        hits=hits,
        plan=PlanModel(
            path=plan.path,
            reason=plan.reason,
            index=plan.index,
            effort=plan.effort,
            sql=plan.ran.complete() if plan.ran else "",
            rows_read=found.rows_read,
        ),
        took_ms=(time.perf_counter() - began) * 1000,
    )


def run(collection: Collection, state: State, selection: Selection, options: SearchOptions, wanted: Wanted) -> Found:
    """The search that a request describes; to be called in a place of the pool."""
    info = collection.info()
    query, like = wanted.query(collection, info, options.column)
    params = SearchParams(
        k=options.k,
        offset=options.offset,
        column=options.column,
        exact=options.exact,
        where=condition_of(collection, info, selection),
        kind=options.kind,
        ef_search=options.ef_search,
        nprobe=options.nprobe,
        recall=options.recall,
        columns=(*options.columns, *pictures.columns(info, state.settings)),
    )
    hits = collection.search_with(query, like=like, params=params)
    return Found(hits, _rows_read(collection, hits) if options.stats else None)


def _rows_read(collection: Collection, hits: Hits) -> int | None:
    """Rows in the granules that the statement reads, by the engine's own estimate, over all the tables it reads."""
    if hits.plan.ran is None:
        return None
    ran = hits.plan.ran
    estimate = collection.engine.query(Statement(sql=f"EXPLAIN ESTIMATE {ran.sql}", parameters=ran.parameters))
    return sum(int(row[3]) for row in estimate.rows)


def _models(state: State, collection: Collection, found: Found, columns: list[str]) -> list[HitModel]:
    shown = [pictures.link(state, collection, hit.as_dict()) for hit in found.hits]
    rows = [{name: plain(value) for name, value in row.items()} for row in found.rows(columns)]
    return [HitModel(**{**row, "picture": link}) for row, link in zip(rows, shown, strict=True)]
