"""`encode_text` and `encode_image` as SQL functions of an embedded database.

chDB calls a Python function once for every row and once for every pass of its analyser, and a query that contains one
cannot use a vector index. So the Python functions get private names, return bytes, and are wrapped in SQL functions
whose scalar subquery the engine folds to a constant before it plans: the index stays in use. The few passes that remain
meet a cache, so the encoder itself runs once for a text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from cliphouse.encoders import open_image
from cliphouse.engine import Engine
from cliphouse.errors import UsageError
from cliphouse.types import Encoder, Query

_CACHED_VECTORS = 1024
_WRAPPERS = {
    "encode_text": "(SELECT reinterpret(assumeNotNull(_encode_text(t)), 'Array(Float32)'))",
    "encode_image": "(SELECT reinterpret(assumeNotNull(_encode_image(t)), 'Array(Float32)'))",
}


@dataclass
class _State:
    """chDB's functions belong to the process, so this does too: which encoder they use now."""

    encoder: Callable[[], Encoder] | None = None
    registered: bool = False


_state, _lock = _State(), threading.Lock()


def install(engine: Engine, encoder: Callable[[], Encoder]) -> None:
    """Give the embedded `engine` both functions; `encoder` is asked for when one is called.

    `encoder` must not query the engine: it is called from inside a query. The encoder installed last is the one that
    SQL uses, in the whole process.
    """
    with _lock:
        _state.encoder = encoder
        if not _state.registered:
            engine.install_function("_encode_text", lambda text: _text(_current(), text))  # type: ignore[arg-type]
            engine.install_function("_encode_image", _image_of)
            _state.registered = True
        # The wrappers are stored with the data, so they are written only where they are missing or of another version.
        sql = "SELECT name, create_query FROM system.functions WHERE name IN ('encode_text', 'encode_image')"
        present = dict(engine.query(Query(sql=sql)).rows)
        for name, body in _WRAPPERS.items():
            if not str(present.get(name, "")).endswith(body):
                engine.command(f"CREATE OR REPLACE FUNCTION {name} AS t -> {body}")


def _current() -> Encoder:
    if _state.encoder is None:
        raise UsageError("no encoder is installed in SQL")
    return _state.encoder()


@lru_cache(maxsize=_CACHED_VECTORS)
def _text(encoder: Encoder, text: str) -> bytes:
    return _row(encoder.encode_texts([text]))


def _image_of(path: str) -> bytes:
    try:
        changed = Path(path).stat().st_mtime_ns
    except OSError:
        changed = 0  # opening it says what is wrong
    return _image(_current(), path, changed)  # type: ignore[arg-type]


@lru_cache(maxsize=_CACHED_VECTORS)
def _image(encoder: Encoder, path: str, changed: int) -> bytes:  # noqa: ARG001  # a changed file is another picture
    return _row(encoder.encode_images([open_image(path)]))


def _row(vectors: np.ndarray) -> bytes:
    return np.ascontiguousarray(vectors[0], dtype="<f4").tobytes()
