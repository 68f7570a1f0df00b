"""Builds of inverted lists that are broken off: what answers meanwhile, and what the next one has left to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cliphouse import Collection, Progress
from tests.data import clustered
from tests.lists import DIM, IVF, ROWS, assert_like_exact, copies, fill, interrupted, state_of, tables


@pytest.mark.parametrize("stage", ["training", "assigning", "merging"])
def test_a_build_that_is_broken_off_is_finished_by_the_next(here: Collection, vectors: np.ndarray, stage: str) -> None:
    interrupted(here, stage)
    assert here.search(vectors[5], k=1).plan.path == "exact"
    (state,) = here.status().indexes
    assert (state.state, state.rows_indexed) == ("empty", 0)
    begun = tables(here)
    seen: list[Progress] = []
    assert here.build_index(config=IVF, progress=seen.append).state == "ready"
    stages = {step.label.rpartition(" ")[2] for step in seen}
    assert ("training" in stages) == (stage in ("sampling", "training"))
    assert len([name for name in tables(here) if "_ivf_" in name]) == 2, "nothing is left over"
    assert {name for name in tables(here) if "_ivf_" in name} <= set(begun)
    assert_like_exact(here, vectors[:3])


def test_the_old_lists_answer_while_new_ones_are_built(lists: Collection, tmp_path: Path, vectors: np.ndarray) -> None:
    """As many rows came as there were, so the clusters are trained anew."""
    more = clustered(ROWS, DIM, seed=8)
    lists.load(fill(tmp_path / "in", 1, more))
    queries = np.vstack([vectors[:2], more[:2]])
    for stage in ("training", "merging"):
        interrupted(lists, stage)
        assert state_of(lists) == ("partial", ROWS, 2 * ROWS)
        assert_like_exact(lists, queries)
    assert lists.build_index(config=IVF).state == "ready"
    assert len([name for name in tables(lists) if "_ivf_" in name]) == 2
    assert_like_exact(lists, queries)


def test_an_update_that_is_broken_off_loses_nothing(lists: Collection, tmp_path: Path, vectors: np.ndarray) -> None:
    more = clustered(300, DIM, seed=8)
    lists.load(fill(tmp_path / "in", 1, more))
    lists.sql("DELETE FROM laion WHERE id < 30")
    for stage in ("assigning", "merging"):
        interrupted(lists, stage)
        assert_like_exact(lists, np.vstack([vectors[:2], more[:2]]))
    assert lists.build_index(config=IVF).state == "ready"
    assert_like_exact(lists, np.vstack([vectors[:2], more[:2]]))
    assert copies(lists, "_row_exists") == ROWS + 270
    held = lists.sql(f"SELECT sum(rows) AS n FROM {tables(lists)[2]}").column("n").to_pylist()
    assert held == [ROWS + 270]


def test_rows_that_change_while_a_build_is_broken_off_are_right_in_the_end(
    here: Collection, tmp_path: Path, vectors: np.ndarray
) -> None:
    interrupted(here, "merging")
    here.sql("ALTER TABLE laion UPDATE caption = 'changed' WHERE id = 17 SETTINGS mutations_sync = 2")
    here.sql("DELETE FROM laion WHERE id = 18")
    here.load(fill(tmp_path / "in", 1, vectors[:10]))
    assert here.build_index(config=IVF).state == "ready"
    assert_like_exact(here, vectors[16:20])
    assert len([name for name in tables(here) if "_ivf_" in name]) == 2


def test_a_build_that_was_broken_off_can_be_dropped(here: Collection) -> None:
    for stage in ("sampling", "assigning"):
        interrupted(here, stage)
        assert here.drop_index(kind="ivf") == "image_ivf"
        assert here.status().indexes == ()
        assert not [name for name in tables(here) if "_ivf_" in name]
