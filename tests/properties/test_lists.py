"""Laws of searching inverted lists: whatever is looked for, and whatever became of the rows before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cliphouse import Collection
from tests.crash.conftest import CRASHES
from tests.data import clustered, cosine_distances
from tests.lists import DIM, IVF, ROWS, assert_like_exact, fill

VECTORS = clustered(ROWS, DIM, seed=6)
laws = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """2000 rows with inverted lists, 100 that came later, and 30 of both that are deleted."""
    place = tmp_path_factory.mktemp("standing")
    with Collection.open(place / "db") as collection:
        collection.load(fill(place / "in", 0, VECTORS[:1900]))
        collection.build_index(config=IVF)
        collection.load(fill(place / "in", 1, VECTORS[1900:]))
        collection.delete(where="row % 70 = 1")
        yield collection


@settings(laws, max_examples=CRASHES or 15)
@given(
    seed=st.integers(0, 2**31),
    k=st.integers(1, 80),
    offset=st.integers(0, 50),
    nprobe=st.integers(1, 60),
    modulus=st.integers(1, 9),
)
def test_lists_invent_no_row_and_hide_none_that_they_read(
    standing: Collection, seed: int, k: int, offset: int, nprobe: int, modulus: int
) -> None:
    query = clustered(1, DIM, seed, centres=1)[0]
    where = None if modulus == 1 else f"id % {modulus} = 0"
    hits = standing.search(query, k=k, offset=offset, where=where, nprobe=nprobe, kind="ivf")
    exact = standing.search(query, k=k, offset=offset, where=where, exact=True)
    assert len(hits) == len(exact)
    assert len({hit.id for hit in hits}) == len(hits)
    order = [(hit.distance, hit.id) for hit in hits]
    assert order == sorted(order)
    for hit in hits:
        row = hit.id % 10**8
        assert row % 70 != 1
        assert hit.caption == str(row)
        assert where is None or hit.id % modulus == 0
        vector = VECTORS[row + 1900 * (hit.id // 10**8)]
        assert hit.distance == pytest.approx(cosine_distances(vector[None], query)[0], abs=5e-3), "bfloat16"
    if not offset:
        assert all(near.distance <= far.distance + 1e-5 for near, far in zip(exact, hits, strict=True))


def test_recall_grows_with_the_clusters_that_are_read(standing: Collection) -> None:
    queries = clustered(30, DIM, seed=11)
    truth = [{hit.id for hit in standing.search(query, exact=True)} for query in queries]
    reached = []
    for nprobe in (1, 2, 4, 8, 16, 48):
        found = [{hit.id for hit in standing.search(query, kind="ivf", nprobe=nprobe)} for query in queries]
        reached.append(np.mean([len(one & other) / 10 for one, other in zip(truth, found, strict=True)]))
    assert reached == sorted(reached)
    assert reached[0] > 0.3
    assert reached[-1] == 1


@settings(laws, max_examples=CRASHES or 3)
@given(
    st.lists(
        st.tuples(st.sampled_from(["insert", "delete", "sql", "change", "build"]), st.integers(0, 2**20)),
        min_size=3,
        max_size=5,
    )
)
def test_whatever_becomes_of_the_rows_lists_answer_like_an_exact_search(
    standing: Collection, changes: list[tuple[str, int]]
) -> None:
    for what, seed in changes:
        some = f"cityHash64(id, {seed}) % 100 = 0"
        if what == "insert":
            standing.sql(
                "INSERT INTO laion (id, caption, image_embedding) "
                f"SELECT {seed} * 1000 + id, 'new {seed}', image_embedding FROM laion WHERE {some} AND id < {10**9} "
                f"AND {seed} * 1000 + id NOT IN (SELECT id FROM laion)"
            )
        elif what == "delete":
            standing.delete(where=some)
        elif what == "sql":
            standing.sql(f"DELETE FROM laion WHERE {some}")
        elif what == "change":
            standing.sql(f"ALTER TABLE laion UPDATE caption = '{seed}' WHERE {some} SETTINGS mutations_sync = 2")
        else:
            assert standing.build_index(config=IVF).state == "ready"
        for query in clustered(2, DIM, seed):
            found = standing.search(query, kind="ivf", nprobe=1000)
            exact = standing.search(query, exact=True)
            assert [(hit.id, hit.caption) for hit in found] == [(hit.id, hit.caption) for hit in exact]
    assert standing.build_index(config=IVF).state == "ready"
    assert_like_exact(standing, clustered(2, DIM, seed=1))
