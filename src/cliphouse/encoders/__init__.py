"""The encoder seam: a table of what is known by name, and how to get one that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cliphouse.errors import EncoderUnavailable, InvalidImage, UnknownEncoder
from cliphouse.types import Encoder

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """What is known of an encoder without loading it. `build` is None while cliphouse cannot run it yet."""

    name: str
    dim: int
    source: str
    license: str
    build: Callable[[], Encoder] | None = None


def _words() -> Encoder:
    from cliphouse.encoders.words import WordEncoder

    return WordEncoder()


SPECS: Mapping[str, EncoderSpec] = {
    spec.name: spec
    for spec in (
        EncoderSpec(
            name="clip-vit-b32", dim=512, source="OpenAI CLIP ViT-B/32, the encoder of LAION-400M", license="MIT"
        ),
        EncoderSpec(
            name="test-words",
            dim=256,
            source="cliphouse: words and colours as axes, for tests and demos",
            license="Apache-2.0",
            build=_words,
        ),
    )
}
#: The encoder behind LAION's 512-dimensional shards: what 512-dimensional data is taken for when nobody names one.
LAION_ENCODER = "clip-vit-b32"


def known_dim(name: str) -> int | None:
    """The dimension of the encoder called `name`, or None if it is not in the table."""
    return SPECS[name].dim if name in SPECS else None


@cache
def load_encoder(name: str) -> Encoder:
    """The encoder called `name`, ready to run; loaded once a process.

    Raises:
        UnknownEncoder: no encoder has this name.
        EncoderUnavailable: it is known, but its model cannot run here.
    """
    if name not in SPECS:
        raise UnknownEncoder(name, SPECS)
    spec = SPECS[name]
    if spec.build is None:
        raise EncoderUnavailable(
            name, "this version of cliphouse does not run its model yet; search with a vector or an id instead"
        )
    return spec.build()


def open_image(path: str | Path) -> Image:
    """The picture in a local file, decoded.

    Raises:
        InvalidImage: the file is missing, is no picture, or is too large to decode safely.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except UnidentifiedImageError:
        raise InvalidImage(str(path), "it is not a picture that Pillow knows") from None
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidImage(str(path), getattr(error, "strerror", None) or str(error)) from error
