"""Tuning: the effort that a recall needs is measured, kept with the index, taken by searches, and forgotten in time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cliphouse import Collection, IndexConfig, IvfConfig, Progress, Tuning, TuningOptions
from cliphouse.errors import UsageError
from cliphouse.evaluation import IndexTuning
from tests.data import cosine_distances, random_unit, write_shard

ROWS, DIM = 2000, 32
GRAPH = IndexConfig(m=8, ef_construction=16)
LISTS = IvfConfig(nlist=50)
#: Its nodes have so few neighbours that many rows are out of reach.
BROKEN_GRAPH = IndexConfig(m=2, ef_construction=2, quantization="b1")


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return random_unit(ROWS, DIM, seed=3)


def fill(collection: Collection, place: Path, vectors: np.ndarray, number: int = 0) -> None:
    write_shard(
        place, number, captions=["x"] * len(vectors), images=vectors, texts=vectors[::-1].copy(), dtype="float32"
    )
    collection.load(place, shards=[number])


@pytest.fixture
def numbers(db: str, tmp_path: Path, vectors: np.ndarray) -> Iterator[Collection]:
    """2000 rows of 32 dimensions."""
    with Collection.open(db) as collection:
        fill(collection, tmp_path / "in", vectors)
        yield collection


@pytest.fixture
def local(tmp_path: Path, vectors: np.ndarray) -> Iterator[Collection]:
    """The same, embedded only."""
    with Collection.open(tmp_path / "db") as collection:
        fill(collection, tmp_path / "in", vectors)
        yield collection


def tune(collection: Collection, **options: Any) -> Tuning:
    return collection.tune(TuningOptions(**({"sample": 10} | options)))


def only(tuning: Tuning) -> IndexTuning:
    (tuned,) = tuning.indexes
    return tuned


@pytest.mark.parametrize("config", [GRAPH, LISTS], ids=lambda config: config.kind)
def test_a_tuned_search_reaches_the_recall_with_queries_it_was_not_tuned_with(
    local: Collection, vectors: np.ndarray, config: IndexConfig | IvfConfig
) -> None:
    local.build_index(config=config)
    tuned = only(tune(local, recall=0.9, sample=40))
    assert tuned.reached
    others = np.concatenate([random_unit(30, DIM, seed=7), vectors[::-80] + random_unit(25, DIM, seed=8) / 3])
    found = [{hit.id for hit in local.search(other)} for other in others]
    true = [set(np.argsort(cosine_distances(vectors, other))[:10]) for other in others]
    # Less than was tuned for: half of these lie far from every row, and a graph is another one each time it is built.
    assert np.mean([len(one & another) / 10 for one, another in zip(found, true, strict=True)]) > 0.78


def test_searches_take_the_effort_and_it_stays_with_the_index(
    db: str, numbers: Collection, vectors: np.ndarray
) -> None:
    numbers.build_index(config=LISTS)
    untuned = numbers.search(vectors[5]).plan.effort
    tuned = only(tune(numbers, recall=0.6, sample=4))
    assert tuned.effort != untuned
    with Collection.open(db) as again:
        assert (again.search(vectors[5]).plan.path, again.search(vectors[5]).plan.effort) == ("ivf", tuned.effort)
        (state,) = again.status().indexes
    assert (state.tuned, state.effort) == (0.6, tuned.effort)


@pytest.mark.parametrize("config", [GRAPH, LISTS], ids=lambda config: config.kind)
def test_the_effort_is_near_the_least(local: Collection, config: IndexConfig | IvfConfig) -> None:
    local.build_index(config=config)
    tuned = only(tune(local, recall=0.95))
    assert tuned.effort is not None
    efforts = [point.effort for point in tuned.points]
    assert efforts == sorted(set(efforts))
    little = [point.effort for point in tuned.points if point.recall < 0.95]
    enough = [point.effort for point in tuned.points if point.recall >= 0.95]
    assert little, "the first effort that is tried is too little here"
    assert little[-1] < tuned.effort <= enough[0]
    assert enough[0] <= max(1.1 * little[-1], little[-1] + 1)
    assert max(point.recall for point in tuned.points) >= 0.99, "for those who ask for more"
    assert all(point.recall == min(point.recalls["text"], point.recalls["image"]) for point in tuned.points)


def test_a_search_may_ask_for_more_or_less_than_the_index_was_tuned_for(local: Collection, vectors: np.ndarray) -> None:
    local.build_index(config=LISTS)
    with pytest.raises(UsageError, match=r"no recall of the ivf index.*cliphouse tune --column image"):
        local.search(vectors[0], recall=0.9)
    tune(local, recall=0.9)
    efforts = [local.search(vectors[0], recall=recall).plan.effort or 0 for recall in (0.6, 0.8, 0.9, 0.93)]
    assert efforts == sorted(set(efforts))
    assert efforts[2] == local.search(vectors[0]).plan.effort
    assert local.search(vectors[0], recall=0.9, nprobe=3).plan.effort == 3
    assert local.search(vectors[0], recall=1.0).plan.path == "exact"


def test_what_no_effort_reaches_is_searched_exactly_and_said(local: Collection, vectors: np.ndarray) -> None:
    local.build_index(config=BROKEN_GRAPH)
    tuned = only(tune(local, recall=0.95))
    assert not tuned.reached
    assert tuned.effort == tuned.points[-1].effort == ROWS, "the most there is"
    assert local.search(vectors[0]).plan.path == "hnsw"
    plan = local.search(vectors[0], recall=0.95).plan
    assert (plan.path, "no effort of image_index was found to reach a recall of 0.95" in plan.reason) == ("exact", True)


def test_lists_are_not_tuned_to_be_slower_than_an_exact_search(local: Collection, vectors: np.ndarray) -> None:
    """Beyond half of the clusters searches are exact, so that no effort there is one that they would take."""
    local.build_index(config=IvfConfig(nlist=4))
    tuned = only(tune(local, recall=0.99))
    assert not tuned.reached
    assert tuned.effort == tuned.points[-1].effort == 2
    plan = local.search(vectors[0]).plan
    assert (plan.path, plan.effort) == ("ivf", 2)
    assert local.search(vectors[0], recall=0.99).plan.path == "exact"


def test_an_answer_that_the_index_had_too_few_rows_for_counts_as_missed(local: Collection) -> None:
    """Of the thousand rows that a graph gives at most, too few are left, and an exact search answers rightly."""
    local.build_index(config=GRAPH)
    local.delete(where="id % 5 < 3")
    tuned = only(tune(local, recall=0.5, k=500, sample=2))
    assert {point.recall for point in tuned.points} == {0.0}
    assert not tuned.reached


def test_two_indexes_are_tuned_each_by_itself(local: Collection, vectors: np.ndarray) -> None:
    local.build_index(config=GRAPH)
    local.build_index(config=LISTS)
    graph, lists = tune(local, recall=0.9, sample=4).indexes
    assert (graph.name, graph.kind, lists.name, lists.kind) == ("image_index", "hnsw", "image_ivf", "ivf")
    assert (local.search(vectors[0]).plan.path, local.search(vectors[0]).plan.effort) == ("ivf", lists.effort)
    by_graph = local.search(vectors[0], kind="hnsw").plan
    assert (by_graph.path, by_graph.effort) == ("hnsw", graph.effort)
    assert local.search(vectors[0], ef_search=70).plan.path == "hnsw", "the effort of a graph"
    with pytest.raises(UsageError, match="nprobe is the effort of an ivf index, and kind asks for hnsw"):
        local.search(vectors[0], kind="hnsw", nprobe=3)
    with pytest.raises(UsageError, match="an hnsw and an ivf index"):
        local.drop_index()
    assert local.drop_index(kind="ivf") == "image_ivf"
    assert local.drop_index() == "image_index"


def test_an_index_that_was_not_tuned_does_not_stand_in_the_way_of_one_that_was(
    local: Collection, vectors: np.ndarray
) -> None:
    local.build_index(config=GRAPH)
    tune(local, recall=0.9, sample=4)
    local.build_index(config=LISTS)
    assert local.search(vectors[0], recall=0.9).plan.path == "hnsw"
    with pytest.raises(UsageError, match="no recall of the ivf index"):
        local.search(vectors[0], recall=0.9, kind="ivf")


def test_tuning_is_forgotten_with_the_index_it_is_of(local: Collection) -> None:
    for config in (GRAPH, LISTS):
        local.build_index(config=config)
        tune(local, recall=0.9, sample=4)
        local.drop_index(kind=config.kind)
        state = local.build_index(config=config)
        assert state.tuned is None
        local.drop_index(kind=config.kind)


def test_lists_that_take_in_new_rows_stay_tuned_and_those_of_new_clusters_do_not(
    local: Collection, tmp_path: Path
) -> None:
    local.build_index(config=IvfConfig())
    tune(local, recall=0.9, sample=4)
    fill(local, tmp_path / "in", random_unit(100, DIM, seed=4), 1)
    assert local.build_index(config=IvfConfig()).tuned == 0.9
    fill(local, tmp_path / "in", random_unit(2500, DIM, seed=5), 2)
    state = local.build_index(config=IvfConfig())
    assert (state.rows_indexed, state.tuned) == (ROWS + 2600, None)


def test_an_interrupt_keeps_what_was_found_for_indexes_that_were_finished(local: Collection) -> None:
    local.build_index(config=GRAPH)
    local.build_index(config=LISTS)

    def interrupt(progress: Progress) -> None:
        if progress.label.startswith("image_ivf"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local.tune(TuningOptions(recall=0.9, sample=4), progress=interrupt)
    assert {state.name: state.tuned for state in local.status().indexes} == {"image_index": 0.9, "image_ivf": None}


def test_an_index_that_cannot_answer_is_left_as_it_was(local: Collection) -> None:
    local.build_index(config=GRAPH)
    local.build_index(config=LISTS)
    graph, lists = tune(local, recall=0.5, k=1000, sample=3).indexes
    assert graph.unable.startswith("k is over 1000")
    assert (graph.points, graph.effort, lists.unable) == ((), None, "")
    assert {state.name: state.tuned for state in local.status().indexes} == {"image_index": None, "image_ivf": 0.5}


def test_your_own_queries_alone_or_beside_samples(local: Collection) -> None:
    local.build_index(config=LISTS)
    own = random_unit(5, DIM, seed=9)
    assert set(only(tune(local, queries=own, sample=None)).points[0].recalls) == {"own"}
    assert set(only(tune(local, queries=own, sample=3)).points[0].recalls) == {"own", "text", "image"}


def test_nothing_to_tune_is_said(local: Collection) -> None:
    with pytest.raises(UsageError, match=r"no vector index to tune.*index build --column image"):
        tune(local)
    for options in ({"recall": 1}, {"recall": 0}, {"sample": 0}, {"k": 0}, {"column": "both"}):
        with pytest.raises(UsageError, match=next(iter(options))):
            TuningOptions(**options)  # type: ignore[arg-type]


def test_too_few_rows_are_said(embedded: Collection) -> None:
    embedded.build_index(config=IndexConfig(m=4))
    with pytest.raises(UsageError, match="too few rows to tune an index for k 10"):
        tune(embedded)
