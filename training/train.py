"""Train both towers: a picture against every text, texts against the batch's pictures, picture against picture."""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training import clipart, features, lite0, texts
from training.fetch import WORK
from training.towers import DIM, ImageTower, Texts, TextTower

SEED = 20
_EMOJI_A_STEP, _CLIP_ARTS_A_STEP, _OTHER_CLIP_ARTS = 112, 48, 400
#: How often a rendering is drawn from, where plain is 1.
_SHARES = {"inked": 0.9, "outline": 0.35, "contrast": 0.4, "monotone": 0.4, "park": 0.5}
_NEAR_TEXT, _NEAR_LABEL = 0.95, 0.8
_WARM_UP_STEPS, _LAST_RATE, _AVERAGING = 60, 0.02, 0.996
_RATES = {"upper": 4e-4, "heads": 1e-3, "turn": 3e-4, "tables": 3e-3}
_TEXT_TO_IMAGE, _IMAGE_TO_IMAGE = 0.5, 0.6
_RIDGE = 300.0
_START_ROWS = 6000


@dataclass(frozen=True, slots=True)
class Batch:
    """Two views of each group: lower features, layouts; and a text for each group and each other candidate."""

    groups: NDArray[np.int64]
    lower: Tensor
    layout: Tensor
    candidates: NDArray[np.int64]
    texts: NDArray[np.int64]


