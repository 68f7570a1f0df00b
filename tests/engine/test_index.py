"""Vector indexes: built, shown, used, kept and dropped, on every kind of engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cliphouse import Collection, IndexConfig, Progress, SearchParams
from cliphouse.errors import InsufficientMemory, UsageError
from cliphouse.index import estimate_bytes
from cliphouse.schema import MERGE_LIMIT_BYTES
from tests.data import cosine_distances, random_unit, write_shard

SMALL = IndexConfig(m=16, ef_construction=64)
ROWS, DIM = 3000, 32


@pytest.fixture
def vectors() -> np.ndarray:
    return random_unit(ROWS, DIM, seed=3)


@pytest.fixture
def numbers(db: str, tmp_path: Path, vectors: np.ndarray) -> Iterator[Collection]:
    """3000 rows of 32 dimensions."""
    captions = [str(row) for row in range(ROWS)]
    write_shard(tmp_path / "in", captions=captions, images=vectors, texts=vectors[::-1], dtype="float32")
    with Collection.open(db) as collection:
        collection.load(tmp_path / "in")
        yield collection


def test_the_index_is_built_shown_used_and_dropped(numbers: Collection, vectors: np.ndarray) -> None:
    seen: list[Progress] = []
    state = numbers.build_index(config=SMALL, progress=seen.append)
    assert (state.name, state.state, state.rows_indexed) == ("image_index", "ready", ROWS)
    assert (seen[-1].done, seen[-1].total) == (ROWS, ROWS)
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert numbers.status().indexes == (state,)
    hits = numbers.search(vectors[17], k=10)
    assert (hits.plan.path, hits.plan.index, hits[0].id) == ("hnsw", "image_index", 17)
    assert numbers.drop_index() == "image_index"
    assert numbers.search(vectors[17], k=1).plan.path == "exact"
    with pytest.raises(UsageError, match="no vector index"):
        numbers.drop_index()


def test_the_engine_itself_uses_the_index(numbers: Collection, vectors: np.ndarray) -> None:
    numbers.build_index(config=SMALL)
    query, plan = numbers.statement(vectors[17], params=SearchParams())
    assert plan.path == "hnsw"
    assert "image_index" in numbers.explain(query)
    exact, _ = numbers.statement(vectors[17], params=SearchParams(exact=True))
    assert "image_index" not in numbers.explain(exact)


def test_distances_are_those_of_the_table_not_of_the_index(numbers: Collection, vectors: np.ndarray) -> None:
    numbers.build_index(config=IndexConfig(m=16, ef_construction=64, quantization="i8"))
    indexed, exact = numbers.search(vectors[5], k=5), numbers.search(vectors[5], k=5, exact=True)
    by_id = {hit.id: hit.distance for hit in exact}
    common = [hit for hit in indexed if hit.id in by_id]
    assert len(common) >= 4
    assert [hit.distance for hit in common] == pytest.approx([by_id[hit.id] for hit in common], abs=1e-6)


def test_both_columns_have_their_own_index(numbers: Collection, vectors: np.ndarray) -> None:
    numbers.build_index("image", SMALL)
    assert [state.state for state in numbers.status().indexes] == ["ready"]
    numbers.build_index("text", SMALL)
    assert [(state.name, state.state) for state in numbers.status().indexes] == [
        ("image_index", "ready"),
        ("text_index", "ready"),
    ]
    # Threads build a graph, and may leave a row in a thousand without a way to it.
    found = [numbers.search(vectors[row], k=1, column="text")[0].id == ROWS - 1 - row for row in range(10)]
    assert sum(found) >= 9
    numbers.drop_index("image")
    assert [state.name for state in numbers.status().indexes] == ["text_index"]


def test_too_many_results_for_the_index_are_searched_exactly(numbers: Collection, vectors: np.ndarray) -> None:
    numbers.build_index(config=SMALL)
    hits = numbers.search(vectors[0], k=1001)
    assert (len(hits), hits.plan.path) == (1001, "exact")
    assert "1000" in hits.plan.reason


def test_a_filter_that_leaves_few_rows_still_finds_them_all(numbers: Collection, vectors: np.ndarray) -> None:
    numbers.build_index(config=SMALL)
    far = numbers.search(vectors[0], k=ROWS, exact=True)[-8:]
    where = f"id IN ({', '.join(str(hit.id) for hit in far)})"
    hits = numbers.search(vectors[0], k=5, where=where)
    assert [hit.id for hit in hits] == [hit.id for hit in far[:5]]
    assert hits.plan.path == "exact"
    assert "gave only" in hits.plan.reason


def test_rows_loaded_after_the_build_are_found_at_once(
    numbers: Collection, tmp_path: Path, vectors: np.ndarray
) -> None:
    numbers.build_index(config=SMALL)
    more = random_unit(50, DIM, seed=8)
    write_shard(tmp_path / "more", 1, ["new"] * 50, images=more, texts=more, dtype="float32")
    report = numbers.load(tmp_path / "more")
    assert report.stale_indexes == ("image_index",)
    hits = numbers.search(more[7], k=1)
    assert (hits[0].id, hits.plan.path) == (100_000_007, "hnsw")
    state = numbers.status().indexes[0]
    assert (state.state, state.rows_indexed, state.rows_total) == ("partial", ROWS, ROWS + 50)
    seen: list[Progress] = []
    assert numbers.build_index(config=SMALL, progress=seen.append).state == "ready"
    assert (seen[-1].done, seen[-1].total) == (50, 50)


def test_deleted_rows_are_not_found_and_k_still_come_back(numbers: Collection, vectors: np.ndarray) -> None:
    numbers.build_index(config=SMALL)
    nearest = numbers.search(vectors[9], k=4)
    numbers.sql(f"DELETE FROM laion WHERE id IN ({nearest[0].id}, {nearest[1].id})")
    hits = numbers.search(vectors[9], k=4)
    assert len(hits) == 4
    assert {nearest[0].id, nearest[1].id}.isdisjoint(hit.id for hit in hits)
    assert [hit.id for hit in hits[:2]] == [nearest[2].id, nearest[3].id]


def test_background_merges_are_kept_away_from_an_indexed_part_and_let_back_after_the_drop(numbers: Collection) -> None:
    numbers.build_index(config=SMALL)
    largest = numbers.status().total_bytes  # the one part
    create = "SELECT create_table_query AS q FROM system.tables WHERE name = 'laion' AND database = currentDatabase()"
    assert f"max_bytes_to_merge_at_max_space_in_pool = {largest}" in numbers.sql(create).column("q").to_pylist()[0]
    numbers.drop_index()
    limit = f"max_bytes_to_merge_at_max_space_in_pool = {MERGE_LIMIT_BYTES}"
    assert limit in numbers.sql(create).column("q").to_pylist()[0]


def test_near_rows_that_a_filter_or_a_delete_hides_are_not_replaced_by_far_ones(tmp_path: Path) -> None:
    """Two parts: the second one's far rows could make k, while the first part's near ones were no candidates.

    Row 0 is the nearest, row 1 the next; the engine reads rows in granules of 8192, so what hides must fill one.
    """
    rows, query = 12_000, random_unit(1, DIM, seed=1)[0]
    near = random_unit(rows, DIM, seed=2) + 0.6 * query
    near = near[np.argsort(cosine_distances(near, query))]
    far = random_unit(1000, DIM, seed=3) - 2 * query
    tags = ["B" if 9000 <= row < 9100 else "A" for row in range(rows)]
    shard = {"with_text": False, "dtype": "float32"}
    write_shard(tmp_path / "in", 0, ["x"] * rows, images=near, columns={"NSFW": tags}, **shard)
    write_shard(tmp_path / "more", 1, ["x"] * 1000, images=far, columns={"NSFW": ["B"] * 1000}, **shard)
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in", storage="float32")
        collection.build_index(config=SMALL)
        collection.load(tmp_path / "more")
        hits = collection.search(query, k=10, where="NSFW = 'B'")
        assert [hit.id for hit in hits] == list(range(9000, 9010))
        assert collection.search(query, k=10).plan.path == "hnsw"
        collection.sql("DELETE FROM laion WHERE id < 8500")
        assert [hit.id for hit in collection.search(query, k=10)] == list(range(8500, 8510))


def test_the_second_index_does_not_build_the_first_one_again(numbers: Collection) -> None:
    numbers.build_index("image", SMALL)
    before = _vectors_added(numbers)
    numbers.build_index("text", SMALL)
    assert _vectors_added(numbers) - before == ROWS


def _vectors_added(collection: Collection) -> int:
    sql = "SELECT value FROM system.events WHERE event = 'USearchAddCount'"
    return collection.sql(sql).column("value").to_pylist()[0]


def test_other_parameters_ask_for_a_drop_first(numbers: Collection) -> None:
    numbers.build_index(config=SMALL)
    with pytest.raises(UsageError, match=r"m 16.*drop it first"):
        numbers.build_index(config=IndexConfig(m=32))


def test_a_build_that_memory_cannot_hold_is_refused_before_it_starts(
    numbers: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(numbers.engine.capabilities, memory_bytes=10_000)
    monkeypatch.setattr(numbers.engine, "capabilities", small)
    with pytest.raises(InsufficientMemory, match="--quantization") as caught:
        numbers.build_index(config=SMALL)
    assert caught.value.needed_bytes > caught.value.available_bytes == 10_000
    assert numbers.status().indexes == ()


def test_the_memory_estimate_is_what_the_engine_then_reports(numbers: Collection) -> None:
    state = numbers.build_index(config=SMALL)
    assert state.memory_bytes == pytest.approx(estimate_bytes(SMALL, rows=ROWS, dim=DIM), rel=0.02)


def test_rows_without_a_text_embedding_cannot_be_indexed(db: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "in", with_text=False)
    with Collection.open(db, encoder="test-words") as collection:
        collection.load(tmp_path / "in")
        with pytest.raises(UsageError, match="8 of 8 rows have no text_embedding"):
            collection.build_index("text")
        collection.build_index("image", SMALL)


def test_shards_without_text_are_refused_while_a_text_index_is_there(numbers: Collection, tmp_path: Path) -> None:
    numbers.build_index("text", SMALL)
    write_shard(tmp_path / "more", 1, ["a"], images=random_unit(1, DIM), with_text=False)
    with pytest.raises(UsageError, match=r"shard 1 has no text.*drop it first"):
        numbers.load(tmp_path / "more")


def test_an_interrupted_build_leaves_the_table_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = random_unit(30_000, 64)
    write_shard(tmp_path / "in", captions=["x"] * 30_000, images=vectors, with_text=False)
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in")

        def interrupt(progress: Progress) -> None:
            if 0 < progress.done < progress.total:
                raise KeyboardInterrupt

        before = _vectors_added(collection)
        with pytest.raises(KeyboardInterrupt):
            collection.build_index(progress=interrupt)
        assert _vectors_added(collection) - before < 20_000, "it stopped soon after it was asked to"
        assert collection.status().indexes == ()
        assert collection.search(vectors[4], k=1)[0].id == 4
