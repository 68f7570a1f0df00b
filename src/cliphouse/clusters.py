"""Clusters of an inverted-list index (IVF; Jégou, Douze & Schmid 2011): training, assigning, and which to look into.

Vectors are taken at unit length, where the nearest by L2 is the nearest by cosine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

#: Rows of a sample for each cluster that is trained on it; more moves the centroids no further.
SAMPLE_PER_CLUSTER = 40
#: The sample is held in memory: with 512 dimensions, 2 KB a row. Beyond some 39 million rows it gives clusters fewer.
MAX_SAMPLE_ROWS = 1_000_000
#: Rounds of training.
ROUNDS = 8
#: A row's nearest centroid is looked for among those that count its coarse cell among the nearest of this share.
CELL_SHARE = 8
_BLOCK_ROWS = 16_384
#: What a cluster's radius adds to its score, by measurement: docs/decisions/0017-ivf.md. The best of a cluster lies
#: about three standard deviations from its centroid, and one in the direction of a query is a fifteenth of the radius.
RADIUS_WEIGHT = 0.2

#: Told how many rounds are done, and of how many.
OnRound = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """The clusters of an index, in the order of their lists on disk, where neighbours lie near each other.

    `centroids` are means of unit vectors, float32 of shape (n, dim); `radii` are the root mean square distances of
    their rows to them; `sizes` count those rows.
    """

    centroids: NDArray[np.float32]
    radii: NDArray[np.float32]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.centroids)

    def resized(self, sizes: NDArray[np.int64]) -> Clusters:
        """The same, of so many rows each: an empty one is nowhere."""
        radii = np.where(np.isfinite(self.radii), self.radii, np.float32(1))
        return Clusters(self.centroids, np.where(sizes == 0, -np.float32(np.inf), radii), sizes)

    def best(self, target: NDArray[np.float32], nprobe: int) -> NDArray[np.uint32]:
        """The clusters to look into for `target`, by number: the best, until they hold `nprobe` times the mean size.

        A cluster's score is the cosine of its centroid, and of a part of its radius: a wide cluster may hold a near row
        though its centroid is far. Counting rows, not clusters, makes searches take alike.
        """
        if nprobe >= len(self):
            return np.arange(len(self), dtype=np.uint32)
        unit = target / np.float32(np.linalg.norm(target))
        # Not a BLAS product: its threads would go on spinning for a while, on the cores that the engine needs now.
        score = np.einsum("ij,j->i", self.centroids, unit) + np.float32(RADIUS_WEIGHT) * self.radii
        most = min(len(self), 4 * nprobe)
        first = np.argpartition(-score, most - 1)[:most] if most < len(self) else np.arange(len(self))
        first = first[np.argsort(-score[first])]
        rows = np.cumsum(self.sizes[first])
        budget = nprobe * self.sizes.sum() / len(self)
        count = int(np.searchsorted(rows, budget)) + 1
        return np.sort(first[:count]).astype(np.uint32)


class Assigner:
    """Tells which centroid is nearest to each vector.

    Comparing every vector with every centroid would take most of a build. So there are coarse cells, and a vector meets
    those centroids only that have its cell among their own nearest. (Not the other way round: the centroids nearest to
    a cell's centre are those near the middle of everything, and others would be nobody's.)
    """

    def __init__(self, centroids: NDArray[np.float32]) -> None:
        self.centroids, self._bias = centroids, _half_squares(centroids)
        self.cells = cells = _coarse_cells(centroids)
        self._cell_bias = _half_squares(cells)
        count = -(-len(cells) // CELL_SHARE)
        score = centroids @ cells.T - self._cell_bias
        nearest = np.argpartition(-score, count - 1, axis=1)[:, :count]
        homes = np.zeros(score.shape, np.bool_)
        np.put_along_axis(homes, nearest, values=True, axis=1)
        homes[:, ~homes.any(axis=0)] = True  # a cell that no centroid is near to has them all
        self._candidates = [np.flatnonzero(homes[:, cell]) for cell in range(len(cells))]

    def assign(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """The number of the nearest centroid of each unit vector: shape (len(vectors),)."""
        found = np.empty(len(vectors), np.int64)
        for start in range(0, len(vectors), _BLOCK_ROWS):
            self._assign(vectors[start : start + _BLOCK_ROWS], found[start : start + _BLOCK_ROWS])
        return found

    def _assign(self, vectors: NDArray[np.float32], out: NDArray[np.int64]) -> None:
        cell = np.argmax(vectors @ self.cells.T - self._cell_bias, axis=1)
        order = np.argsort(cell, kind="stable")
        bounds = np.searchsorted(cell[order], np.arange(len(self.cells) + 1))
        for number, (start, stop) in enumerate(pairwise(bounds)):
            if start == stop:
                continue
            rows, candidates = order[start:stop], self._candidates[number]
            score = vectors[rows] @ self.centroids[candidates].T - self._bias[candidates]
            out[rows] = candidates[np.argmax(score, axis=1)]


def train(
    sample: NDArray[np.float32], count: int, seed: int = 0, on_round: OnRound | None = None
) -> NDArray[np.float32]:
    """`count` centroids by k-means (Lloyd 1982) over a sample of unit vectors, numbered so that neighbours are near.

    The same sample and seed give the same centroids wherever NumPy and its BLAS round alike.

    Raises:
        ValueError: the sample has fewer rows than `count`.
    """
    if len(sample) < count:
        raise ValueError(f"{count} clusters cannot be trained on {len(sample)} rows")
    rng = np.random.default_rng(seed)
    centroids = sample[rng.permutation(len(sample))[:count]].copy()
    for done in range(ROUNDS):
        if on_round:
            on_round(done, ROUNDS)
        centroids = _means(sample, Assigner(centroids).assign(sample), centroids, rng)
    if on_round:
        on_round(ROUNDS, ROUNDS)
    cells = _coarse_cells(centroids)
    cells = cells[_line_up(cells, rng)]
    home = np.argmax(centroids @ cells.T - _half_squares(cells), axis=1)
    inside = (np.flatnonzero(home == cell) for cell in range(len(cells)))
    result: NDArray[np.float32] = centroids[
        np.concatenate([members[_line_up(centroids[members], rng)] for members in inside])
    ]
    return result


def count_for(rows: int) -> int:
    """How many clusters suit so many rows: four times the root, as usual, if there are rows to train them."""
    return max(1, min(rows // SAMPLE_PER_CLUSTER, round(4 * math.sqrt(rows))))


def sample_for(count: int) -> int:
    """Rows that so many clusters are trained on, if there are as many."""
    return min(count * SAMPLE_PER_CLUSTER, MAX_SAMPLE_ROWS)


class Summary:
    """What assigning all rows says of each cluster, gathered block by block."""

    def __init__(self, count: int, dim: int) -> None:
        self._sums = np.zeros((count, dim))
        self._sizes = np.zeros(count, np.int64)

    @classmethod
    def of(cls, known: Clusters) -> Summary:
        """What is known of clusters already, to go on from."""
        summary = cls(*known.centroids.shape)
        summary._sums = known.centroids.astype(np.float64) * known.sizes[:, None]
        summary._sizes = known.sizes.copy()
        return summary

    def add(self, vectors: NDArray[np.float32], numbers: NDArray[np.int64]) -> None:
        """Take in unit vectors and the clusters they were assigned to."""
        order = np.argsort(numbers, kind="stable")
        present, starts = np.unique(numbers[order], return_index=True)
        self._sums[present] += np.add.reduceat(vectors[order], starts, axis=0)
        self._sizes += np.bincount(numbers, minlength=len(self._sizes))

    def clusters(self) -> Clusters:
        """The clusters as their rows make them."""
        means = self._sums / np.maximum(self._sizes, 1)[:, None]
        # For unit vectors x of mean m, the mean of |x - m|² is 1 - |m|².
        radii = np.sqrt(np.maximum(1 - np.einsum("ij,ij->i", means, means), 0))
        return Clusters(means.astype(np.float32), radii.astype(np.float32), self._sizes).resized(self._sizes)


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors at unit length; one without a direction becomes zeros, or all of its cluster would be nowhere."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        result: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-30))[:, None]
    result[~np.isfinite(lengths)] = 0
    return result


def _coarse_cells(centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """The centres of as many cells as the root of the centroids' number, by k-means over the centroids."""
    rng = np.random.default_rng(0)
    cells = centroids[rng.permutation(len(centroids))[: max(1, round(math.sqrt(len(centroids))))]].copy()
    for _ in range(ROUNDS):
        cells = _means(centroids, np.argmax(centroids @ cells.T - _half_squares(cells), axis=1), cells, rng)
    return cells


