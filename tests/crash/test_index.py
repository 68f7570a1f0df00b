"""Builds of inverted lists whose process is killed: what answers after that, and who finishes them."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest

from cliphouse import Collection
from tests.crash.conftest import CRASHES
from tests.crash.loader import Death, command
from tests.data import clustered
from tests.lists import DIM, IVF, ROWS, assert_like_exact, fill, tables

VECTORS = clustered(ROWS, DIM, seed=3)


def _build(db: Path, death: Death | None = None, trace: Path | None = None) -> int:
    arguments = ("index", "build", "--kind", "ivf", "--db", str(db))
    code, output = command(db.parent, arguments, death=death, trace=trace).end()
    assert code in ((0, -signal.SIGKILL) if death else (0,)), output
    return code


def _statements(db: Path) -> int:
    """How many statements that change something an undisturbed build has."""
    trace = db.parent / "trace"
    _build(db, trace=trace)
    return len([json.loads(line) for line in trace.read_text().splitlines()])


def _assert_right(collection: Collection) -> None:
    assert collection.build_index(config=IVF).state == "ready"
    assert_like_exact(collection, VECTORS[:3])
    beside = [name for name in tables(collection) if "_ivf_" in name]
    assert len(beside) == 2, "nothing of the builds that died is left"


@pytest.fixture
def db(tmp_path: Path) -> Path:
    with Collection.open(tmp_path / "db") as collection:
        collection.load(fill(tmp_path / "in", 0, VECTORS))
    return tmp_path / "db"


def test_a_build_that_is_killed_before_any_statement_is_finished_by_the_next(db: Path, dice: random.Random) -> None:
    statements = _statements(db)
    with Collection.open(db) as collection:
        collection.drop_index(kind="ivf")
    for _ in range(CRASHES or 4):
        _build(db, Death(dice.randint(1, statements)))
        with Collection.open(db) as collection:
            assert collection.search(VECTORS[5], k=1)[0].id == 5
            if dice.random() < 0.3:
                _assert_right(collection)
                collection.drop_index(kind="ivf")
                assert not [name for name in tables(collection) if "_ivf_" in name]
    with Collection.open(db) as collection:
        _assert_right(collection)


def test_an_update_that_is_killed_loses_nothing(db: Path, tmp_path: Path, dice: random.Random) -> None:
    _build(db)
    for number in range(1, 1 + (CRASHES or 2)):
        with Collection.open(db) as collection:
            collection.load(fill(tmp_path / "in", number, clustered(50, DIM, seed=number)))
            collection.sql(f"DELETE FROM laion WHERE id % 500 = {100 + number}")
        _build(db, Death(dice.randint(1, 20)))
        with Collection.open(db) as collection:
            found = collection.search(VECTORS[5], nprobe=1000, kind="ivf")
            exact = collection.search(VECTORS[5], exact=True)
            assert [hit.id for hit in found] == [hit.id for hit in exact]
    with Collection.open(db) as collection:
        _assert_right(collection)
