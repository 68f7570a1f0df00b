"""The encoder seam: a table of what is known by name, and how to get one that runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from cliphouse.encoders import store
from cliphouse.encoders.decode import open_image
from cliphouse.encoders.specs import LAION_ENCODER, MODELS
from cliphouse.errors import EncoderUnavailable, IncompleteWeights, MissingExtra, UnknownEncoder, UsageError
from cliphouse.types import Encoder

__all__ = [
    "BUILT_IN",
    "LAION_ENCODER",
    "MODELS",
    "known_dim",
    "load_encoder",
    "location_of",
    "name_of",
    "open_image",
    "space_of",
]

#: Where encoders run unless told otherwise: cpu or cuda.
DEVICE_VARIABLE = "CLIPHOUSE_DEVICE"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIn:
    """An encoder that comes with cliphouse, weights and all."""

    name: str
    dim: int
    license: str
    source: str
    build: Callable[[], Encoder]


def _words() -> Encoder:
    from cliphouse.encoders.words import WordEncoder

    return WordEncoder()


def _demo() -> Encoder:
    try:
        from cliphouse.encoders.demo import DemoEncoder

        return DemoEncoder()
    except ModuleNotFoundError as error:
        raise MissingExtra(f"the demo encoder needs {error.name}: pip install 'cliphouse[demo]'") from None


BUILT_IN: Mapping[str, BuiltIn] = {
    encoder.name: encoder
    for encoder in (
        BuiltIn(
            name="demo",
            dim=384,
            license="Apache-2.0",
            source="cliphouse: a small encoder of drawings and English words, to try things offline",
            build=_demo,
        ),
        BuiltIn(
            name="test-words",
            dim=256,
            license="Apache-2.0",
            source="cliphouse: words and colours as axes, for tests",
            build=_words,
        ),
    )
}


def name_of(encoder: str) -> str:
    """What a collection remembers of `encoder`, which is a name, or a folder that says its own.

    Raises:
        IncompleteWeights: the folder holds no whole encoder.
    """
    if not store.is_path(encoder):
        return encoder
    found = store.find(encoder)
    if found is None:
        raise IncompleteWeights(Path(encoder), "there is no such folder")
    return found.spec.name


def location_of(encoder: str) -> str:
    """The folder of `encoder` as an absolute path, which means the same to other users; its name if it has no files."""
    found = None if encoder in BUILT_IN else store.find(encoder)
    return str(found.folder.resolve()) if found else encoder


def known_dim(encoder: str) -> int | None:
    """The dimension of `encoder`, a name or a folder, or None if nothing is known of it."""
    spec = BUILT_IN.get(encoder) or MODELS.get(encoder)
    if spec is None and encoder:
        found = store.find(encoder)
        spec = found.spec if found else None
    return spec.dim if spec else None


def space_of(name: str) -> str:
    """The encoder whose vectors can be compared with those of `name`: itself, or for a variant what it was made of."""
    found = None if name in BUILT_IN or name in MODELS or not name else store.find(name)
    return (found.spec.space or found.spec.name) if found else name


def load_encoder(name: str, device: str | None = None) -> Encoder:
    """The encoder called `name`, or in the folder `name`, ready to run; loaded once a process.

    `device` is "cpu" or "cuda"; by default $CLIPHOUSE_DEVICE, else the processor.

    Raises:
        UnknownEncoder: no encoder has this name.
        EncoderUnavailable: its weights are not here, or the device is not.
        IncompleteWeights: its files are damaged.
        MissingExtra: ONNX Runtime is not installed.
    """
    device = device or os.environ.get(DEVICE_VARIABLE) or "cpu"
    if device not in ("cpu", "cuda"):
        raise UsageError(f"device must be cpu or cuda, got {device!r}")
    if name in BUILT_IN:
        if device == "cuda":
            raise EncoderUnavailable(name, "CUDA was asked for and it runs on the processor only; leave --device out")
        return _built_in(name)
    found = store.find(name)
    if found is None:
        if name in MODELS:
            raise EncoderUnavailable(name, f"its weights are not here. {ways_to_get(name)}")
        raise UnknownEncoder(name, [*BUILT_IN, *MODELS])
    changed = (found.folder / store.MANIFEST).stat().st_mtime_ns
    return _from_folder(found.folder.resolve(), changed, "cuda" if device == "cuda" else "cpu")


@cache
def _built_in(name: str) -> Encoder:
    return BUILT_IN[name].build()


@cache
def _from_folder(folder: Path, changed: int, device: Literal["cpu", "cuda"]) -> Encoder:  # noqa: ARG001  # in the key
    from cliphouse.encoders.onnx import OnnxEncoder

    return OnnxEncoder(store.open_folder(folder), device)


def ways_to_get(name: str) -> str:
    """What somebody without the weights of `name` can do, in one line."""
    return (
        f"Download them: cliphouse encoder fetch {name}; or convert a checkpoint you have: "
        f"cliphouse encoder export {name} --from FILE; or name a folder that holds them: --encoder FOLDER"
    )
