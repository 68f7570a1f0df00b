"""Searches over REST."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends

from cliphouse.service.contract import HitModel, PlanModel, SearchRequest, SearchResponse
from cliphouse.service.state import State, state_of

router = APIRouter(tags=["search"])


@router.post("/search")
async def search(request: SearchRequest, state: Annotated[State, Depends(state_of)]) -> SearchResponse:
    """The k rows nearest to a text, a picture, a vector or another row."""
    began = time.perf_counter()
    query = request.query

    found = await state.pool.run(
        lambda: state.collection.search(
            query.text if query.text is not None else query.vector, like=query.id, k=request.k, where=request.where
        )
    )
    plan = found.plan
    return SearchResponse(
        hits=[HitModel(**hit.as_dict()) for hit in found],
        plan=PlanModel(
            path=plan.path,
            reason=plan.reason,
            index=plan.index,
            effort=plan.effort,
            sql=plan.ran.sql if plan.ran else "",
        ),
        took_ms=(time.perf_counter() - began) * 1000,
    )
