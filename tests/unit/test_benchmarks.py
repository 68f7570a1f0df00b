"""The measuring instruments: a wrong ruler would be believed for years."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import laion_like, truth
from cliphouse import measures
from cliphouse.vectors import round_to_bfloat16
from tests.data import random_unit


def test_recall_counts_distances_and_not_ids() -> None:
    exact = np.array([0.1, 0.2, 0.3, 0.4])
    assert measures.recall_at_k(np.array([0.1, 0.2, 0.3]), exact, k=3) == 1
    assert measures.recall_at_k(np.array([0.3, 0.3, 0.3]), exact, k=3) == 1, "ties are right, whichever they are"
    assert measures.recall_at_k(np.array([0.1, 0.3, 0.4]), exact, k=3) == pytest.approx(2 / 3)
    assert measures.recall_at_k(np.array([0.1]), exact, k=3) == pytest.approx(1 / 3)


@pytest.mark.parametrize("truth_", [[], [0.1, np.nan, 0.2], [0.3, 0.2, 0.1]])
def test_missing_or_broken_truth_does_not_score(truth_: list[float]) -> None:
    with pytest.raises(ValueError, match="true distances"):
        measures.recall_at_k(np.array([0.1]), np.array(truth_), k=3)


def test_the_truth_is_a_full_search_in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "_BLOCK_ROWS", 700)
    source, queries = random_unit(2000, 64, seed=1).astype(np.float16), random_unit(9, 64, seed=2)
    for storing in (truth.as_given, round_to_bfloat16, truth.truncate_to_bfloat16):
        stored = storing(source.astype(np.float32)).astype(np.float64)
        stored /= np.linalg.norm(stored, axis=1, keepdims=True)
        unit = queries / np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
        order = np.argsort(1 - unit @ stored.T, axis=1, kind="stable")[:, :10]
        assert (truth.nearest(source, queries, k=10, storing=storing).rows == order).all()


def test_drawn_queries_are_not_rows_of_the_data() -> None:
    queries = laion_like.text_queries(20, 2)
    assert np.linalg.norm(queries, axis=1) == pytest.approx(1, abs=1e-3)
    assert not (queries[:, None] == laion_like.text_queries(20, 1)[None]).all(axis=2).any()
