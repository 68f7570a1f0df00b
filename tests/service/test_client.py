"""The Python client against a real service on a real port."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import uvicorn
from PIL import Image

from cliphouse import Client, Collection
from cliphouse.errors import InvalidImage, InvalidVector, ServiceError, ServiceUnreachable, UsageError
from cliphouse.service.app import create_app
from cliphouse.service.settings import Settings
from tests.data import write_shard


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """Eight captioned rows."""
    folder = tmp_path_factory.mktemp("client")
    with Collection.open(folder / "db", encoder="test-words") as collection:
        collection.load(write_shard(folder / "shards"))
        yield collection


@pytest.fixture(scope="module")
def address(served: Collection) -> Iterator[str]:
    """Where they are served."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(served, Settings(workers=2)), log_level="warning", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


def test_a_search_gives_what_the_collection_gives(client: Client, served: Collection) -> None:
    there, here = client.search("dog", k=3), served.search("dog", k=3)
    assert [hit.id for hit in there] == [hit.id for hit in here]
    assert there[0].caption == here[0].caption
    assert there[0].distance == pytest.approx(here[0].distance, abs=1e-6)
    assert there.plan.path == "exact"
    assert there.to_arrow().num_rows == 3


def test_every_kind_of_query_can_be_asked(client: Client, served: Collection, tmp_path: Path) -> None:
    vector = served.encoder().encode_texts(["dog"])[0]
    by_text = [hit.id for hit in client.search("dog", k=5)]
    assert [hit.id for hit in client.search(vector, k=5)] == by_text
    assert client.search(like=by_text[0], k=1)[0].id == by_text[0]
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    by_file = [hit.id for hit in client.search(tmp_path / "red.png", k=2)]
    for mode in ("RGB", "P", "CMYK"):
        with Image.open(tmp_path / "red.png") as picture:
            assert [hit.id for hit in client.search(picture.convert(mode), k=2)] == by_file
    assert [hit.id for hit in client.search(vector[np.newaxis], k=5)] == by_text
    assert client.encode("dog") == pytest.approx(vector, abs=1e-6)


def test_rows_are_counted_told_and_exported(client: Client, served: Collection, tmp_path: Path) -> None:
    assert client.count() == 8
    assert client.count(where="id < 3") == 3
    first = client.search("dog", k=1)[0]
    assert client.item(first.id)["caption"] == first.caption
    assert sum(client.facets(["nsfw"])["nsfw"].values()) == 8
    assert client.status()["collection"]["rows"] == 8
    assert [each["name"] for each in client.collections()] == ["laion"]
    answer = client.sql("SELECT count() AS rows FROM laion")
    assert (list(answer.columns), answer.rows) == (["rows"], [[8]])
    client.export(tmp_path / "dogs.parquet", "dog", k=4, form="parquet")
    assert pq.read_table(tmp_path / "dogs.parquet").num_rows == 4
    client.export(lines := io.BytesIO(), ids=[1, 2])
    assert sorted(json.loads(line)["id"] for line in lines.getvalue().splitlines()) == [1, 2]


def test_the_service_says_what_is_wrong(client: Client) -> None:
    with pytest.raises(ServiceError, match="no row with id 999") as error:
        client.item(999)
    assert (error.value.status, error.value.type) == (404, "unknown-item")
    with pytest.raises(ServiceError, match="dimensions"):
        client.search(np.ones(3))
    with pytest.raises(ServiceError, match="filter"):
        client.search("dog", where="1) OR (1")


def test_an_export_that_is_refused_leaves_no_file(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ServiceError):
        client.export(tmp_path / "out.csv", "dog", where="no_such_column = 1", form="csv")
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_told_before_anything_is_sent(client: Client, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one thing"):
        client.search()
    with pytest.raises(InvalidImage, match="No such file"):
        client.search(tmp_path / "none.jpg")
    with pytest.raises(InvalidVector, match="NaN"):
        client.search([0.1, float("nan")])
    with pytest.raises(UsageError, match="http://"):
        Client("localhost:8000")


def test_an_address_without_a_service_is_told(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as nobody, pytest.raises(ServiceUnreachable, match="cliphouse serve"):
        nobody.status()
    with Client(f"{address}/elsewhere") as wrong, pytest.raises(ServiceError):
        wrong.status()


class Busy(BaseHTTPRequestHandler):
    """Says "come again" as often as its server is told to."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        busy = self.server.asked <= self.server.busy
        problem = {"type": "busy", "status": 503, "detail": "all places are taken; come again in 0 s"}
        body = json.dumps(problem if busy else {"rows": 7}).encode()
        self.send_response(503 if busy else 200)
        if busy:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def busy() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        server.asked = server.busy = 0
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_busy_service_is_asked_again_and_not_for_ever(busy: HTTPServer) -> None:
    busy.busy = 1
    with Client(f"http://127.0.0.1:{busy.server_port}", retries=1) as client:
        assert (client.count(), busy.asked) == (7, 2)
        busy.busy = 1000
        with pytest.raises(ServiceError, match="all places are taken") as error:
            client.count()
        assert (error.value.status, error.value.retry_after, busy.asked) == (503, 0, 4)
