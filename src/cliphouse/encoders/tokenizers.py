"""Texts to token ids, exactly as open_clip makes them: other ids would be other vectors."""

from __future__ import annotations

import gzip
import html
import string
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliphouse.encoders.specs import ModelSpec
from cliphouse.errors import MissingExtra

Tokenize = Callable[[Sequence[str]], NDArray[np.int64]]

_VOCABULARY = Path(__file__).parent / "vocabulary" / "clip_bpe.txt.gz"
#: CLIP's vocabulary is 256 bytes, the same 256 at a word's end, these merges, and the two marks of start and end.
_MERGES = 49152 - 256 - 2
_START, _END = "<start_of_text>", "<end_of_text>"
_WORDS = rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"


def tokenizer(spec: ModelSpec, folder: Path) -> Tokenize:
    """The function that turns n texts into token ids, int64 (n, length).

    The length is the longest text's for a causal model and the whole context for others; longer texts are cut there.

    Raises:
        MissingExtra: the packages it needs are not installed.
    """
    if spec.tokenizer == "clip":
        words = clip_tokenizer()
        return lambda texts: words.batch(texts, spec.context_length)
    return _siglip(folder / "tokenizer.json", spec.context_length)


@cache
def clip_tokenizer() -> ClipTokenizer:
    """The one tokenizer of every CLIP model; its vocabulary is read once."""
    return ClipTokenizer()


class ClipTokenizer:
    """The byte-pair encoding of CLIP (Sennrich et al. 2016, on bytes as in GPT-2), over lower-cased, mended text."""

    def __init__(self) -> None:
        try:
            import ftfy
            import regex
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"the CLIP tokenizer needs {error.name}; install it with: pip install 'cliphouse[clip]'"
            ) from None
        self._mend, self._words = ftfy.fix_text, regex.compile(_WORDS, regex.IGNORECASE)
        lines = gzip.decompress(_VOCABULARY.read_bytes()).decode().split("\n")[1 : 1 + _MERGES]
        merges = [tuple(line.split()) for line in lines]
        self._letters = _byte_letters()
        letters = list(self._letters.values())
        symbols = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
        self._ids = {symbol: number for number, symbol in enumerate([*symbols, _START, _END])}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._word = lru_cache(maxsize=65_536)(self._encode_word)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without the marks of start and end."""
        mended = html.unescape(html.unescape(self._mend(text)))
        plain = " ".join(mended.split()).lower()
        return [number for word in self._words.findall(plain) for number in self._word(word)]

    def batch(self, texts: Sequence[str], context_length: int) -> NDArray[np.int64]:
        """The ids of each text between its marks, cut at `context_length`, zeros after the shorter ones."""
        start, end = self._ids[_START], self._ids[_END]
        rows = [[start, *self.encode(text)[: context_length - 2], end] for text in texts]
        out = np.zeros((len(rows), max(map(len, rows), default=0)), dtype=np.int64)
        for number, row in enumerate(rows):
            out[number, : len(row)] = row
        return out

    def _encode_word(self, word: str) -> tuple[int, ...]:
        if word in (_START, _END):  # typed by somebody: open_clip takes it for the mark itself
            return (self._ids[word],)
        letters = [self._letters[byte] for byte in word.encode()]
        symbols = [*letters[:-1], f"{letters[-1]}</w>"]
        while len(symbols) > 1:
            best = min(pairwise(symbols), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            merged: list[str] = []
            for symbol in symbols:
                if merged and (merged[-1], symbol) == best:
                    merged[-1] += symbol
                else:
                    merged.append(symbol)
            symbols = merged
        return tuple(self._ids[symbol] for symbol in symbols)


def _byte_letters() -> dict[int, str]:
    """A printable letter for each byte, as GPT-2's vocabulary spells them; the order is that of the ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + number) for number, byte in enumerate(others)}


def _siglip(file: Path, context_length: int) -> Tokenize:
    """SigLIP's SentencePiece, from the tokenizer.json beside the weights, over canonical text (Zhai et al. 2023)."""
    try:
        import ftfy
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"the SigLIP tokenizer needs {error.name}; install it with: pip install 'cliphouse[clip]'"
        ) from None
    pieces = Tokenizer.from_file(str(file))
    pieces.enable_truncation(context_length)
    pieces.enable_padding(length=context_length, pad_id=1, pad_token="</s>")  # noqa: S106  # a token, no secret
    no_punctuation = str.maketrans("", "", string.punctuation)

    def canonical(text: str) -> str:
        mended = html.unescape(html.unescape(ftfy.fix_text(text)))
        return " ".join(mended.replace("_", " ").translate(no_punctuation).lower().split())

    def tokenize(texts: Sequence[str]) -> NDArray[np.int64]:
        return np.array([row.ids for row in pieces.encode_batch([canonical(text) for text in texts])], dtype=np.int64)

    return tokenize
