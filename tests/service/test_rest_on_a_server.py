"""REST over a database on a server: one request of each kind."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from cliphouse import Collection
from cliphouse.engine import connect
from cliphouse.service.app import create_app
from tests.data import CAPTIONS, write_shard


@pytest.fixture(scope="module")
def client(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    name = f"test_{uuid.uuid4().hex}"
    with connect(f"{server_url}/default") as engine:
        engine.command(f"CREATE DATABASE {name}")
    with Collection.open(f"{server_url}/{name}", encoder="test-words") as collection:
        collection.load(write_shard(tmp_path_factory.mktemp("server")))
        with TestClient(create_app(collection)) as opened:
            yield opened
    with connect(f"{server_url}/default") as engine:
        engine.command(f"DROP DATABASE {name} SYNC")


def test_a_search_and_its_statement(client: TestClient) -> None:
    asked = {
        "query": {"text": "red car"},
        "k": 2,
        "stats": True,
        "columns": ["width"],
        "filters": {"caption_contains": "RED", "domain": ["example.com"]},
        "where": "caption != '{target:Array(Float32)} %s \\\\'",
    }
    found = client.post("/api/v1/search", json=asked).json()
    assert [(hit["caption"], hit["width"]) for hit in found["hits"]] == [("red car", 512), ("a red car parked", 256)]
    assert found["plan"]["rows_read"] == len(CAPTIONS)
    answer = client.post("/api/v1/sql", json={"statement": found["plan"]["sql"]}).json()
    assert [row[0] for row in answer["rows"]] == [1, 0]


def test_rows_counts_facets_exports_and_status(client: TestClient) -> None:
    assert client.get("/api/v1/items/1").json()["item"]["caption"] == "red car"
    assert client.post("/api/v1/count", json={"filters": {"min_width": 1024}}).json() == {"rows": 5}
    facets = client.post("/api/v1/facets", json={"fields": ["nsfw", "domain", "width"], "where": "id < 2"}).json()
    assert facets["facets"]["domain"] == [{"value": "example.com", "rows": 2}]
    assert facets["facets"]["width"] == [{"value": 256.0, "rows": 1}, {"value": 512.0, "rows": 1}]
    lines = client.post("/api/v1/export", json={"ids": list(range(5000)), "format": "csv"}).text.splitlines()
    assert len(lines) == 1 + len(CAPTIONS)
    assert [each["name"] for each in client.get("/api/v1/collections").json()] == ["laion"]
    assert client.get("/api/v1/status").json()["collection"]["rows"] == len(CAPTIONS)
    assert client.post("/api/v1/count", json={"where": "toInt32(caption) = 1"}).status_code == 422
