"""Measuring what searches answer: the truth, its keeping, recall by distance, and the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cliphouse import Collection, EvaluationOptions, IndexConfig, Progress
from cliphouse.errors import InvalidFilter, InvalidVector, MissingTruth, RowsChanged, StaleTruth, UsageError
from cliphouse.evaluation import Evaluation, Point
from cliphouse.truth import QuerySet, compute, fingerprint, is_kept
from cliphouse.vectors import round_to_bfloat16
from tests.data import cosine_distances, random_unit, write_shard

ROWS, DIM = 3000, 32
#: One search of each kind takes milliseconds here, and no point is measured for longer.
QUICK: dict[str, Any] = {"sample": 12, "seconds": 0.1, "clients": 1}


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """What the table holds of 3000 random rows."""
    return round_to_bfloat16(random_unit(ROWS, DIM, seed=3))


@pytest.fixture
def numbers(db: str, tmp_path: Path, vectors: np.ndarray) -> Iterator[Collection]:
    write_shard(tmp_path / "in", captions=["x"] * ROWS, images=vectors, texts=vectors[::-1], dtype="float32")
    with Collection.open(db) as collection:
        collection.load(tmp_path / "in", storage="bfloat16")
        yield collection


@pytest.fixture
def local(tmp_path: Path, vectors: np.ndarray) -> Iterator[Collection]:
    """The same, embedded only."""
    write_shard(tmp_path / "in", captions=["x"] * ROWS, images=vectors, texts=vectors[::-1], dtype="float32")
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in")
        yield collection


def evaluate(collection: Collection, **options: Any) -> Evaluation:
    return collection.evaluate(EvaluationOptions(**(QUICK | options)))


def points(evaluation: Evaluation, **wanted: object) -> list[Point]:
    return [each for each in evaluation.points if all(getattr(each, name) == wanted[name] for name in wanted)]


def test_the_recall_of_exact_search_is_one_whatever_the_queries_and_filters(local: Collection) -> None:
    evaluation = evaluate(local, clients=2)
    assert {point.queries for point in evaluation.points} == {"text", "image"}
    assert [point.filter.where if point.filter else None for point in points(evaluation, queries="text")] == [
        None,
        *(f"cityHash64(id) % 1000 < {share}" for share in (500, 100, 10, 1)),
    ]
    for point in evaluation.points:
        assert (point.asked, point.answered, point.recall) == ("exact", {"exact": point.measured}, 1.0)
        assert 0 < point.p50_ms <= point.p90_ms <= point.p99_ms
        assert set(point.queries_per_second) == {1, 2}
        assert min(point.queries_per_second.values()) > 0
    assert points(evaluation, queries="image", filter=None)[0].read_bytes > ROWS * DIM * 2
    assert (evaluation.truth.computed, evaluation.rows) == (2 * 5 * 12, ROWS)


def test_the_truth_is_a_full_search_in_double_precision(numbers: Collection, vectors: np.ndarray) -> None:
    wanted = random_unit(9, DIM, seed=5)
    sampled = np.array([7, 8, 9])
    queries = [
        QuerySet(origin="own", key="", vectors=wanted),
        QuerySet(origin="image", key="", vectors=vectors[sampled], rows=sampled),
    ]
    conditions = [None, "id % 10 = 7", "id < 4"]
    found = compute(numbers.engine, numbers.info(), "image_embedding", queries, conditions, 10)
    fits = {None: np.arange(ROWS), "id % 10 = 7": np.arange(7, ROWS, 10), "id < 4": np.arange(4)}
    for condition, rows in fits.items():
        for each in queries:
            truth = found[each.origin, condition]
            for number, vector in enumerate(each.vectors):
                distances = cosine_distances(vectors[rows], vector)
                if each.rows is not None:
                    distances[rows == each.rows[number]] = np.inf
                order = np.argsort(distances, kind="stable")[:10]
                order = order[np.isfinite(distances[order])]
                padding = [-1] * (10 - len(order))
                assert truth.ids[number].tolist() == [*rows[order].tolist(), *padding]
                assert truth.distances[number][: len(order)] == pytest.approx(distances[order], abs=1e-12)


def test_rows_at_the_same_distance_are_right_whichever_they_are(tmp_path: Path) -> None:
    """Thirty rows are alike; the truth keeps the ten of least id, and an answer of any others is as good."""
    images = np.concatenate([np.tile(random_unit(1, DIM, seed=1), (30, 1)), random_unit(100, DIM, seed=2)])
    write_shard(tmp_path / "in", captions=["x"] * 130, images=images, with_text=False, dtype="float32")
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in")
        nearest = collection.search(images[0], k=10, exact=True)
        collection.build_index(config=IndexConfig(m=16, ef_construction=64))
        evaluation = evaluate(collection, queries=images[:1], sample=0, filters=False)
        assert [hit.id for hit in nearest] == list(range(10))
        assert [point.recall for point in evaluation.points] == [1.0] * len(evaluation.points)


def test_an_index_is_measured_at_rising_effort_and_beside_what_a_search_takes_by_itself(local: Collection) -> None:
    local.build_index(config=IndexConfig(m=4, ef_construction=4, quantization="i8"))
    seen: list[Progress] = []
    options = EvaluationOptions(**QUICK, filters=False, where="id < 1500")
    evaluation = local.evaluate(options, progress=seen.append)
    for origin in ("text", "image"):
        plain = points(evaluation, queries=origin, filter=None)
        ways = [
            ("search", {}),
            ("exact", {}),
            *(("hnsw", {"ef_search": effort}) for effort in (64, 128, 256, 512, 1024)),
        ]
        assert [(point.asked, point.effort) for point in plain] == ways
        assert all(point.answered == {"hnsw": point.measured} for point in plain if point.asked != "exact")
        recalls = [point.recall for point in plain if point.asked == "hnsw"]
        assert recalls[0] + 0.1 < recalls[-1], "a poor graph, searched in haste and with patience"
        filtered = [point for point in points(evaluation, queries=origin) if point.filter]
        assert [(point.asked, point.filter.rows) for point in filtered] == [("search", 1500), ("exact", 1500)]
    assert [state.name for state in evaluation.indexes] == ["image_index"]
    assert {step.unit for step in seen} == {"rows", "queries"}
    assert next(step for step in seen[::-1] if step.unit == "rows").done == ROWS


def test_a_truth_is_computed_once_and_again_when_rows_came_or_went(local: Collection, tmp_path: Path) -> None:
    with pytest.raises(MissingTruth, match=r"text queries are not there.*--truth only"):
        evaluate(local, truth="stored", filters=False)
    only = evaluate(local, truth="only", filters=False)
    assert (only.points, only.truth.computed) == ((), 24)
    assert evaluate(local, truth="only", filters=False).truth.computed == 0
    assert evaluate(local, truth="stored", filters=False).points
    with pytest.raises(MissingTruth, match="9 true neighbours"):
        evaluate(local, truth="stored", filters=False, k=9)
    local.build_index(config=IndexConfig(m=4, ef_construction=8))
    local.sql("OPTIMIZE TABLE laion FINAL")
    assert evaluate(local, truth="only", filters=False).truth.computed == 0, "an index changes no row"
    for change in (
        lambda: local.delete(ids=[3]),
        lambda: local.load(
            write_shard(tmp_path / "b", 1, ["a"], images=random_unit(1, DIM), texts=random_unit(1, DIM))
        ),
        lambda: local.delete(shards=[1]),
    ):
        change()
        with pytest.raises(StaleTruth, match="other rows than there are now"):
            evaluate(local, truth="stored", filters=False)
        assert evaluate(local, truth="only", filters=False).truth.computed == 24


def test_a_changed_embedding_makes_the_truth_stale(local: Collection) -> None:
    evaluate(local, truth="only", filters=False)
    local.sql("ALTER TABLE laion UPDATE image_embedding = text_embedding WHERE id = 5 SETTINGS mutations_sync = 1")
    with pytest.raises(StaleTruth):
        evaluate(local, truth="stored", filters=False)


def test_no_truth_is_kept_of_rows_that_an_update_has_not_reached_yet(numbers: Collection) -> None:
    evaluate(numbers, truth="only", filters=False)
    numbers.sql("SYSTEM STOP MERGES laion")
    numbers.sql("ALTER TABLE laion UPDATE image_embedding = text_embedding WHERE id < 2000 SETTINGS mutations_sync = 0")
    with pytest.raises(RowsChanged, match="being changed by a mutation"):
        evaluate(numbers, truth="only", filters=False)
    numbers.sql("SYSTEM START MERGES laion")
    numbers.sql("ALTER TABLE laion UPDATE caption = 'y' WHERE id = 1 SETTINGS mutations_sync = 2")  # waits for both
    with pytest.raises(StaleTruth):
        evaluate(numbers, truth="stored", filters=False)
    (point, *_) = points(evaluate(numbers, filters=False), queries="text")
    assert point.recall == 1


def test_another_table_of_the_same_ids_makes_the_truth_stale(local: Collection, tmp_path: Path) -> None:
    """As many rows with the same ids in as many blocks, of another encoder."""
    evaluate(local, truth="only", filters=False)
    images, texts = random_unit(ROWS, DIM, seed=4), random_unit(ROWS, DIM, seed=5)
    write_shard(tmp_path / "other", captions=["x"] * ROWS, images=images, texts=texts, dtype="float32")
    with Collection.open(tmp_path / "db", name="other") as other:
        other.load(tmp_path / "other")
    local.sql("DROP TABLE laion SYNC")
    local.sql("RENAME TABLE other TO laion")
    with pytest.raises(StaleTruth):
        evaluate(local, truth="stored", filters=False)


def test_loading_after_a_drop_by_hand_leaves_no_truth(local: Collection, tmp_path: Path) -> None:
    evaluate(local, truth="only", filters=False)
    local.sql("DROP TABLE laion SYNC")
    local.load(tmp_path / "in")
    with pytest.raises(MissingTruth, match="are not there"):
        evaluate(local, truth="stored", filters=False)


def test_the_truth_under_a_condition_of_another_table_is_not_kept(local: Collection) -> None:
    """Nothing tells when that table changes."""
    local.sql("CREATE TABLE tags (id Int64) ENGINE = MergeTree ORDER BY id")
    local.sql("INSERT INTO tags SELECT number FROM numbers(100)")
    for where in ("id IN (SELECT id FROM tags)", "id IN tags"):
        evaluate(local, truth="only", filters=False, where=where)
        assert evaluate(local, truth="only", filters=False, where=where).truth.computed == 24
        with pytest.raises(UsageError, match=r"never kept.*--truth auto"):
            evaluate(local, truth="stored", filters=False, where=where)
    assert is_kept("id IN (1, 2) AND caption LIKE '%car%'")


def test_rows_that_change_during_an_evaluation_are_an_error(local: Collection) -> None:
    seen: list[str] = []

    def change(progress: Progress) -> None:
        if progress.unit == "queries" and not seen:
            seen.append(progress.label)
            local.delete(ids=[7])

    with pytest.raises(RowsChanged, match="came, went or changed meanwhile"):
        local.evaluate(EvaluationOptions(**QUICK, filters=False), progress=change)
    assert seen


def test_an_index_is_asked_with_the_most_effort_before_any_is_measured(local: Collection) -> None:
    """So that no effort finds less in the caches than one that is measured after it."""
    local.build_index(config=IndexConfig(m=4, ef_construction=8))
    seen: list[Progress] = []
    local.evaluate(EvaluationOptions(**QUICK, filters=False), progress=seen.append)
    labels = list(dict.fromkeys(step.label for step in seen if step.unit == "queries"))
    for origin in ("text", "image"):
        assert next(each for each in labels if each.startswith(origin)) == f"{origin} hnsw, warming up"


def test_what_a_search_invents_is_wrong(local: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that break the filter, or that name no row, count for nothing, whatever distance comes with them."""
    run = local._searcher.run

    def unfiltered(query: Any, like: Any, params: Any) -> Any:
        return run(query, like, replace(params, where=None))

    monkeypatch.setattr(local._searcher, "run", unfiltered)
    evaluation = evaluate(local, filters=False, where="id >= 1500")
    recalls = {bool(point.filter): point.recall for point in points(evaluation, queries="image")}
    assert recalls[False] == 1
    assert recalls[True] == pytest.approx(0.5, abs=0.2)


