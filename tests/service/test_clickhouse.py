"""ClickHouse's HTTP interface, asked by ClickHouse's own client and by hand."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import clickhouse_connect
import lz4.block
import pytest
from clickhouse_cityhash.cityhash import CityHash128
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from clickhouse_connect.driver.external import ExternalData

from tests.serving import serving

KEY = "s3cret"


@pytest.fixture(scope="module")
def writable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(tmp_path_factory.mktemp("writable") / "db", "--allow-writes") as port:
        yield port


@pytest.fixture(scope="module")
def readable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Eight captioned rows behind a key."""
    with serving(tmp_path_factory.mktemp("readable") / "db", "--timeout", "2", key=KEY) as port:
        yield port


class Answer:
    def __init__(self, response: http.client.HTTPResponse, body: bytes) -> None:
        self.status, self.headers, self.body = response.status, response.headers, body

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(
    port: int,
    sql: str | bytes | None = None,
    headers: dict[str, str] | None = None,
    method: str = "POST",
    **options: object,
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        body = sql.encode() if isinstance(sql, str) else sql
        connection.request(method, f"/?{urlencode(options)}", body, headers or {})
        response = connection.getresponse()
        return Answer(response, response.read())
    finally:
        connection.close()


@pytest.fixture
def client(writable: int) -> Iterator[Client]:
    with contextlib.closing(clickhouse_connect.get_client(host="127.0.0.1", port=writable)) as opened:
        yield opened


# -- what ClickHouse's client asks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
def test_clickhouse_connect_reads_and_writes(writable: int, compress: str | bool) -> None:
    with contextlib.closing(clickhouse_connect.get_client(host="127.0.0.1", port=writable, compress=compress)) as c:
        table = f"rows_{compress}"
        c.command(f"CREATE TABLE {table} (id UInt32, caption String, v Array(Float32)) ENGINE = MergeTree ORDER BY id")
        c.insert(table, [[1, "кот", [0.5, 1]], [2, "dog", []]], column_names=["id", "caption", "v"])
        assert c.query(f"SELECT * FROM {table} ORDER BY id").result_rows == [(1, "кот", [0.5, 1]), (2, "dog", [])]
        assert c.query_df(f"SELECT id FROM {table}")["id"].sum() == 3
        assert c.command(f"SELECT count() FROM {table}") == 2


def test_parameters_and_settings_of_one_statement(client: Client) -> None:
    assert client.query("SELECT {a:Array(UInt8)}, {b:String}", parameters={"a": [1, 2], "b": "it's\t"}).result_rows == [
        ([1, 2], "it's\t")
    ]
    asked = "SELECT getSetting('max_threads')"
    before = client.command(asked)
    assert client.query(asked, settings={"max_threads": 3}).result_rows == [(3,)]
    assert client.command(asked) == before


def test_an_error_has_clickhouses_code(client: Client) -> None:
    with pytest.raises(DatabaseError, match="nowhere") as raised:
        client.query("SELECT * FROM nowhere")
    assert (raised.value.code, raised.value.name) == (60, "UNKNOWN_TABLE")


def test_an_error_in_the_middle_of_an_answer_is_one(client: Client) -> None:
    sql = "SELECT number, throwIf(number = 3000000, 'too far') FROM numbers(10000000) SETTINGS max_threads = 1"
    rows: list[int] = []
    with client.query_row_block_stream(sql) as stream, pytest.raises(StreamFailureError, match="too far") as raised:
        rows.extend(len(block) for block in stream)
    assert raised.value.code == 395
    assert sum(rows) > 1_000_000


def test_a_table_that_comes_with_the_query(client: Client) -> None:
    rows = ExternalData(file_name="rows.csv", data=b"1,a\n2,b\n", fmt="CSV", structure=["a UInt8", "b String"])
    assert client.query("SELECT sum(a), max(b) FROM rows", external_data=rows).result_rows == [(3, "b")]


def test_a_session_keeps_what_it_made(client: Client, writable: int) -> None:
    client.command("CREATE TEMPORARY TABLE mine (a UInt8)")
    client.command("INSERT INTO mine VALUES (7)")
    assert client.command("SELECT a FROM mine") == 7
    assert ask(writable, "SELECT a FROM mine").status == 404


def test_parameters_in_a_form(writable: int) -> None:
    with contextlib.closing(
        clickhouse_connect.get_client(host="127.0.0.1", port=writable, form_encode_query_params=True)
    ) as c:
        assert c.query("SELECT {a:UInt8}", parameters={"a": 3}).result_rows == [(3,)]


# -- by hand -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/ping", "/replicas_status"])
def test_it_says_that_it_is_there(readable: int, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", readable)
    connection.request("GET", path)
    assert connection.getresponse().read() == b"Ok.\n"
    connection.close()


def test_query_in_the_url_in_the_body_and_in_both(writable: int) -> None:
    assert ask(writable, method="GET", query="SELECT 1").text == "1\n"
    assert ask(writable, "SELECT 1;").text == "1\n"
    assert ask(writable, "+ 2", query="SELECT 1").text == "3\n"


def test_formats(writable: int) -> None:
    sql = "SELECT 1 AS a, 'x' AS b"
    assert ask(writable, sql + " FORMAT CSV").text == '1,"x"\n'
    assert ask(writable, sql, default_format="CSV").text == '1,"x"\n'
    answer = ask(writable, sql, {"X-ClickHouse-Format": "JSONCompact"})
    assert json.loads(answer.body)["data"] == [[1, "x"]]
    assert answer.headers["X-ClickHouse-Format"] == "JSONCompact"
    assert answer.headers["Content-Type"] == "application/json; charset=UTF-8"
    assert ask(writable, "SELECT 1 FORMAT Nothing").status == 404


@pytest.mark.parametrize("form", ["JSON", "Parquet", "TabSeparatedWithNames", "ArrowStream", "XML"])
def test_a_long_answer_is_one_document(writable: int, form: str, tmp_path: Path) -> None:
    answer = ask(writable, f"SELECT number FROM numbers(300000) FORMAT {form}")
    assert answer.status == 200
    if form == "JSON":
        assert len(json.loads(answer.body)["data"]) == 300_000
    marks = {"Parquet": b"PAR1", "TabSeparatedWithNames": b"number\n", "XML": b"<?xml", "ArrowStream": b"number"}
    assert form == "JSON" or answer.body.count(marks[form]) == {"Parquet": 2}.get(form, 1)


def test_headers(writable: int) -> None:
    answer = ask(writable, "SELECT number FROM numbers(3)", query_id="mine")
    assert answer.headers["X-ClickHouse-Query-Id"] == "mine"
    assert answer.headers["X-ClickHouse-Timezone"]
    assert answer.headers["X-ClickHouse-Server-Display-Name"]
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["read_rows"] == "3"


def test_an_answer_does_not_wait_for_its_headers_to_be_acknowledged(writable: int) -> None:
    took = []
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", writable)) as connection:
        for _ in range(21):
            began = time.perf_counter()
            connection.request("POST", "/", "SELECT 1")
            assert connection.getresponse().read() == b"1\n"
            took.append(time.perf_counter() - began)
    assert sorted(took)[10] < 0.035  # Nagle's 40 ms


def test_errors_have_status_code_and_name(writable: int) -> None:
    answer = ask(writable, "SELEC 1")
    assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (400, "62")
    assert answer.text.startswith("Code: 62. DB::Exception: Syntax error")
    assert "(SYNTAX_ERROR) (version " in answer.text
    assert ask(writable, "SELECT 1; SELECT 2").headers["X-ClickHouse-Exception-Code"] == "62"
    assert ask(writable, "SELECT 1", no_such_setting=1).headers["X-ClickHouse-Exception-Code"] == "115"
    assert ask(writable, "SELECT 1", database="nowhere").headers["X-ClickHouse-Exception-Code"] == "81"
    assert ask(writable, "SELECT 1 INTO OUTFILE '/tmp/x'").headers["X-ClickHouse-Exception-Code"] == "358"


def test_inserts_in_the_url_and_in_the_body(writable: int) -> None:
    ask(writable, "CREATE TABLE put (a UInt8, b String) ENGINE = MergeTree ORDER BY a")
    assert ask(writable, b"1,x\n2,y\n", query="INSERT INTO put FORMAT CSV").status == 200
    ask(writable, "INSERT INTO put VALUES (3, 'a; b'), (4, concat('c', 'd'))")
    ask(writable, b'INSERT INTO put (b, a) FORMAT JSONEachRow\n{"a": 5, "b": "FORMAT"}')
    ask(writable, "INSERT INTO put SETTINGS async_insert = 0 VALUES (6, '')")
    ask(writable, "INSERT INTO put SELECT 7, 'z'")
    assert ask(writable, "SELECT groupArray((a, b)) FROM (SELECT * FROM put ORDER BY a)").text.strip() == (
        "[(1,'x'),(2,'y'),(3,'a; b'),(4,'cd'),(5,'FORMAT'),(6,''),(7,'z')]"
    )
    answer = ask(writable, b"nothing", query="INSERT INTO put FORMAT CSV")
    assert answer.status == 400
    assert ask(writable, "INSERT INTO put FROM INFILE '/etc/passwd' FORMAT CSV").status == 403


def test_a_compressed_insert(writable: int) -> None:
    ask(writable, "CREATE TABLE packed (a UInt32) ENGINE = MergeTree ORDER BY a")
    rows = b"\n".join(b"%d" % n for n in range(100_000))
    query = "INSERT INTO packed FORMAT TSV"
    assert ask(writable, gzip.compress(rows), {"Content-Encoding": "gzip"}, query=query).status == 200
    body = lz4.block.compress(rows, store_size=False)
    body = struct.pack("<BII", 0x82, len(body) + 9, len(rows)) + body
    high, low = divmod(CityHash128(body), 2**64)
    block = struct.pack("<QQ", high, low) + body
    assert ask(writable, block, query=query, decompress=1).status == 200
    damaged = ask(writable, block[:-1] + b"?", query=query, decompress=1)
    assert damaged.headers["X-ClickHouse-Exception-Code"] == "40"
    assert ask(writable, gzip.compress(rows)[:-9], {"Content-Encoding": "gzip"}, query=query).status == 500
    assert ask(writable, "SELECT count(), uniqExact(a) FROM packed").text == "200000\t100000\n"


def test_an_answer_in_clickhouses_own_blocks(writable: int) -> None:
    answer = ask(writable, "SELECT number FROM numbers(1000)", compress=1).body
    given, body = answer[:16], answer[16:]
    high, low = divmod(CityHash128(body), 2**64)
    assert given == struct.pack("<QQ", high, low)
    method, size, plain = struct.unpack_from("<BII", body)
    assert (method, size) == (0x82, len(body))
    assert lz4.block.decompress(body[9:], uncompressed_size=plain).split() == [b"%d" % n for n in range(1000)]


def test_sessions_are_found_locked_and_closed(writable: int) -> None:
    assert ask(writable, "SELECT 1", session_id="a", session_check=1).headers["X-ClickHouse-Exception-Code"] == "372"
    ask(writable, "CREATE TEMPORARY TABLE kept (a UInt8)", session_id="a")
    assert ask(writable, "SELECT count() FROM kept", session_id="a", session_check=1).text == "0\n"
    assert (
        ask(writable, "SELECT 1", session_id="a", session_timeout=99999).headers["X-ClickHouse-Exception-Code"] == "374"
    )
    with slow(writable, session_id="a"):
        busy = ask(writable, "SELECT 1", session_id="a")
    assert busy.headers["X-ClickHouse-Exception-Code"] == "373"


SLOW = "SELECT sum(sleepEachRow(0.5)) FROM numbers(1000) SETTINGS max_block_size = 1"


def begin(port: int, sql: str, key: str = "", **options: object) -> socket.socket:
    """A connection on which a statement was sent, and no answer read."""
    client = socket.create_connection(("127.0.0.1", port))
    request = f"POST /?{urlencode(options)} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-ClickHouse-Key: {key}\r\n"
    client.sendall(f"{request}Content-Length: {len(sql)}\r\n\r\n{sql}".encode())
    return client


@contextlib.contextmanager
def slow(port: int, **options: object) -> Iterator[socket.socket]:
    """A statement that would run for minutes, begun by a client that goes away at the end of the block."""
    with begin(port, SLOW, **options) as client:
        until(port, 1)
        yield client


def until(port: int, running: int) -> None:
    """Wait until so many slow statements run."""
    sql = "SELECT count() FROM system.processes WHERE query LIKE 'SELECT sum(sleep%'"
    for _ in range(400):
        if int(ask(port, sql).text) == running:
            return
    raise AssertionError(f"there were never {running}")


def test_a_client_that_goes_away_ends_its_statement(writable: int) -> None:
    with slow(writable):
        pass
    until(writable, 0)


def test_statements_are_killed_by_their_id_and_by_their_owner_only(writable: int) -> None:
    with slow(writable, query_id="victim") as client:
        assert ask(writable, "KILL QUERY WHERE query_id = 'another' SYNC").text == ""
        assert ask(writable, "KILL QUERY WHERE query_id = 'victim' TEST").text.startswith("unknown_status\tvictim\t")
        assert ask(writable, "KILL QUERY WHERE query_id = 'victim'", user="other").text == ""
        assert ask(writable, "KILL QUERY WHERE query_id = 'victim' SYNC").text.startswith("finished\tvictim\tdefault\t")
        answer = client.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"x-clickhouse-exception-code: 394" in answer.lower()


def test_when_all_places_are_taken_others_come_again_and_a_kill_still_gets_through(writable: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(32):
            stack.enter_context(begin(writable, SLOW))
        answer = ask(writable, "SELECT 1")
        for _ in range(400):
            if answer.status == 503:
                break
            answer = ask(writable, "SELECT 1")
        assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (503, "202")
        assert int(answer.headers["Retry-After"]) >= 1
        killed: set[str] = set()
        for _ in range(400):  # what has its place may not have begun
            answer = ask(writable, "KILL QUERY WHERE user = 'default' SYNC")
            killed |= {line.split("\t")[1] for line in answer.text.splitlines() if line.startswith("finished\t")}
            if len(killed) == 32:
                break
        assert len(killed) == 32
    until(writable, 0)


def test_half_an_insert_is_not_kept(writable: int) -> None:
    ask(writable, "CREATE TABLE whole (a UInt64) ENGINE = MergeTree ORDER BY a")
    with socket.create_connection(("127.0.0.1", writable)) as client:
        client.sendall(
            b"POST /?query=INSERT+INTO+whole+FORMAT+TSV HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Length: 1000\r\n\r\n1\n2\n3\n"
        )
    for _ in range(400):
        if ask(writable, "SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO whole%'").text == "0\n":
            break
    assert ask(writable, "SELECT count() FROM whole").text == "0\n"


# -- who may do what ---------------------------------------------------------------------------------------------------


def test_a_key_is_the_password(readable: int) -> None:
    assert ask(readable, "SELECT 1").status == 401
    wrong = ask(readable, "SELECT 1", password="wrong")
    assert (wrong.status, wrong.headers["X-ClickHouse-Exception-Code"]) == (403, "516")
    assert KEY not in wrong.text
    for headers, options in (
        ({"X-ClickHouse-User": "anybody", "X-ClickHouse-Key": KEY}, {}),
        ({"Authorization": "Basic dXNlcjpzM2NyZXQ="}, {}),
        ({}, {"user": "u", "password": KEY}),
    ):
        assert ask(readable, "SELECT 1", headers, **options).text == "1\n"


def test_pages_of_other_sites_may_not_ask(writable: int) -> None:
    for headers in ({"Origin": "https://example.com"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "example.com"}):
        answer = ask(writable, "SELECT 1", headers)
        assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (403, "497")
    assert ask(writable, "SELECT 1", {"Origin": f"http://127.0.0.1:{writable}"}).text == "1\n"


def test_a_reader_is_stopped_by_the_clock(readable: int) -> None:
    sql = "SELECT sum(cityHash64(number)) FROM numbers(1000000000000)"
    answer = ask(readable, sql, password=KEY, max_execution_time=1)
    assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (408, "159")


def test_texts_are_encoded_in_sql(readable: int) -> None:
    distance = "cosineDistance(image_embedding, encode_text('red car')::Array(BFloat16))"
    assert (
        ask(readable, f"SELECT caption FROM laion ORDER BY {distance}, id LIMIT 2", password=KEY).text
        == "red car\na red car parked\n"
    )


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t (a UInt8) ENGINE = Memory",
        "INSERT INTO images VALUES (1)",
        "DROP TABLE images",
        "SYSTEM FLUSH LOGS",
        "SET max_memory_usage = 0",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1/', 'LineAsString')",
        "SELECT 1 INTO OUTFILE '/tmp/x'",
        "SELECT 1 SETTINGS max_execution_time = 0",
        "KILL QUERY WHERE (SELECT 1)",
    ],
)
def test_a_reader_only_reads(readable: int, sql: str) -> None:
    answer = ask(readable, sql, password=KEY)
    assert answer.status in (403, 500), answer.text
    assert answer.headers["X-ClickHouse-Exception-Code"] in ("164", "497", "358"), answer.text


def test_get_only_reads_even_where_writes_are_allowed(writable: int) -> None:
    answer = ask(writable, method="GET", query="CREATE TABLE got (a UInt8) ENGINE = Memory")
    assert answer.headers["X-ClickHouse-Exception-Code"] == "164"


def test_a_reader_cannot_raise_limits(readable: int) -> None:
    sql = "SELECT getSetting('max_memory_usage'), getSetting('max_execution_time')"
    asked = ask(readable, sql, password=KEY, max_memory_usage=2**60, max_execution_time=1).text
    assert asked == f"{2 * 2**30}\t1\n"
    assert ask(readable, "SELECT 1", password=KEY, additional_result_filter="1").status == 500


def test_our_own_command_line_reads_from_it(readable: int, cliphouse) -> None:
    db = f"clickhouse://anybody:{KEY}@127.0.0.1:{readable}/default"
    status = cliphouse("status", "--db", db)
    assert status.code == 0, status.err
    found = cliphouse("search", "--db", db, "--like", "1", "--format", "json")
    assert found.code == 0, found.err
    by_text = cliphouse("search", "red car", "--db", db, "--encoder", "test-words", "--format", "csv")
    assert (by_text.code, "red car" in by_text.out) == (0, True), by_text.err
    answer = cliphouse("sql", "--db", db, "SELECT count() FROM laion FORMAT CSV")
    assert (answer.code, answer.out.strip()) == (0, "8"), answer.err
