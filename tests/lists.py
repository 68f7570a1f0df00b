"""Collections with inverted lists, and what to compare of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cliphouse import Collection, Hits, Progress, SearchParams
from cliphouse.types import IvfConfig
from tests.data import write_shard

IVF = IvfConfig()
ROWS, DIM = 2000, 16
SHARD = 100_000_000
#: More than any of these indexes has clusters.
ALL = 1000


def fill(place: Path, number: int, vectors: np.ndarray, caption: str = "", **options: object) -> Path:
    """A shard whose captions are the numbers of its rows, and whose texts are its images in reverse."""
    captions = [caption or str(row) for row in range(len(vectors))]
    return write_shard(place, number, captions, images=vectors, texts=vectors[::-1], dtype="float32", **options)


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
        assert [hit.distance for hit in found] == pytest.approx([hit.distance for hit in wanted], abs=1e-4)
        # Rows that the rounded target cannot tell apart may be in or out at the end.
        known = {hit.id: replace(hit, distance=0) for hit in wanted}
        apart = {hit.id for hit in found} ^ known.keys()
        assert all(hit.distance > wanted[-1].distance - 1e-4 for hit in (*found, *wanted) if hit.id in apart)
        assert all(replace(hit, distance=0) == known[hit.id] for hit in found if hit.id in known)
        assert len({hit.id for hit in found}) == len(found)


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


def interrupted(collection: Collection, stage: str, config: IvfConfig = IVF) -> None:
    """Begin a build, and break it off when it tells of this stage."""

    def stop(progress: Progress) -> None:
        if progress.label.endswith(stage):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collection.build_index(config=config, progress=stop)
