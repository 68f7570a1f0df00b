"""Collections with inverted lists, and those that are about to have some."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cliphouse import Collection
from tests.data import clustered
from tests.lists import DIM, IVF, ROWS, fill


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(ROWS, DIM, seed=3)


@pytest.fixture
def here(tmp_path: Path, vectors: np.ndarray) -> Iterator[Collection]:
    """2000 rows in a data directory, without any index."""
    with Collection.open(tmp_path / "db") as collection:
        collection.load(fill(tmp_path / "in", 0, vectors))
        yield collection


@pytest.fixture
def lists(here: Collection) -> Collection:
    """The same with inverted lists of the images."""
    here.build_index(config=IVF)
    return here


@pytest.fixture
def anywhere(db: str, tmp_path: Path, vectors: np.ndarray) -> Iterator[Collection]:
    """The same on each kind of engine."""
    with Collection.open(db) as collection:
        collection.load(fill(tmp_path / "in", 0, vectors))
        collection.build_index(config=IVF)
        yield collection
