"""POST /api/v1/sql: tables as JSON, under limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from cliphouse import Collection
from cliphouse.service.app import create_app
from cliphouse.service.settings import Settings
from tests.data import write_shard


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder: Path = tmp_path_factory.mktemp("sql")
    settings = Settings(timeout=1.0, max_sql_memory=300_000_000, max_sql_bytes=2_000_000, max_sql_rows=1500)
    with Collection.open(folder / "db", encoder="test-words") as collection:
        collection.load(write_shard(folder / "shards"))
        with TestClient(create_app(collection, settings)) as opened:
            yield opened


def ask(client: TestClient, statement: str, **more: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/sql", json={"statement": statement, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(client: TestClient, statement: str, **more: Any) -> tuple[int, str, str]:
    answer = client.post("/api/v1/sql", json={"statement": statement, **more})
    problem = answer.json()
    return answer.status_code, problem["type"], problem["detail"]


def test_an_answer_is_a_table_with_names_and_types(client: TestClient) -> None:
    found = ask(client, "SELECT id, caption, width FROM laion ORDER BY id LIMIT 2;")
    assert found["columns"] == [
        {"name": "id", "type": "Int64"},
        {"name": "caption", "type": "String"},
        {"name": "width", "type": found["columns"][2]["type"]},
    ]
    assert [row[1:] for row in found["rows"]] == [["a red car parked", 256], ["red car", 512]]
    assert found["truncated"] is False


def test_values_that_json_lacks_lose_nothing(client: TestClient) -> None:
    sql = (
        "SELECT toUInt64(18446744073709551615), 9007199254740992, [toInt64(-9223372036854775807), 1], nan, inf, NULL,"
        " toDecimal64('1.10', 2), toUUID('00000000-0000-0000-0000-00000000000a'), toDate('2020-02-03'),"
        " toDateTime64('2020-02-03 04:05:06.7', 1, 'UTC'), (1, 'a'), map('a', toInt64(1)), true, toBFloat16(1.5),"
        " 'ünï \\\\ \"'"
    )
    row = ask(client, sql)["rows"][0]
    assert row == [
        *("18446744073709551615", 9007199254740992, ["-9223372036854775807", 1], None, None, None),
        *("1.1", "00000000-0000-0000-0000-00000000000a", "2020-02-03", "2020-02-03 04:05:06.7"),
        *([1, "a"], {"a": 1}, True, 1.5, 'ünï \\ "'),
    ]


def test_bytes_that_are_no_text_are_shown_and_break_nothing(client: TestClient) -> None:
    assert ask(client, "SELECT unhex('ff41')")["rows"] == [["�A"]]


def test_more_rows_than_wanted_are_cut_and_it_says_so(client: TestClient) -> None:
    assert [len(ask(client, f"SELECT * FROM numbers({n})", limit=5)["rows"]) for n in (4, 5, 6)] == [4, 5, 5]
    cut = [ask(client, f"SELECT * FROM numbers({n})", limit=5)["truncated"] for n in (4, 5, 6)]
    assert cut == [False, False, True]
    assert ask(client, "SHOW FUNCTIONS", limit=5)["truncated"] is True
    assert len(ask(client, "SELECT * FROM numbers(100000)", limit=10_000)["rows"]) == 1500  # what the service allows
    assert ask(client, "SELECT count() FROM (SELECT * FROM numbers(100))", limit=5)["rows"] == [[100]]


def test_the_encoder_is_there(client: TestClient) -> None:
    sql = "SELECT caption FROM laion ORDER BY cosineDistance(image_embedding, encode_text('blue sky')) LIMIT 1"
    assert ask(client, sql)["rows"] == [["blue sky over the sea"]]


@pytest.mark.parametrize(
    "statement",
    [
        "SHOW TABLES",
        "SHOW DATABASES",
        "DESCRIBE laion",
        "DESCRIBE (SELECT 1)",
        "SHOW CREATE TABLE laion",
        "EXPLAIN SELECT * FROM laion",
        "EXISTS laion",
        "SHOW COLUMNS FROM laion",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "SELECT * FROM system.tables WHERE database = currentDatabase()",
        "SELECT 1 WHERE 0",
    ],
)
def test_other_statements_that_read_are_answered(client: TestClient, statement: str) -> None:
    assert ask(client, statement)["columns"]


def test_what_the_engine_finds_wrong_is_the_callers_fault(client: TestClient) -> None:
    for statement in ("SELECT nothing FROM laion", "SELECT 1 + 'a'", "SELECT * FROM nowhere", "SELECT {a:Int64}"):
        status, kind, detail = refused(client, statement)
        assert (status, kind) == (422, "statement-refused"), detail
        assert "\n" not in detail


def test_time_memory_and_size_are_limited(client: TestClient) -> None:
    assert refused(client, "SELECT count() FROM numbers(1e13) WHERE number % 7 = 3")[0] == 504
    assert refused(client, "SELECT groupArray(number) FROM numbers(1e10)")[:2] == (422, "statement-refused")
    assert refused(client, "SELECT * FROM numbers(1e10) ORDER BY rand() LIMIT 1e9")[0] in (422, 504)
    assert refused(client, "SELECT length(repeat('x', 10000000000))")[0] == 422
    assert refused(client, "SELECT repeat('x', 10000) FROM numbers(1000)") == (
        *(422, "statement-refused"),
        "the statement was not run: its answer is larger than 1.9 MiB; select fewer rows or columns",
    )
    assert ask(client, "SELECT 1")["rows"] == [[1]]


def test_reading_forgets_no_cache_of_the_searches(client: TestClient) -> None:
    engine = client.app.state.service.collection.engine  # type: ignore[attr-defined]
    before = engine.writes()
    ask(client, "SELECT count() FROM laion")
    assert engine.writes() == before


def test_the_statement_that_a_search_shows_can_be_sent(client: TestClient) -> None:
    body = {"query": {"text": "red car"}, "k": 3, "where": "width > 1"}
    search = client.post("/api/v1/search", json=body).json()
    found = ask(client, search["plan"]["sql"])
    place = [column["name"] for column in found["columns"]].index("id")
    assert [row[place] for row in found["rows"]] == [hit["id"] for hit in search["hits"]]
