"""The same attacks over ClickHouse's HTTP interface, and those that only it knows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from cliphouse import Collection
from cliphouse.service.clickhouse_app import create_clickhouse_app
from cliphouse.service.settings import Settings
from tests.attacks import SECRET, STATEMENTS, filled, laid_out, state


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("attacks")
    return folder


@pytest.fixture(scope="module")
def collection(place: Path) -> Iterator[Collection]:
    with laid_out(place) as opened:
        before = state(opened, place)
        yield opened
        assert state(opened, place) == before


@pytest.fixture(scope="module")
def client(collection: Collection) -> Iterator[TestClient]:
    settings = Settings(timeout=1.0, max_sql_memory=300_000_000)
    with TestClient(create_clickhouse_app(collection, settings), raise_server_exceptions=False) as opened:
        yield opened


def ask(client: TestClient, sql: str | bytes, **options: str) -> Response:
    body = sql.encode("utf-8", "surrogatepass") if isinstance(sql, str) else sql
    answer: Response = client.post(f"/?{urlencode(options)}", content=body)
    return answer


def refused(answer: Response) -> str:
    """The message, which has none of the secrets."""
    assert answer.status_code >= 400, answer.text[:300]
    assert "x-clickhouse-exception-code" in answer.headers
    assert SECRET not in answer.text
    assert "root:" not in answer.text
    assert "Traceback" not in answer.text
    return answer.text


#: Which a ClickHouse answers: its clients name a format, and rows go out before it is known that there are too many.
ITS_OWN = {
    "SELECT 1 FORMAT Null",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT n FROM r",
}


@pytest.mark.parametrize(
    "statement",
    [each for each in STATEMENTS if each not in ITS_OWN and not each.startswith(("KILL QUERY", "USE", "SET "))],
    ids=lambda text: ascii(text)[1:60],
)
def test_statements(client: TestClient, place: Path, statement: str) -> None:
    refused(ask(client, filled(statement, place)))


def test_a_query_in_the_address_is_the_same_query(client: TestClient, place: Path) -> None:
    refused(ask(client, b"", query=f"SELECT file('{place}/secret.txt')"))
    refused(client.get(f"/?{urlencode({'query': f'SELECT file({str(place)!r})'})}"))
    refused(ask(client, f"('{place}/secret.txt')", query="SELECT file"))


@pytest.mark.parametrize(
    "settings",
    [
        {"readonly": "0"},
        {"readonly": "1"},
        {"max_execution_time": "0", "readonly": "0"},
        {"allow_introspection_functions": "1"},
        {"format_schema": "/etc/passwd"},
        {"format_template_row": "/etc/passwd"},
        {"format_template_resultset": "/etc/passwd"},
        {"user_files_path": "/"},
        {"dialect": "clickhouse_json", "enable_json_ast_dialect": "1"},
        {"apply_deleted_mask": "0"},
        {"log_comment": "x'; DROP TABLE laion; --"},
        {"limit": "1; DROP TABLE laion"},
        {"additional_table_filters": "{'laion': 'file(1)'}"},
        {"additional_result_filter": "file('/etc/passwd') = ''"},
        {"http_response_headers": "{'a': 'b'}"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_settings_open_nothing(client: TestClient, place: Path, settings: dict[str, str]) -> None:
    ask(client, "SELECT count() FROM laion", **settings)
    refused(ask(client, f"SELECT file('{place}/secret.txt')", **settings))
    refused(
        ask(client, "SELECT count() FROM numbers(10000000000000) WHERE number % 7 = 3 AND file('x') = ''", **settings)
    )
    refused(ask(client, "DROP TABLE laion", **settings))


def test_limits_cannot_be_raised(client: TestClient) -> None:
    slow = "SELECT count() FROM numbers(10000000000000) WHERE number % 7 = 3"
    refused(ask(client, slow, max_execution_time="1000", timeout_overflow_mode="break"))
    refused(ask(client, "SELECT groupArray(number) FROM numbers(100000000)", max_memory_usage="100000000000"))


def test_parameters_are_values(client: TestClient, place: Path) -> None:
    refused(ask(client, "SELECT * FROM {t:Identifier}", param_t="laion_denied"))
    refused(ask(client, "SELECT {f:Identifier}('/etc/passwd')", param_f="file"))
    refused(ask(client, "SELECT * FROM numbers({n:String})", param_n="1) UNION ALL SELECT file('x')"))
    answer = ask(client, "SELECT {s:String}", param_s=f"'), file('{place}/secret.txt")
    assert SECRET not in answer.text


@pytest.mark.parametrize("database", ["system", "information_schema", "default'; DROP TABLE laion; --", "`", ".."])
def test_a_database_of_another_name(client: TestClient, database: str) -> None:
    for table in ("users", "processes", "laion", "laion_denied"):
        refused(ask(client, f"SELECT * FROM {table}", database=database))


STRUCTURES = [
    "a String DEFAULT file('{file}')",
    "a String MATERIALIZED file('{file}')",
    "a String ALIAS file('{file}')",
    "a String EPHEMERAL file('{file}'), b String DEFAULT file('{file}')",
    "a String) AS SELECT file('{file}') --",
    "a String) ENGINE = File(TSV, '{file}') --",
    "a String); DROP TABLE laion; --",
    "a String, CONSTRAINT c CHECK file('{file}') = ''",
    "a Array(String) TTL now() + length(file('{file}'))",
]


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("form", ["TSV", "TSV) SELECT file('/etc/passwd'"])
def test_tables_that_come_with_a_query_are_data(client: TestClient, place: Path, structure: str, form: str) -> None:
    options = {"query": "SELECT * FROM evil", "evil_structure": filled(structure, place), "evil_format": form}
    answer = client.post(f"/?{urlencode(options)}", files={"evil": ("evil", io.BytesIO(b"x\n"))})
    refused(answer)
    answer = client.post(
        f"/?{urlencode({'query': 'SELECT * FROM laion', 'laion_structure': 'a String'})}",
        files={"laion": ("laion", io.BytesIO(b"x\n"))},
    )
    assert SECRET not in answer.text


def test_statements_of_others_are_not_seen_or_ended(client: TestClient) -> None:
    for sql in (
        "KILL QUERY WHERE file('/etc/passwd') = ''",
        "KILL QUERY WHERE (SELECT 1)",
        "KILL QUERY WHERE 1; DROP TABLE laion",
    ):
        refused(ask(client, sql))
    assert ask(client, "KILL QUERY WHERE 1").text.strip() == ""


def test_set_and_use_in_a_session_open_nothing(client: TestClient, place: Path) -> None:
    for sql in ("SET readonly = 0", "SET max_memory_usage = 0", "USE system"):
        ask(client, sql, session_id="mine")
        refused(ask(client, f"SELECT file('{place}/secret.txt')", session_id="mine"))
        refused(ask(client, "SELECT * FROM users", session_id="mine"))
        refused(ask(client, "DROP TABLE laion", session_id="mine"))


def test_insert_of_any_kind_is_refused(client: TestClient) -> None:
    for head in (
        "INSERT INTO laion (id) FORMAT TSV",
        "INSERT INTO laion (id) VALUES",
        "INSERT INTO FUNCTION file('x') FORMAT TSV",
    ):
        refused(ask(client, f"{head}\n1\n"))
        refused(ask(client, b"1\n", query=head))
