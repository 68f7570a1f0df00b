"""A deterministic encoder that means something: no model, yet near vectors are alike. For tests and the demo."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cliphouse.errors import InvalidVector

if TYPE_CHECKING:
    from PIL.Image import Image

#: The colours a picture is described with, as red, green, blue. White is taken for background and says nothing.
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "orange": (255, 140, 0),
    "yellow": (250, 220, 30),
    "green": (30, 150, 50),
    "blue": (30, 70, 220),
    "purple": (130, 40, 160),
    "pink": (255, 130, 190),
    "brown": (130, 75, 30),
    "grey": (128, 128, 128),
    "black": (15, 15, 15),
    "white": (255, 255, 255),
}


class WordEncoder:
    """Words are axes: texts that share words are near, and a picture is near the names of its colours.

    Two words may share an axis (they are hashed to 256). It knows nothing else about pictures or language.
    """

    name, dim = "test-words", 256

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One unit vector a text: float32, shape (len(texts), 256).

        Raises:
            InvalidVector: a text holds no word.
        """
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            words = re.findall(r"\w+", text.lower())
            if not words:
                raise InvalidVector(f"the text {text[:40]!r} holds no word to search for")
            for word in words:
                out[row, _axis(word)] += 1.0
        return _unit(out)

    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """One unit vector a picture: float32, shape (len(images), 256)."""
        out = np.zeros((len(images), self.dim), dtype=np.float32)
        palette = np.array(list(COLOURS.values()), dtype=np.float32)
        axes = [_axis(name) for name in COLOURS]
        for row, image in enumerate(images):
            pixels = np.asarray(image.convert("RGB").resize((32, 32)), dtype=np.float32).reshape(-1, 1, 3)
            nearest = ((pixels - palette) ** 2).sum(axis=2).argmin(axis=1)
            shares = np.bincount(nearest, minlength=len(COLOURS)).astype(np.float32)
            if shares[:-1].any():
                shares[-1] = 0
            np.add.at(out[row], axes, shares)
        return _unit(out)


def _axis(word: str) -> int:
    return zlib.crc32(word.encode()) % WordEncoder.dim


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
