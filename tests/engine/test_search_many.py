"""Many searches at once give what as many single ones give, on every kind of engine."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cliphouse import Collection, IndexConfig, LoadOptions, Query, SearchParams, many, queries_many
from cliphouse.engine import EmbeddedLocation
from cliphouse.errors import DimensionMismatch, EngineError, InvalidFilter, InvalidVector, UsageError
from cliphouse.hits import Hit, Hits
from tests.data import CAPTIONS, ENCODER, cosine_distances, random_unit, write_shard

#: Enough for one pass on a server too.
MANY = 70
NOISE = 2e-6


def write_rows(directory: Path, images: NDArray[np.floating], **columns: Any) -> Path:
    captions = [f"row {row}" for row in range(len(images))]
    return write_shard(directory, 0, captions, images=images, texts=images[::-1], **columns)


def assert_same(together: Sequence[Hits], alone: Sequence[Hits]) -> None:
    """Row by row the same distances; the same rows wherever no other is as near, give or take the noise."""
    assert len(together) == len(alone)
    for got, wanted in zip(together, alone, strict=True):
        assert [hit.distance for hit in got] == pytest.approx([hit.distance for hit in wanted], abs=NOISE)
        expected = {hit.id: hit for hit in wanted}
        for number, hit in enumerate(got):
            if hit.id in expected:
                assert facts(hit) == facts(expected[hit.id])
            else:
                assert wanted[number].distance == pytest.approx(wanted[-1].distance, abs=NOISE)


def facts(hit: Hit) -> dict[str, Any]:
    return {name: value for name, value in hit.as_dict().items() if name != "distance"}


@pytest.mark.parametrize("storage", ["bfloat16", "float32"])
@pytest.mark.parametrize("dim", [5, 512])
def test_many_searches_are_as_many_single_ones_and_agree_with_numpy(
    db: str, tmp_path: Path, dim: int, storage: Any
) -> None:
    rows = random_unit(3000, dim) * np.linspace(0.5, 2, 3000)[:, None]
    queries = random_unit(MANY, dim, seed=1) * 3
    with Collection.open(db) as collection:
        collection.load(write_rows(tmp_path, rows, dtype="float32"), storage=storage)
        for column, vectors in (("image", rows), ("text", rows[::-1])):
            together = collection.search_many(queries, k=7, column=column, columns=("width",))
            assert "one pass" in together[0].plan.reason
            assert_same(
                together, [collection.search(query, k=7, column=column, columns=("width",)) for query in queries]
            )
            for query, hits in zip(queries, together, strict=True):
                true = np.sort(cosine_distances(vectors, query))[:7]
                assert [hit.distance for hit in hits] == pytest.approx(true, abs=1e-5 if storage == "float32" else 4e-3)


def test_filters_deletes_and_gaps_leave_out_the_same_rows(db: str, tmp_path: Path) -> None:
    rows = random_unit(2000, 8).astype(np.float16)
    rows[::7] = 0  # rows without a direction are kept without an embedding
    queries = random_unit(MANY, 8, seed=1)
    with Collection.open(db) as collection:
        collection.load(write_rows(tmp_path, rows), options=LoadOptions(on_bad_row="keep"))
        collection.delete(where="id % 5 = 0")
        for where in (None, "width % 3 = 0 -- every third", "width <= 2560", "width < 0"):
            together = collection.search_many(queries, k=9, where=where)
            assert_same(together, [collection.search(query, k=9, where=where) for query in queries])
            assert all(hit.id % 5 and hit.id % 7 for hits in together for hit in hits)
        assert not any(collection.search_many(queries, where="width < 0"))


def test_twins_come_in_the_order_of_their_ids_and_pages_do_not_overlap(db: str, tmp_path: Path) -> None:
    rows = np.repeat(random_unit(3, 16), 500, axis=0)
    with Collection.open(db) as collection:
        collection.load(write_rows(tmp_path, rows))
        queries = np.tile(rows[:1], (MANY, 1))
        for hits in collection.search_many(queries, k=600):
            assert [hit.id for hit in hits][:500] == list(range(500))
        first, second = (collection.search_many(queries, k=400, offset=offset) for offset in (0, 400))
        whole = [[hit.id for hit in hits] for hits in collection.search_many(queries, k=800)]
        assert [[hit.id for hit in (*a, *b)] for a, b in zip(first, second, strict=True)] == whole


def test_k_may_be_more_than_there_are_rows_and_queries_more_than_memory_holds(
    embedded: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = np.stack([ENCODER.encode_texts([caption])[0] for caption in CAPTIONS * 3])
    alone = [embedded.search(query, k=10_000) for query in queries]
    assert_same(embedded.search_many(queries, k=10_000), alone)
    assert {len(hits) for hits in alone} == {len(CAPTIONS)}
    monkeypatch.setattr(many, "_FOUND_BYTES", 32 * 10_000 * 5)  # five queries a pass
    monkeypatch.setattr(many, "_GROUP", 3)
    monkeypatch.setattr(queries_many, "IDS_AT_A_TIME", 3)
    assert_same(embedded.search_many(queries, k=10_000), alone)


def test_texts_and_pictures_are_encoded(collection: Collection) -> None:
    answers = collection.search_many([*CAPTIONS, *CAPTIONS], k=1)
    assert [hits[0].caption for hits in answers] == [*CAPTIONS, *CAPTIONS]
    assert collection.search_many([]) == []
    assert [hits[0].caption for hits in collection.search_many(["red car"], k=1)] == ["red car"]


def test_an_index_that_is_asked_for_answers_and_few_rows_need_none(embedded: Collection) -> None:
    embedded.build_index(config=IndexConfig(m=16, ef_construction=32))
    params = SearchParams(k=3, ef_search=64)
    assert {hits.plan.path for hits in embedded.search_many_with(list(CAPTIONS), params=params)} == {"hnsw"}
    plans = {hits.plan.path for hits in embedded.search_many(list(CAPTIONS) * 7, k=3)}
    assert plans == {"exact"}


def test_rows_that_share_an_id_are_told_apart(embedded: Collection) -> None:
    embedded.sql("INSERT INTO laion SELECT * REPLACE (concat(caption, ' again') AS caption) FROM laion")
    answers = embedded.search_many(list(CAPTIONS), k=2)
    for caption, hits in zip(CAPTIONS, answers, strict=True):
        assert {hit.caption for hit in hits} == {caption, f"{caption} again"}


def test_what_is_wrong_is_said_as_for_one_search(collection: Collection) -> None:
    queries = random_unit(MANY, ENCODER.dim)
    with pytest.raises(InvalidFilter, match="nope"):
        collection.search_many(queries, where="nope = 1")
    with pytest.raises(InvalidFilter):
        collection.search_many(queries, where="1) OR (1")
    with pytest.raises(DimensionMismatch):
        collection.search_many(random_unit(MANY, 3))
    with pytest.raises(InvalidVector):
        collection.search_many([*queries, np.full(ENCODER.dim, np.nan)])
    with pytest.raises(UsageError, match="list"):
        collection.search_many("red car")


def test_an_embedding_of_another_length_is_named(collection: Collection) -> None:
    collection.sql("INSERT INTO laion (id, image_embedding) VALUES (99, [1, 2, 3])")
    with pytest.raises(EngineError, match="row 99 has an embedding of 3 numbers"):
        collection.search_many(random_unit(MANY, ENCODER.dim))
    assert len(collection.search_many(random_unit(MANY, ENCODER.dim), where="id < 99")) == MANY


def test_a_pass_reads_the_column_and_nothing_else(embedded: Collection) -> None:
    info, params = embedded.info(), SearchParams(where="id < 4")
    sql = queries_many.stream(info, params, cached=True)
    plan = "\n".join(row[0] for row in embedded.engine.query(Query(sql=f"EXPLAIN actions = 1 {sql}")).rows)
    assert "Sorting" not in plan
    assert "caption" not in plan
    assert "Vector" not in plan
    pipeline = embedded.engine.query(Query(sql=f"EXPLAIN PIPELINE {sql}")).rows
    assert not any("Sort" in row[0] or "Resize" in row[0] for row in pipeline)
    ids = queries_many.rows(info, params, [1, 2], cached=False)
    explained = embedded.explain(ids)
    assert "PrimaryKey" in explained
    assert "image_embedding" not in explained


def test_leaving_a_pass_early_ends_its_query(embedded: Collection) -> None:
    sql = queries_many.stream(embedded.info(), SearchParams(), cached=False)
    assert isinstance(embedded.engine.location, EmbeddedLocation)
    with embedded.engine.blocks(sql, ENCODER.dim) as blocks:
        block = next(blocks)
        assert sorted(block.ids) == list(range(len(CAPTIONS)))
    running = embedded.sql("SELECT count() AS n FROM system.processes").to_pylist()[0]["n"]
    assert running == 1  # the one that asks


@pytest.mark.parametrize("form", ["csv", "jsonl", "json", "table"])
def test_the_shell_numbers_queries(
    cliphouse: Callable[..., Any], embedded: Collection, tmp_path: Path, form: str
) -> None:
    db = embedded.engine.location.path  # type: ignore[union-attr]
    embedded.close()
    np.save(tmp_path / "queries.npy", ENCODER.encode_texts(CAPTIONS))
    (tmp_path / "queries.txt").write_text("\n".join(CAPTIONS) + "\n", encoding="utf-8")
    for file in ("queries.npy", "queries.txt"):
        found = cliphouse(
            "search", "--db", db, "--encoder", "test-words", "--queries", tmp_path / file, "-k", 2, "--format", form
        )
        assert found.code == 0, found.err
        if form == "table":
            assert found.out.split()[:2] == ["query", "id"]
            continue
        if form == "csv":
            rows = list(csv.DictReader(io.StringIO(found.out)))
        else:
            rows = json.loads(found.out) if form == "json" else [json.loads(line) for line in found.out.splitlines()]
        assert [int(row["query"]) for row in rows] == [number for number in range(8) for _ in range(2)]
        assert [row["caption"] for row in rows[::2]] == list(CAPTIONS)


def test_files_that_hold_no_queries_are_refused(
    cliphouse: Callable[..., Any], embedded: Collection, tmp_path: Path
) -> None:
    db = embedded.engine.location.path  # type: ignore[union-attr]
    embedded.close()
    np.save(tmp_path / "one.npy", ENCODER.encode_texts(CAPTIONS)[0])
    (tmp_path / "gap.txt").write_text("a car\n\nred\n", encoding="utf-8")
    (tmp_path / "no.txt").write_bytes(b"\xff\xfe\x00")
    for file, reason in (
        ("one.npy", "shape"),
        ("gap.txt", "line 2 of"),
        ("no.txt", "neither"),
        ("absent.txt", "No such file"),
    ):
        refused = cliphouse("search", "--db", db, "--queries", tmp_path / file)
        assert (refused.code, reason in refused.err) == (2, True), refused.err
    both = cliphouse("search", "a car", "--db", db, "--queries", tmp_path / "one.npy")
    assert both.code == 2
    assert cliphouse("search", "--sql", "--db", db, "--queries", tmp_path / "one.npy").code == 2


def test_searches_that_fail_leave_the_statements_of_other_threads_alone(db: str, tmp_path: Path) -> None:
    with Collection.open(db) as collection, ThreadPoolExecutor(1) as pool:
        collection.load(write_rows(tmp_path, random_unit(50, 5)))
        slow = Query(sql="SELECT sum(sleepEachRow(0.02)) FROM numbers(60) SETTINGS max_block_size = 1")
        running = pool.submit(collection.engine.query, slow)
        started = Query(sql="SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow%'")
        while collection.engine.query(started).rows[0][0] < 2:  # this one is there too
            assert not running.done()
        for _ in range(3):
            with pytest.raises(InvalidFilter):
                collection.search_many(random_unit(2, 5), where="nope = 1")
        assert not running.done()
        assert running.result().rows == [(0,)]
