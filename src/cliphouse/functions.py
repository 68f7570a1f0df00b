"""`encode_text` and `encode_image` as SQL functions of an embedded database.

chDB calls a Python function once for every row, takes no array from it, and never folds a call to a constant, without
which a query cannot use a vector index. So the Python functions get private names, return bytes, and are wrapped in SQL
functions. A constant goes through a scalar subquery, which the engine folds before it plans: the index stays in use.
Any other argument goes to the function directly, row by row: `values` takes only constants, so for a column the
analyser finds the subquery invalid and keeps the other branch. A few passes of the analyser remain and meet a cache, so
the encoder itself runs once for a text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cliphouse.encoders.access import NOWHERE, ImageAccess
from cliphouse.encoders.cache import image_vector, text_vector
from cliphouse.engine import Engine
from cliphouse.errors import UsageError
from cliphouse.types import Encoder, Query


def _wrapper(function: str) -> str:
    """The body of a SQL function over `t`, in the words in which the engine repeats it. NULL becomes an empty array.

    Bytes that are no UTF-8 become U+FFFD: chDB cannot hand them to Python.
    """
    constant, column = (
        f"reinterpret(assumeNotNull({function}(toValidUTF8({argument}))), 'Array(Float32)')"
        for argument in ("c", "CAST(t, 'Nullable(String)')")
    )
    return (
        f"if(startsWith(toColumnTypeName(t), 'Const'), "
        f"(SELECT {constant} FROM `values`('c Nullable(String)', t)), {column})"
    )


_WRAPPERS = {"encode_text": _wrapper("_encode_text"), "encode_image": _wrapper("_encode_image")}


@dataclass
class _State:
    """chDB's functions belong to the process, so this does too: which encoder they use now, and what they may open."""

    encoder: Callable[[], Encoder] | None = None
    images: ImageAccess = NOWHERE
    key: Hashable = None
    users: int = 0
    registered: bool = False


_state, _changed = _State(), threading.Condition()


def install(engine: Engine, encoder: Callable[[], Encoder], images: ImageAccess, key: Hashable = None) -> None:
    """Give the embedded `engine` both functions; `encoder` is asked for when one is called.

    `encode_image` opens what `images` allows. `encoder` must not query the engine: it is called from inside a query.
    What was installed last is what SQL uses, in the whole process: see `installed`.
    """
    with _changed:
        _changed.wait_for(lambda: _state.users == 0)
        _install(engine, encoder, images, key)


@contextmanager
def installed(engine: Engine, encoder: Callable[[], Encoder], images: ImageAccess, key: Hashable) -> Iterator[None]:
    """Both functions for the length of a statement: one that needs others, told by `key`, waits until it has ended."""
    with _changed:
        _changed.wait_for(lambda: _state.users == 0 or _state.key == key)
        _install(engine, encoder, images, key)
        _state.users += 1
    try:
        yield
    finally:
        with _changed:
            _state.users -= 1
            _changed.notify_all()


def _install(engine: Engine, encoder: Callable[[], Encoder], images: ImageAccess, key: Hashable) -> None:
    _state.encoder, _state.images, _state.key = encoder, images, key
    if not _state.registered:
        engine.install_function("_encode_text", _text_of)
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


def _text_of(text: str) -> bytes:
    return text_vector(_current(), text).astype("<f4", copy=False).tobytes()


def _image_of(path: str) -> bytes:
    # Before the cache, which may know it from a time when it was allowed.
    return image_vector(_current(), _state.images.check(path)).astype("<f4", copy=False).tobytes()
