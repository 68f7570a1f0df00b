"""clip-retrieval's interface: what its `ClipClient`, its page and scripts written for `clip-retrieval back` ask for.

Bodies are read as JSON whatever their Content-Type says, and all errors are `{"message": ...}`: clients of the original
call `.json()` without a look at the status.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeGuard

import numpy as np
from fastapi import APIRouter, Depends
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cliphouse import catalog
from cliphouse.collection import Collection
from cliphouse.errors import UsageError
from cliphouse.service import clip_neighbours, fetch, items, pictures, uploads
from cliphouse.service.clip_neighbours import Neighbour, Wish
from cliphouse.service.contract import MAX_ID, MAX_TEXT
from cliphouse.service.problems import MESSAGE_ALONE
from cliphouse.service.state import State, state_of
from cliphouse.service.values import plain
from cliphouse.types import MAX_DIM, MAX_K

# Errors have another shape here than the one that /api/v1/openapi.json describes.
router = APIRouter(include_in_schema=False)

PATHS = frozenset({"/knn-service", "/indices-list", "/metadata", "/metrics-summary", "/config.json"})
#: Names what was asked for and not done.
IGNORED = "X-Cliphouse-Ignored"

_INPUTS = ("text", "image", "image_url", "embedding_input")  # the first that is given counts
_DONE = {*_INPUTS, "modality", "num_images", "num_result_ids", "indice_name", "deduplicate", "use_safety_model"}
#: A field that a header can name.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_NAMES = 20
#: What the original tells of a row, as far as the collection has it.
_COLUMNS = ("url", "image_path", "caption", "NSFW")
#: Ids of one statement: a server takes no parameter over 128 KiB.
_IDS = 2_000
#: Pictures in one answer, as base64; the rows behind have none.
_PICTURE_BYTES = 16 * 2**20


class OpenToPages:
    """Lets pages of all origins ask on these paths, as the original does, and has errors told as `message` there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = CORSMiddleware(
            app, allow_origins=["*"], allow_methods=["GET", "POST"], allow_headers=["*"], expose_headers=[IGNORED]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. The original's page puts a second slash before a path: its back's address ends in one."""
        path = f"/{scope.get('path', '').lstrip('/')}"
        if scope["type"] != "http" or path not in PATHS:
            await self._app(scope, receive, send)
            return
        state = scope.get("state", {}) | {MESSAGE_ALONE: True}
        await self._open({**scope, "path": path, "raw_path": path.encode(), "state": state}, receive, send)


@dataclass(frozen=True, slots=True)
class Question:
    """A request for neighbours. `kind` says which of the four inputs `value` is."""

    kind: str
    value: Any
    wish: Wish
    index: str | None
    shown: int
    ignored: tuple[str, ...]


@router.post("/knn-service")
async def knn_service(request: Request, state: Annotated[State, Depends(state_of)]) -> Response:
    """The rows nearest to a text, a picture or an embedding; the first `num_images` with what is known of them."""
    with state.metrics.timed("full_knn_request_time"):
        asked = _question(await _body(request), min(state.settings.max_export, MAX_K))
        found = await _neighbours(asked, state, _budget(request, state))
    return _json(found, asked.ignored)


async def _neighbours(asked: Question, state: State, budget: int) -> list[dict[str, Any]]:
    data: bytes | None = None
    if asked.kind == "image":
        data = uploads.from_base64(asked.value, state.settings)
    elif asked.kind == "image_url":
        with state.metrics.timed("download_time"):
            data = await fetch.picture(asked.value, state.settings)

    vector, length = await _vector(asked, data, state)

    def work() -> list[dict[str, Any]]:
        collection = state.collection_of(asked.index)
        found = clip_neighbours.find(collection, vector, asked.wish, state.metrics)
        described = _described(collection, [each.id for each in found[: asked.shown]], state, budget)
        return [_result(each, described, length) for each in found]

    return await state.pool.run(work)


@router.post("/metadata")
async def metadata(request: Request, state: Annotated[State, Depends(state_of)]) -> Response:
    """What is known of the rows of some ids, in their order; ids that no row has are left out."""
    body = await _body(request)
    index, ids = _index(body), body.get("ids")
    most = min(state.settings.max_export, MAX_K)
    if not isinstance(ids, list) or not all(_is_int(each) for each in ids):
        raise UsageError("ids must be a list of whole numbers")
    if len(ids) > most:
        raise UsageError(f"ids may be {most:,} at most here, got {len(ids):,}; ask several times")
    budget = _budget(request, state)

    def work() -> list[dict[str, Any]]:
        described = _described(state.collection_of(index), ids, state, budget)
        return [{"id": each, "metadata": described[each]} for each in ids if each in described]

    return _json(await state.pool.run(work), _others(body, {"indice_name", "ids"}))


@router.get("/indices-list")
async def indices_list(state: Annotated[State, Depends(state_of)]) -> Response:
    """The collections of the database, first the one that is served: the original's page takes the first."""
    served = state.collection
    names = await state.pool.run(lambda: catalog.names(served.engine))
    return _json([served.name, *(name for name in names if name != served.name)])


@router.get("/config.json")
async def config(request: Request) -> Response:
    """What the original's page wants to know before it asks."""
    back = str(request.base_url).rstrip("/")
    return _json({"defaultBackend": back, "defaultIndex": "", "urlColumn": "url"})


@router.get("/metrics-summary")
async def metrics_summary(state: Annotated[State, Depends(state_of)]) -> Response:
    """How often the steps of a request for neighbours ran, and how long they took, as a table of text."""
    return PlainTextResponse(state.metrics.summary())


# -- what is asked for ------------------------------------------------------------------------------------------------


async def _body(request: Request) -> Mapping[str, Any]:
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(body, dict):
        raise UsageError('the body must be a JSON object, such as {"text": "a cat", ...}')
    return body


def _question(body: Mapping[str, Any], most: int) -> Question:
    """The request that a body is.

    Raises:
        UsageError: a field lacks or is not what it has to be; the message names it.
    """
    kind = next((name for name in _INPUTS if body.get(name) not in (None, "")), None)
    if kind is None:
        raise UsageError(f"nothing to look for; give one of {', '.join(_INPUTS)}")
    value = body[kind]
    if kind == "embedding_input":
        _check_embedding(value)
    elif not isinstance(value, str):
        raise UsageError(f"{kind} must be a text")
    elif kind != "image" and len(value) > MAX_TEXT:
        raise UsageError(f"{kind} may have {MAX_TEXT:,} characters at most, it has {len(value):,}")
    modality = body.get("modality")
    if modality not in ("image", "text"):
        raise UsageError('modality must be "image" or "text": the embeddings that are searched')
    shown = _count(body, "num_images", most)
    wanted = shown if body.get("num_result_ids") is None else _count(body, "num_result_ids", most)
    wish = Wish(
        column=modality,
        k=wanted,
        deduplicate=bool(body.get("deduplicate")),
        safe=bool(body.get("use_safety_model")),
    )
    return Question(kind, value, wish, _index(body), shown, _others(body, _DONE))


def _index(body: Mapping[str, Any]) -> str | None:
    if "indice_name" not in body:
        raise UsageError("indice_name is missing; name a collection of /indices-list, or null for the first")
    name = body["indice_name"]
    if not isinstance(name, str | None):
        raise UsageError("indice_name must be a text or null")
    return name or None


def _count(body: Mapping[str, Any], name: str, most: int) -> int:
    value = body.get(name)
    if not _is_int(value) or not 0 <= value <= most:
        raise UsageError(f"{name} must be a whole number from 0 to {most:,}")
    return value


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_embedding(value: Any) -> None:
    numbers = isinstance(value, list) and all(isinstance(each, int | float) for each in value)
    if not numbers or len(value) > MAX_DIM:
        raise UsageError(f"embedding_input must be a list of {MAX_DIM:,} numbers at most")


def _others(body: Mapping[str, Any], done: Iterable[str]) -> tuple[str, ...]:
    """What else is asked for: fields that are neither null, false nor empty, by their names."""
    named = [name for name, value in body.items() if name not in done and not _is_off(value)]
    return tuple([name for name in named if _NAME.fullmatch(name)][:_NAMES])


def _is_off(value: Any) -> bool:
    return value is None or value is False or value == ""  # a score of 0 is one


def _budget(request: Request, state: State) -> int:
    """How many bytes of pictures may go into the answer.

    Any page that is open in a browser can ask a service on the same machine, and would read the answer. Rows it gets,
    as from the original; files of this disk only with a key, or if it is a page of this service.
    """
    origin = request.headers.get("origin")
    trusted = bool(state.settings.api_keys) or origin in (None, str(request.base_url).rstrip("/"))
    return _PICTURE_BYTES if trusted else 0


# -- what is answered -------------------------------------------------------------------------------------------------


async def _vector(asked: Question, data: bytes | None, state: State) -> tuple[Any, float]:
    """What is looked for, and its length, which is that of what was given: the original compares inner products."""
    if asked.kind == "embedding_input":
        try:
            return asked.value, float(np.linalg.norm(np.array(asked.value, np.float64)))
        except OverflowError:
            raise UsageError("embedding_input holds a number that is too large") from None
    return await state.encoding.vector(asked.index, asked.value if data is None else data), 1.0


def _described(collection: Collection, ids: Sequence[int], state: State, budget: int) -> dict[int, dict[str, Any]]:
    """What is told of each row of `ids` that is there, with its picture as long as `budget` bytes of them last."""
    with state.metrics.timed("metadata_get_time"):
        return dict(_rows(collection, ids, state, budget))


def _rows(
    collection: Collection, ids: Sequence[int], state: State, budget: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    info = collection.info()
    columns = [name for name in _COLUMNS if name in info.columns]
    known = [each for each in dict.fromkeys(ids) if 0 <= each <= MAX_ID]
    for start in range(0, len(known), _IDS):
        for row in items.rows_of(collection, info, known[start : start + _IDS], columns=["id", *columns]):
            told = {name: plain(row[name]) for name in columns}
            if budget > 0 and (jpeg := pictures.jpeg(row, state.settings)):
                told["image"] = jpeg
                budget -= len(jpeg)
            yield row["id"], told


def _result(found: Neighbour, described: Mapping[int, Mapping[str, Any]], length: float) -> dict[str, Any]:
    similarity = plain((1 - found.distance) * length)
    return {**described.get(found.id, {}), "id": found.id, "similarity": similarity}


def _json(content: Any, ignored: Sequence[str] = ()) -> JSONResponse:
    return JSONResponse(content, headers={IGNORED: ", ".join(ignored)} if ignored else None)
