"""The ASGI application: routes and what stands before all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response

from cliphouse import __version__
from cliphouse.collection import Collection
from cliphouse.encoders.access import ImageAccess
from cliphouse.errors import CliphouseError
from cliphouse.service import about, clip_retrieval, exporting, items, openapi, pictures, problems, searching, site, sql
from cliphouse.service.pool import Pool
from cliphouse.service.settings import Settings
from cliphouse.service.state import State


def create_app(collection: Collection, settings: Settings | None = None) -> FastAPI:
    """The application that serves `collection`, which stays the caller's to close after it."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        collection.image_access = ImageAccess(settings.pictures)
        collection.install_functions()
        pool = Pool(collection.engine, workers=settings.workers, waiting=settings.waiting, timeout=settings.timeout)
        app.state.service = State(settings, collection, pool)
        try:
            yield
        finally:
            pool.close()

    app = FastAPI(
        title="cliphouse",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    for part in (searching, items, pictures, exporting, about, sql):
        app.include_router(part.router, prefix="/api/v1")
    app.include_router(clip_retrieval.router)
    app.include_router(site.site())
    openapi.describe(app)
    app.add_middleware(clip_retrieval.OpenToPages)  # the last, and so the outermost

    @app.exception_handler(CliphouseError)
    async def ours(request: Request, error: CliphouseError) -> Response:
        return problems.of_error(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [{"field": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in error.errors()]
        detail = "; ".join(f"{e['field']}: {e['message']}" for e in errors[:3])
        return problems.answer(request, 422, "invalid-request", detail, errors=errors)

    return app
