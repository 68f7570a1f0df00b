"""The nearest rows of many queries are those of a full sort, however the rows are cut into blocks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliphouse.nearest import Nearest
from cliphouse.vectors import bfloat16_words, round_to_bfloat16
from tests.data import random_unit


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 300),
    distinct=st.integers(1, 300),
    dim=st.integers(2, 40),
    queries=st.integers(1, 9),
    count=st.integers(1, 60),
    cuts=st.lists(st.integers(0, 300), max_size=6),
    storage=st.sampled_from(["bfloat16", "float32"]),
)
def test_the_nearest_are_those_of_a_full_sort(
    seed: int, rows: int, distinct: int, dim: int, queries: int, count: int, cuts: list[int], storage: Any
) -> None:
    chance = np.random.default_rng(seed)
    values = random_unit(distinct, dim, seed)[chance.integers(0, distinct, rows)]  # with twins
    values *= np.exp2(chance.integers(-20, 20, (rows, 1))).astype(np.float32)  # which stay twins at any length
    values[chance.random(rows) < 0.05] = 0
    targets = random_unit(queries, dim, seed + 1) * 1e12
    stored = round_to_bfloat16(values) if storage == "bfloat16" else values
    ids = chance.permutation(rows).astype(np.int64)
    nearest = Nearest(targets, count, storage)
    vectors = bfloat16_words(values) if storage == "bfloat16" else values
    parts = list(zip(np.split(ids, sorted(cuts)), np.split(vectors, sorted(cuts)), strict=True))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda part: nearest.add(*part), (part for part in parts if len(part[0]))))
    lengths = np.linalg.norm(stored.astype(np.float64), axis=1)
    with np.errstate(invalid="ignore"):
        true = 1 - (stored.astype(np.float64) / lengths[:, None]) @ targets.T.astype(np.float64) / np.linalg.norm(
            targets.astype(np.float64), axis=1
        )
    place = np.argsort(ids)
    for query, (found, distances) in enumerate(nearest.best()):
        of_found = true[place[found], query]
        assert len(set(found)) == len(found) == min(count, rows)
        assert distances == pytest.approx(of_found, abs=1e-6, nan_ok=True)
        assert of_found == pytest.approx(np.sort(true[:, query])[: len(found)], abs=2e-6, nan_ok=True)
        same = np.flatnonzero(np.diff(distances) == 0)
        assert (found[same] < found[same + 1]).all()
