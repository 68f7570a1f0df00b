"""Neighbours as clip-retrieval gives them: without near duplicates, without what may not be safe; and still enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cliphouse.collection import Collection
from cliphouse.hits import Hit
from cliphouse.service.metrics import Metrics
from cliphouse.types import MAX_K, Modality, SearchParams, literal

#: Rows whose unit vectors have a larger inner product are near duplicates, as in the original.
ALIKE = 0.94
#: Tags of rows that are taken for safe: LAION's own word for it, and none, as rows of one's own have.
SAFE = ("UNLIKELY", "UNTAGGED", "")
#: Rows beyond the wanted ones that are looked at for duplicates at first.
_SPARE = 10
#: Rows that are compared with all others at a time.
_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A row and its cosine distance."""

    id: int
    distance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How many rows by which embeddings, and what must not be among them."""

    column: Modality
    k: int
    deduplicate: bool = False
    safe: bool = False


def find(collection: Collection, vector: ArrayLike, wish: Wish, metrics: Metrics) -> list[Neighbour]:
    """The `k` nearest rows that a wish allows, nearest first.

    Where duplicates are left out, more rows are looked at until enough remain, or 10,000 have been.
    """
    if wish.k == 0:
        return []
    # Only rows that say they are safe, and not all but those that say they are not: tags are whatever a dataset has.
    where = f"NSFW IN ({', '.join(map(literal, SAFE))})" if wish.safe else None
    name = f"{wish.column}_embedding"
    reach = min(wish.k + wish.k // 2 + _SPARE, MAX_K) if wish.deduplicate else wish.k
    while True:
        params = SearchParams(k=reach, column=wish.column, where=where, columns=(name,) if wish.deduplicate else ())
        with metrics.timed("knn_index_time"):
            hits: Sequence[Hit] = collection.search_with(vector, params=params)
        kept: Sequence[int] = range(len(hits))
        if wish.deduplicate and hits:
            with metrics.timed("dedup_time"):
                kept = first_of_each(_unit([hit.more[name] for hit in hits]))
        if len(kept) >= wish.k or len(hits) < reach or reach == MAX_K:
            return [Neighbour(hits[place].id, hits[place].distance) for place in kept[: wish.k]]
        reach = min(4 * reach, MAX_K)


def first_of_each(vectors: NDArray[np.float32]) -> list[int]:
    """The place of the first of each set of near duplicates, in order.

    Near duplicates of near duplicates belong to one set, however far it leads: connected components.
    """
    rows = len(vectors)
    # A bit for each pair: ten thousand rows take 12 MB.
    alike = np.concatenate(
        [np.packbits(vectors[at : at + _BLOCK] @ vectors.T > ALIKE, axis=1) for at in range(0, rows, _BLOCK)]
    )
    seen = np.zeros(rows, np.bool_)
    kept = []
    for row in range(rows):
        if seen[row]:
            continue
        kept.append(row)
        reached = np.array([row])
        while len(reached):
            seen[reached] = True
            near = np.unpackbits(np.bitwise_or.reduce(alike[reached], axis=0), count=rows)
            reached = np.flatnonzero(near.astype(np.bool_) & ~seen)
    return kept


def _unit(rows: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    vectors = np.array(rows, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.maximum(lengths, np.float32(1e-30))
    return vectors
