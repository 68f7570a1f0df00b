"""The ASGI application: routes and what stands before all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cliphouse import __version__
from cliphouse.collection import Collection
from cliphouse.encoders.access import ImageAccess
from cliphouse.errors import CliphouseError
from cliphouse.service import (
    about,
    clip_retrieval,
    exporting,
    health,
    items,
    openapi,
    pictures,
    problems,
    searching,
    site,
    sql,
)
from cliphouse.service.access import Gate
from cliphouse.service.bodies import BodyLimit
from cliphouse.service.leaving import Leaving
from cliphouse.service.metrics import Metrics
from cliphouse.service.observing import Observer
from cliphouse.service.pool import Pool
from cliphouse.service.preparation import Preparation
from cliphouse.service.settings import Settings
from cliphouse.service.state import State

#: How long an end waits for an encoder that is being loaded.
_ENCODER_SECONDS = 5.0


def create_app(collection: Collection, settings: Settings | None = None, metrics: Metrics | None = None) -> FastAPI:
    """The application that serves `collection`, which stays the caller's to close after it."""
    settings = settings or Settings()
    metrics = metrics or Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        collection.image_access = ImageAccess(settings.pictures)
        collection.install_functions()
        pool = Pool(
            collection.engine, metrics, workers=settings.workers, waiting=settings.waiting, timeout=settings.timeout
        )
        encoder = Preparation(collection.encoder)
        encoder.start()
        state = app.state.service = State(settings, collection, pool, encoder, metrics)
        try:
            yield
        finally:
            await state.encoding.close()
            await pool.close()
            await asyncio.to_thread(encoder.wait, _ENCODER_SECONDS)

    app = FastAPI(
        title="cliphouse",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    # The last is the outermost.
    app.add_middleware(BodyLimit, most=settings.max_body)
    app.add_middleware(Leaving)
    app.add_middleware(Gate, settings=settings)
    app.add_middleware(Observer, metrics=metrics)
    app.add_middleware(clip_retrieval.OpenToPages)
    app.include_router(health.router)
    for part in (searching, items, pictures, exporting, about, sql):
        app.include_router(part.router, prefix="/api/v1")
    app.include_router(clip_retrieval.router)
    app.include_router(site.site())
    openapi.describe(app)

    @app.exception_handler(CliphouseError)
    async def ours(request: Request, error: CliphouseError) -> Response:
        return problems.of_error(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [{"field": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in error.errors()]
        detail = "; ".join(f"{e['field']}: {e['message']}" for e in errors[:3])
        return problems.answer(request, 422, "invalid-request", detail, errors=errors)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return problems.of_http(request, error)

    return app