def test_own_queries_are_texts_or_vectors(collection: Collection) -> None:
    """Eight captioned rows: `own` queries have no row of their own to leave out."""
    options = {"k": 2, "filters": False, "seconds": 0.1, "clients": 1}
    evaluation = collection.evaluate(EvaluationOptions(queries=["red car", "white horse"], **options))
    (point,) = evaluation.points
    assert (point.queries, point.measured, point.recall) == ("own", 2, 1.0)
    dim = collection.info().dim
    vectors = collection.encoder().encode_texts(["red car"])
    evaluation = collection.evaluate(EvaluationOptions(queries=vectors, sample=3, **options))
    assert {point.queries: point.measured for point in evaluation.points} == {"own": 1, "text": 3, "image": 3}
    for queries, error, message in (
        ([], UsageError, "no queries"),
        (np.ones((2, dim + 1)), UsageError, f"has {dim + 1} dimensions"),
        ([[1.0], [1.0, 2.0]], InvalidVector, "not of one length"),
    ):
        with pytest.raises(error, match=message):
            collection.evaluate(EvaluationOptions(queries=queries, **options))


def test_the_same_seed_takes_the_same_rows(local: Collection) -> None:
    assert evaluate(local, truth="only", filters=False, seed=1).truth.computed == 24
    assert evaluate(local, truth="only", filters=False, seed=1).truth.computed == 0
    assert evaluate(local, truth="only", filters=False, seed=2).truth.computed == 24
    assert fingerprint(np.arange(3)) != fingerprint(np.arange(4))


