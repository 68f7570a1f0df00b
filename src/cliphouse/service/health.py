"""Whether the service lives, whether it can answer, and what it has counted."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, PlainTextResponse, Response

from cliphouse import catalog
from cliphouse.engine import Engine
from cliphouse.errors import CliphouseError, EngineError
from cliphouse.service import metrics
from cliphouse.service.state import State, state_of
from cliphouse.types import Query

router = APIRouter(include_in_schema=False)

#: An engine that takes longer for nothing is not ready.
_PATIENCE_SECONDS = 2.0


@router.get("/healthz")
async def healthz() -> Response:
    """The process lives."""
    return PlainTextResponse("ok\n")


@router.get("/readyz")
async def readyz(state: Annotated[State, Depends(state_of)]) -> Response:
    """The engine answers, and the encoder is loaded or known not to be had."""
    engine = await _answers(state.collection.engine)
    preparation = state.encoder
    encoder = "ready" if preparation.ready else f"unavailable: {preparation.problem}" if preparation.done else "loading"
    ready = engine and preparation.done
    body = {"ready": ready, "engine": "ready" if engine else "does not answer", "encoder": encoder}
    return JSONResponse(body, 200 if ready else 503, None if ready else {"Retry-After": "1"})


@router.get("/metrics")
async def prometheus(state: Annotated[State, Depends(state_of)]) -> Response:
    """All counters, for Prometheus."""
    found, pool = state.metrics, state.pool
    found.places.set(state.settings.workers)
    found.running.set(pool.running)
    found.waiting.set(pool.waiting)
    found.encoder_ready.set(state.encoder.ready)
    found.encoding_waiting.set(state.encoding.waiting)
    # Not in a place of the pool: what is counted must be told above all when all of them are taken.
    await asyncio.to_thread(_measure, state)
    return Response(found.exposition(), media_type=metrics.CONTENT_TYPE)


def _measure(state: State) -> None:
    engine = state.collection.engine
    try:
        state.metrics.rows.set(catalog.count_rows(engine, state.collection.name))
        tracked = engine.query(Query(sql="SELECT value FROM system.metrics WHERE metric = 'MemoryTracking'")).rows
        state.metrics.engine_bytes.set(max(0, int(tracked[0][0])))
        state.metrics.resident_bytes.set(engine.resident_bytes())
    except EngineError:
        return  # what was known before stays; /readyz says that the engine does not answer


async def _answers(engine: Engine) -> bool:
    try:
        asked = asyncio.to_thread(engine.query, Query(sql="SELECT 1"))
        await asyncio.wait_for(asked, _PATIENCE_SECONDS)
    except (CliphouseError, TimeoutError):
        return False
    return True
