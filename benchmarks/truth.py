"""The true neighbours, by NumPy from the source vectors, and what storing vectors in 16 bits does to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliphouse.measures import recall_at_k
from cliphouse.vectors import round_to_bfloat16

_BLOCK_ROWS = 50_000
#: Float32 similarities of unit vectors of 512 dimensions are good to about 1e-6; a short list must reach further.
_FLOAT32_ERROR = 1e-5
_SHORTLIST = 200

#: What a storage format makes of float32 vectors.
Storing = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest rows of each query, nearest first, and their distances; both of shape (queries, k)."""

    rows: NDArray[np.int64]
    distances: NDArray[np.float64]


def as_given(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors themselves: float16 values are float32 values."""
    return vectors


def truncate_to_bfloat16(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors as ClickHouse's own conversion from Float32 makes them: the lower 16 bits are dropped."""
    return (np.ascontiguousarray(vectors).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def nearest(
    source: NDArray[np.floating], queries: NDArray[np.float32], *, k: int, storing: Storing = as_given
) -> Neighbours:
    """The `k` rows of `source`, as stored, of least cosine distance to each query; ties by row.

    Float32 finds a short list, which float64 puts in order.

    Raises:
        RuntimeError: the short list of a query is too short to prove the answer; there are too many near ties.
    """
    targets = _unit(queries.astype(np.float64)).astype(np.float32)
    keep = min(max(_SHORTLIST, 2 * k), len(source))
    rows: NDArray[np.int64] = np.empty((len(queries), 0), np.int64)
    similarities: NDArray[np.float32] = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(source), _BLOCK_ROWS):
        block = storing(source[start : start + _BLOCK_ROWS].astype(np.float32))
        scores = targets @ _unit(block).T
        numbers = np.broadcast_to(np.arange(start, start + len(block)), scores.shape)
        similarities = np.concatenate([similarities, scores], axis=1)
        rows = np.concatenate([rows, numbers], axis=1)
        best = np.argpartition(-similarities, min(keep, similarities.shape[1]) - 1, axis=1)[:, :keep]
        similarities = np.take_along_axis(similarities, best, axis=1)
        rows = np.take_along_axis(rows, best, axis=1)
    found = np.empty((len(queries), k), np.int64)
    distances = np.empty((len(queries), k), np.float64)
    for number, query in enumerate(queries):
        shortlist = np.sort(rows[number])
        exact = true_distances(source, query, shortlist, storing=storing)
        order = np.argsort(exact, kind="stable")[:k]
        found[number], distances[number] = shortlist[order], exact[order]
        horizon = 1 - float(similarities[number].min())
        if keep < len(source) and distances[number, -1] >= horizon - _FLOAT32_ERROR:
            raise RuntimeError(f"query {number}: {keep} rows are too few to tell the nearest {k}; raise _SHORTLIST")
    return Neighbours(found, distances)


def true_distances(
    source: NDArray[np.floating], query: NDArray[np.float32], rows: NDArray[np.int64], *, storing: Storing = as_given
) -> NDArray[np.float64]:
    """Cosine distances of `query` to the given rows of `source`, in float64."""
    stored = storing(source[rows].astype(np.float32)).astype(np.float64)
    distances: NDArray[np.float64] = 1 - _unit(stored) @ _unit(query.astype(np.float64))
    return distances


def storage_effect(
    source: NDArray[np.floating], queries: NDArray[np.float32], truth: Neighbours
) -> list[dict[str, Any]]:
    """For each storage format: how far the distances of the true neighbours move, and recall of an exact search.

    The first is the source itself, against which the others are measured.
    """
    k = truth.rows.shape[1]
    formats: list[tuple[str, Storing]] = [
        ("float16, the source", as_given),
        ("bfloat16, rounded to nearest even", round_to_bfloat16),
        ("bfloat16, truncated", truncate_to_bfloat16),
    ]
    effects = []
    for name, storing in formats:
        errors, recalls = [], []
        found = nearest(source, queries, k=k, storing=storing)
        for query, rows, exact, answer in zip(queries, truth.rows, truth.distances, found.rows, strict=True):
            errors.append(np.abs(true_distances(source, query, rows, storing=storing) - exact))
            recalls.append(recall_at_k(true_distances(source, query, answer), exact, k=k))
        effects.append(
            {
                "format": name,
                "mean_distance_error": float(np.mean(errors)),
                "max_distance_error": float(np.max(errors)),
                f"recall_at_{k}": float(np.mean(recalls)),
            }
        )
    return effects


def _unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
