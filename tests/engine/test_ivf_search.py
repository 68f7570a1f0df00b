"""What inverted lists answer, and when they leave it to an exact search."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from cliphouse import Collection, SearchParams, queries
from cliphouse.errors import InvalidFilter, UsageError
from cliphouse.types import IvfConfig
from tests.data import clustered
from tests.lists import ALL, DIM, IVF, ROWS, assert_like_exact, everywhere, fill


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> Iterator[Collection]:
    """2000 rows with inverted lists of their images, that nothing changes."""
    place = tmp_path_factory.mktemp("standing")
    with Collection.open(place / "db") as collection:
        collection.load(fill(place / "in", 0, vectors))
        collection.build_index(config=IVF)
        yield collection


def test_with_all_clusters_an_answer_is_the_exact_one(standing: Collection, vectors: np.ndarray) -> None:
    queries = np.vstack([vectors[:3], clustered(3, DIM, seed=9), -vectors[:1]])
    assert_like_exact(standing, queries)
    assert_like_exact(standing, queries, k=37, where="width > 100000", columns=("width", "shard"))


def test_few_granules_are_read_by_the_primary_key(standing: Collection, vectors: np.ndarray) -> None:
    query, plan = standing.statement(vectors[17], params=SearchParams(nprobe=2))
    assert plan.path == "ivf"
    explained = standing.explain(query)
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
    standing: Collection, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = standing.search_with(vectors[17], params=SearchParams(nprobe=5))
    monkeypatch.setattr(queries, "_FIELD_LENGTH", 16)
    query, _ = standing.statement(vectors[17], params=SearchParams(nprobe=5))
    assert "probes_1" in query.parameters
    count = sum(len(value) for name, value in query.parameters.items() if name.startswith("probes")) // 8
    assert f"Condition: (ivf_cluster in {count}-element set)" in standing.explain(query)
    assert list(standing.search_with(vectors[17], params=SearchParams(nprobe=5))) == list(whole)


def test_pages_follow_each_other_without_gaps(standing: Collection, vectors: np.ndarray) -> None:
    whole = [hit.id for hit in standing.search(vectors[3], k=300, exact=True)]
    pages = [everywhere(standing, vectors[3], k=50, offset=offset) for offset in range(0, 300, 50)]
    assert [hit.id for page in pages for hit in page] == whole


def test_pages_of_few_clusters_show_no_row_twice_and_none_out_of_order(
    standing: Collection, vectors: np.ndarray
) -> None:
    for number in range(10):
        pages = [standing.search(vectors[number], offset=offset) for offset in range(0, 100, 10)]
        assert {page.plan.path for page in pages} == {"ivf"}
        shown = [(hit.distance, hit.id) for page in pages for hit in page]
        assert shown == sorted(set(shown))
        assert len(shown) == 100


def test_any_k_is_answered(standing: Collection, vectors: np.ndarray) -> None:
    for k in (1001, ROWS - 1, ROWS):
        assert_like_exact(standing, vectors[:1], k=k)
    hits = standing.search(vectors[0], k=ROWS + 100)
    assert (len(hits), hits.plan.path) == (ROWS, "exact")
    assert standing.search(vectors[0], offset=ROWS + 5).plan.path == "exact"
    assert (
        len(standing.search_with(vectors[0], params=SearchParams(k=10, offset=ROWS - 3, kind="ivf", nprobe=ALL))) == 3
    )


def test_a_filter_that_leaves_few_rows_is_answered_exactly(standing: Collection, vectors: np.ndarray) -> None:
    hits = standing.search(vectors[0], where="id % 200 = 3", k=5)
    assert (hits.plan.path, len(hits)) == ("exact", 5)
    assert "rows pass the filter" in hits.plan.reason
    hits = standing.search(vectors[0], where="id % 10 != 3", k=5)
    assert hits.plan.path == "ivf"
    assert all(hit.id % 10 != 3 for hit in hits)
    assert standing.search(vectors[0], where="caption = 'no such'").plan.path == "exact"


def test_a_filter_that_hides_a_cluster_still_gives_k_rows(standing: Collection, vectors: np.ndarray) -> None:
    """The share of rows that pass, half, says nothing of the clusters that are looked into, where none does."""
    near = {hit.id for hit in standing.search(vectors[0], k=ROWS // 2, exact=True)}
    where = f"NOT has({sorted(near)}, id)"
    hits = standing.search_with(vectors[0], params=SearchParams(k=10, where=where, nprobe=2, kind="ivf"))
    assert len(hits) == 10
    assert near.isdisjoint(hit.id for hit in hits)


@pytest.mark.parametrize(
    "where", ["length(text_embedding) = 16", "text_embedding[1] > image_embedding[1]"], ids=["length", "both"]
)
def test_a_filter_by_the_other_embedding_is_answered_exactly(
    standing: Collection, vectors: np.ndarray, where: str
) -> None:
    hits = standing.search(vectors[0], where=where)
    assert hits.plan.path == "exact"
    assert "text_embedding" in hits.plan.reason
    assert len(hits) == 10


@pytest.mark.parametrize("where", ["nonsense = 1", "caption = ", "id = 'x' AND", "ivf_cluster = 3", "1) OR (1 = 1"])
def test_a_filter_that_fails_is_named(standing: Collection, vectors: np.ndarray, where: str) -> None:
    for kind in ("ivf", None):
        with pytest.raises(InvalidFilter):
            standing.search_with(vectors[0], params=SearchParams(where=where, kind=kind))


def test_an_index_that_is_not_there_is_named_with_the_next_step(standing: Collection, vectors: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"no ivf index; build one: cliphouse index build --kind ivf --column text"):
        standing.search(vectors[0], kind="ivf", column="text")
    with pytest.raises(UsageError, match=r"no hnsw index; build one"):
        standing.search(vectors[0], kind="hnsw")
    with pytest.raises(UsageError, match=r"no recall of the ivf index .*cliphouse tune --column image"):
        standing.search(vectors[0], recall=0.95)
    assert standing.search(vectors[0], recall=1).plan.path == "exact"


def test_another_number_of_clusters_asks_for_a_drop_first(standing: Collection) -> None:
    with pytest.raises(UsageError, match=r"50 clusters; drop it first: cliphouse index drop --kind ivf --column image"):
        standing.build_index(config=IvfConfig(nlist=20))
    assert standing.build_index(config=IvfConfig(nlist=50)).state == "ready"
