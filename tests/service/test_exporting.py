"""POST /api/v1/export: the rows of a search or of ids as files that other programs read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from cliphouse import Collection
from cliphouse.service.app import create_app
from cliphouse.service.settings import Settings
from tests.data import write_shard

CAPTIONS = (
    '=HYPERLINK("https://example.org")',
    "+1 car",
    "-1, car",
    "@car",
    "\tcar",
    "a 'quoted', \"car\"\nof two lines",
    "Жар-птица car 😀",
    "plain car",
    *(f"car number {row}" for row in range(2500)),
)
COLUMNS = ["width", "image_embedding", "license"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder: Path = tmp_path_factory.mktemp("export")
    columns = {"similarity": [None if row % 2 else 0.5 for row in range(len(CAPTIONS))]}
    with Collection.open(folder / "db", encoder="test-words") as collection:
        collection.load(write_shard(folder / "shards", 0, CAPTIONS, columns=columns))
        collection.engine.command(
            "CREATE TABLE odd (`id` Int64, `url` String, `caption` String, `NSFW` String, `similarity` Float32, "
            "`image_embedding` Array(Float32), `text_embedding` Array(Float32), `part` Float64, `big` UInt64, "
            "`tags` Map(String, UInt8), `day` Nullable(Date), `few` LowCardinality(Nullable(String))) ORDER BY id"
        )
        collection.engine.command(
            "INSERT INTO odd VALUES (1, '', '', '', nan, [1, 0], [], nan, 18446744073709551615, {'a': 1}, NULL, NULL)"
        )
        with TestClient(create_app(collection, Settings(max_export=2600, max_k=10))) as opened:
            yield opened


def export(client: TestClient, form: str, **asked: Any) -> bytes:
    answer = client.post("/api/v1/export", json={"format": form, **asked})
    assert answer.status_code == 200, answer.text
    name = asked.get("collection", "laion")
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}.{form}"'
    return answer.content


def lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in data.decode().splitlines()]


def cells(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def test_the_formats_hold_the_same_rows_in_the_order_of_the_search(client: TestClient) -> None:
    asked: dict[str, Any] = {"query": {"text": "car"}, "k": 2508, "columns": COLUMNS, "where": "id != 9"}
    first = client.post("/api/v1/search", json={"query": {"text": "car"}, "k": 10, "where": "id != 9"}).json()["hits"]
    rows = lines(export(client, "jsonl", **asked))
    assert len(rows) == len(CAPTIONS) - 1
    assert [row["id"] for row in rows[:10]] == [hit["id"] for hit in first]
    assert list(rows[0]) == ["id", "distance", "url", "caption", "NSFW", "similarity", *COLUMNS]
    assert {row["caption"] for row in rows} == {*CAPTIONS} - {CAPTIONS[9]}
    table = pq.read_table(io.BytesIO(export(client, "parquet", **asked)))
    assert table.to_pylist() == rows
    assert table.schema.field("width").type == pa.int32()
    assert table.schema.field("image_embedding").type == pa.list_(pa.float32())
    sheet = cells(export(client, "csv", **asked))
    assert [int(row["id"]) for row in sheet] == [row["id"] for row in rows]
    assert [json.loads(row["image_embedding"]) for row in sheet[:5]] == [row["image_embedding"] for row in rows[:5]]
    assert {row["similarity"] for row in sheet} == {"0.5", ""}


def test_no_cell_is_a_formula_and_other_formats_keep_the_text(client: TestClient) -> None:
    ids = list(range(8))
    sheet = cells(export(client, "csv", ids=ids))
    assert [row["caption"] for row in sheet] == [f"'{text}" for text in CAPTIONS[:5]] + list(CAPTIONS[5:8])
    assert [row["caption"] for row in lines(export(client, "jsonl", ids=ids))] == list(CAPTIONS[:8])


def test_ids_come_in_their_order_each_once(client: TestClient) -> None:
    wanted = [*range(2400, 0, -1), 7, 7, 99_999]
    rows = lines(export(client, "jsonl", ids=wanted))
    assert [row["id"] for row in rows] == list(range(2400, 0, -1))
    assert list(rows[0]) == ["id", "url", "caption", "NSFW", "similarity"]
    some = lines(export(client, "jsonl", ids=wanted, where="id < 3", columns=["row", "id"]))
    assert [(row["id"], row["row"]) for row in some] == [(2, 2), (1, 1)]


def test_what_is_not_known_is_null(client: TestClient) -> None:
    asked: dict[str, Any] = {"collection": "odd", "ids": [1], "columns": ["part", "big", "tags", "day", "few"]}
    (row,) = lines(export(client, "jsonl", **asked))
    assert (row["similarity"], row["part"], row["day"], row["few"]) == (None, None, None, None)
    assert (row["big"], row["tags"]) == (2**64 - 1, {"a": 1})
    (cell,) = cells(export(client, "csv", **asked))
    assert (cell["similarity"], cell["part"], cell["day"], cell["tags"]) == ("", "", "", '{"a": 1}')
    table = pq.read_table(io.BytesIO(export(client, "parquet", **asked)))
    assert table.column("big").to_pylist() == [2**64 - 1]
    assert table.column("tags").to_pylist() == ['{"a": 1}']
    assert table.column("few").to_pylist() == [None]


def test_an_export_without_rows_has_its_columns(client: TestClient) -> None:
    asked: dict[str, Any] = {"query": {"text": "car"}, "where": "id < 0", "columns": ["width"]}
    assert export(client, "jsonl", **asked) == b""
    assert export(client, "csv", **asked) == b"id,distance,url,caption,NSFW,similarity,width\r\n"
    table = pq.read_table(io.BytesIO(export(client, "parquet", **asked)))
    assert (table.num_rows, table.schema.field("width").type) == (0, pa.int32())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "query or ids"),
        ({"query": {"text": "a"}, "ids": [1]}, "query or ids"),
        ({"ids": []}, "ids"),
        ({"query": {"text": "a"}, "k": 2601}, "2,600"),
        ({"ids": list(range(2601))}, "2,600"),
        ({"ids": [1], "columns": ["nothing"]}, "no column nothing"),
        ({"ids": [1], "where": "nothing = 1"}, "nothing"),
        ({"ids": [1], "format": "xlsx"}, "format"),
    ],
)
def test_an_export_that_cannot_be_is_told_before_it_begins(
    client: TestClient, asked: dict[str, Any], said: str
) -> None:
    answer = client.post("/api/v1/export", json=asked)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
