"""What a search looks for: a target of a request as what a collection takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from cliphouse import queries
from cliphouse.collection import Collection
from cliphouse.errors import InvalidImage, UnknownItem, UsageError
from cliphouse.service import fetch, uploads
from cliphouse.service.contract import Target
from cliphouse.service.settings import Settings
from cliphouse.types import CollectionInfo, Modality
from cliphouse.units import size

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look for: the bytes of a picture, which are there before a place is taken, or something else."""

    target: Target | None = None
    data: bytes | None = None

    def query(
        self, collection: Collection, info: CollectionInfo, column: Modality, settings: Settings
    ) -> tuple[str | Image | ArrayLike | None, int | None]:
        """The first two arguments of `Collection.search_with`.

        Raises:
            InvalidImage: the picture cannot be read.
            UnknownItem: there is no such row.
            UsageError: it has no such embedding.
        """
        target = self.target
        if self.data is not None:
            return uploads.picture(self.data, settings), None
        if target is None:
            return None, None
        if target.id is not None and target.by not in (None, column):
            return _embedding(collection, info, f"{target.by}_embedding", target.id), None
        return (target.text if target.text is not None else target.vector), target.id


async def wanted(target: Target, settings: Settings) -> Wanted:
    """The target with its picture, fetched if it is elsewhere.

    Raises:
        InvalidImage: it is not base64, or too large.
        ImageUrlNotAllowed, ImageUrlFailed: its address is not to be fetched, or gives nothing.
    """
    if target.image is not None:
        return Wanted(data=uploads.from_base64(target.image, settings))
    if target.image_url is not None:
        return Wanted(data=await fetch.picture(target.image_url, settings))
    return Wanted(target)


async def body(request: Request, settings: Settings) -> bytes:
    """The bytes that a request carries.

    Raises:
        InvalidImage: there are none, or more than the service takes.
    """
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > settings.max_upload:
            raise InvalidImage("that was sent", f"larger than {size(settings.max_upload)}")
    if not data:
        raise InvalidImage("that was sent", "the body of the request is empty; send the file as it is")
    return bytes(data)


def _embedding(collection: Collection, info: CollectionInfo, column: str, item: int) -> Any:
    if column not in info.columns:
        raise UsageError(f"collection {info.name!r} has no column {column}; it has: {', '.join(info.columns)}")
    rows = collection.engine.query(queries.embedding_of(info, column, item)).rows
    if not rows:
        raise UnknownItem(info.name, item)
    if not rows[0][0]:
        raise UsageError(f"row {item} has no {column}")
    return rows[0][0]