class Sampler:
    """Draws batches: groups at random, two renderings of each, one text of each and of many others."""

    def __init__(self, cache: features.Cache, corpus: texts.Corpus, work: Path) -> None:
        self._cache, self._corpus = cache, corpus
        self._rng = np.random.default_rng(SEED)
        titles = {art.drawing.key: art.drawing.group for art in clipart.clip_arts(work)}
        numbers = {group.name: number for number, group in enumerate(corpus.groups)}
        rows: list[dict[str, list[int]]] = [defaultdict(list) for _ in corpus.groups]
        for row, (rendering, key) in enumerate(zip(cache.renderings, cache.keys, strict=True)):
            clip_art = rendering == clipart.SOURCE
            name = titles[key] if clip_art else key.rpartition("/")[2]
            rows[numbers[name]][key if clip_art else rendering].append(row)
        self._views = [[np.array(found) for found in drawn.values()] for drawn in rows]
        self._weights = [_weights(list(drawn)) for drawn in rows]
        drawn_groups = [number for number, views in enumerate(self._views) if views]
        self.emoji = np.array([number for number in drawn_groups if corpus.groups[number].is_emoji])
        self._clip_arts = np.array([number for number in drawn_groups if not corpus.groups[number].is_emoji])

    def draw(self) -> Batch:
        """The next batch."""
        rng = self._rng
        emoji = rng.choice(self.emoji, _EMOJI_A_STEP, replace=False)
        clip_arts = rng.permutation(self._clip_arts)
        groups = np.concatenate([emoji, clip_arts[:_CLIP_ARTS_A_STEP]])
        others = clip_arts[_CLIP_ARTS_A_STEP : _CLIP_ARTS_A_STEP + _OTHER_CLIP_ARTS]
        candidates = np.concatenate([groups, np.setdiff1d(self.emoji, emoji), others])
        pairs = [self._two_views(number) for number in groups]
        rows = np.array([first for first, _ in pairs] + [second for _, second in pairs])
        said = [rng.choice(group.texts, p=group.shares) for group in (self._corpus.groups[n] for n in candidates)]
        lower, layout = self.views(rows)
        return Batch(groups, lower, layout, candidates, np.array(said))

    def views(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Lower features as channels x positions x pictures, and layouts."""
        lower = torch.from_numpy(self._cache.lower[rows]).bfloat16().permute(1, 2, 0).contiguous()
        return lower, torch.from_numpy(self._cache.layout[rows].astype(np.float32))

    def _two_views(self, group: int) -> tuple[int, int]:
        views, weights = self._views[group], self._weights[group]
        if len(views) == 1:
            first, second = self._rng.choice(views[0], 2, replace=len(views[0]) < 2)
        else:
            one, two = self._rng.choice(len(views), 2, replace=False, p=weights)
            first, second = self._rng.choice(views[one]), self._rng.choice(views[two])
        return int(first), int(second)


class Objective:
    """The loss of a batch, and what it needs to know about all texts and groups."""

    def __init__(self, corpus: texts.Corpus, mean: Tensor) -> None:
        centred = F.normalize(torch.from_numpy(corpus.sentences) - mean, dim=1)
        words, letters = texts.bags(corpus.texts, corpus.vocabulary)
        self._sentences, self._words, self._letters = centred, words, letters
        self._labels = centred[[int(group.texts[0]) for group in corpus.groups]]
        self._says = torch.zeros(len(corpus.texts), len(corpus.groups), dtype=torch.bool)
        for number, group in enumerate(corpus.groups):
            self._says[torch.from_numpy(group.texts), number] = True

    def texts(self, numbers: NDArray[np.int64]) -> Texts:
        """Some texts, ready for the tower."""
        return Texts(self._sentences[numbers], [self._words[n] for n in numbers], [self._letters[n] for n in numbers])

    def __call__(self, batch: Batch, images: Tensor, said: Tensor, scales: Tensor) -> Tensor:
        """Cross entropies both ways and between views; pairs that may both be right do not count as wrong."""
        count = len(batch.groups)
        own = torch.arange(count)
        groups, numbers = torch.from_numpy(batch.groups), torch.from_numpy(batch.texts)
        sentences = self._sentences[numbers]
        near = (sentences[:count] @ sentences.t() > _NEAR_TEXT) | self._says[numbers][:, groups].t()
        to_text = (scales[0] * images @ said.t()).masked_fill(_others(near, own).repeat(2, 1), -1e4)
        loss = F.cross_entropy(to_text, own.repeat(2))
        blocked = _others(near[:, :count].t(), own)
        for view in torch.split(images, count):
            loss = loss + _TEXT_TO_IMAGE / 2 * F.cross_entropy(
                (scales[0] * said[:count] @ view.t()).masked_fill(blocked, -1e4), own
            )
        first, second = torch.split(images, count)
        labels = self._labels[groups]
        alike = _others(labels @ labels.t() > _NEAR_LABEL, own)
        is_emoji = own < _EMOJI_A_STEP
        alike &= ~(is_emoji[:, None] & is_emoji[None])
        across = (scales[1] * first @ second.t()).masked_fill(alike, -1e4)
        return loss + _IMAGE_TO_IMAGE / 2 * (F.cross_entropy(across, own) + F.cross_entropy(across.t(), own))


class Average:
    """A running mean of a module's parameters."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def update(self, step: int) -> None:
        """Move towards the module; faster at the start."""
        keep = min(_AVERAGING, (1 + step) / (10 + step))
        for name, value in self._module.state_dict().items():
            self.state[name].lerp_(value.detach(), 1 - keep)


def start(sampler: Sampler, corpus: texts.Corpus, work: Path, mean: Tensor) -> tuple[ImageTower, TextTower]:
    """Towers to start from: the sentences' main directions, and the ridge regression from pictures onto them."""
    torch.manual_seed(SEED)
    centred = F.normalize(torch.from_numpy(corpus.sentences) - mean, dim=1)
    turn = torch.linalg.eigh(centred.t() @ centred).eigenvectors.flip(1)[:, :DIM]
    images, said = ImageTower(lite0.pretrained(work)), TextTower(turn, len(corpus.vocabulary))
    inputs: list[Tensor] = []
    targets: list[Tensor] = []
    with torch.no_grad():
        while sum(map(len, inputs)) < _START_ROWS:
            batch = sampler.draw()
            inputs.append(images.upper.multiply(batch.lower))
            labels = torch.tensor([int(corpus.groups[number].texts[0]) for number in batch.groups])
            targets.append((centred[labels] @ turn).repeat(2, 1))
        x, y = torch.cat(inputs), torch.cat(targets)
        middle = x.mean(0)
        x = x - middle
        ridge = torch.linalg.solve(x.t() @ x + _RIDGE * torch.eye(x.shape[1]), x.t() @ y)
        images.project.weight.copy_(ridge.t())
        images.project.bias.copy_(y.mean(0) - middle @ ridge)
    return images, said


def rate(step: int, done: float) -> float:
    """The share of the full learning rate, with `done` of the training over: a short climb, then half a cosine."""
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * (_LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * done)) / 2)


