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
from cliphouse.service.state import State
from cliphouse.types import CollectionInfo, Modality
from cliphouse.units import size

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look for: a vector, which is there before a place is taken, or the embedding `by` of the row `like`."""

    vector: ArrayLike | None = None
    like: int | None = None
    by: Modality | None = None

    def query(
        self, collection: Collection, info: CollectionInfo, column: Modality
    ) -> tuple[ArrayLike | None, int | None]:
        """The first two arguments of `Collection.search_with`.

        Raises:
            UnknownItem: there is no such row.
            UsageError: it has no such embedding.
        """
        if self.like is not None and self.by not in (None, column):
            return _embedding(collection, info, f"{self.by}_embedding", self.like), None
        return self.vector, self.like


async def wanted(target: Target, state: State, collection: str | None) -> Wanted:
    """The target with its text or its picture, fetched if it is elsewhere, as a vector.

    Raises:
        InvalidImage: it is not base64, too large, or cannot be read.
        ImageUrlNotAllowed, ImageUrlFailed: its address is not to be fetched, or gives nothing.
        Busy, TimedOut, UsageError, EncoderUnavailable: see `Encoding.vector`.
    """
    value: str | bytes | None = target.text
    if target.image is not None:
        value = uploads.from_base64(target.image, state.settings)
    elif target.image_url is not None:
        value = await fetch.picture(target.image_url, state.settings)
    if value is None:
        return Wanted(target.vector, target.id, target.by)
    return Wanted(await state.encoding.vector(collection, value))


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
