"""A server that goes away, or whose answers do, while shards are on their way into it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cliphouse import Collection, Query
from cliphouse.engine import connect
from cliphouse.errors import EngineError, EngineUnavailable
from cliphouse.pipeline import enter
from cliphouse.schema import create_staging
from cliphouse.types import LoadOptions
from tests.crash.conftest import CRASHES, ROWS, long, on_server
from tests.crash.source import Source

#: The statements of a shard on its way, in their order.
STEPS = {
    "create": r"CREATE TABLE `laion_loading",
    "insert": r"INSERT INTO `?laion_loading",
    "merge": r"OPTIMIZE TABLE",
    "drop": r"DROP TABLE IF EXISTS `laion_loading",
    "joining": r"INSERT INTO `laion_shards`",
    "attach to the collection": r"ALTER TABLE `laion` ATTACH",
}
Faults = Callable[..., None]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enter, "_PAUSES", (0.01,) * 6)


@on_server
@pytest.mark.parametrize("kind", ["lost", pytest.param("away", marks=long), pytest.param("gateway", marks=long)])
def test_a_load_outlives_a_connection_lost_at_each_statement(
    db: str, faults: Faults, source: Source, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The statement was carried out, or not, and nobody was told: the load goes on, and each row is there once."""
    source.add(0, 1, 2, rows=ROWS)
    faults(*({"kind": kind, "matches": step, "skip": number % 3} for number, step in enumerate(STEPS.values())))
    with Collection.open(db) as collection:
        report = collection.load(source.directory)
    assert (report.loaded, report.rows) == ((0, 1, 2), 3 * ROWS)
    # The failure of a drop may be of no consequence.
    assert sum("trying again in" in record.message for record in caplog.records) >= len(STEPS) - 1
    source.assert_loaded_once(db)


@on_server
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=long)])
def test_a_load_outlives_connections_that_break_in_the_middle_of_inserts(
    db: str, faults: Faults, source: Source, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(enter, "_BLOCK_BYTES", 64 * ROWS // 10)
    source.add(0, 1, 2, rows=ROWS)
    faults(*({"kind": "cut", "matches": STEPS["insert"], "bytes": size} for size in (20_000, 1, 50_000)))
    with Collection.open(db) as collection:
        assert collection.load(source.directory, options=LoadOptions(workers=workers)).rows == 3 * ROWS
    source.assert_loaded_once(db)


@on_server
def test_an_insert_whose_answer_was_lost_is_taken_once(db: str, faults: Faults, source: Source) -> None:
    """Sent again with its token, in full or after a part of it, it adds what is not there yet."""
    rows = [bytes((1, 1)) + b"\x02id\x05Int64" + row.to_bytes(8, "little") for row in range(6)]
    with connect(db) as engine:
        engine.command("CREATE TABLE laion (id Int64) ENGINE = MergeTree ORDER BY id")
        engine.command(create_staging("laion", "t", "me"))
        for fault in ({"kind": "lost"}, {"kind": "cut", "bytes": 4 * len(rows[0]) + 3}, {"kind": "gateway"}):
            engine.command("TRUNCATE TABLE t")
            faults(fault | {"matches": "INSERT INTO"})
            token = fault["kind"]
            with pytest.raises(EngineUnavailable):
                engine.insert_native("t", ["id"], rows, token=token)
            engine.insert_native("t", ["id"], rows, token=token)
            found = engine.query(Query(sql="SELECT id FROM t ORDER BY id")).rows
            assert found == [(row,) for row in range(6)], fault


@long
@on_server
def test_a_server_that_stays_away_ends_the_load_in_one_line_and_it_goes_on_later(
    db: str, faults: Faults, source: Source
) -> None:
    source.add(0, 1, rows=ROWS)
    faults({"kind": "away", "matches": "INSERT INTO `?laion_loading_1", "times": 1000})
    with Collection.open(db) as collection:
        with pytest.raises(EngineUnavailable, match="cannot reach clickhouse://tester@") as caught:
            collection.load(source.directory)
        assert "\n" not in str(caught.value)
        assert collection.status().shards == (0,)
        faults()
        assert collection.load(source.directory).loaded == (1,)
    source.assert_loaded_once(db)


@on_server
@pytest.mark.parametrize("step", STEPS if CRASHES else ["attach to the collection"])
def test_an_error_of_the_server_ends_the_load_and_the_next_one_finishes_it(
    db: str, faults: Faults, source: Source, step: str
) -> None:
    """The server says that it failed, after all was done."""
    source.add(0, 1, rows=ROWS)
    faults({"kind": "error", "matches": STEPS[step]})
    with Collection.open(db) as collection:
        if step != "drop":
            with pytest.raises(EngineError, match=r"the other end is gone \(NETWORK_ERROR, code 210\)"):
                collection.load(source.directory)
        collection.load(source.directory)
    source.assert_loaded_once(db)
