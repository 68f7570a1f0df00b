"""The engine fails in the middle of a load, or the load is stopped from within the process."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cliphouse import Collection
from cliphouse.engine import insert
from cliphouse.errors import EngineError, StorageFull
from cliphouse.types import LoadOptions, Progress
from tests.crash.conftest import CRASHES, ROWS, long
from tests.crash.loader import PATIENCE
from tests.crash.source import Source


@long
def test_a_disk_that_fills_up_at_any_point_of_a_load(source: Source, small_disk: Path, dice: random.Random) -> None:
    """With every amount of room left: one line that says so, and with room again the load is finished."""
    source.add(0, rows=ROWS).add(1, 2, rows=6000)
    ballast, full = small_disk / "ballast", 0
    with Collection.open(small_disk / "db") as collection:
        for number in range(CRASHES or 4):
            collection.load(source.directory, shards=[0])
            disk = os.statvfs(small_disk)
            room = dice.randrange(4096, 3 * 2**20)
            ballast.write_bytes(b"\0" * (disk.f_bavail * disk.f_frsize - room))
            with suppress(StorageFull):
                collection.load(source.directory, options=LoadOptions(workers=1 + number % 2))
                room = 0
            full += room > 0
            ballast.unlink()
            collection.load(source.directory)
            source.assert_loaded_once(collection)
            collection.engine.command("DROP TABLE laion SYNC")
    assert full


@pytest.mark.parametrize("db", ["embedded", pytest.param("server", marks=long)], indirect=True)
def test_an_insert_that_runs_out_of_memory_is_said_and_the_next_load_goes_on(
    db: str, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.add(0, 1, rows=6000)
    settings = insert._settings
    with Collection.open(db) as collection:
        with monkeypatch.context() as patched:
            patched.setattr(insert, "_settings", lambda token: settings(token) | {"max_memory_usage": 100_000})
            with pytest.raises(EngineError, match="MEMORY_LIMIT_EXCEEDED") as caught:
                collection.load(source.directory)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 5
        assert collection.load(source.directory).loaded == (0, 1)
        source.assert_loaded_once(collection)


@pytest.mark.parametrize("db", ["embedded", pytest.param("server", marks=long)], indirect=True)
def test_a_staging_table_that_somebody_drops_ends_the_load_and_the_next_one_goes_on(db: str, source: Source) -> None:
    source.add(0, 1, rows=ROWS)

    def meddle(progress: Progress) -> None:
        with Collection.open(db) as other:
            for name in other.sql("SHOW TABLES LIKE 'laion_loading%'").column("name").to_pylist():
                other.engine.command(f"DROP TABLE {name}")

    with Collection.open(db) as collection:
        with pytest.raises(EngineError, match=r"\((UNKNOWN_TABLE|ABORTED), code \d+\)$") as caught:
            collection.load(source.directory, progress=meddle)
        assert "\n" not in str(caught.value)
        assert collection.load(source.directory).loaded == (0, 1)
        source.assert_loaded_once(collection)


@pytest.mark.parametrize("db", ["embedded", pytest.param("server", marks=long)], indirect=True)
def test_ctrl_c_in_a_program_ends_all_workers_soon_and_leaves_the_database_usable(
    db: str, source: Source, dice: random.Random
) -> None:
    source.add(*range(8), rows=ROWS)
    for _ in range(CRASHES or 2):
        wanted = dice.randint(1, 8)
        begun = set[str]()
        stamp = list[float]()

        def interrupt(
            progress: Progress, begun: set[str] = begun, stamp: list[float] = stamp, at: int = wanted
        ) -> None:
            begun.add(progress.label)
            if len(begun) == at and not stamp:
                stamp.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGINT)

        with Collection.open(db) as collection:
            with pytest.raises(KeyboardInterrupt):
                collection.load(source.directory, options=LoadOptions(workers=4), progress=interrupt)
            assert time.monotonic() - stamp[0] < PATIENCE
            assert not [thread for thread in threading.enumerate() if thread.name.startswith("cliphouse-")]
            tables = collection.sql("SHOW TABLES").column("name").to_pylist()
            assert [name for name in tables if "loading" in name] == []
            collection.load(source.directory, options=LoadOptions(workers=4))
            source.assert_loaded_once(collection)
            collection.engine.command("DROP TABLE laion SYNC")
