"""A table of attacks, each tried wherever a stranger can send it: refused with a problem, and nothing has happened."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from cliphouse import Collection
from cliphouse.service.app import create_app
from cliphouse.service.settings import Settings
from cliphouse.types import Query
from tests.attacks import EXPRESSIONS, SECRET, STATEMENTS, filled, laid_out, state


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("attacks")
    return folder


@pytest.fixture(scope="module")
def collection(place: Path) -> Iterator[Collection]:
    with laid_out(place) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(place: Path, collection: Collection) -> Iterator[TestClient]:
    settings = Settings(
        timeout=1.0,
        max_sql_memory=300_000_000,
        max_upload=200_000,
        max_body=500_000,
        max_pixels=1_000_000,
        pictures=(place / "pictures",),
    )
    with TestClient(create_app(collection, settings), raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture(scope="module", autouse=True)
def _nothing_has_happened(collection: Collection, place: Path) -> Iterator[None]:
    before = state(collection, place)
    yield
    assert state(collection, place) == before


def refused(answer: Response, *statuses: int) -> dict[str, Any]:
    """The problem that an answer is, which has none of the secrets."""
    assert answer.status_code in (statuses or (400, 403, 404, 422)), answer.text[:500]
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert SECRET not in answer.text
    assert "root:" not in answer.text
    assert "Traceback" not in answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == answer.status_code
    assert "\n" not in problem["detail"]
    return problem


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda text: ascii(text)[1:60])
def test_sql(client: TestClient, place: Path, statement: str) -> None:
    body = json.dumps({"statement": filled(statement, place)})
    refused(client.post("/api/v1/sql", content=body, headers={"content-type": "application/json"}))


def test_sql_that_takes_for_ever(client: TestClient) -> None:
    statement = "SELECT count() FROM numbers(10000000000000) WHERE number % 7 = 3"
    assert refused(client.post("/api/v1/sql", json={"statement": statement}), 504)["type"] == "timed-out"


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT create_table_query, engine_full FROM system.tables",
        "SELECT * FROM system.columns LIMIT 100",
        "SELECT * FROM system.functions WHERE origin != 'System'",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM laion",
        "SHOW TABLES",
    ],
)
def test_what_may_be_read_has_no_secret(client: TestClient, statement: str) -> None:
    answer = client.post("/api/v1/sql", json={"statement": statement})
    assert answer.status_code == 200, answer.text
    assert SECRET not in answer.text


@pytest.mark.parametrize("route", ["search", "count", "facets", "export"])
@pytest.mark.parametrize("where", EXPRESSIONS, ids=lambda text: ascii(text)[1:60])
def test_where(client: TestClient, place: Path, route: str, where: str) -> None:
    body = {"where": filled(where, place)} | ({"query": {"text": "red car"}} if route in ("search", "export") else {})
    answer = client.post(f"/api/v1/{route}", content=json.dumps(body), headers={"content-type": "application/json"})
    assert refused(answer)["type"] in ("invalid-filter", "invalid-request")


HOSTILE = [
    "'",
    "\\",
    "\\'",
    "') OR 1 --",
    "'; DROP TABLE laion; --",
    "%",
    "_",
    "{a:Int64}",
    "$$",
    "`",
    '"',
    "\u2019",
    "\n",
    "x" * 1990,
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_texts_are_only_texts(client: TestClient, text: str) -> None:
    """Where a value is asked for, every value is one: it finds nothing, and breaks nothing."""
    for filters in ({"nsfw": [text]}, {"licence": [text]}, {"domain": [text]}, {"caption_contains": text}):
        answer = client.post("/api/v1/count", json={"filters": filters})
        assert answer.status_code == 200, answer.text
        assert answer.json()["rows"] in (0, 8)
        assert answer.json()["rows"] == 0 or "caption_contains" in filters
    assert client.post("/api/v1/search", json={"query": {"text": f"car{text}"}}).status_code == 200
    refused(client.post("/api/v1/search", json={"query": {"text": "x"}, "columns": [text]}))
    refused(client.post("/api/v1/count", json={"collection": text}))


VECTORS = [
    *("[1e400]", "[NaN, 1]", "[Infinity, 1]", "[1, 2, 3]", "[]", "[0]", "null", '"x"', "[null, 1]", '["a", 1]'),
    "[[1], [2]]",
    *(f"[{', '.join([number] * 64)}]" for number in ("0", "1e400", "-1e400", "NaN", "1e39")),
    *(f"[{', '.join(['1'] * length)}]" for length in (63, 65, 100_000)),
]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda text: text[:30])
def test_vectors(client: TestClient, vector: str) -> None:
    body = f'{{"query": {{"vector": {vector}}}}}'
    answer = client.post("/api/v1/search", content=body, headers={"content-type": "application/json"})
    refused(answer, 422, 413)


def png_that_says(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


PICTURES = [
    b"",
    b"\0",
    b"GIF89a",
    b"<svg><image href='file:///etc/passwd'/></svg>",
    b"%!PS\n(/etc/passwd) (r) file",
    png_that_says(60_000, 60_000),
    png_that_says(1, 10_000_000),
    b"\x89PNG\r\n\x1a\n" + b"\xff" * 100,
    b"\0" * 300_000,
]


@pytest.mark.parametrize("data", PICTURES, ids=lambda data: ascii(data[:12]))
def test_pictures(client: TestClient, data: bytes) -> None:
    text = base64.b64encode(data).decode()
    refused(client.post("/api/v1/search", json={"query": {"image": text}}), 400, 413, 422)
    refused(client.post("/api/v1/encode", json={"image": text}), 400, 413, 422)
    refused(client.post("/api/v1/search/image", content=data), 400, 413, 422)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "file:///etc/passwd", "http://169.254.169.254/", "http://[::1]/", "http://example.com/"],
)
def test_addresses_are_not_fetched_unless_told(client: TestClient, url: str) -> None:
    problem = refused(client.post("/api/v1/search", json={"query": {"image_url": url}}), 403, 422)
    assert problem["type"] == "image-url-not-allowed"


def test_addresses_inside_are_not_fetched_even_if_told(collection: Collection, place: Path) -> None:
    settings = Settings(fetch_images=True, pictures=(place / "pictures",))
    with TestClient(create_app(collection, settings), raise_server_exceptions=False) as client:
        for url in (
            "http://127.0.0.1/",
            "http://localhost:80/",
            "http://169.254.169.254/latest/",
            "file:///etc/passwd",
        ):
            problem = refused(client.post("/api/v1/search", json={"query": {"image_url": url}}), 403, 422)
            assert problem["type"] == "image-url-not-allowed"


def test_pictures_of_rows_are_those_below_the_directories(client: TestClient, collection: Collection) -> None:
    rows = collection.engine.query(Query(sql="SELECT id, image_path FROM laion")).rows
    assert len(rows) == 8
    for id_, path in rows:
        answer = client.get(f"/api/v1/pictures/{id_}")
        if str(path).endswith("pictures/red.png"):
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("image/")
        else:
            refused(answer, 404)


@pytest.mark.parametrize(
    "path",
    [
        *("/..%2f..%2fetc%2fpasswd", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/static/../../etc/passwd"),
        *("/static/..%2f..%2f..%2fetc%2fpasswd", "/static/%2e%2e%2fapp.py", "/static//etc/passwd", "/static/%00"),
        *("/static/..%5c..%5capp.py", "/static/....//....//app.py", "/static/%252e%252e%252fapp.py"),
        *("/api/v1/pictures/../../etc/passwd", "/api/v1/pictures/..%2fsecret.txt", "/api/v1/pictures/%2fetc%2fpasswd"),
        *("/api/v1/pictures/1%00", "/api/v1/pictures/-1", "/api/v1/pictures/99999999999999999999999"),
        *("/api/v1/items/1%20OR%201", "/api/v1/items/1;DROP", "/api/v1/items/99999999999999999999999"),
        *("/api/v1/../../etc/passwd", "//etc/passwd", "/page/../app.py", "/api/v1/sql/../../../etc/passwd"),
    ],
)
def test_no_path_leads_out(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (400, 404, 405, 422)
    assert "root:" not in answer.text
    assert SECRET not in answer.text
    assert "import" not in answer.text


def test_bodies_have_an_end(client: TestClient) -> None:
    large = b'{"statement": "' + b"x" * 2_000_000 + b'"}'
    for route in ("search", "sql", "encode", "count", "search/image"):
        refused(client.post(f"/api/v1/{route}", content=large), 413)
        pieces = (large[start : start + 65536] for start in range(0, len(large), 65536))
        refused(client.post(f"/api/v1/{route}", content=pieces), 413)


NEIGHBOURS: list[dict[str, Any]] = [
    {"image_url": "http://127.0.0.1/"},
    {"image_url": "file:///etc/passwd"},
    {"image": "/etc/passwd"},
    {"image": base64.b64encode(png_that_says(60_000, 60_000)).decode()},
    {"image": base64.b64encode(bytes(300_000)).decode()},
    {"embedding_input": [0.0] * 64},
    {"embedding_input": [1e39] * 64},
    {"embedding_input": [10**400] * 64},
    {"embedding_input": [1.0] * 63},
    {"embedding_input": ["x"] * 64},
    {"embedding_input": "/etc/passwd"},
    {"text": ["a"]},
    {"text": "a" * 100_000},
    {"text": "a", "num_images": 10**30},
    {"text": "a", "num_images": -1},
    {"text": "a", "modality": "image_embedding) FROM system.users --"},
    {"text": "a", "indice_name": "system.users"},
    {"text": "a", "indice_name": "laion_denied"},
    {"text": "a", "indice_name": "laion` WHERE 1 --"},
    {"text": "a", "indice_name": "../../etc/passwd"},
]


@pytest.mark.parametrize("body", NEIGHBOURS, ids=lambda body: ascii(body)[:60])
def test_the_interface_of_clip_retrieval(client: TestClient, body: dict[str, Any]) -> None:
    whole = {"modality": "image", "num_images": 3, "indice_name": None} | body
    answer = client.post("/knn-service", content=json.dumps(whole))
    assert 400 <= answer.status_code < 500, answer.text[:300]
    assert set(answer.json()) == {"message"}
    assert SECRET not in answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    "ids", ["1 OR 1", ["1"], [1.5], [None], [[1]], list(range(100_000))], ids=lambda ids: ascii(ids)[:20]
)
def test_ids_of_clip_retrieval(client: TestClient, ids: Any) -> None:
    answer = client.post("/metadata", content=json.dumps({"indice_name": None, "ids": ids}))
    assert 400 <= answer.status_code < 500, answer.text[:300]
    assert set(answer.json()) == {"message"}
    beyond = client.post("/metadata", content=json.dumps({"indice_name": None, "ids": [-1, 10**30, 2**63]}))
    assert beyond.json() == []


@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"a":' * 20_000, "1" * 10_000, '{"statement": 1e999999}', "\xff", '"\\ud800"']
)
def test_json_that_nests_or_overflows(client: TestClient, body: str) -> None:
    for route in ("search", "sql"):
        answer = client.post(
            f"/api/v1/{route}", content=body.encode("latin-1"), headers={"content-type": "application/json"}
        )
        refused(answer, 400, 413, 422)
