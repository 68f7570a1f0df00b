"""Pictures of rows that are files on this machine, shown small."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from fastapi import APIRouter, Depends, Query
from fastapi import Path as PathParameter
from starlette.requests import Request
from starlette.responses import Response

from cliphouse.collection import Collection
from cliphouse.encoders.decode import open_image, quiet
from cliphouse.errors import InvalidImage
from cliphouse.schema import identifier
from cliphouse.service import problems
from cliphouse.service.contract import MAX_ID
from cliphouse.service.settings import Settings
from cliphouse.service.state import State, state_of
from cliphouse.types import CollectionInfo
from cliphouse.types import Query as Statement

router = APIRouter(tags=["items"])

#: Where a row may name its file, best first: pictures that were added have the path in the first.
_NAMING = ("image_path", "url")
_QUALITY = 80
#: Pixels of the longer side of a JPEG: most pictures that encoders were trained with have fewer.
_JPEG_SIDE = 1024
#: The browser keeps a thumbnail for a day; after that it asks whether the file has changed.
_HEADERS = {
    "Cache-Control": "private, max-age=86400",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture, or nothing but its tag where the client has it already."""

    tag: str
    data: bytes | None


def columns(info: CollectionInfo, settings: Settings) -> list[str]:
    """What a search must return for `link`, besides the columns of every hit."""
    return ["image_path"] if settings.pictures and "image_path" in info.columns else []


def link(state: State, collection: Collection, row: Mapping[str, Any]) -> str | None:
    """Where the picture of a row is shown, None if there is no file that may be."""
    if _file_of(row, state.settings) is None:
        return None
    more = "" if collection.name == state.collection.name else f"?collection={collection.name}"
    return f"/api/v1/pictures/{row['id']}{more}"


@router.get(
    "/pictures/{id}",
    operation_id="picture",
    response_class=Response,
    responses={
        200: {"content": {"image/webp": {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "The picture has not changed since it was given with this ETag"},
    },
)
async def picture(
    request: Request,
    id: Annotated[int, PathParameter(ge=0, le=MAX_ID)],  # noqa: A002
    state: Annotated[State, Depends(state_of)],
    size: Annotated[int, Query(ge=16, le=1024, description="Pixels of its longer side at most")] = 256,
    collection: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """The picture of a row as a small webp, if it is a file in a directory that the service shows.

    Whether there is no such row, no such file, or one that is not shown, is one and the same answer: 404.
    """
    known = request.headers.get("if-none-match", "")

    def work() -> Thumbnail | None:
        return _thumbnail(state.collection_of(collection), state.settings, id, size, known)

    found = await state.pool.run(work)
    if found is None:
        return problems.answer(request, 404, "no-picture", f"there is no picture to show for row {id}")
    headers = _HEADERS | {"ETag": found.tag}
    if found.data is None:
        return Response(status_code=304, headers=headers)
    return Response(found.data, media_type="image/webp", headers=headers)


def jpeg(row: Mapping[str, Any], settings: Settings) -> str | None:
    """The picture of a row as JPEG in base64, None if there is no file that may be shown."""
    place = _file_of(row, settings)
    if place is None:
        return None
    try:
        data, _ = _read(place, settings.max_upload)
        return base64.b64encode(_small(data, _JPEG_SIDE, settings.max_pixels, "JPEG")).decode()
    except (OSError, InvalidImage):
        return None


def _thumbnail(collection: Collection, settings: Settings, item: int, side: int, known: str) -> Thumbnail | None:
    if not settings.pictures:
        return None
    named = [name for name in _NAMING if name in collection.info().columns]
    if not named:
        return None
    sql = f"SELECT {', '.join(map(identifier, named))} FROM {identifier(collection.name)} WHERE id = {{item:Int64}}"
    rows = collection.engine.query(Statement(sql=sql, parameters={"item": item})).rows
    place = _file_of(dict(zip(named, rows[0], strict=True)), settings) if rows else None
    if place is None:
        return None
    try:
        data, changed = _read(place, settings.max_upload)
        tag = f'"{hashlib.blake2b(f"{place}:{changed}:{side}".encode(), digest_size=12).hexdigest()}"'
        if tag in known:
            return Thumbnail(tag, None)
        return Thumbnail(tag, _small(data, side, settings.max_pixels, "WEBP"))
    except (OSError, InvalidImage):
        return None


def _file_of(row: Mapping[str, Any], settings: Settings) -> Path | None:
    """The file of a row's picture, with links followed, if it lies below a directory that may be shown."""
    if not settings.pictures:
        return None
    for name in _NAMING:
        path = _local(row.get(name))
        if path is None:
            continue
        try:
            place = Path(path).resolve(strict=True)
            if any(place.is_relative_to(folder.resolve()) for folder in settings.pictures) and place.is_file():
                return place
        except (OSError, RuntimeError, ValueError):  # not there, links in a circle, a zero byte
            continue
    return None


def _local(address: Any) -> str | None:
    """The absolute path that an address names on this machine: a path, or a file:// address without a host."""
    if not isinstance(address, str) or not address:
        return None
    if address.startswith("/") and not address.startswith("//"):
        return address
    if not address.lower().startswith("file:"):
        return None
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    path = unquote(parts.path)
    return path if parts.netloc in ("", "localhost") and path.startswith("/") else None


def _read(place: Path, most: int) -> tuple[bytes, str]:
    """The bytes of a file that is not a pipe or a device, and what changes when it does.

    Raises:
        OSError: it is one, is larger than `most`, or cannot be read.
    """
    # Not through a link: one may have been put there since the path was resolved. Not waiting for a pipe's writer.
    with open(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode) or state.st_size > most:
            raise OSError("not a file to show")
        return file.read(most), f"{state.st_mtime_ns}:{state.st_size}"


def _small(data: bytes, side: int, max_pixels: int, form: Literal["JPEG", "WEBP"]) -> bytes:
    """The picture with its longer side at most `side`, without what the file says of camera and place."""
    image = open_image(data, max_pixels=max_pixels)
    out = io.BytesIO()
    with quiet():
        transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
        small = image.convert("RGBA" if transparent and form == "WEBP" else "RGB")
        small.thumbnail((side, side))
        small.info.clear()
        small.save(out, form, quality=_QUALITY)
    return out.getvalue()