def _half_squares(centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Half the squared lengths: |x - c|² is least where x·c less this is greatest."""
    result: NDArray[np.float32] = np.einsum("ij,ij->i", centroids, centroids) / np.float32(2)
    return result


def _means(
    rows: NDArray[np.float32], numbers: NDArray[np.int64], before: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """The mean of each cluster's rows; one that has none begins again at a row."""
    order = np.argsort(numbers, kind="stable")
    present, starts = np.unique(numbers[order], return_index=True)
    sizes = np.diff(np.append(starts, len(numbers)))
    means = before.copy()
    means[present] = np.add.reduceat(rows[order], starts, axis=0) / sizes[:, None].astype(np.float32)
    empty = np.setdiff1d(np.arange(len(before)), present)
    means[empty] = rows[rng.integers(0, len(rows), len(empty))]
    return means


def _line_up(points: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int64]:
    """An order of the points in which near ones tend to stand side by side: halved again and again across the line
    between two that are far apart."""
    done: list[NDArray[np.int64]] = []
    waiting = [np.arange(len(points))]
    while waiting:
        members = waiting.pop()
        if len(members) <= 2:
            done.append(members)
            continue
        one = points[members[rng.integers(len(members))]]
        far = points[members[np.argmin(points[members] @ one - _half_squares(points[members]))]]
        other = points[members[np.argmin(points[members] @ far - _half_squares(points[members]))]]
        order = np.argsort(points[members] @ (other - far), kind="stable")
        half = len(members) // 2
        waiting += [members[order[half:]], members[order[:half]]]
    return np.concatenate(done)
