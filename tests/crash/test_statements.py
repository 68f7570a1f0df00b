"""A loader that dies between any two of its statements, or in the middle of one."""

from __future__ import annotations

import json
import random
import signal
from itertools import count
from pathlib import Path

import pytest

from tests.crash.loader import Death, run
from tests.crash.source import Source

ROWS = 200


@pytest.mark.parametrize("workers", [1, 2])
def test_a_load_that_dies_before_each_of_its_statements_in_turn_is_finished_by_the_next(
    tmp_path: Path, workers: int
) -> None:
    """Each process gets one statement further than the one before, on what that one left."""
    source = Source(tmp_path / "in").add(0, 1, rows=ROWS)
    for statement in count(1):
        code, output = run(source.directory, tmp_path / "db", workers=workers, death=Death(statement))
        if code != -signal.SIGKILL:
            assert code == 0, output
            break
    assert statement > 10
    source.assert_loaded_once(tmp_path / "db")


def test_full(tmp_path: Path) -> None:
    source = Source(tmp_path / "in").add(0, rows=ROWS)
    assert run(source.directory, tmp_path / "db", trace=tmp_path / "trace")[0] == 0
    source.assert_loaded_once(tmp_path / "db")
    for s, line in enumerate((tmp_path / "trace").read_text().splitlines(), 1):
        print(s, json.loads(line)[1], json.loads(line)[0][:100].replace("\n", " "))
    n = s
    for s in range(1, n + 1):
        db = tmp_path / f"db{s}"
        code, output = run(source.directory, db, death=Death(s))
        assert code == -9
        code, output = run(source.directory, db)
        assert code == 0, (s, output)
        source.assert_loaded_once(db)
