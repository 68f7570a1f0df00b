"""What the numbers mean: each function is a definition, and raises where it has no meaning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Two distances this close are taken for equal: engines order rows by sums in float32, which are no better than that.
TIE_TOLERANCE = 1e-6


def recall_at_k(found: NDArray[np.float64], exact: NDArray[np.float64], *, k: int) -> float:
    """Share of the first `k` found rows whose true distance is no more than the k-th true distance.

    By distance, not by id: near duplicates tie, and any of them is right (within `TIE_TOLERANCE`). `found` holds the
    true distances of the rows found, each row once, in the order they were found; a row that is missing counts as
    wrong. `exact` holds the true distances of the nearest rows, nearest first.

    Raises:
        ValueError: `exact` has fewer than `k` distances, or they are not numbers in ascending order.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if len(exact) < k:
        raise ValueError(f"recall@{k} needs {k} true distances, got {len(exact)}")
    if not np.isfinite(exact).all() or (np.diff(exact) < 0).any():
        raise ValueError("the true distances must be finite and ascending")
    return int(np.count_nonzero(found[:k] <= exact[k - 1] + TIE_TOLERANCE)) / k


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` % of `values` lie, interpolated linearly between the two nearest in rank.

    Raises:
        ValueError: there are no values, or `percent` is not from 0 to 100.
    """
    if not values:
        raise ValueError("no values have no percentile")
    return float(np.percentile(values, percent))


def latency_summary(latencies_ms: Sequence[float]) -> dict[str, float]:
    """Median, 90th and 99th percentile, least and mean of `latencies_ms`."""
    return {
        "p50_ms": percentile(latencies_ms, 50),
        "p90_ms": percentile(latencies_ms, 90),
        "p99_ms": percentile(latencies_ms, 99),
        "min_ms": min(latencies_ms),
        "mean_ms": sum(latencies_ms) / len(latencies_ms),
    }
