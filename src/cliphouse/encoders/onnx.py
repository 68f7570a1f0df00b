"""CLIP-like encoders on ONNX Runtime: the same files on a processor and on a CUDA GPU."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cliphouse.encoders import images
from cliphouse.encoders.store import IMAGE_MODEL, TEXT_MODEL, Stored
from cliphouse.encoders.tokenizers import Tokenize, tokenizer
from cliphouse.errors import EncoderUnavailable, IncompleteWeights, MissingExtra

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from PIL.Image import Image

Device = Literal["cpu", "cuda"]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TEXTS, _IMAGES = 64, 32


class OnnxEncoder:
    """An encoder of two ONNX files; each is loaded when it is first needed, so a text query loads one."""

    def __init__(self, stored: Stored, device: Device = "cpu") -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError:
            extra = "clip-gpu" if device == "cuda" else "clip"
            raise MissingExtra(
                f"the encoder {stored.spec.name!r} needs ONNX Runtime: pip install 'cliphouse[{extra}]'"
            ) from None
        if _PROVIDERS[device] not in onnxruntime.get_available_providers():
            raise EncoderUnavailable(
                stored.spec.name,
                "CUDA was asked for and this ONNX Runtime has none; leave --device out, or run: "
                "pip uninstall onnxruntime; pip install 'cliphouse[clip-gpu]'",
            )
        self._stored, self._device, self._lock = stored, device, threading.Lock()
        self._sessions: dict[str, InferenceSession] = {}
        self._tokenize: Tokenize = tokenizer(stored.spec, stored.folder)

    @property
    def name(self) -> str:
        """The name stored with every collection this encoder made."""
        return self._stored.spec.name

    @property
    def dim(self) -> int:
        """Length of each vector."""
        return self._stored.spec.dim

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One unit vector a text: float32, shape (len(texts), dim). What is longer than the context is cut."""
        return self.encode_tokens(self.tokens(texts))

    def encode_tokens(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """One unit vector for each row of token ids: (n, length) to (n, dim)."""
        if not len(tokens):
            return np.empty((0, self.dim), dtype=np.float32)
        # Texts of like length go together, so that short ones are not computed at the length of the longest.
        # The mark of the end has the largest id, and what follows the first one is not looked at.
        lengths = tokens.argmax(axis=1) + 1 if self._stored.spec.causal else np.full(len(tokens), tokens.shape[1])
        out = np.empty((len(tokens), self.dim), dtype=np.float32)
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), _TEXTS):
            rows = order[start : start + _TEXTS]
            out[rows] = self._run(TEXT_MODEL, tokens[rows, : lengths[rows].max()])
        return out

    def tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The texts as the model reads them: token ids, int64 (len(texts), length)."""
        return self._tokenize(list(texts))

    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """One unit vector for each picture that was prepared already: (n, 3, size, size) to (n, dim)."""
        return self._run(IMAGE_MODEL, pixels)

    def encode_images(self, pictures: Sequence[Image]) -> NDArray[np.float32]:
        """One unit vector a picture: float32, shape (len(pictures), dim). Resizing runs in threads."""
        out = np.empty((len(pictures), self.dim), dtype=np.float32)
        prepare = partial(images.pixels, spec=self._stored.spec)
        for start in range(0, len(pictures), _IMAGES):
            batch = pictures[start : start + _IMAGES]
            values = [prepare(batch[0])] if len(batch) == 1 else list(self._threads.map(prepare, batch))
            out[start : start + len(batch)] = self.encode_pixels(np.stack(values))
        return out

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="cliphouse-pixels")

    def _run(self, model: str, values: NDArray[np.generic]) -> NDArray[np.float32]:
        with self._lock:  # two threads that ask first must not load it twice
            if model not in self._sessions:
                self._sessions[model] = self._session(model)
        session = self._sessions[model]
        vectors = np.asarray(session.run(None, {session.get_inputs()[0].name: values})[0], dtype=np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            reason = f"{model} answers with shape {vectors.shape[1:]}, its manifest says {self.dim} dimensions"
            raise IncompleteWeights(self._stored.folder, reason)
        # Files that others exported may leave this to the caller.
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def _session(self, file: str) -> InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; warnings speak of graph details that nobody can act on
        provider = _PROVIDERS[self._device]
        try:
            session = onnxruntime.InferenceSession(self._stored.folder / file, options, providers=[provider])
        except Exception as error:  # ONNX Runtime's errors share no class but Exception
            raise IncompleteWeights(self._stored.folder, f"ONNX Runtime cannot load {file} ({error})") from error
        if session.get_providers()[0] != provider:  # it falls back by itself, which would be found out by the clock
            raise EncoderUnavailable(
                self.name,
                "CUDA was asked for and cannot be started (driver or CUDA libraries are missing); leave --device out",
            )
        return session
