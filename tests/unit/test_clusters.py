"""Clusters: trained, assigned and chosen, against what NumPy says in full."""

from __future__ import annotations

import numpy as np
import pytest

from cliphouse.clusters import Assigner, Clusters, Summary, count_for, train, unit_rows
from tests.data import clustered, random_unit

ROWS, DIM = 4000, 16


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return unit_rows(clustered(ROWS, DIM, seed=1))


@pytest.fixture(scope="module")
def centroids(rows: np.ndarray) -> np.ndarray:
    return train(rows, 60)


def spread(rows: np.ndarray, centroids: np.ndarray) -> float:
    """The mean squared distance of rows to their centroids."""
    return float(((rows[:, None] - centroids[None]) ** 2).sum(axis=2).min(axis=1).mean())


def known(rows: np.ndarray, centroids: np.ndarray) -> tuple[Clusters, np.ndarray]:
    """The clusters of rows, and which each is in."""
    numbers = Assigner(centroids).assign(rows)
    summary = Summary(*centroids.shape)
    for block in np.array_split(np.arange(len(rows)), 3):
        summary.add(rows[block], numbers[block])
    return summary.clusters(), numbers


def test_training_is_far_better_than_chance_and_the_same_again(rows: np.ndarray, centroids: np.ndarray) -> None:
    assert centroids.shape == (60, DIM)
    assert spread(rows, centroids) < 0.75 * spread(rows, rows[:60])
    assert (train(rows, 60) == centroids).all()
    assert (train(rows, 60, seed=1) != centroids).any()


def test_neighbours_are_numbered_side_by_side(centroids: np.ndarray) -> None:
    gap = np.linalg.norm(np.diff(centroids, axis=0), axis=1).mean()
    shuffled = np.random.default_rng(0).permutation(centroids)
    assert gap < 0.8 * np.linalg.norm(np.diff(shuffled, axis=0), axis=1).mean()


def test_training_tells_of_each_round() -> None:
    seen: list[tuple[int, int]] = []
    train(random_unit(50, 4), 5, on_round=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 8) for done in range(9)]


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_any_number_of_clusters_up_to_that_of_the_rows(count: int) -> None:
    assert train(random_unit(50, 4), count).shape == (count, 4)


def test_more_clusters_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="51 clusters cannot be trained on 50 rows"):
        train(random_unit(50, 4), 51)


def test_rows_that_are_all_the_same_can_be_clustered() -> None:
    same = np.repeat(random_unit(1, 8), 100, axis=0)
    clusters, _ = known(same, train(same, 5))
    assert clusters.sizes.sum() == 100
    assert np.isfinite(clusters.centroids).all()


def test_nearly_every_row_is_assigned_to_its_nearest_centroid(rows: np.ndarray, centroids: np.ndarray) -> None:
    nearest = ((rows[:, None] - centroids[None]) ** 2).sum(axis=2).argmin(axis=1)
    numbers = Assigner(centroids).assign(rows)
    assert numbers.shape == (ROWS,)
    assert (numbers == nearest).mean() > 0.9
    assert len(Assigner(centroids).assign(rows[:0])) == 0


def test_clusters_are_what_their_rows_make_them(rows: np.ndarray, centroids: np.ndarray) -> None:
    clusters, numbers = known(rows, centroids)
    for number in range(60):
        mine = rows[numbers == number]
        assert clusters.sizes[number] == len(mine)
        assert clusters.centroids[number] == pytest.approx(mine.mean(axis=0), abs=1e-5)
        radius = np.sqrt(((mine - mine.mean(axis=0)) ** 2).sum(axis=1).mean())
        assert clusters.radii[number] == pytest.approx(radius, abs=1e-4)


def test_a_summary_goes_on_from_what_is_known(rows: np.ndarray, centroids: np.ndarray) -> None:
    whole, numbers = known(rows, centroids)
    half = Summary(*centroids.shape)
    half.add(rows[:2500], numbers[:2500])
    later = Summary.of(half.clusters())
    later.add(rows[2500:], numbers[2500:])
    assert (later.clusters().sizes == whole.sizes).all()
    assert later.clusters().centroids == pytest.approx(whole.centroids, abs=1e-5)


def test_the_best_clusters_hold_the_rows_that_were_asked_for(rows: np.ndarray, centroids: np.ndarray) -> None:
    clusters, numbers = known(rows, centroids)
    for target in clustered(5, DIM, seed=7):
        before: set[int] = set()
        for nprobe in (1, 2, 5, 20, 59, 60, 1000):
            best = clusters.best(target, nprobe)
            assert best.dtype == np.uint32
            assert list(best) == sorted(set(best.tolist()))
            assert before <= set(best.tolist()), "more clusters are the same and more"
            assert clusters.sizes[best].sum() >= min(nprobe, 60) * ROWS / 60 - 1e-6 or len(best) == 4 * nprobe
            before = set(best.tolist())
        assert len(before) == 60
    assert [numbers[row] in clusters.best(3 * rows[row], 3) for row in range(50)].count(True) >= 48


def test_an_empty_cluster_is_never_looked_into_unless_all_are(rows: np.ndarray, centroids: np.ndarray) -> None:
    clusters, _ = known(rows, np.vstack([centroids, 10 * random_unit(4, DIM)]))
    empty = set(np.flatnonzero(clusters.sizes == 0).tolist())
    assert empty
    assert not empty & {*clusters.best(rows[0], 40).tolist()}
    filled = clusters.resized(np.maximum(clusters.sizes, 1))
    assert np.isfinite(filled.radii).all()
    assert (filled.resized(clusters.sizes).radii[sorted(empty)] == -np.inf).all()


def test_vectors_without_a_direction_harm_nobody() -> None:
    odd = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [1e38, 1e38]], np.float32)
    with np.errstate(all="raise"):
        units = unit_rows(odd)
    assert units[0] == pytest.approx([0.6, 0.8])
    assert np.isfinite(units).all()
    assert not units[1:4].any()


def test_as_many_clusters_as_rows_can_train() -> None:
    assert [count_for(rows) for rows in (0, 1, 1000, 4000, 1_000_000, 400_000_000)] == [1, 1, 25, 100, 4000, 80_000]