def test_few_rows_are_measured_as_far_as_they_go(embedded: Collection) -> None:
    evaluation = embedded.evaluate(EvaluationOptions(**QUICK, where="id IN (0, 1)"))
    assert {point.recall for point in evaluation.points} == {1.0}
    with pytest.raises(InvalidFilter, match="nowhere"):
        embedded.evaluate(EvaluationOptions(**QUICK, where="nowhere = 1"))
    embedded.sql("DELETE FROM laion WHERE id > 0")
    with pytest.raises(UsageError, match="too few rows"):
        embedded.evaluate(EvaluationOptions(**QUICK))
    embedded.sql("DELETE FROM laion WHERE id = 0")
    with pytest.raises(UsageError, match="no embeddings"):
        embedded.evaluate(EvaluationOptions(**QUICK))


@pytest.mark.parametrize("options", [{"k": 0}, {"sample": 0}, {"seconds": 0}, {"clients": 0}, {"truth": "no"}])
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        EvaluationOptions(**options)


def test_an_interrupt_leaves_nothing_half_done(local: Collection) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local.evaluate(EvaluationOptions(**QUICK), progress=interrupt)
    with pytest.raises(MissingTruth):
        evaluate(local, truth="stored")
    assert evaluate(local, filters=False).points


def test_no_collection_can_be_called_like_a_truth() -> None:
    with pytest.raises(UsageError, match="_truth"):
        Collection.open("chdb://memory", name="laion_truth")


