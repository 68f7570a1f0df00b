"""Inverted lists: built, shown, chosen and dropped, on every kind of engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cliphouse import Collection, IndexConfig, Progress, SearchParams
from cliphouse.errors import UsageError
from cliphouse.types import IvfConfig
from tests.data import clustered
from tests.lists import DIM, IVF, ROWS, SHARD, assert_like_exact, everywhere, fill, tables


def test_lists_are_built_shown_used_and_dropped(db: str, tmp_path: Path, vectors: np.ndarray) -> None:
    seen: list[Progress] = []
    with Collection.open(db) as collection:
        collection.load(fill(tmp_path / "in", 0, vectors))
        state = collection.build_index(config=IVF, progress=seen.append)
        assert (state.name, state.column, state.state) == ("image_ivf", "image_embedding", "ready")
        assert (state.rows_indexed, state.rows_total, state.config) == (ROWS, ROWS, IvfConfig(nlist=50))
        assert 0 < (state.build_seconds or 0) < 60
        assert state.disk_bytes > ROWS * DIM * 2
        assert collection.status().indexes == (state,)
        stages = list(dict.fromkeys(step.label.rpartition(" ")[2] for step in seen))
        assert stages == ["sampling", "training", "assigning", "merging"]
        assert all(0 <= step.done <= step.total for step in seen)
        hits = collection.search(vectors[17])
        assert (hits.plan.path, hits.plan.index, hits.plan.effort, hits[0].id) == ("ivf", "image_ivf", 16, 17)
        assert len(hits) == 10
        assert collection.drop_index(kind="ivf") == "image_ivf"
        assert collection.status().indexes == ()
        assert collection.search(vectors[17], k=1).plan.path == "exact"
        assert tables(collection) == ["laion", "laion_indexes", "laion_shards"]
        with pytest.raises(UsageError, match="has no ivf index"):
            collection.drop_index(kind="ivf")


def test_columns_of_float32_have_lists_too(tmp_path: Path, vectors: np.ndarray) -> None:
    with Collection.open(tmp_path / "db") as collection:
        collection.load(fill(tmp_path / "in", 0, vectors), storage="float32")
        collection.build_index(config=IVF)
        assert_like_exact(collection, clustered(5, DIM, seed=9))
        assert_like_exact(collection, vectors[:2], k=3)


def test_text_and_image_have_lists_of_their_own(here: Collection, vectors: np.ndarray) -> None:
    here.build_index("image", IVF)
    here.build_index("text", IvfConfig(nlist=20))
    assert [(state.name, state.config) for state in here.status().indexes] == [
        ("image_ivf", IvfConfig(nlist=50)),
        ("text_ivf", IvfConfig(nlist=20)),
    ]
    assert here.search_with(vectors[17], params=SearchParams(column="text", nprobe=3))[0].id == ROWS - 1 - 17
    assert_like_exact(here, vectors[:2], column="text")
    here.drop_index("image", "ivf")
    assert_like_exact(here, vectors[:2], column="text")
    assert [state.name for state in here.status().indexes] == ["text_ivf"]


def test_a_build_of_few_rows_or_too_many_clusters_is_refused(here: Collection, vectors: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"2,000 rows are too few for 1,001 clusters; leave the number out"):
        here.build_index(config=IvfConfig(nlist=1001))
    here.delete(where="id >= 999")
    with pytest.raises(UsageError, match=r"999 rows with image_embedding are too few .*wants 1,000"):
        here.build_index(config=IVF)
    assert here.status().indexes == ()


def test_names_of_the_tables_beside_a_collection_are_no_names_of_collections(tmp_path: Path) -> None:
    for name in ("laion_image_ivf_x", "laion_text_ivf_0a1b2c3d_clusters", "laion_indexes", "laion_building_text_0_0"):
        with pytest.raises(UsageError, match="tables beside"):
            Collection.open(tmp_path / "db", name=name)


def test_ties_come_in_order_of_id(here: Collection, tmp_path: Path, vectors: np.ndarray) -> None:
    same = np.repeat(vectors[7:8], 100, axis=0)
    here.load(fill(tmp_path / "more", 1, same))
    here.build_index(config=IVF)
    here.load(fill(tmp_path / "newer", 2, same[:20]))
    wanted = [7, *range(SHARD, SHARD + 100), *range(2 * SHARD, 2 * SHARD + 20)]
    assert [hit.id for hit in everywhere(here, vectors[7], k=121)] == wanted
    assert [hit.id for hit in everywhere(here, vectors[7], k=30, offset=85)] == wanted[85:115]
    assert [hit.id for hit in here.search(vectors[7], k=12)] == wanted[:12]


def test_a_filter_by_the_distance_or_a_new_column_is_answered_as_without_lists(
    lists: Collection, vectors: np.ndarray
) -> None:
    within = lists.search(vectors[0], k=5, exact=True)[-1].distance
    hits = lists.search(vectors[0], where=f"distance <= {within + 1e-6}")
    assert [hit.id for hit in hits] == [hit.id for hit in lists.search(vectors[0], k=5, exact=True)]
    lists.sql("ALTER TABLE laion ADD COLUMN tag String DEFAULT if(id < 1000, 'a', 'b')")
    hits = lists.search(vectors[0], where="tag = 'b'", columns=["tag"])
    assert [hit.more["tag"] for hit in hits] == ["b"] * 10
    assert hits.plan.path == "exact"
    lists.build_index(config=IVF)
    hits = lists.search(vectors[0], where="tag = 'b'", columns=["tag"])
    assert ([hit.more["tag"] for hit in hits], hits.plan.path) == (["b"] * 10, "ivf")


def test_columns_of_ones_own_do_not_get_in_the_way(here: Collection, vectors: np.ndarray) -> None:
    here.sql("ALTER TABLE laion ADD COLUMN cluster String DEFAULT 'mine'")
    here.sql("ALTER TABLE laion ADD COLUMN texts UInt64 ALIAS length(text_embedding)")
    here.sql("ALTER TABLE laion ADD COLUMN area Int64 ALIAS width * height")
    here.build_index(config=IVF)
    assert_like_exact(here, vectors[:2], where="cluster = 'mine' AND area > 10", columns=("cluster", "area"))
    assert here.search(vectors[0], columns=["texts"])[0].more == {"texts": DIM}


def test_both_kinds_stand_side_by_side(lists: Collection, vectors: np.ndarray) -> None:
    lists.build_index(config=IndexConfig(m=16, ef_construction=64))
    assert [(state.name, state.state) for state in lists.status().indexes] == [
        ("image_index", "ready"),
        ("image_ivf", "ready"),
    ]
    for kind, wanted in ((None, "ivf"), ("ivf", "ivf"), ("hnsw", "hnsw")):
        hits = lists.search_with(vectors[5], params=SearchParams(kind=kind))
        assert (hits.plan.path, hits[0].id) == (wanted, 5)
    lists.drop_index(kind="ivf")
    assert lists.search(vectors[5]).plan.path == "hnsw"
    lists.build_index(config=IVF)
    lists.drop_index(kind="hnsw")
    assert lists.search(vectors[5]).plan.path == "ivf"


@pytest.mark.parametrize("db", ["server"], indirect=True)
def test_vectors_of_512_dimensions_and_many_clusters_reach_a_server(db: str, tmp_path: Path) -> None:
    vectors = clustered(2400, 512, seed=2)
    with Collection.open(db) as collection:
        collection.load(fill(tmp_path / "in", 0, vectors), storage="float32")
        collection.build_index(config=IvfConfig(nlist=1200))
        for nprobe in (1, 1100, 1200):
            hits = collection.search_with(vectors[4], params=SearchParams(kind="ivf", nprobe=nprobe))
            assert (hits[0].id, hits.plan.path) == (4, "ivf")
        query, _ = collection.statement(vectors[4], params=SearchParams(kind="ivf", nprobe=1200))
        assert len(query.parameters["probes"]) == 8 * 1200
