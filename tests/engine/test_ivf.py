"""Inverted lists: built, searched, kept right whatever happens to the rows, on every kind of engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cliphouse import Collection, Hits, IndexConfig, Progress, SearchParams
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
        assert [hit.id for hit in found] == [hit.id for hit in wanted]
        assert [hit.distance for hit in found] == pytest.approx([hit.distance for hit in wanted], abs=1e-4)
        assert [replace(hit, distance=0) for hit in found] == [replace(hit, distance=0) for hit in wanted]


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
