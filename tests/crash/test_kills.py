"""A loader that is killed at moments drawn from the whole of its life, or told to stop."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.crash.conftest import CRASHES, ROWS, long
from tests.crash.loader import Run, run, start
from tests.crash.source import Source


def _life(source: Source, db: Path, workers: int) -> float:
    """Seconds that an undisturbed load takes here, now."""
    began = time.monotonic()
    code, output = run(source.directory, db, workers=workers)
    assert code == 0, output
    return time.monotonic() - began


def _kill_after(loader: Run, seconds: float) -> int:
    """Kill a loader after so long, if it is still there; its exit code."""
    loader.process.join(seconds)
    loader.process.kill()
    loader.process.join()
    return int(loader.process.exitcode or 0)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=long), 2, pytest.param(4, marks=long)])
def test_a_load_that_is_killed_at_any_moment_and_run_again_has_each_row_once(
    source: Source, tmp_path: Path, dice: random.Random, workers: int
) -> None:
    source.add(*range(4), rows=ROWS)
    life = _life(source, tmp_path / "measured", workers)
    source.assert_loaded_once(tmp_path / "measured")
    left = CRASHES or 4
    while left:
        db = tmp_path / f"db{left}"
        for _ in range(min(left, dice.randint(1, 4) if CRASHES else 4)):
            assert _kill_after(start(source.directory, db, workers=workers), dice.uniform(0, life)) in (0, -9)
            left -= 1
        code, output = run(source.directory, db, workers=workers)
        assert code == 0, output
        source.assert_loaded_once(db)


def test_many_killed_loads_of_new_shards_into_one_directory(
    source: Source, tmp_path: Path, dice: random.Random
) -> None:
    life = _life(source.add(0, rows=ROWS), tmp_path / "db", 1)
    for number in range(1, 1 + (CRASHES or 4)):
        source.add(number, rows=ROWS)
        _kill_after(start(source.directory, tmp_path / "db", workers=dice.randint(1, 3)), dice.uniform(0, 1.5 * life))
    code, output = run(source.directory, tmp_path / "db")
    assert code == 0, output
    source.assert_loaded_once(tmp_path / "db")


@pytest.mark.parametrize(
    ("sign", "code", "word", "workers"),
    [
        (signal.SIGINT, 130, "interrupted", 2),
        (signal.SIGTERM, 143, "terminated", 1),
        pytest.param(signal.SIGINT, 130, "interrupted", 1, marks=long),
        pytest.param(signal.SIGTERM, 143, "terminated", 2, marks=long),
    ],
)
def test_a_load_that_is_told_to_stop_says_so_and_is_finished_by_the_next(
    source: Source, tmp_path: Path, dice: random.Random, sign: signal.Signals, code: int, word: str, workers: int
) -> None:
    source.add(*range(4), rows=ROWS)
    life = _life(source, tmp_path / "measured", workers)
    for number in range(CRASHES // 10 or 1):
        db = tmp_path / f"db{number}"
        loader = start(source.directory, db, workers=workers)
        while not (db / "metadata").exists():  # the command has begun
            loader.process.join(0.005)
        loader.process.join(dice.uniform(0, life / 2))
        if loader.process.exitcode is None:
            loader.signal(sign)
            ended, output = loader.end()
            assert ended == 0 or (ended, output.strip()) == (code, f"cliphouse: {word}")
        ended, output = run(source.directory, db)
        assert ended == 0, output
        source.assert_loaded_once(db)