def train(work: Path, steps: int, minutes: float, save_every: int, name: str) -> None:
    """Train and save the averaged towers as `checkpoints/<name>.pt`.

    The learning rate falls with the steps, or with the minutes where the machine is too busy to make all the steps.
    """
    torch.set_num_threads(2)
    corpus, cache = texts.load(work), features.load(work)
    sampler = Sampler(cache, corpus, work)
    mean = torch.from_numpy(corpus.sentences.mean(0))
    objective = Objective(corpus, mean)
    images, said = start(sampler, corpus, work, mean)
    scales = torch.nn.Parameter(torch.tensor([math.log(20.0), math.log(20.0)]))
    heads = [*images.project.parameters(), *images.layout.parameters(), scales]
    tables = [*said.words.parameters(), *said.letters.parameters()]
    parts = {"upper": [*images.upper.parameters()], "heads": heads, "turn": [said.turn], "tables": tables}
    optimizer = torch.optim.AdamW(
        [{"params": parts[part], "lr": full, "full": full} for part, full in _RATES.items()],
        betas=(0.9, 0.98),
        weight_decay=0.02,
    )
    averages = {"images": Average(images), "texts": Average(said)}
    rng = np.random.default_rng(SEED)
    began = time.monotonic()
    for step in range(steps):
        done = max((step + 1) / steps, (time.monotonic() - began) / (60 * minutes))
        batch = sampler.draw()
        for group in optimizer.param_groups:
            group["lr"] = group["full"] * rate(step, min(1.0, done))
        loss = objective(
            batch, images.multiply(batch.lower, batch.layout), said(objective.texts(batch.texts), rng), scales.exp()
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 2.0)
        optimizer.step()
        with torch.no_grad():
            scales.clamp_(max=math.log(60.0))
        for average in averages.values():
            average.update(step)
        seconds = time.monotonic() - began
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}, {done:.1%} done in {seconds:.0f} s", flush=True)
        if (step + 1) % save_every == 0 or done >= 1:
            state = {part: average.state for part, average in averages.items()}
            facts = {"steps": step + 1, "of": steps, "seconds": round(seconds), "seed": SEED}
            _save(work / "checkpoints" / f"{name}.pt", state | {"mean": mean, "facts": facts})
        if done >= 1:
            break


def _weights(renderings: list[str]) -> NDArray[np.float64]:
    shares = [next((share for kind, share in _SHARES.items() if kind in name), 1.0) for name in renderings]
    return np.array(shares) / sum(shares)


def _others(pairs: Tensor, own: Tensor) -> Tensor:
    """The pairs without each row's own."""
    pairs = pairs.clone()
    pairs[own, own] = False
    return pairs


def _save(path: Path, state: dict[str, object]) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.rename(path)


def main() -> None:
    """Train the demo encoder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--minutes", type=float, default=90.0)
    parser.add_argument("--save-every", type=int, default=200)
    parser.add_argument("--name", default="demo")
    arguments = parser.parse_args()
    train(arguments.work, arguments.steps, arguments.minutes, arguments.save_every, arguments.name)


if __name__ == "__main__":
    main()
