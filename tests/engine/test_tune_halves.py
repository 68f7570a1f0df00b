"""Tuning chooses by one half of the queries and confirms by the other."""

from __future__ import annotations

from pathlib import Path

from cliphouse import Collection, IvfConfig, TuningOptions
from tests.data import random_unit, write_shard


def test_the_effort_is_confirmed_with_queries_that_did_not_choose_it(tmp_path: Path) -> None:
    """Rows far apart from each other are hard to find; of the own queries every other one is a row, and easy."""
    rows = random_unit(2000, 32, seed=3)
    write_shard(tmp_path / "in", captions=["x"] * 2000, images=rows, with_text=False, dtype="float32")
    own = random_unit(40, 32, seed=4)
    own[::2] = rows[:40:2] + own[::2] / 1000
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in")
        collection.build_index(config=IvfConfig(nlist=50))
        (easy,) = collection.tune(TuningOptions(recall=0.5, k=1, queries=own)).indexes
        assert easy.confirmed is not None
        assert easy.confirmed.effort == easy.effort
        assert easy.points[0].recall > 0.9
        assert easy.confirmed.recall < 0.8
        (single,) = collection.tune(TuningOptions(recall=0.5, k=1, queries=own[:1])).indexes
        assert single.confirmed is None
