"""`encode_text` and `encode_image` as SQL functions of an embedded database.

chDB calls a Python function once for every row and once for every pass of its analyser, and a query that contains one
cannot use a vector index. So the Python functions get private names, return bytes, and are wrapped in SQL functions
whose scalar subquery the engine folds to a constant before it plans: the index stays in use. The few passes that remain
meet a cache, so the encoder itself runs once for a text.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from cliphouse.encoders import open_image
from cliphouse.engine import Engine
from cliphouse.types import Encoder, Query

_CACHED_VECTORS = 1024
_WRAPPERS = {
    "encode_text": "(SELECT reinterpret(assumeNotNull(_encode_text(t)), 'Array(Float32)'))",
    "encode_image": "(SELECT reinterpret(assumeNotNull(_encode_image(t)), 'Array(Float32)'))",
}


def install(engine: Engine, encoder: Callable[[], Encoder]) -> None:
    """Give the embedded `engine` both functions; `encoder` is asked for when one is first called.

    They belong to the process: the encoder installed last is the one that SQL uses.
    """

    @lru_cache(maxsize=_CACHED_VECTORS)
    def encode_text(text: str) -> bytes:
        return _row(encoder().encode_texts([text]))

    @lru_cache(maxsize=_CACHED_VECTORS)
    def encode_image(path: str) -> bytes:
        return _row(encoder().encode_images([open_image(path)]))

    engine.install_function("_encode_text", encode_text)
    engine.install_function("_encode_image", encode_image)
    # The wrappers are stored with the data, so they are written only where they are missing or of another version.
    sql = "SELECT name, create_query FROM system.functions WHERE name IN ('encode_text', 'encode_image')"
    present = dict(engine.query(Query(sql=sql)).rows)
    for name, body in _WRAPPERS.items():
        if not str(present.get(name, "")).endswith(body):
            engine.command(f"CREATE OR REPLACE FUNCTION {name} AS t -> {body}")


def _row(vectors: np.ndarray) -> bytes:
    return np.ascontiguousarray(vectors[0], dtype="<f4").tobytes()
