"""Several loaders at one server at once, and what is left of those that died there."""

from __future__ import annotations

import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from cliphouse import Collection, attempts
from cliphouse.attempts import Turn
from cliphouse.engine import Engine, connect
from cliphouse.errors import ShardBusy
from cliphouse.pipeline.staging import Staging
from cliphouse.schema import create_staging, staging_prefix
from cliphouse.types import LoadOptions, Progress
from tests.crash.conftest import CRASHES, ROWS, long, on_server
from tests.crash.loader import Death, run, start
from tests.crash.source import Source


@on_server
@pytest.mark.parametrize(
    "shards",
    [pytest.param(("0-2", "3-5"), marks=long, id="others"), pytest.param(("0-5", "0-5"), id="the same")],
)
def test_two_loaders_at_once_begin_a_collection(
    db: str, source: Source, shards: tuple[str, str], dice: random.Random
) -> None:
    source.add(*range(6), rows=ROWS)
    for _ in range(CRASHES // 4 or 1):
        loaders = [start(source.directory, db, workers=dice.randint(1, 2), more=("--shards", each)) for each in shards]
        ended = [loader.end() for loader in loaders]
        if shards[0] != shards[1]:
            assert [code for code, _ in ended] == [0, 0], ended
        for code, output in ended:
            assert code == 0 or (code == 3 and "is loading it, and wrote" in output and output.count("\n") == 1), ended
        code, output = run(source.directory, db)
        assert code == 0, output
        source.assert_loaded_once(db)
        with connect(db) as engine:
            engine.command("DROP TABLE laion SYNC")
            engine.command("DROP TABLE laion_shards SYNC")


@on_server
def test_a_shard_that_another_loader_brings_in_meanwhile_is_not_brought_in_again(db: str, source: Source) -> None:
    """Both saw that neither shard was there; when its turn comes the second is, and was good."""
    source.add(0, 1, rows=ROWS)

    def overtake(progress: Progress) -> None:
        if progress.label.startswith("shard 0 ") and progress.done == ROWS:
            with Collection.open(db) as other:
                assert other.load(source.directory, shards=[1]).loaded == (1,)

    with Collection.open(db) as collection:
        report = collection.load(source.directory, progress=overtake)
    assert (report.loaded, report.skipped) == ((0,), (1,))
    source.assert_loaded_once(db)


@on_server
def test_a_collection_that_another_loader_begins_at_the_same_moment_keeps_its_ledger(
    db: str, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both saw that there was no collection; one has made it by the time the other does its first step."""
    source.add(0, rows=ROWS)
    command = Engine.command

    def overtaken(engine: Engine, *statement: object) -> None:
        monkeypatch.setattr(Engine, "command", command)
        with Collection.open(db) as other:
            assert other.load(source.directory).loaded == (0,)
        command(engine, *statement)

    with Collection.open(db) as collection:
        monkeypatch.setattr(Engine, "command", overtaken)
        assert collection.load(source.directory).skipped == (0,)
    source.assert_loaded_once(db)


@long
@on_server
def test_a_busy_shard_is_passed_over_without_a_word_against_it(db: str, source: Source) -> None:
    source.add(0, 1, rows=ROWS)
    skip = LoadOptions(on_bad_shard="skip")
    with Collection.open(db) as collection, Collection.open(db) as other:

        def meet(progress: Progress) -> None:
            with pytest.raises(ShardBusy, match=r"shard 0: .*, process \d+ is loading it, and wrote \d+ s ago"):
                other.load(source.directory, shards=[0])
            report = other.load(source.directory, options=skip)
            assert (report.loaded, list(report.quarantined)) == ((1,), [0])

        collection.load(source.directory, shards=[0], progress=meet)
        assert not collection.status().quarantined
    source.assert_loaded_once(db)


@on_server
@pytest.mark.parametrize("token", ["00000000", "ffffffff"], ids=["the lesser", "the greater"])
def test_of_two_that_looked_before_either_began_one_goes_on(
    db: str, source: Source, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes later sees the one that is there, whichever token it drew."""
    monkeypatch.setattr(attempts, "_PATIENCE_SECONDS", 0.2)
    with Collection.open(db) as collection:
        collection.load(source.add(0, rows=ROWS).directory)
        with Staging(collection.engine, "laion", 7) as first:
            monkeypatch.setattr(Turn, "_check_free", lambda self: None)
            monkeypatch.setattr("secrets.token_hex", lambda size: token)
            with pytest.raises(ShardBusy), Staging(collection.engine, "laion", 7):
                pass
            assert [each.table for each in attempts.found(collection.engine, staging_prefix("laion"))] == [first.whole]
    source.assert_loaded_once(db)


@long
@on_server
def test_of_many_that_begin_at_the_same_moment_never_two_go_on(db: str, source: Source) -> None:
    crowd = 4
    with Collection.open(db) as collection:
        collection.load(source.add(0, rows=ROWS).directory)
        gate = threading.Barrier(crowd)
        inside, most = list[Staging](), list[int]()

        def enter(_: int) -> None:
            gate.wait()
            with suppress(ShardBusy), Staging(collection.engine, "laion", 7) as mine:
                inside.append(mine)
                most.append(len(inside))
                collection.sql("SELECT sleep(0.05)")
                inside.remove(mine)

        with ThreadPoolExecutor(crowd) as pool:
            for _ in range(CRASHES or 3):
                list(pool.map(enter, range(crowd)))
        assert set(most) == {1}
        assert len(most) >= (CRASHES or 3)
    source.assert_loaded_once(db)


@on_server
def test_a_loader_that_died_on_this_machine_holds_nobody_up(db: str, source: Source) -> None:
    source.add(0, 1, rows=ROWS)
    for statement in (5, 9, 12, 14) if CRASHES else (7, 12):
        assert run(source.directory, db, death=Death(statement))[0] == -signal.SIGKILL
    code, output = run(source.directory, db)
    assert code == 0, output
    source.assert_loaded_once(db)


@on_server
def test_a_loader_that_died_elsewhere_is_waited_for(db: str, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last write tells: of all its tables, for one fills while the other waits."""
    source.add(0, 1, rows=ROWS)
    with Collection.open(db) as collection:
        collection.load(source.directory, shards=[0])
        for number in range(2):
            name = f"laion_loading_1_0badc0de_{number}"
            collection.engine.command(create_staging("laion", name, "elsewhere, process 7"))
        with pytest.raises(ShardBusy, match=r"shard 1: elsewhere, process 7 is loading it, .* load again in \d+ s"):
            collection.load(source.directory)
        monkeypatch.setattr(attempts, "LEASE_SECONDS", -1)
        assert collection.load(source.directory).loaded == (1,)
    source.assert_loaded_once(db)
