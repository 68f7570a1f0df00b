"""What is served: collections, their state, their encoder."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from cliphouse import __version__, catalog
from cliphouse.collection import Collection
from cliphouse.errors import CliphouseError
from cliphouse.service import filters, uploads
from cliphouse.service.contract import (
    CollectionModel,
    ColumnModel,
    EncodeRequest,
    EncodeResponse,
    IndexModel,
    StatusResponse,
)
from cliphouse.service.state import State, state_of
from cliphouse.service.values import plain
from cliphouse.types import CollectionInfo

router = APIRouter(tags=["service"])


@router.get("/collections", operation_id="collections")
async def collections(state: Annotated[State, Depends(state_of)]) -> list[CollectionModel]:
    """All collections of the database, by name."""

    def work() -> list[CollectionModel]:
        engine = state.collection.engine
        infos = filter(None, (catalog.find(engine, name) for name in catalog.names(engine)))
        return [_collection(info, catalog.count_rows(engine, info.name)) for info in infos]

    return await state.pool.run(work)


@router.get("/status", operation_id="status")
async def status(state: Annotated[State, Depends(state_of)], collection: str | None = None) -> StatusResponse:
    """A collection as it stands, by default the one that is served: rows, indexes, encoder, the last evaluation."""

    def work() -> StatusResponse:
        chosen = state.collection_of(collection)
        found, info = chosen.status(), chosen.info()
        evaluation = chosen.last_evaluation()
        problem = _encoder_problem(chosen)
        return StatusResponse(
            version=__version__,
            engine_version=found.engine_version,
            collection=_collection(info, found.rows),
            indexes=[
                IndexModel(
                    name=index.name,
                    column=index.column,
                    kind=index.config.kind,
                    state=index.state,
                    rows_indexed=index.rows_indexed,
                    rows_total=index.rows_total,
                    disk_bytes=index.disk_bytes,
                    memory_bytes=index.memory_bytes,
                    effort=index.effort,
                    tuned=index.tuned,
                )
                for index in found.indexes
            ],
            disk_bytes=sum(found.disk_bytes.values()),
            total_bytes=found.total_bytes,
            encoder_ready=problem is None,
            encoder_problem=problem,
            image_urls=state.settings.fetch_images,
            max_k=state.settings.max_k,
            # The address of the database is for those who keep it.
            evaluation=evaluation and {name: plain(each) for name, each in evaluation.items() if name != "database"},
        )

    return await state.pool.run(work)


@router.post("/encode", operation_id="encode")
async def encode(request: EncodeRequest, state: Annotated[State, Depends(state_of)]) -> EncodeResponse:
    """The vector of a text or a picture, by the encoder of the collection."""
    value: str | bytes = request.text or ""
    if request.image is not None:
        value = uploads.from_base64(request.image, state.settings)
    vector = await state.encoding.vector(request.collection, value)

    def work() -> EncodeResponse:
        encoder = state.collection_of(request.collection).encoder()
        return EncodeResponse(vector=vector.tolist(), encoder=encoder.name, dim=encoder.dim)

    return await state.pool.run(work)


def _collection(info: CollectionInfo, rows: int) -> CollectionModel:
    return CollectionModel(
        name=info.name,
        rows=rows,
        encoder=info.encoder,
        dim=info.dim,
        storage=info.storage,
        columns=[ColumnModel(name=name, type=type_) for name, type_ in info.columns.items()],
        filters=filters.possible(info.columns),
    )


def _encoder_problem(collection: Collection) -> str | None:
    try:
        collection.encoder()
    except CliphouseError as error:
        return str(error)
    return None
