"""Deleting rows: what answers afterwards, what stays away, what is left on disk; on every kind of engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cliphouse import Collection, IndexConfig, Progress, SearchParams
from cliphouse.errors import InvalidFilter, UsageError
from cliphouse.pipeline import delete
from tests.data import random_unit, write_shard

SMALL = IndexConfig(m=16, ef_construction=64)
ROWS, DIM = 3000, 32
SHARD = 100_000_000


def ids_of(collection: Collection) -> list[int]:
    return collection.sql(f"SELECT id FROM {collection.name} ORDER BY id").column("id").to_pylist()


@pytest.fixture
def indexed(tmp_path: Path) -> Iterator[tuple[Collection, np.ndarray]]:
    """3000 indexed rows and 200 that came later, as a second part without an index."""
    vectors, more = random_unit(ROWS, DIM, seed=3), random_unit(200, DIM, seed=4)
    write_shard(tmp_path / "in", 0, ["x"] * ROWS, images=vectors, with_text=False, dtype="float32")
    write_shard(tmp_path / "in", 1, ["x"] * 200, images=more, with_text=False, dtype="float32")
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in", shards="0", storage="float32")
        collection.build_index(config=SMALL)
        collection.load(tmp_path / "in", shards="1")
        yield collection, vectors


def test_rows_go_by_condition_by_id_and_by_shard(collection: Collection, tmp_path: Path) -> None:
    assert collection.delete(where="caption LIKE '%red car%'").rows == 2
    assert ids_of(collection) == [2, 3, 4, 5, 6, 7]
    assert collection.delete(ids=[2, 5, 77]).rows == 2
    assert ids_of(collection) == [3, 4, 6, 7]
    report = collection.delete(shards="0")
    assert (report.rows, report.again) == (4, (0,))
    assert ids_of(collection) == []


def test_what_is_deleted_stays_away_and_a_shard_comes_back(collection: Collection, shards: Path) -> None:
    collection.delete(where="id < 3")
    assert collection.load(shards).skipped == (0,)
    collection.delete(where="true")
    assert collection.load(shards).skipped == (0,), "all of its rows were deleted, on purpose"
    assert ids_of(collection) == []
    collection.delete(shards=[0])
    assert collection.load(shards).loaded == (0,)
    assert ids_of(collection) == list(range(8))


def test_a_table_that_was_emptied_by_hand_is_loaded_again_without_what_was_deleted(
    collection: Collection, shards: Path
) -> None:
    collection.delete(ids=[4])
    collection.sql("TRUNCATE TABLE laion")
    assert collection.load(shards).loaded == (0,)
    assert ids_of(collection) == [0, 1, 2, 3, 5, 6, 7]


def test_a_table_that_was_dropped_by_hand_begins_anew(embedded: Collection, shards: Path) -> None:
    embedded.delete(ids=[4])
    embedded.sql("DROP TABLE laion SYNC")
    embedded.load(shards)
    assert ids_of(embedded) == list(range(8))


def test_nearest_rows_are_deleted_and_the_index_still_answers_right(
    indexed: tuple[Collection, np.ndarray],
) -> None:
    collection, vectors = indexed
    nearest = [hit.id for hit in collection.search(vectors[9], k=40, exact=True)]
    collection.delete(ids=nearest[:5])
    hits = collection.search(vectors[9], k=10)
    assert (hits.plan.path, hits.plan.index) == ("hnsw", "image_index")
    assert [hit.id for hit in hits] == nearest[5:15]
    query, plan = collection.statement(vectors[9], params=SearchParams())
    assert plan.spare > 0
    assert "image_index" in collection.explain(query)


def test_more_is_asked_of_the_index_where_more_was_deleted(indexed: tuple[Collection, np.ndarray]) -> None:
    collection, vectors = indexed
    nearest = [hit.id for hit in collection.search(vectors[9], k=1200, exact=True)]
    collection.delete(ids=nearest[:300])
    hits = collection.search(vectors[9], k=10, ef_search=2000)
    assert (hits.plan.path, hits.plan.spare) == ("hnsw", 990)
    assert [hit.id for hit in hits] == nearest[300:310]
    collection.delete(ids=nearest[300:1100])
    hits = collection.search(vectors[9], k=10)
    assert hits.plan.path == "exact"
    assert "gave only" in hits.plan.reason
    assert [hit.id for hit in hits] == nearest[1100:1110]


def test_a_shard_of_an_indexed_part_goes_and_comes_back(indexed: tuple[Collection, np.ndarray], tmp_path: Path) -> None:
    collection, vectors = indexed
    assert collection.delete(shards="0").rows == ROWS
    assert all(hit.id >= SHARD for hit in collection.search(vectors[9], k=10))
    assert collection.load(tmp_path / "in").loaded == (0,)
    hits = collection.search(vectors[9], k=10)
    assert hits[0].id == 9
    exact = collection.search(vectors[9], k=10, exact=True)
    assert [hit.id for hit in hits] == [hit.id for hit in exact]


def test_an_index_is_built_over_what_is_left(tmp_path: Path) -> None:
    vectors = random_unit(600, DIM, seed=3)
    write_shard(tmp_path / "in", 0, ["x"] * 500, images=vectors[:500], texts=vectors[:500])
    write_shard(tmp_path / "in", 1, ["x"] * 100, images=vectors[500:], with_text=False)
    write_shard(tmp_path / "in", 2, ["x"] * 100, images=vectors[500:], texts=vectors[500:])
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in", shards="0-1")
        collection.sql("OPTIMIZE TABLE laion FINAL")
        collection.delete(where="shard = 1")  # rows without an embedding hide in the one part
        collection.build_index("text", SMALL)
        collection.drop_index("text")
        collection.load(tmp_path / "in", shards="2")
        collection.delete(ids=range(100))
        seen: list[Progress] = []
        assert collection.build_index("text", SMALL, progress=seen.append).rows_indexed == 500
        assert (seen[-1].done, seen[-1].total) == (500, 500)
        assert collection.search(vectors[7], k=1, column="text")[0].id >= 100


def test_an_index_beside_another_asks_for_a_purge_first(tmp_path: Path) -> None:
    write_shard(tmp_path / "in", 0, ["x"] * 50, images=random_unit(50, DIM), texts=random_unit(50, DIM))
    write_shard(tmp_path / "in", 1, ["x"] * 50, images=random_unit(50, DIM, 1), with_text=False)
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in")
        collection.build_index("image", SMALL)
        collection.delete(where="shard = 1")
        with pytest.raises(UsageError, match=r"50 deleted rows without text_embedding.*cliphouse delete --purge"):
            collection.build_index("text", SMALL)


def test_a_deletion_that_was_killed_is_repeated(
    collection: Collection, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(delete, "forget", killed)
        with pytest.raises(KeyboardInterrupt):
            collection.delete(ids=[2, 3])
    assert ids_of(collection) == list(range(8))
    assert [each.what for each in collection.verify(shards).differences] == ["rows", "row 2", "row 3"]
    assert collection.delete(ids=[2, 3]).rows == 2
    assert collection.verify(shards).same


def test_filters_and_deletes_together(indexed: tuple[Collection, np.ndarray]) -> None:
    collection, vectors = indexed
    where = "id % 3 = 0"
    nearest = [hit.id for hit in collection.search(vectors[9], k=30, exact=True, where=where)]
    collection.delete(ids=nearest[:5])
    assert [hit.id for hit in collection.search(vectors[9], k=10, where=where)] == nearest[5:15]


def test_many_rows_go_in_several_statements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delete, "_ROWS_AT_ONCE", 10)
    monkeypatch.setattr(delete, "_IDS_AT_ONCE", 3)
    for number in (0, 1, 2, 9):
        write_shard(tmp_path / "in", number)
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        collection.load(tmp_path / "in")
        seen: list[Progress] = []
        assert collection.delete(where="row > 1", progress=seen.append).rows == 24
        assert [step.done for step in seen] == [6, 12, 18, 24]
        left = [shard * SHARD + row for shard in (0, 1, 2, 9) for row in (0, 1)]
        assert ids_of(collection) == left
        assert collection.delete(ids=left[1:]).rows == 7
        assert ids_of(collection) == [0]


def test_shards_go_by_ranges(tmp_path: Path) -> None:
    for number in range(5):
        write_shard(tmp_path / "in", number)
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        collection.load(tmp_path / "in")
        assert collection.delete(shards="0-1,3,70-80").again == (0, 1, 3)
        assert {each // SHARD for each in ids_of(collection)} == {2, 4}
        with pytest.raises(UsageError, match="no shard 70-80"):
            collection.delete(shards="70-80")


def test_a_purge_takes_the_bytes_off_the_disk(tmp_path: Path) -> None:
    captions = [f"secret-{row:05d}" for row in range(500)]
    vectors = random_unit(500, DIM, seed=6)
    write_shard(tmp_path / "in", 0, captions, images=vectors, with_text=False, columns={"url": captions})
    place = tmp_path / "db"
    with Collection.open(place) as collection:
        collection.load(tmp_path / "in")
        collection.sql("ALTER TABLE laion MODIFY SETTING max_cleanup_delay_period = 1")
    with Collection.open(place) as collection:  # which is when the engine looks at that setting
        collection.build_index(config=SMALL)
        collection.delete(ids=range(100, 200))
        assert _holds(place, vectors[150]), "only hidden"
        report = collection.delete(purge=True)
        assert (report.rows, report.held_bytes) == (0, 0)
        assert report.freed_bytes > 0
        assert not _holds(place, vectors[150])
        assert _holds(place, vectors[50])
        hits = collection.search(vectors[7], k=5)
        assert (hits[0].id, hits.plan.path, hits.plan.spare) == (7, "hnsw", 0)
        assert collection.status().indexes[0].rows_indexed == 400
        assert collection.delete(purge=True).freed_bytes == 0


def _holds(place: Path, vector: np.ndarray) -> bool:
    """Whether the vector is anywhere on disk, in a part that is in use or in an old one."""
    from cliphouse.vectors import bfloat16_words

    wanted = bfloat16_words(vector.astype(np.float16).astype(np.float32)).tobytes()
    return any(wanted in path.read_bytes() for path in place.rglob("image_embedding.bin"))


def test_a_condition_is_checked_as_a_filter_is(embedded: Collection) -> None:
    for where in ("true) OR (true", "1; DROP TABLE laion", "no_such_column = 1"):
        with pytest.raises(InvalidFilter):
            embedded.delete(where=where)
    assert len(ids_of(embedded)) == 8


def test_unclear_requests_delete_nothing(embedded: Collection) -> None:
    for rows in ({}, {"where": "true", "ids": [1]}, {"where": " "}, {"ids": [2**70]}, {"shards": "7"}):
        with pytest.raises(UsageError):
            embedded.delete(**rows)
    assert len(ids_of(embedded)) == 8


def test_a_no_leaves_everything_as_it_was(embedded: Collection, shards: Path) -> None:
    asked: list[int] = []
    assert embedded.delete(where="id < 3", confirm=lambda rows: bool(asked.append(rows))).rows == 0
    assert embedded.delete(shards="0", confirm=lambda rows: bool(asked.append(rows))).again == ()
    assert asked == [3, 8]
    assert len(ids_of(embedded)) == 8
    assert embedded.load(shards).skipped == (0,)


def test_the_command_deletes_with_yes_only_where_nobody_can_answer(embedded: Collection, cliphouse, tmp_path) -> None:
    place = tmp_path / "db"
    embedded.close()
    refused = cliphouse("delete", "--where", "id < 3", "--db", place)
    assert (refused.code, "would delete 3 rows; say --yes" in refused.err) == (2, True)
    assert cliphouse("delete", "--where", "id < 3", "--yes", "--db", place).out == "deleted 3 rows\n"
    (tmp_path / "ids.txt").write_text("4\n5\n\n")
    assert cliphouse("delete", "--ids", f"@{tmp_path / 'ids.txt'}", "--yes", "--db", place).out == "deleted 2 rows\n"
    assert "not a list of ids" in cliphouse("delete", "--ids", "4,x", "--yes", "--db", place).err
    assert "1 of 0" not in cliphouse("delete", "--shard", "0", "--yes", "--db", place).out
    assert "loaded 8 rows" in cliphouse("load", tmp_path / "shards", "--db", place).out
