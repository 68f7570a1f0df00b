"""Inverted lists stay right whatever becomes of the rows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from cliphouse import Collection, Progress, SearchParams, ivf
from cliphouse.pipeline import delete
from cliphouse.types import IvfConfig
from tests.data import clustered, write_shard
from tests.lists import DIM, IVF, ROWS, SHARD, assert_like_exact, copies, everywhere, fill, state_of, tables


def test_with_new_rows_the_collection_is_read_by_the_primary_key_alone(
    lists: Collection, tmp_path: Path, vectors: np.ndarray
) -> None:
    lists.load(fill(tmp_path / "more", 1, vectors[:50]))
    query, _ = lists.statement(vectors[17], params=SearchParams(nprobe=2))
    explained = lists.explain(query)
    beside = explained[explained.index("laion)") :]
    assert re.search(r"Keys:\s+id", re.sub("[│├└─]", " ", beside))
    assert "Parts: 1/2" in beside


def test_rows_that_come_later_are_found_at_once_and_taken_in_by_the_next_build(
    anywhere: Collection, tmp_path: Path, vectors: np.ndarray
) -> None:
    more = clustered(60, DIM, seed=8)
    anywhere.load(fill(tmp_path / "more", 1, more, "loaded"))
    by_hand = (
        "INSERT INTO laion (id, caption, image_embedding) SELECT id + 5000, 'by hand', image_embedding FROM laion "
        "WHERE id BETWEEN 10 AND 12"
    )
    anywhere.sql(by_hand)
    assert state_of(anywhere) == ("partial", ROWS, ROWS + 63)
    hits = anywhere.search(more[7], k=2)
    assert (hits[0].id, hits.plan.path) == (SHARD + 7, "ivf")
    assert "63 rows that it does not know are compared one by one" in hits.plan.reason
    assert [hit.id for hit in anywhere.search(vectors[11], k=2)] == [11, 5011]
    assert_like_exact(anywhere, np.vstack([more[:2], vectors[10:12]]))
    seen: list[Progress] = []
    state = anywhere.build_index(config=IVF, progress=seen.append)
    assert (state.state, state.rows_indexed) == ("ready", ROWS + 63)
    assert "image_ivf: training" not in {step.label for step in seen}
    assert anywhere.search(more[7]).plan.reason == "the index image_ivf is ready"
    assert_like_exact(anywhere, np.vstack([more[:2], vectors[10:12]]))
    assert copies(anywhere) == ROWS + 63


def test_every_row_is_in_exactly_one_list(lists: Collection, tmp_path: Path) -> None:
    """And stays so when the lists take in what has come, and let go of what has gone."""
    for number in (1, 2):
        (table,) = (name for name in tables(lists) if f"{name}_clusters" in tables(lists))
        held = lists.sql(f"SELECT id FROM {table} ORDER BY id").column("id").to_pylist()
        assert held == lists.sql("SELECT id FROM laion ORDER BY id").column("id").to_pylist()
        counted = lists.sql(f"SELECT ivf_cluster AS cluster, count() AS n FROM {table} GROUP BY cluster")
        said = lists.sql(f"SELECT cluster, rows FROM {table}_clusters WHERE rows > 0")
        assert dict(zip(*counted.to_pydict().values(), strict=True)) == dict(
            zip(*said.to_pydict().values(), strict=True)
        )
        lists.load(fill(tmp_path / "more", number, clustered(100, DIM, seed=number)))
        lists.delete(where="id % 70 = 1")
        lists.build_index(config=IVF)


def test_rows_before_between_and_behind_those_that_are_held_are_found(here: Collection, vectors: np.ndarray) -> None:
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


def test_rows_without_an_embedding_are_nobodys_loss(tmp_path: Path, vectors: np.ndarray) -> None:
    with Collection.open(tmp_path / "db") as collection:
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


def test_rows_that_are_deleted_or_denied_do_not_come_back(
    anywhere: Collection, tmp_path: Path, vectors: np.ndarray
) -> None:
    for options in ({"where": "id % 20 = 9"}, {"ids": range(200, 260)}):
        anywhere.delete(**options)
        assert_like_exact(anywhere, vectors[[9, 222]])
        hits = anywhere.search(vectors[9])
        assert (hits.plan.path, 9 in [hit.id for hit in hits]) == ("ivf", False)
    (tmp_path / "deny.txt").write_text("https://example.com/0/17.jpg\n")
    anywhere.deny(tmp_path / "deny.txt")
    assert 17 not in [hit.id for hit in anywhere.search(vectors[17])]
    left = ROWS - 100 - 57 - 1
    assert state_of(anywhere) == ("ready", left, left)


def test_rows_that_are_deleted_by_sql_do_not_come_back(lists: Collection, vectors: np.ndarray) -> None:
    lists.sql("DELETE FROM laion WHERE id = 9")
    assert state_of(lists) == ("empty", 0, ROWS - 1)
    hits = lists.search(vectors[9], k=3)
    assert [hit.id for hit in hits] == [hit.id for hit in lists.search(vectors[9], k=3, exact=True)]
    seen: list[Progress] = []
    assert lists.build_index(config=IVF, progress=seen.append).state == "ready"
    assert "image_ivf: assigning" not in {step.label for step in seen}, "to let go of a row, none is copied"
    assert_like_exact(lists, vectors[8:11])
    lists.sql("ALTER TABLE laion DELETE WHERE id BETWEEN 100 AND 1599 SETTINGS mutations_sync = 2")
    assert 150 not in [hit.id for hit in lists.search(vectors[150])]
    assert lists.build_index(config=IVF).rows_indexed == 499, "fewer than a first build wants"
    assert_like_exact(lists, vectors[149:151])


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


def test_only_what_may_have_changed_rows_in_place_makes_them_doubtful(
    lists: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists.sql("DELETE FROM laion WHERE caption LIKE '%UPDATE %'")
    lists.sql("ALTER TABLE laion DELETE WHERE caption = ' UPDATE ' SETTINGS mutations_sync = 2")
    assert state_of(lists) == ("ready", ROWS, ROWS)
    monkeypatch.setattr(ivf, "_MUTATIONS_KEPT", 2)  # so many are remembered, so what was before them is unknown
    assert state_of(lists) == ("empty", 0, ROWS)
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


def test_a_purge_removes_the_copies_too(lists: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delete, "_REMOVAL_SECONDS", 0)  # nor waits until the engine has removed old files
    lists.delete(where="id < 100")
    lists.sql("DELETE FROM laion WHERE id BETWEEN 100 AND 149")
    assert copies(lists) == ROWS
    lists.delete(purge=True)
    assert (copies(lists), copies(lists, "id < 150")) == (ROWS - 150, 0)
    assert state_of(lists) == ("ready", ROWS - 150, ROWS - 150)


def test_lists_that_know_little_of_a_collection_leave_it_to_an_exact_search(
    lists: Collection, tmp_path: Path, vectors: np.ndarray
) -> None:
    more = clustered(ROWS + 1, DIM, seed=8)
    lists.load(fill(tmp_path / "more", 1, more))
    hits = lists.search(more[5], k=1)
    assert (hits[0].id, hits.plan.path) == (SHARD + 5, "exact")
    assert "2,000 of 4,001 rows" in hits.plan.reason
