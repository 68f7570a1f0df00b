"""Weights out of checkpoints: safetensors, PyTorch's archives and TorchScript, without PyTorch.

A PyTorch file is a zip archive: a pickle that names tensors, and a file of raw numbers for each storage. The pickle is
read by an unpickler that knows how to make tensors and dictionaries and builds everything else as an empty shell, so
that nothing in the file can run.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliphouse.errors import InvalidCheckpoint, MissingExtra

#: What PyTorch calls its storages, by the type of their numbers. bfloat16 is widened by hand.
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
#: What safetensors calls the kinds of numbers that numpy has, and the one that is widened.
_SAFETENSORS = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}


def read_checkpoint(path: Path) -> dict[str, NDArray[Any]]:
    """The weights in a checkpoint of OpenAI's or open_clip's, by name.

    Raises:
        InvalidCheckpoint: the file is missing, cut off, or holds no weights.
        MissingExtra: it is a safetensors file and the package is not installed.
    """
    if not path.is_file():
        raise InvalidCheckpoint(path, "there is no such file")
    if _is_archive(path):
        weights = _read_archive(path)
    elif path.suffix == ".safetensors":
        weights = _read_safetensors(path)
    else:
        raise InvalidCheckpoint(path, "it is neither a PyTorch archive nor safetensors, or it was cut off")
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    if not any(name.endswith("token_embedding.weight") for name in weights):
        raise InvalidCheckpoint(path, "it holds no CLIP model (no token_embedding.weight)")
    return weights


def _is_archive(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:
        raise InvalidCheckpoint(path, f"it cannot be read: {error}") from error


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    try:
        from safetensors import SafetensorError, deserialize, safe_open
    except ModuleNotFoundError:
        raise MissingExtra("safetensors files need: pip install 'cliphouse[clip]'") from None
    try:
        with safe_open(path, framework="numpy") as file:
            kinds = {name: str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118  # no mapping
            if strange := sorted(set(kinds.values()) - _SAFETENSORS):
                raise InvalidCheckpoint(path, f"its numbers are {strange[0]}; float32, float16 or bfloat16 is wanted")
            if "BF16" not in kinds.values():
                return {name: file.get_tensor(name) for name in kinds}
        found = dict(deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
        return {name: _numbers(each).reshape(each["shape"]) for name, each in found.items()}
    except (SafetensorError, TypeError, ValueError, OSError, MemoryError) as error:
        raise InvalidCheckpoint(path, str(error) or type(error).__name__) from error


def _numbers(tensor: Mapping[str, Any]) -> NDArray[Any]:
    if tensor["dtype"] == "BF16":
        return _widened(tensor["data"])
    kind = {"BOOL": "?"}.get(tensor["dtype"]) or f"<{tensor['dtype'][0].lower()}{int(tensor['dtype'][1:]) // 8}"
    return np.frombuffer(tensor["data"], kind)


def _widened(raw: bytes) -> NDArray[np.float32]:
    """bfloat16 is the upper half of float32."""
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)


def _read_archive(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            name = _pickle(archive)
            with archive.open(name) as stream:
                found = _Unpickler(stream, archive, name.removesuffix("data.pkl")).load()
        if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
            found = found["state_dict"]  # a training checkpoint keeps optimizer and epoch beside it
        return dict(_tensors(found))
    except Exception as error:  # an unpickler fed with anything fails with anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidCheckpoint(path, f"it cannot be read: {reason}") from error


def _pickle(archive: zipfile.ZipFile) -> str:
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise pickle.UnpicklingError("the archive holds no data.pkl of PyTorch")
    return pickles[0]


def _tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays in nested dictionaries and module shells, under dotted names."""
    members = value if isinstance(value, Mapping) else vars(value) if isinstance(value, _Shell) else {}
    for name, member in members.items():
        if isinstance(member, np.ndarray):
            yield f"{prefix}{name}", member
        elif isinstance(member, (Mapping, _Shell)):
            yield from _tensors(member, f"{prefix}{name}.")


class _Shell:
    """Stands for an object of a class that is not known here: it keeps what it was given, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Shell:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple):  # (members, slots)
            state = {name: value for part in state if isinstance(part, Mapping) for name, value in part.items()}
        if isinstance(state, Mapping):
            vars(self).update(state)


class _Unpickler(pickle._Unpickler):
    """Reads a checkpoint's pickle; only tensors and dictionaries come to life.

    Python's own reader, not the one in C, which takes gigabytes for the one wrong byte that numbers a memo.
    """

    def __init__(self, stream: Any, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(stream)
        self._archive, self._prefix = archive, prefix
        self._storages: dict[str, NDArray[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name.startswith("_rebuild_tensor"):
            return _rebuild_tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda tensor, *_: tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        return _Shell

    def persistent_load(self, identifier: Any) -> NDArray[Any]:
        _, kind, key, _, count = identifier
        if key not in self._storages:
            if not isinstance(kind, str):
                raise pickle.UnpicklingError("a tensor has numbers of an unknown kind")
            raw = self._archive.read(f"{self._prefix}data/{key}")
            if kind == "bfloat16":
                numbers: NDArray[Any] = _widened(raw)
            else:
                numbers = np.frombuffer(raw, kind)
            if len(numbers) < count:
                raise pickle.UnpicklingError(f"storage {key} is cut off")
            self._storages[key] = numbers
        return self._storages[key]


def _rebuild_tensor(storage: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    item = storage.itemsize
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 in size:
        return np.zeros(size, storage.dtype)
    if offset < 0 or min(stride, default=0) < 0 or last >= len(storage) or math.prod(size) > len(storage):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    view = np.lib.stride_tricks.as_strided(storage[offset:], size, [step * item for step in stride], writeable=False)
    return np.ascontiguousarray(view)