def test_the_command_prints_a_table_json_and_a_plot(
    cliphouse: Callable[..., Any], tmp_path: Path, vectors: np.ndarray
) -> None:
    write_shard(tmp_path / "in", captions=["x"] * 500, images=vectors[:500], texts=vectors[:500])
    np.save(tmp_path / "own.npy", vectors[500:505])
    db = ("--db", tmp_path / "db")
    cliphouse("load", tmp_path / "in", *db)
    cliphouse("index", "build", "--m", 8, "--ef-construction", 16, *db)
    quick = ("--seconds", 0.1, "--clients", 1, "--no-filters", *db)
    table = cliphouse("evaluate", "--queries", tmp_path / "own.npy", "-k", 5, *quick)
    assert table.code == 0, table.err
    assert "recall@5" in table.out
    assert "hnsw ef_search 64" in table.out
    assert "image_index is ready" in table.out
    files = ("--out", tmp_path / "out.json", "--plot", tmp_path / "out.svg")
    outcome = cliphouse("evaluate", "--sample", 4, *quick, *files, "--format", "json")
    assert outcome.code == 0, outcome.err
    printed = json.loads(outcome.out)
    assert printed == json.loads((tmp_path / "out.json").read_text())
    assert {"collection", "rows", "k", "indexes", "truth", "points", "engine_version"} <= printed.keys()
    point = printed["points"][0]
    assert {
        "recall",
        "p50_ms",
        "p99_ms",
        "queries_per_second",
        "read_bytes",
        "resident_bytes",
        "measured",
    } <= point.keys()
    assert printed["indexes"][0]["state"] == "ready"
    plot = (tmp_path / "out.svg").read_text()
    assert plot.startswith("<?xml")
    for written in ("recall@10", "captions on image embeddings", "pictures on image embeddings", "hnsw", "exact"):
        assert f"<!-- {written} -->" in plot


def test_the_command_says_what_is_missing_before_it_works(
    cliphouse: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "ending in .svg" in cliphouse("evaluate", "--plot", tmp_path / "plot.txt").err
    assert "no directory" in cliphouse("evaluate", "--out", tmp_path / "none" / "a.json").err
    assert f"{tmp_path} is a directory" in cliphouse("evaluate", "--out", tmp_path).err
    only = cliphouse("evaluate", "--truth", "only", "--plot", tmp_path / "plot.svg")
    assert (only.code, "nothing that --plot could draw" in only.err) == (2, True)
    assert "cannot read the queries" in cliphouse("evaluate", "--queries", tmp_path / "none.txt").err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = cliphouse("evaluate", "--plot", tmp_path / "plot.svg")
    assert (outcome.code, "cliphouse[plot]" in outcome.err) == (2, True)
