"""Laws of deleting: what is left is the complement, in every kind of search."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cliphouse import Collection, IndexConfig
from tests.crash.conftest import CRASHES
from tests.data import random_unit, write_shard


def ids_of(collection: Collection, where: str = "true") -> set[int]:
    return set(collection.sql(f"SELECT id FROM laion WHERE {where}").column("id").to_pylist())


@pytest.fixture(scope="module")
def shrinking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """An indexed part of 1500 rows and one of 500 without an index."""
    place = tmp_path_factory.mktemp("shrinking")
    vectors = random_unit(2000, 16, seed=5)
    for number, rows in enumerate((vectors[:1500], vectors[1500:])):
        write_shard(place / "in", number, ["x"] * len(rows), images=rows, with_text=False, dtype="float32")
    with Collection.open(place / "db") as collection:
        collection.load(place / "in", shards="0", storage="float32")
        collection.build_index(config=IndexConfig(m=32, ef_construction=256))
        collection.load(place / "in", shards="1")
        yield collection


@settings(max_examples=CRASHES or 6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), share=st.integers(1, 40), k=st.integers(1, 30))
def test_deleting_leaves_exactly_the_complement_in_every_search(
    shrinking: Collection, seed: int, share: int, k: int
) -> None:
    where = f"cityHash64(id, {seed}) % 400 < {share}"
    before = ids_of(shrinking)
    gone = ids_of(shrinking, where)
    query = random_unit(1, 16, seed)[0]
    wanted = [hit.id for hit in shrinking.search(query, k=1000, exact=True) if hit.id not in gone][:k]
    assert shrinking.delete(where=where).rows == len(gone)
    assert ids_of(shrinking) == before - gone
    assert [hit.id for hit in shrinking.search(query, k=k, exact=True)] == wanted
    found = [hit.id for hit in shrinking.search(query, k=k, ef_search=1000)]
    assert found == wanted, "the index sees all its rows with such an effort"
