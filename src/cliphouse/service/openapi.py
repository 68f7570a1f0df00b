"""The OpenAPI document: what FastAPI makes of the routes, with the problems that each may answer with."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from cliphouse.service.problems import MEDIA_TYPE, Problem

#: Any route may answer so.
_PROBLEMS = {
    "400": "The request is not HTTP or JSON as it should be",
    "401": "The API key is missing or wrong",
    "403": "This service does not do that",
    "404": "There is no such row, collection or picture",
    "413": "The request is larger than the service takes",
    "422": "The request is wrong; `detail` says how to mend it",
    "429": "Too many requests with this key; come again after Retry-After",
    "500": "The service failed",
    "501": "What this needs is not installed where the service runs",
    "503": "All places are taken; come again after Retry-After",
    "504": "It took longer than a request may",
}
_TAGS = [
    {"name": "search", "description": "Rows by what their pictures and captions show"},
    {"name": "items", "description": "Rows, pictures, counts and exports"},
    {"name": "service", "description": "What is served, and how it is"},
    {"name": "sql", "description": "Statements that only read"},
]


def describe(app: FastAPI) -> None:
    """Let the application describe itself so."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # as FastAPI's documentation says


def _document(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(
        title=app.title,
        version=app.version,
        description="Image-text search over CLIP embeddings in ClickHouse. Every error is a problem (RFC 9457).",
        tags=_TAGS,
        routes=app.routes,
    )
    schemas = made["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = Problem.model_json_schema()
    shape = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, operations in made["paths"].items():
        if not path.startswith("/api/"):
            continue
        for operation in operations.values():
            answers = {code: {"description": text, "content": shape} for code, text in _PROBLEMS.items()}
            operation["responses"] = operation["responses"] | answers
    made["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    made["security"] = [{}, {"bearer": []}, {"key": []}]
    return made
