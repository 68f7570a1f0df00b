"""Vectors of what was asked before: encoding takes longer than searching, and people ask the same things again."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from cliphouse.encoders.decode import open_image
from cliphouse.types import Encoder

_KEPT = 4096

_lock = threading.Lock()
_kept: LRUCache[Hashable, NDArray[np.float32]] = LRUCache(_KEPT)


def text_vector(encoder: Encoder, text: str) -> NDArray[np.float32]:
    """The unit vector of `text`: float32 (dim,), not to be written to. The 4,096 vectors last used are kept."""
    return text_vectors(encoder, [text])[0]


def text_vectors(encoder: Encoder, texts: Sequence[str]) -> list[NDArray[np.float32]]:
    """The unit vector of each text, as `text_vector`; those that are not kept are encoded together, each once."""
    same = _Same(encoder)
    found = {text: _find((same, text)) for text in texts}
    unknown = [text for text, vector in found.items() if vector is None]
    if unknown:
        for text, row in zip(unknown, encoder.encode_texts(unknown), strict=True):
            found[text] = _keep((same, text), row)
    return [vector for text in texts if (vector := found[text]) is not None]


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
    key = (_Same(encoder), str(path), changed)
    vector = _find(key)
    return _keep(key, encoder.encode_images([open_image(path)])[0]) if vector is None else vector


class _Same:
    """An encoder as a key: the same object and no other, whatever it says of equality itself."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __hash__(self) -> int:
        return id(self.encoder)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.encoder is other.encoder


def _find(key: Hashable) -> NDArray[np.float32] | None:
    with _lock:
        return _kept.get(key)


def _keep(key: Hashable, row: NDArray[np.float32]) -> NDArray[np.float32]:
    vector = np.array(row, dtype=np.float32)  # its own memory: a row would hold all of its batch
    vector.flags.writeable = False
    with _lock:
        _kept[key] = vector
    return vector
