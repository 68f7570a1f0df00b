"""A loader that dies between any two of its statements, or in the middle of one."""

from __future__ import annotations

import json
import random
import signal
from itertools import count
from pathlib import Path

import pytest

from tests.crash.conftest import CRASHES, ROWS, long
from tests.crash.loader import Death, run
from tests.crash.source import Source


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=long)])
def test_a_load_that_dies_before_each_of_its_statements_in_turn_is_finished_by_the_next(
    source: Source, tmp_path: Path, workers: int
) -> None:
    """Each process gets a little further than the one before, on what that one left."""
    source.add(*range(workers), rows=ROWS)
    for statement in count(1):
        code, output = run(source.directory, tmp_path / "db", workers=workers, death=Death(statement))
        if code != -signal.SIGKILL:
            assert code == 0, output
            break
    assert statement > 8
    source.assert_loaded_once(tmp_path / "db")


@long
@pytest.mark.parametrize("workers", [1, 2])
def test_a_load_that_dies_before_any_one_statement_of_a_new_directory(
    source: Source, tmp_path: Path, workers: int
) -> None:
    source.add(*range(workers), rows=ROWS)
    for statement in count(1):
        db = tmp_path / f"db{statement}"
        code, output = run(source.directory, db, workers=workers, death=Death(statement))
        if code != -signal.SIGKILL:
            assert code == 0, output
            break
        code, output = run(source.directory, db, workers=workers)
        assert code == 0, f"after death before statement {statement}: {output}"
        source.assert_loaded_once(db)


def test_a_load_that_dies_in_the_middle_of_a_statement(source: Source, tmp_path: Path, dice: random.Random) -> None:
    """As often within the step in which the rows join as within the far longer insert."""
    source.add(0, 1, rows=ROWS)
    trace = tmp_path / "trace"
    assert run(source.directory, tmp_path / "measured", trace=trace)[0] == 0
    seconds = [json.loads(line)[1] for line in trace.read_text().splitlines()]
    for number in range(CRASHES or 1):
        db = tmp_path / f"db{number}"
        statement = dice.randrange(len(seconds))
        death = Death(statement + 1, after=dice.uniform(0, seconds[statement]))
        code, output = run(source.directory, db, death=death)
        assert code in (0, -signal.SIGKILL), output
        code, output = run(source.directory, db)
        assert code == 0, f"after {death}: {output}"
        source.assert_loaded_once(db)
