"""Train the text tower further, against what the trained image tower makes of each group: seconds, not minutes.

Here texts also come from WordNet, so that more of the language than the labels' is mapped to pictures.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training import clipart, features, lite0, texts
from training.fetch import WORK
from training.towers import ImageTower, Texts, TextTower
from training.wordnet import WordNet, test_words

SEED = 21
_STEPS, _BATCH, _RATE, _TABLE_RATE = 600, 768, 3e-4, 1e-3
_SCALE = 25.0
_WORDNET_SHARE = 0.4
_EMOJI_WEIGHT = 2.0


def prototypes(tower: ImageTower, corpus: texts.Corpus, work: Path) -> Tensor:
    """The mean embedding of each group's undisguised pictures; zeros for a group without any."""
    cache = features.load(work)
    titles = {art.drawing.key: art.drawing.group for art in clipart.clip_arts(work)}
    numbers = {group.name: number for number, group in enumerate(corpus.groups)}
    pairs = list(zip(cache.renderings, cache.keys, strict=True))
    plain = [row for row, pair in enumerate(pairs) if row == 0 or pair != pairs[row - 1]]
    plain = [row for row in plain if not pairs[row][0].endswith(("-inked", "-outline"))]
    sums = torch.zeros(len(corpus.groups), tower.project.out_features)
    with torch.no_grad():
        for start in range(0, len(plain), 512):
            rows = plain[start : start + 512]
            lower = torch.from_numpy(cache.lower[rows]).bfloat16().permute(1, 2, 0).contiguous()
            embedded = tower.multiply(lower, torch.from_numpy(cache.layout[rows].astype(np.float32)))
            keys = (pairs[row] for row in rows)
            owners = [numbers[titles[key] if kind == clipart.SOURCE else key.rpartition("/")[2]] for kind, key in keys]
            sums.index_add_(0, torch.tensor(owners), embedded)
    return F.normalize(sums, dim=1)


class Sayings:
    """Every text that may be said of a group: those of the corpus, and the group's words from WordNet."""

    def __init__(self, corpus: texts.Corpus, mean: Tensor, work: Path) -> None:
        related = related_words(corpus, work)
        numbers = {text: number for number, text in enumerate(corpus.texts)}
        self.said: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
        for group in corpus.groups:
            more = np.array([numbers.setdefault(word, len(numbers)) for word in related[group.name]], dtype=np.int64)
            share = _WORDNET_SHARE if len(more) else 0.0
            weights = np.concatenate([group.shares * (1 - share), np.full(len(more), share / max(1, len(more)))])
            self.said.append((np.concatenate([group.texts, more]), weights / weights.sum()))
        self._texts = list(numbers)
        added = np.load(work / "wordnet.npy")
        self.sentences = F.normalize(torch.from_numpy(np.concatenate([corpus.sentences, added])) - mean, dim=1)
        self._words, self._letters = texts.bags(self._texts, corpus.vocabulary)
        self.says = torch.zeros(len(self._texts), len(corpus.groups), dtype=torch.bool)
        for number, (said, _) in enumerate(self.said):
            self.says[torch.from_numpy(said), number] = True

    def read(self, numbers: NDArray[np.int64]) -> Texts:
        """Some texts, ready for the tower."""
        return Texts(self.sentences[numbers], [self._words[n] for n in numbers], [self._letters[n] for n in numbers])


def refine(tower: TextTower, sayings: Sayings, targets: Tensor, emoji: NDArray[np.bool_]) -> None:
    """Train the text tower so that each text finds its group's mean picture among all others'."""
    rng = np.random.default_rng(SEED)
    drawn = targets.norm(dim=1).numpy() > 0
    weights = np.where(drawn, np.where(emoji, _EMOJI_WEIGHT, 1.0), 0.0)
    tables = [*tower.words.parameters(), *tower.letters.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": [tower.turn], "lr": _RATE}, {"params": tables, "lr": _TABLE_RATE}], weight_decay=0.02
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for step in range(_STEPS):
        groups = rng.choice(len(weights), _BATCH, p=weights / weights.sum())
        numbers = np.array([rng.choice(sayings.said[group][0], p=sayings.said[group][1]) for group in groups])
        own = torch.from_numpy(groups)
        others = sayings.says[torch.from_numpy(numbers)]
        others[torch.arange(_BATCH), own] = False
        scores = _SCALE * tower(sayings.read(numbers), rng) @ targets.t()
        loss = F.cross_entropy(scores.masked_fill(others, -1e4), own)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)


def load_text_tower(state: dict[str, Tensor]) -> TextTower:
    """The text tower of a checkpoint."""
    tower = TextTower(state["turn"], len(state["words.weight"]))
    tower.load_state_dict(state)
    return tower


def related_words(corpus: texts.Corpus, work: Path) -> dict[str, list[str]]:
    """Each group's words from WordNet."""
    wordnet, forbidden = WordNet(work), test_words()
    found: dict[str, list[str]] = defaultdict(list)
    for group in corpus.groups:
        found[group.name] = wordnet.related(corpus.texts[int(group.texts[0])].lower(), forbidden)
    return found


def main() -> None:
    """Encode WordNet's words where that is still to do, and refine a checkpoint's text tower."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--name", default="demo")
    arguments = parser.parse_args()
    work: Path = arguments.work
    began = time.monotonic()
    corpus = texts.load(work)
    if not (work / "wordnet.npy").exists():
        listed = dict.fromkeys(word for words in related_words(corpus, work).values() for word in words)
        known = set(corpus.texts)
        np.save(work / "wordnet.npy", texts.minilm(work).encode([word for word in listed if word not in known]))
    path = work / "checkpoints" / f"{arguments.name}.pt"
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    images = ImageTower(lite0.pretrained(work))
    images.load_state_dict(checkpoint["images"])
    tower = load_text_tower(checkpoint["texts"])
    targets = prototypes(images, corpus, work)
    refine(tower, Sayings(corpus, checkpoint["mean"], work), targets, np.array([g.is_emoji for g in corpus.groups]))
    checkpoint["texts"] = tower.state_dict()
    checkpoint["facts"]["refining_seconds"] = round(time.monotonic() - began)
    torch.save(checkpoint, path.with_name(f"{arguments.name}-refined.pt"))


if __name__ == "__main__":
    main()
