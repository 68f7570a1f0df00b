"""Inverted lists: built, searched, kept right whatever happens to the rows, on every kind of engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cliphouse import Collection, Hits, IndexConfig, Progress, SearchParams, ivf, queries
from cliphouse.errors import InvalidFilter, UsageError
from cliphouse.types import IvfConfig
from tests.data import clustered, write_shard

IVF = IvfConfig()
ROWS, DIM = 2000, 16
SHARD = 100_000_000
#: More than any of these indexes has clusters.
ALL = 1000


@pytest.fixture
def vectors() -> np.ndarray:
    return clustered(ROWS, DIM, seed=3)


def fill(place: Path, number: int, vectors: np.ndarray, caption: str = "", **options: object) -> Path:
    """A shard whose captions are the numbers of its rows, and whose texts are its images in reverse."""
    captions = [caption or str(row) for row in range(len(vectors))]
    return write_shard(place, number, captions, images=vectors, texts=vectors[::-1], dtype="float32", **options)


@pytest.fixture
def lists(db: str, tmp_path: Path, vectors: np.ndarray) -> Iterator[Collection]:
    """2000 rows with inverted lists of their images."""
    with Collection.open(db) as collection:
        collection.load(fill(tmp_path / "in", 0, vectors))
        collection.build_index(config=IVF)
        yield collection


@pytest.fixture
def here(tmp_path: Path, vectors: np.ndarray) -> Iterator[Collection]:
    """The same in a data directory, before anything is built."""
    with Collection.open(tmp_path / "db") as collection:
        collection.load(fill(tmp_path / "in", 0, vectors))
        yield collection


def everywhere(collection: Collection, query: np.ndarray, k: int = 10, **options: object) -> Hits:
    """Through the lists, all of them."""
    hits = collection.search_with(query, params=SearchParams(k=k, kind="ivf", nprobe=ALL, **options))
    assert hits.plan.path == "ivf", hits.plan.reason
    return hits


def assert_like_exact(collection: Collection, queries: np.ndarray, **options: object) -> None:
    """The lists, when all are read, answer as an exact search does: in every row and column."""
    for query in queries:
        found = everywhere(collection, query, **options)
        wanted = collection.search_with(query, params=SearchParams(exact=True, **{"k": 10, **options}))
        assert [hit.distance for hit in found] == pytest.approx([hit.distance for hit in wanted], abs=1e-4)
        # Rows that the rounded target cannot tell apart may be in or out at the end.
        known = {hit.id: replace(hit, distance=0) for hit in wanted}
        apart = {hit.id for hit in found} ^ known.keys()
        assert all(hit.distance > wanted[-1].distance - 1e-4 for hit in (*found, *wanted) if hit.id in apart)
        assert all(replace(hit, distance=0) == known[hit.id] for hit in found if hit.id in known)


def tables(collection: Collection) -> list[str]:
    return sorted(collection.sql("SHOW TABLES").column("name").to_pylist())


def copies(collection: Collection, condition: str = "true") -> int:
    """Rows in the lists, those that are only hidden too."""
    (table,) = (name for name in tables(collection) if f"{name}_clusters" in tables(collection))
    sql = f"SELECT count() AS n FROM {table} WHERE {condition} SETTINGS apply_deleted_mask = 0"
    return int(collection.sql(sql).column("n").to_pylist()[0])


def state_of(collection: Collection) -> tuple[str, int, int]:
    (state,) = collection.status().indexes
    return state.state, state.rows_indexed, state.rows_total


# -- building and showing --------------------------------------------------------------------------------------------


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


def test_with_all_clusters_an_answer_is_the_exact_one(lists: Collection, vectors: np.ndarray) -> None:
    queries = np.vstack([vectors[:3], clustered(3, DIM, seed=9), -vectors[:1]])
    assert_like_exact(lists, queries)
    assert_like_exact(lists, queries, k=37, where="width > 100000", columns=("width", "shard"))


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


def test_few_granules_are_read_by_the_primary_key(lists: Collection, vectors: np.ndarray) -> None:
    query, plan = lists.statement(vectors[17], params=SearchParams(nprobe=2))
    assert plan.path == "ivf"
    explained = lists.explain(query)
    read, of = map(
        int,
        re.search(
            r"Condition: \(ivf_cluster in \d-element set\).*?Granules: (\d+)/(\d+)", explained, re.DOTALL
        ).groups(),
    )
    assert (read <= 6, of) == (True, 16)
    assert "PrimaryKey" in explained
    assert "ReadFromMergeTree" in explained
    assert "laion_image_ivf_" in explained
    assert not re.search(r"laion\)", explained), "the collection itself is not read"


def test_clusters_in_several_parameters_are_still_chosen_by_the_primary_key(
    lists: Collection, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lists.search_with(vectors[17], params=SearchParams(nprobe=5))
    monkeypatch.setattr(queries, "_FIELD_LENGTH", 16)
    query, _ = lists.statement(vectors[17], params=SearchParams(nprobe=5))
    assert "probes_1" in query.parameters
    count = sum(len(value) for name, value in query.parameters.items() if name.startswith("probes")) // 8
    assert f"Condition: (ivf_cluster in {count}-element set)" in lists.explain(query)
    assert list(lists.search_with(vectors[17], params=SearchParams(nprobe=5))) == list(whole)


def test_with_new_rows_the_collection_is_read_by_the_primary_key_alone(
    lists: Collection, tmp_path: Path, vectors: np.ndarray
) -> None:
    lists.load(fill(tmp_path / "more", 1, vectors[:50]))
    query, _ = lists.statement(vectors[17], params=SearchParams(nprobe=2))
    explained = lists.explain(query)
    beside = explained[explained.index("laion)") :]
    assert re.search(r"Keys:\s+id", re.sub("[│├└─]", " ", beside))
    assert "Parts: 1/2" in beside


def test_a_build_of_few_rows_or_too_many_clusters_is_refused(here: Collection, vectors: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"2,000 rows are too few for 1,001 clusters; leave the number out"):
        here.build_index(config=IvfConfig(nlist=1001))
    here.delete(where="id >= 999")
    with pytest.raises(UsageError, match=r"999 rows with image_embedding are too few .*wants 1,000"):
        here.build_index(config=IVF)
    assert here.status().indexes == ()


def test_another_number_of_clusters_asks_for_a_drop_first(lists: Collection) -> None:
    with pytest.raises(UsageError, match=r"50 clusters; drop it first: cliphouse index drop --kind ivf --column image"):
        lists.build_index(config=IvfConfig(nlist=20))
    assert lists.build_index(config=IvfConfig(nlist=50)).state == "ready"


def test_names_of_the_tables_beside_a_collection_are_no_names_of_collections(tmp_path: Path) -> None:
    for name in ("laion_image_ivf_x", "laion_text_ivf_0a1b2c3d_clusters", "laion_indexes", "laion_building_text_0_0"):
        with pytest.raises(UsageError, match="tables beside"):
            Collection.open(tmp_path / "db", name=name)


# -- which path answers ------------------------------------------------------------------------------------------------


def test_pages_follow_each_other_without_gaps(lists: Collection, vectors: np.ndarray) -> None:
    whole = [hit.id for hit in lists.search(vectors[3], k=300, exact=True)]
    pages = [everywhere(lists, vectors[3], k=50, offset=offset) for offset in range(0, 300, 50)]
    assert [hit.id for page in pages for hit in page] == whole


def test_any_k_is_answered(lists: Collection, vectors: np.ndarray) -> None:
    for k in (1001, ROWS - 1, ROWS):
        assert_like_exact(lists, vectors[:1], k=k)
    hits = lists.search(vectors[0], k=ROWS + 100)
    assert (len(hits), hits.plan.path) == (ROWS, "exact")
    assert lists.search_with(vectors[0], params=SearchParams(k=10, offset=ROWS + 5)).plan.path == "exact"
    assert len(lists.search_with(vectors[0], params=SearchParams(k=10, offset=ROWS - 3, kind="ivf", nprobe=ALL))) == 3


def test_ties_come_in_order_of_id(here: Collection, tmp_path: Path, vectors: np.ndarray) -> None:
    same = np.repeat(vectors[7:8], 100, axis=0)
    here.load(fill(tmp_path / "more", 1, same))
    here.build_index(config=IVF)
    here.load(fill(tmp_path / "newer", 2, same[:20]))
    wanted = [7, *range(SHARD, SHARD + 100), *range(2 * SHARD, 2 * SHARD + 20)]
    assert [hit.id for hit in everywhere(here, vectors[7], k=121)] == wanted
    assert [hit.id for hit in everywhere(here, vectors[7], k=30, offset=85)] == wanted[85:115]
    assert [hit.id for hit in here.search(vectors[7], k=12)] == wanted[:12]


def test_a_filter_that_leaves_few_rows_is_answered_exactly(lists: Collection, vectors: np.ndarray) -> None:
    hits = lists.search(vectors[0], where="id % 200 = 3", k=5)
    assert (hits.plan.path, len(hits)) == ("exact", 5)
    assert "rows pass the filter" in hits.plan.reason
    hits = lists.search(vectors[0], where="id % 10 != 3", k=5)
    assert hits.plan.path == "ivf"
    assert all(hit.id % 10 != 3 for hit in hits)
    assert lists.search(vectors[0], where="caption = 'no such'").plan.path == "exact"


def test_a_filter_that_hides_a_cluster_still_gives_k_rows(lists: Collection, vectors: np.ndarray) -> None:
    """The share of rows that pass, half, says nothing of the clusters that are looked into, where none does."""
    near = {hit.id for hit in lists.search(vectors[0], k=ROWS // 2, exact=True)}
    where = f"NOT has({sorted(near)}, id)"
    hits = lists.search_with(vectors[0], params=SearchParams(k=10, where=where, nprobe=2, kind="ivf"))
    assert len(hits) == 10
    assert near.isdisjoint(hit.id for hit in hits)


@pytest.mark.parametrize(
    "where", ["length(text_embedding) = 16", "text_embedding[1] > image_embedding[1]"], ids=["length", "both"]
)
def test_a_filter_by_the_other_embedding_is_answered_exactly(
    lists: Collection, vectors: np.ndarray, where: str
) -> None:
    hits = lists.search(vectors[0], where=where)
    assert hits.plan.path == "exact"
    assert "text_embedding" in hits.plan.reason
    assert len(hits) == 10


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


@pytest.mark.parametrize("where", ["nonsense = 1", "caption = ", "id = 'x' AND", "ivf_cluster = 3", "1) OR (1 = 1"])
def test_a_filter_that_fails_is_named(lists: Collection, vectors: np.ndarray, where: str) -> None:
    for kind in ("ivf", None):
        with pytest.raises(InvalidFilter):
            lists.search_with(vectors[0], params=SearchParams(where=where, kind=kind))


def test_columns_of_ones_own_do_not_get_in_the_way(here: Collection, vectors: np.ndarray) -> None:
    here.sql("ALTER TABLE laion ADD COLUMN cluster String DEFAULT 'mine'")
    here.sql("ALTER TABLE laion ADD COLUMN texts UInt64 ALIAS length(text_embedding)")
    here.sql("ALTER TABLE laion ADD COLUMN area Int64 ALIAS width * height")
    here.build_index(config=IVF)
    assert_like_exact(here, vectors[:2], where="cluster = 'mine' AND area > 10", columns=("cluster", "area"))
    assert here.search(vectors[0], columns=["texts"])[0].more == {"texts": DIM}


def test_an_index_that_is_not_there_is_named_with_the_next_step(here: Collection, vectors: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"no ivf index; build one: cliphouse index build --kind ivf --column text"):
        here.search_with(vectors[0], params=SearchParams(kind="ivf", column="text"))
    here.build_index(config=IVF)
    with pytest.raises(UsageError, match=r"no hnsw index; build one"):
        here.search_with(vectors[0], params=SearchParams(kind="hnsw"))
    with pytest.raises(UsageError, match=r"no recall of the ivf index .*cliphouse tune --column image"):
        here.search_with(vectors[0], params=SearchParams(recall=0.95))
    assert here.search_with(vectors[0], params=SearchParams(recall=1)).plan.path == "exact"


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


# -- rows that come ----------------------------------------------------------------------------------------------------


def test_rows_that_come_later_are_found_at_once_and_taken_in_by_the_next_build(
    lists: Collection, tmp_path: Path, vectors: np.ndarray
) -> None:
    more = clustered(60, DIM, seed=8)
    lists.load(fill(tmp_path / "more", 1, more, "loaded"))
    by_hand = (
        "INSERT INTO laion (id, caption, image_embedding) SELECT id + 5000, 'by hand', image_embedding FROM laion "
        "WHERE id BETWEEN 10 AND 12"
    )
    lists.sql(by_hand)
    assert state_of(lists) == ("partial", ROWS, ROWS + 63)
    hits = lists.search(more[7], k=2)
    assert (hits[0].id, hits.plan.path) == (SHARD + 7, "ivf")
    assert "63 rows that it does not know are compared one by one" in hits.plan.reason
    assert [hit.id for hit in lists.search(vectors[11], k=2)] == [11, 5011]
    assert_like_exact(lists, np.vstack([more[:2], vectors[10:12]]))
    seen: list[Progress] = []
    state = lists.build_index(config=IVF, progress=seen.append)
    assert (state.state, state.rows_indexed) == ("ready", ROWS + 63)
    assert "image_ivf: training" not in {step.label for step in seen}
    assert lists.search(more[7]).plan.reason == "the index image_ivf is ready"
    assert_like_exact(lists, np.vstack([more[:2], vectors[10:12]]))
    assert copies(lists) == ROWS + 63


def test_rows_before_between_and_behind_those_that_are_held_are_found(here: Collection, vectors: np.ndarray) -> None:
    here.sql("ALTER TABLE laion UPDATE caption = '' WHERE 0 SETTINGS mutations_sync = 2")
    here.delete(where="id BETWEEN 500 AND 599 OR id < 20")
    here.build_index(config=IVF)
    for number, place in enumerate((5, 550, 7000)):
        here.sql(
            "INSERT INTO laion (id, caption, image_embedding) "
            f"SELECT {place} + id - 30, 'new', image_embedding FROM laion WHERE id BETWEEN 30 AND 33"
        )
        assert [hit.id for hit in here.search(vectors[30], k=number + 2)] == sorted([30, 5, 550, 7000][: number + 2])
    assert state_of(here)[1:] == (0, ROWS - 120 + 12)
    assert here.build_index(config=IVF).state == "ready"
    assert_like_exact(here, vectors[29:34])


def test_a_collection_that_has_doubled_is_clustered_anew(lists: Collection, tmp_path: Path) -> None:
    (before,) = lists.status().indexes
    old = [name for name in tables(lists) if "_ivf_" in name]
    lists.load(fill(tmp_path / "a", 1, clustered(1500, DIM, seed=5)))
    assert lists.build_index(config=IVF).config == before.config
    lists.load(fill(tmp_path / "b", 2, clustered(600, DIM, seed=6)))
    state = lists.build_index(config=IVF)
    assert (state.state, state.config) == ("ready", IvfConfig(nlist=102)), "of 4100 rows, though the last ones were few"
    assert not set(old) & set(tables(lists))
    assert_like_exact(lists, clustered(3, DIM, seed=6))


def test_rows_without_an_embedding_are_nobodys_loss(db: str, tmp_path: Path, vectors: np.ndarray) -> None:
    with Collection.open(db) as collection:
        collection.load(fill(tmp_path / "in", 0, vectors))
        captions = ["x"] * 50
        write_shard(tmp_path / "gaps", 1, captions, images=vectors[:50], with_text=False, dtype="float32")
        collection.load(tmp_path / "gaps")
        state = collection.build_index("text", IVF)
        assert (state.state, state.rows_total) == ("ready", ROWS)
        assert_like_exact(collection, vectors[:2], column="text")
        assert collection.statement(vectors[0], params=SearchParams(column="text", kind="ivf"))[1].path == "ivf"
        collection.sql(
            "INSERT INTO laion (id, image_embedding, text_embedding) "
            "SELECT 9000 + id, image_embedding, [] FROM laion WHERE id < 5"
        )
        collection.sql(
            "INSERT INTO laion (id, image_embedding, text_embedding) "
            "SELECT 9100 + id, [], text_embedding FROM laion WHERE id < 5"
        )
        assert_like_exact(collection, vectors[:2], column="text")
        assert collection.build_index("text", IVF).rows_indexed == ROWS + 5


# -- rows that go, and that change -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["where", "ids", "sql", "alter"])
def test_rows_that_are_deleted_do_not_come_back(lists: Collection, vectors: np.ndarray, how: str) -> None:
    gone = [hit.id for hit in lists.search(vectors[9], k=4, exact=True)]
    condition = f"id IN ({', '.join(map(str, gone))})"
    if how == "sql":
        lists.sql(f"DELETE FROM laion WHERE {condition}")
    elif how == "alter":
        lists.sql(f"ALTER TABLE laion DELETE WHERE {condition} SETTINGS mutations_sync = 2")
    else:
        assert lists.delete(**({"ids": gone} if how == "ids" else {"where": condition})).rows == 4
        assert state_of(lists) == ("ready", ROWS - 4, ROWS - 4)
        assert lists.search(vectors[9]).plan.path == "ivf"
    wanted = [hit.id for hit in lists.search(vectors[9], k=10, exact=True)]
    assert set(gone).isdisjoint(wanted)
    assert [hit.id for hit in lists.search(vectors[9])] == wanted
    assert lists.build_index(config=IVF).state == "ready"
    assert_like_exact(lists, vectors[8:11])


def test_a_shard_that_is_gone_does_not_come_back_between_two_that_are_left(
    here: Collection, tmp_path: Path, vectors: np.ndarray
) -> None:
    for number in (1, 2):
        here.load(fill(tmp_path / "in", number, clustered(500, DIM, seed=number)))
    middle = clustered(500, DIM, seed=1)
    here.build_index(config=IVF)
    here.sql(f"DELETE FROM laion WHERE id BETWEEN {SHARD} AND {2 * SHARD - 1}")
    assert state_of(here) == ("ready", ROWS + 500, ROWS + 500)
    assert all(hit.id // SHARD != 1 for hit in everywhere(here, middle[7]))
    assert_like_exact(here, middle[:3])
    assert all(hit.id // SHARD != 1 for hit in here.search(middle[7]))


def test_a_shard_that_is_deleted_and_loaded_with_other_contents_is_as_it_is_now(
    lists: Collection, tmp_path: Path, vectors: np.ndarray
) -> None:
    lists.load(fill(tmp_path / "in", 1, vectors[:300], "old"))
    lists.build_index(config=IVF)
    lists.delete(shards=[1])
    assert copies(lists, f"id >= {SHARD} AND _row_exists") == 0
    other = clustered(300, DIM, seed=77)
    lists.load(fill(tmp_path / "other", 1, other, "new"))
    hits = lists.search(other[3], k=5)
    assert (hits[0].id, hits[0].caption, hits.plan.path) == (SHARD + 3, "new", "ivf")
    assert_like_exact(lists, np.vstack([other[:2], vectors[:2]]))
    lists.build_index(config=IVF)
    assert_like_exact(lists, np.vstack([other[:2], vectors[:2]]))


def test_a_row_that_is_replaced_by_sql_is_as_it_is_now(lists: Collection, vectors: np.ndarray) -> None:
    lists.sql("DELETE FROM laion WHERE id = 40")
    lists.sql(
        "INSERT INTO laion (id, caption, similarity, image_embedding) "
        "SELECT 40, 'replaced', 0.9, image_embedding FROM laion WHERE id = 41"
    )
    assert [(hit.id, hit.caption) for hit in lists.search(vectors[41], k=2)] == [(40, "replaced"), (41, "41")]
    lists.build_index(config=IVF)
    assert_like_exact(lists, vectors[40:42])


def test_captions_that_are_changed_are_right_and_the_next_build_takes_them_in(
    lists: Collection, vectors: np.ndarray
) -> None:
    lists.sql("ALTER TABLE laion UPDATE caption = 'changed' WHERE id = 17 SETTINGS mutations_sync = 2")
    hits = lists.search(vectors[17], k=1)
    assert (hits[0].caption, hits.plan.path) == ("changed", "exact")
    assert "build again" in hits.plan.reason
    assert state_of(lists) == ("empty", 0, ROWS)
    assert lists.build_index(config=IVF).state == "ready"
    hits = lists.search(vectors[17], k=1)
    assert (hits[0].caption, hits.plan.path) == ("changed", "ivf")


def test_deletions_that_speak_of_updates_change_nothing(lists: Collection) -> None:
    lists.delete(where="caption LIKE '%UPDATE %' OR id = 3")
    lists.sql("ALTER TABLE laion DELETE WHERE caption = ' UPDATE ' SETTINGS mutations_sync = 2")
    assert state_of(lists) == ("ready", ROWS - 1, ROWS - 1)


def test_an_update_that_the_engine_has_forgotten_is_feared(
    lists: Collection, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ivf, "_MUTATIONS_KEPT", 3)
    for number in range(2):
        lists.delete(ids=[number])
    assert state_of(lists)[0] == "ready"
    lists.delete(ids=[2])
    assert state_of(lists)[0] == "empty"
    assert lists.build_index(config=IVF).state == "ready"


def test_a_collection_that_was_dropped_and_made_again_does_not_have_its_old_lists(
    lists: Collection, tmp_path: Path, vectors: np.ndarray
) -> None:
    lists.search(vectors[0])
    lists.sql("DROP TABLE laion SYNC")
    lists.sql("DROP TABLE laion_shards SYNC")
    other = clustered(ROWS, DIM, seed=55)
    lists.load(fill(tmp_path / "other", 0, other))
    hits = lists.search(other[3], k=3)
    assert (hits[0].id, hits.plan.path) == (3, "exact")
    assert lists.build_index(config=IVF).state == "ready"
    assert_like_exact(lists, other[:3])


@pytest.mark.parametrize("how", ["delete", "sql"])
def test_a_purge_removes_the_copies_too(here: Collection, how: str) -> None:
    here.build_index(config=IVF)
    if how == "sql":
        here.sql("DELETE FROM laion WHERE id < 100")
        assert here.delete(purge=True).held_bytes == 0
    else:
        here.delete(where="id < 100", purge=True)
    assert copies(here) == ROWS - 100
    assert copies(here, "id < 100") == 0
    assert state_of(here) == ("ready", ROWS - 100, ROWS - 100)


def test_what_is_denied_is_gone_from_the_lists(lists: Collection, tmp_path: Path, vectors: np.ndarray) -> None:
    deny = tmp_path / "deny.txt"
    deny.write_text("https://example.com/0/17.jpg\n")
    lists.deny(deny)
    hits = lists.search(vectors[17])
    assert 17 not in [hit.id for hit in hits]
    assert hits.plan.path == "ivf"


def test_lists_that_know_little_of_a_collection_leave_it_to_an_exact_search(
    lists: Collection, tmp_path: Path, vectors: np.ndarray
) -> None:
    more = clustered(ROWS + 1, DIM, seed=8)
    lists.load(fill(tmp_path / "more", 1, more))
    hits = lists.search(more[5], k=1)
    assert (hits[0].id, hits.plan.path) == (SHARD + 5, "exact")
    assert "2,000 of 4,001 rows" in hits.plan.reason


# -- builds that are broken off ----------------------------------------------------------------------------------------


def interrupted(collection: Collection, stage: str, config: IvfConfig = IVF) -> None:
    """Begin a build, and break it off when it tells of this stage."""

    def stop(progress: Progress) -> None:
        if progress.label.endswith(stage):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collection.build_index(config=config, progress=stop)


def centroids(collection: Collection) -> list[list[list[float]]]:
    """Those that are stored, of every build."""
    stored = [name for name in tables(collection) if name.endswith("_clusters")]
    return [
        collection.sql(f"SELECT centroid FROM {name} ORDER BY cluster").to_pydict().get("centroid", [])
        for name in stored
    ]


@pytest.mark.parametrize("stage", ["sampling", "training", "assigning", "merging"])
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


@pytest.mark.parametrize("stage", ["sampling", "assigning", "merging"])
def test_the_old_lists_answer_while_new_ones_are_built(
    here: Collection, tmp_path: Path, vectors: np.ndarray, stage: str
) -> None:
    here.build_index(config=IVF)
    more = clustered(ROWS - 1, DIM, seed=8)
    here.load(fill(tmp_path / "in", 1, more))
    (_old,) = here.status().indexes
    here.sql("DELETE FROM laion WHERE id = 3")
    here.load(fill(tmp_path / "in", 2, more[:1]))
    here.build_index(config=IVF)
    here.load(fill(tmp_path / "in", 3, more[:5]))
    interrupted(here, stage)
    (state,) = here.status().indexes
    assert state.state == "partial"
    hits = here.search(vectors[5])
    assert hits.plan.path == "ivf"
    assert_like_exact(here, np.vstack([vectors[:2], more[:2]]))
    assert here.build_index(config=IVF).state == "ready"
    assert len([name for name in tables(here) if "_ivf_" in name]) == 2
    assert_like_exact(here, np.vstack([vectors[:2], more[:2]]))


@pytest.mark.parametrize("stage", ["assigning", "merging"])
def test_an_update_that_is_broken_off_loses_nothing(
    here: Collection, tmp_path: Path, vectors: np.ndarray, stage: str
) -> None:
    here.build_index(config=IVF)
    more = clustered(300, DIM, seed=8)
    here.load(fill(tmp_path / "in", 1, more))
    here.sql("DELETE FROM laion WHERE id < 30")
    interrupted(here, stage)
    assert_like_exact(here, np.vstack([vectors[:2], more[:2]]))
    assert here.build_index(config=IVF).state == "ready"
    assert_like_exact(here, np.vstack([vectors[:2], more[:2]]))
    assert copies(here, "_row_exists") == ROWS + 270
    held = here.sql(f"SELECT sum(rows) AS n FROM {tables(here)[2]}").column("n").to_pylist()
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


# -- on a server -------------------------------------------------------------------------------------------------------


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
