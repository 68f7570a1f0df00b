"""The two towers in training: pictures over lower features, and texts over sentence vectors, words and letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cliphouse.encoders.demo_text import BUCKETS, MINILM_DIM
from training import lite0
from training.features import LAYOUT

#: The length of the part of an embedding that is trained; the ImageNet classes add theirs.
DIM = 256
_LAYOUT_HIDDEN = 192
_UNSEEN_WORD_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Texts:
    """Some texts as the text tower reads them: centred sentence vectors and rows of the two tables."""

    sentences: Tensor
    words: Sequence[NDArray[np.int64]]
    letters: Sequence[NDArray[np.int64]]


class ImageTower(nn.Module):
    """Lower features and colour layout to a unit vector."""

    def __init__(self, weights: lite0.Weights) -> None:
        super().__init__()
        self.upper = lite0.Upper(weights)
        self.project = nn.Linear(lite0.FEATURES, DIM)
        last = nn.Linear(_LAYOUT_HIDDEN, DIM)
        self.layout = nn.Sequential(nn.Linear(3 * LAYOUT * LAYOUT, _LAYOUT_HIDDEN), nn.GELU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, lower: Tensor, layout: Tensor) -> Tensor:
        """Of n x 80 x 8 x 8 and n x 192: what is exported."""
        return F.normalize(self.project(self.upper(lower)) + self.layout(layout), dim=1)

    def multiply(self, lower: Tensor, layout: Tensor) -> Tensor:
        """The same of lower features as channels x positions x pictures: what is trained."""
        return F.normalize(self.project(self.upper.multiply(lower)) + self.layout(layout), dim=1)


class TextTower(nn.Module):
    """A turned sentence vector plus word vectors; without the sentence, letter groups stand in."""

    def __init__(self, turn: Tensor, word_rows: int) -> None:
        super().__init__()
        assert turn.shape == (MINILM_DIM, DIM)
        self.turn = nn.Parameter(turn.clone())
        self.words = nn.EmbeddingBag(word_rows, DIM, mode="sum")
        self.letters = nn.EmbeddingBag(BUCKETS, DIM, mode="sum")
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.letters.weight, std=0.02)

    def forward(self, texts: Texts, rng: np.random.Generator) -> Tensor:
        """Unit vectors; at random half the texts do with the sentence or the words alone, as unknown ones must."""
        count = len(texts.words)
        reading = rng.random(count)
        has_sentence = torch.from_numpy(reading >= 0.25).float()[:, None]
        has_words = torch.from_numpy((reading < 0.25) | (reading >= 0.5)).float()[:, None]
        known = [
            rows[rng.random(len(rows)) >= _UNSEEN_WORD_SHARE] if share < 0.25 else rows
            for rows, share in zip(texts.words, reading, strict=True)
        ]
        own = _bag(self.words, known) * has_words + _bag(self.letters, texts.letters) * (1 - has_sentence)
        return F.normalize((texts.sentences @ self.turn) * has_sentence + own, dim=1)


def _bag(table: nn.EmbeddingBag, rows: Sequence[NDArray[np.int64]]) -> Tensor:
    lengths = np.array([len(row) for row in rows])
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)[:-1]]))
    summed: Tensor = table(torch.from_numpy(np.concatenate(rows)), offsets)
    return summed / torch.from_numpy(np.sqrt(np.maximum(1, lengths))).float()[:, None]
