"""Vectors of what was asked before: encoding takes longer than searching, and people ask the same things again."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliphouse.encoders.decode import open_image
from cliphouse.types import Encoder

_KEPT = 4096


def text_vector(encoder: Encoder, text: str) -> NDArray[np.float32]:
    """The unit vector of `text`: float32 (dim,), not to be written to. The 4,096 last used are kept."""
    return _text(_Same(encoder), text)


def image_vector(encoder: Encoder, path: str | Path) -> NDArray[np.float32]:
    """The unit vector of the picture in a local file: float32 (dim,), kept until the file changes.

    Raises:
        InvalidImage: there is no picture that can be read.
    """
    try:
        state = Path(path).stat()
        changed = (state.st_mtime_ns, state.st_size)
    except OSError:
        changed = (0, 0)  # opening it says what is wrong
    return _image(_Same(encoder), str(path), changed)


class _Same:
    """An encoder as a key: the same object and no other, whatever it says of equality itself."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __hash__(self) -> int:
        return id(self.encoder)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.encoder is other.encoder


@lru_cache(maxsize=_KEPT)
def _text(key: _Same, text: str) -> NDArray[np.float32]:
    return _kept(key.encoder.encode_texts([text]))


@lru_cache(maxsize=_KEPT)
def _image(key: _Same, path: str, changed: tuple[int, int]) -> NDArray[np.float32]:  # noqa: ARG001  # in the key
    return _kept(key.encoder.encode_images([open_image(path)]))


def _kept(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    vector = np.ascontiguousarray(vectors[0], dtype=np.float32)
    vector.flags.writeable = False
    return vector
