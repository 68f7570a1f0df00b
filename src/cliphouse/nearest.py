"""The rows nearest to each of many queries, out of blocks of rows: matrix products, with a proof for what they skip."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from cliphouse.types import Storage
from cliphouse.vectors import DISTANCE_TOLERANCE, bfloat16_words, rounding_error, row_lengths

Vectors = NDArray[np.uint16] | NDArray[np.float32]
Distances = NDArray[np.float32]

#: Pairs of a row and a query that are computed in full at a time: 2,048 numbers each are 64 MB.
_PAIRS = 8_192


class Nearest:
    """The `count` rows nearest to each query, ties by id, of all blocks that were added. Any thread may add.

    A matrix product estimates all distances of a block, with bfloat16 targets where rows are bfloat16. No estimate is
    off by more than `rounding_error` and the noise of sums. So a row whose estimate is beyond the query's worst kept
    distance by more than that cannot be in the answer, and all others are computed in full.
    """

    def __init__(self, targets: NDArray[np.float32], count: int, storage: Storage) -> None:
        self._count = count
        self._units = targets / np.linalg.norm(targets.astype(np.float64), axis=1, keepdims=True).astype(np.float32)
        self._estimates = (_bfloat16 if storage == "bfloat16" else _float32)(self._units)
        rounding = [rounding_error(unit) if storage == "bfloat16" else 0.0 for unit in self._units]
        self._errors = np.array(rounding, np.float32) + np.float32(DISTANCE_TOLERANCE)
        self._limits = np.full(len(targets), np.inf, np.float32)
        self._found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
        self._pending, self._lock = 0, threading.Lock()

    def add(self, ids: NDArray[np.int64], vectors: Vectors) -> None:
        """Take in rows: ids of shape (rows,), vectors of shape (rows, dim), as words of bfloat16 or as float32."""
        estimates = self._estimates(vectors)
        limits = self._limits
        if len(ids) > self._count and np.isinf(limits).any():
            # The worst of this block's own best bounds what can come first, before there is anything to compare with.
            worst = np.partition(estimates, self._count - 1, axis=0)[self._count - 1]
            limits = np.fmin(limits, worst + 2 * self._errors)
        # Not "<=": a row without a direction has no distance, and is the last of all.
        rows, queries = np.divmod(np.flatnonzero(~(estimates > limits)), len(limits))
        if not len(rows):
            return
        distances = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _PAIRS):
            part = slice(start, start + _PAIRS)
            distances[part] = self._in_full(vectors[rows[part]], queries[part])
        with self._lock:
            self._found.append((queries, ids[rows], distances))
            self._pending += len(rows)
            if self._pending > len(self._units) * self._count:
                self._keep_best()

    def best(self) -> list[tuple[NDArray[np.int64], Distances]]:
        """The ids and distances of each query's rows, nearest first; NaN, where there is no distance, is last."""
        with self._lock:
            self._keep_best()
            queries, ids, distances = self._found[0]
            starts = np.searchsorted(queries, np.arange(1, len(self._units)))
        return list(zip(np.split(ids, starts), np.split(distances, starts), strict=True))

    def _keep_best(self) -> None:
        """Order what was found, forget what is too far, and see how far a row may be from now on."""
        queries, ids, distances = (np.concatenate(each) for each in zip(*self._found, strict=True))
        order = np.lexsort((ids, distances, queries))
        queries, ids, distances = queries[order], ids[order], distances[order]
        starts = np.searchsorted(queries, np.arange(len(self._units) + 1))
        limits = self._limits.copy()
        full = np.diff(starts) >= self._count
        limits[full] = distances[starts[:-1][full] + self._count - 1] + self._errors[full]
        near = np.arange(len(order)) - starts[queries] < self._count
        self._limits, self._found, self._pending = limits, [(queries[near], ids[near], distances[near])], 0

    def _in_full(self, vectors: Vectors, queries: NDArray[np.int64]) -> Distances:
        """The distance of each row to its query."""
        rows = _widened(vectors)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines: Distances = np.einsum("ij,ij->i", rows, self._units[queries]) / row_lengths(rows)
        return np.float32(1) - cosines


def _widened(vectors: Vectors) -> NDArray[np.float32]:
    if vectors.dtype == np.float32:
        return cast("NDArray[np.float32]", vectors)
    return (vectors.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _bfloat16(targets: NDArray[np.float32]) -> Callable[[Vectors], Distances]:
    """Cosine distances of rows of bfloat16 to the rounded targets: without widening them."""
    import numkong

    words = bfloat16_words(targets)
    packed = numkong.dots_pack(numkong.from_pointer(words.ctypes.data, words.shape, "bfloat16"), dtype="bf16")

    def distances(vectors: Vectors) -> Distances:
        rows = numkong.from_pointer(vectors.ctypes.data, vectors.shape, "bfloat16")
        return np.asarray(numkong.angulars_packed(rows, packed))

    return distances


def _float32(targets: NDArray[np.float32]) -> Callable[[Vectors], Distances]:
    def distances(vectors: Vectors) -> Distances:
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines: Distances = (vectors @ targets.T) / row_lengths(vectors)[:, None]
        return np.float32(1) - cosines

    return distances
