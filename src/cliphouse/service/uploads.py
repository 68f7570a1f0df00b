"""Pictures that strangers send: small enough, of a known kind, whole."""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

from cliphouse.encoders.decode import open_image
from cliphouse.errors import InvalidImage
from cliphouse.service.settings import Settings
from cliphouse.units import size

if TYPE_CHECKING:
    from PIL.Image import Image

_NAME = "that was sent"
#: What browsers and phones make. The rarer a format, the fewer have looked at who decodes it.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP")
_DATA_URL = re.compile(r"data:[\w.+/-]*;base64,")
_WHITE = str.maketrans("", "", " \t\r\n")


def from_base64(text: str, settings: Settings) -> bytes:
    """The bytes in `text`: base64, also as the `data:` address that browsers make.

    Raises:
        InvalidImage: it is something else, or larger than the service takes.
    """
    if prefix := _DATA_URL.match(text):
        text = text[prefix.end() :]
    _measure(len(text) * 3 // 4 - 2, settings)
    try:
        return base64.b64decode(text.translate(_WHITE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidImage(_NAME, f"not base64: {error}") from error


def picture(data: bytes, settings: Settings) -> Image:
    """The picture in `data`: its first frame, upright. Its size is known before a pixel is decoded.

    Raises:
        InvalidImage: it is none, broken, of a kind that is not taken, or larger than the service takes.
    """
    _measure(len(data), settings)
    return open_image(data, max_pixels=settings.max_pixels, name=_NAME, formats=_FORMATS)


def _measure(length: int, settings: Settings) -> None:
    if length > settings.max_upload:
        raise InvalidImage(_NAME, f"larger than {size(settings.max_upload)}")
