"""/api/v1 but for SQL and exports: what is asked is answered as the collection would, and mistakes are told."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from cliphouse import Collection
from cliphouse.evaluation import EvaluationOptions
from cliphouse.service.app import create_app
from cliphouse.service.settings import Settings
from cliphouse.types import IndexConfig, IvfConfig, Query
from tests.data import random_unit, write_shard

ROWS, BIG = 1200, 2**60 + 1


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    folder: Path = tmp_path_factory.mktemp("rest")
    images, texts = random_unit(ROWS, 256, 1), random_unit(ROWS, 256, 2)
    columns = {
        "NSFW": [("UNLIKELY", "UNSURE", "NSFW")[row % 3] for row in range(ROWS)],
        "url": [f"https://{'ab'[row % 2]}.example/{row}.jpg" for row in range(ROWS)],
        "width": [100 * (row % 10) for row in range(ROWS)],
        "similarity": [None if row % 50 == 0 else 0.2 + row % 4 / 10 for row in range(ROWS)],
    }
    captions = [f"number {row}" for row in range(ROWS)]
    with Collection.open(folder / "db", encoder="test-words") as collection:
        collection.load(write_shard(folder / "shards", 0, captions, images=images, texts=texts, columns=columns))
        collection.build_index(config=IndexConfig(m=8, ef_construction=32))
        collection.build_index(config=IvfConfig(nlist=8))
        command = collection.engine.command
        command(
            "CREATE TABLE odd (`id` Int64, `url` String, `caption` String, `NSFW` String, `similarity` Float32, "
            "`image_embedding` Array(Float32), `text_embedding` Array(Float32), `picture` String, `big` UInt64, "
            "`day` Date, `tags` Map(String, UInt8), `part` Float64, `_value` Int8) ORDER BY id"
        )
        command(
            f"INSERT INTO odd VALUES ({BIG}, '', 'one', '', nan, [1, 0], [], 'mine', 18446744073709551615, "
            "'2020-02-03', {'a': 1}, inf, 7), (2, '', 'two', '', 0.3, [0, 0], [0, 1], '', 1, '2020-02-03', {}, 0.5, 8)"
        )
        command("CREATE TABLE secrets (`id` Int64, `caption` String) ORDER BY id")
        command("CREATE TABLE laion_loading_1_x AS laion")
        yield collection


@pytest.fixture(scope="module")
def client(served: Collection) -> Iterator[TestClient]:
    with TestClient(create_app(served, Settings(max_k=200))) as opened:
        yield opened


def ask(client: TestClient, path: str, **body: Any) -> Any:
    answer = client.post(f"/api/v1{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(client: TestClient, method: str, path: str, **more: Any) -> tuple[int, str, str]:
    answer = client.request(method, f"/api/v1{path}", **more)
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = answer.json()
    assert problem["status"] == answer.status_code
    return answer.status_code, problem["type"], problem["detail"]


def ids(found: dict[str, Any]) -> list[int]:
    return [hit["id"] for hit in found["hits"]]


def a_picture() -> bytes:
    Image.new("RGB", (20, 10), "red").save(out := io.BytesIO(), "PNG")
    return out.getvalue()


# -- searches ---------------------------------------------------------------------------------------------------------


def test_each_kind_of_target_finds_what_the_collection_finds(client: TestClient, served: Collection) -> None:
    vector = random_unit(1, 256, 3)[0]
    picture = Image.open(io.BytesIO(a_picture()))
    text_of_5 = np.array(served.engine.query(Query(sql="SELECT text_embedding FROM laion WHERE id = 5")).rows[0][0])
    for target, there in (
        ({"text": "number 7"}, served.search("number 7", k=5)),
        ({"vector": vector.tolist()}, served.search(vector, k=5)),
        ({"id": 5}, served.search(like=5, k=5)),
        ({"id": 5, "by": "image"}, served.search(like=5, k=5)),
        ({"id": 5, "by": "text"}, served.search(text_of_5, k=5)),
        ({"image": base64.b64encode(a_picture()).decode()}, served.search(picture, k=5)),
    ):
        found = ask(client, "/search", query=target, k=5)
        assert ids(found) == [hit.id for hit in there], target
        assert [hit["distance"] for hit in found["hits"]] == pytest.approx([hit.distance for hit in there])
        assert found["hits"][0]["caption"] == there[0].caption
        assert found["plan"]["path"] == there.plan.path


def test_the_other_column_can_be_searched(client: TestClient, served: Collection) -> None:
    found = ask(client, "/search", query={"id": 5}, column="text", k=3)
    assert ids(found) == [hit.id for hit in served.search(like=5, column="text", k=3)]
    assert ids(ask(client, "/search", query={"id": 5, "by": "image"}, column="text", k=3)) != ids(found)


def test_pages_filters_and_columns(client: TestClient) -> None:
    whole = ask(client, "/search", query={"text": "number 7"}, k=20, exact=True)
    page = ask(client, "/search", query={"text": "number 7"}, k=5, offset=5, exact=True)
    assert ids(page) == ids(whole)[5:10]
    some = ask(
        client, "/search", query={"id": 1}, k=200, filters={"nsfw": ["NSFW"], "min_width": 500}, columns=["width"]
    )
    assert len(some["hits"]) == 200
    assert all(hit["NSFW"] == "NSFW" and hit["width"] >= 500 for hit in some["hits"])
    assert "height" not in some["hits"][0]


def test_a_query_string_asks_the_same(client: TestClient) -> None:
    asked = {"query": {"text": "number 7"}, "k": 4, "columns": ["width", "height"], "where": "width > 300"}
    posted = ask(client, "/search", **asked, filters={"nsfw": ["NSFW", "UNSURE"], "max_width": 800})
    link = "text=number+7&k=4&columns=width&columns=height&where=width+>+300&nsfw=NSFW&nsfw=UNSURE&max_width=800"
    got = client.get(f"/api/v1/search?{link}").json()
    assert got["hits"] == posted["hits"]
    assert got["plan"] == posted["plan"]
    assert ids(client.get("/api/v1/search?id=5&by=text&k=2").json()) == ids(
        ask(client, "/search", query={"id": 5, "by": "text"}, k=2)
    )


def test_a_picture_is_sent_as_it_is(client: TestClient) -> None:
    posted = ask(client, "/search", query={"image": base64.b64encode(a_picture()).decode()}, k=3)
    answer = client.post("/api/v1/search/image?k=3", content=a_picture(), headers={"Content-Type": "image/png"})
    assert answer.json()["hits"] == posted["hits"]
    assert refused(client, "POST", "/search/image", content=b"")[:2] == (422, "invalid-image")
    assert refused(client, "POST", "/search/image", content=b"GIF89a?")[:2] == (422, "invalid-image")
    assert refused(client, "POST", "/search/image?text=a", content=a_picture())[:2] == (422, "invalid-request")


def test_a_picture_that_is_too_large_is_not_taken_in(served: Collection) -> None:
    with TestClient(create_app(served, Settings(max_upload=50))) as small:
        code, kind, _ = refused(small, "POST", "/search/image", content=a_picture() * 10)
        assert (code, kind) in ((422, "invalid-image"), (413, "too-large"))


@pytest.mark.parametrize(
    "asked",
    [
        {"exact": True},
        {"kind": "hnsw", "ef_search": 64},
        {"kind": "ivf", "nprobe": 2},
        {"kind": "ivf", "nprobe": 2, "where": "caption != '{target:Array(Float32)} \\\\'''"},
    ],
    ids=["exact", "hnsw", "ivf", "filtered"],
)
def test_the_statement_of_a_plan_gives_the_same_rows(client: TestClient, asked: dict[str, Any]) -> None:
    found = ask(client, "/search", query={"text": "number 7"}, k=5, stats=True, **asked)
    plan = found["plan"]
    assert plan["path"] == asked.get("kind", "exact")
    assert (plan["index"] is None) == (plan["path"] == "exact")
    answer = ask(client, "/sql", statement=plan["sql"])
    assert [row[0] for row in answer["rows"]] == ids(found)
    assert 0 < plan["rows_read"] <= ROWS
    if plan["path"] == "ivf":
        assert plan["rows_read"] < ROWS
    assert ask(client, "/search", query={"text": "number 7"}, **asked)["plan"]["rows_read"] is None


@pytest.mark.parametrize(
    ("asked", "status", "kind", "said"),
    [
        ({"query": {}}, 422, "invalid-request", "exactly one of"),
        ({"query": {"text": "a", "id": 1}}, 422, "invalid-request", "exactly one of"),
        ({"query": {"text": "a"}, "limit": 3}, 422, "invalid-request", "limit"),
        ({"query": {"text": "a"}, "k": 201}, 422, "usage-error", "k may be 200"),
        ({"query": {"vector": [1, 2]}}, 422, "dimension-mismatch", "256"),
        ({"query": {"vector": [0] * 256}}, 422, "invalid-vector", "direction"),
        ({"query": {"vector": [1e300] * 255 + [1e-300]}, "k": 201}, 422, "usage-error", "k may be"),
        ({"query": {"id": 5000}}, 404, "unknown-item", "5000"),
        ({"query": {"id": 5000, "by": "text"}}, 404, "unknown-item", "5000"),
        ({"query": {"image": "%%%"}}, 422, "invalid-image", "base64"),
        ({"query": {"image_url": "http://127.0.0.1/a.png"}}, 403, "image-url-not-allowed", "not fetch"),
        ({"query": {"text": "a"}, "columns": ["nothing"]}, 422, "usage-error", "no column nothing"),
        ({"query": {"text": "a"}, "where": "nothing = 1"}, 422, "invalid-filter", "nothing"),
        ({"query": {"text": "a"}, "where": "1) OR (1"}, 422, "invalid-filter", ""),
        ({"query": {"text": "a"}, "where": "toInt32(caption) = 1"}, 422, "invalid-filter", "parse"),
        ({"query": {"text": "a"}, "kind": "ivf", "ef_search": 3}, 422, "usage-error", "ef_search"),
        ({"query": {"text": "a"}, "exact": True, "kind": "ivf"}, 422, "usage-error", "exact"),
        ({"query": {"text": "a"}, "collection": "nothing"}, 404, "unknown-collection", "it has: laion, odd"),
        ({"query": {"text": "a"}, "collection": "secrets"}, 404, "unknown-collection", ""),
        ({"query": {"text": "a"}, "collection": "laion_loading_1_x"}, 404, "unknown-collection", ""),
        ({"query": {"text": "a"}, "collection": "a b"}, 404, "unknown-collection", ""),
        ({"query": {"text": "a"}, "collection": "odd"}, 404, "unknown-encoder", "vector or an id"),
    ],
)
def test_a_search_that_cannot_be_is_told_why(
    client: TestClient, asked: dict[str, Any], status: int, kind: str, said: str
) -> None:
    code, type_, detail = refused(client, "POST", "/search", json=asked)
    assert (code, type_) == (status, kind), detail
    assert said in detail
    assert "/tmp" not in detail, "paths of the machine are nobody's business"


def test_a_query_string_is_told_the_same(client: TestClient) -> None:
    assert refused(client, "GET", "/search")[:2] == (422, "invalid-request")
    assert refused(client, "GET", "/search?text=a&id=1")[:2] == (422, "invalid-request")
    assert "kk" in refused(client, "GET", "/search?text=a&kk=1")[2]
    assert refused(client, "GET", "/search?text=a&k=201")[:2] == (422, "usage-error")


# -- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_has_all_its_columns(client: TestClient, served: Collection) -> None:
    item = client.get("/api/v1/items/7").json()["item"]
    assert (item["id"], item["caption"], item["width"], item["row"]) == (7, "number 7", 700, 7)
    assert "image_embedding" not in item
    vectors = client.get("/api/v1/items/7?vectors=true").json()["item"]
    stored = served.engine.query(Query(sql="SELECT image_embedding FROM laion WHERE id = 7")).rows[0][0]
    assert vectors["image_embedding"] == pytest.approx(list(stored))
    assert refused(client, "GET", "/items/5000")[:2] == (404, "unknown-item")
    assert refused(client, "GET", "/items/-1")[:2] == (422, "invalid-request")
    assert refused(client, "GET", "/items/1?collection=secrets")[:2] == (404, "unknown-collection")


def test_values_that_json_lacks_do_not_break_it(client: TestClient) -> None:
    item = client.get(f"/api/v1/items/{BIG}?collection=odd&vectors=true").json()["item"]
    assert item == {
        "id": BIG,
        "url": "",
        "caption": "one",
        "NSFW": "",
        "similarity": None,
        "image_embedding": [1, 0],
        "text_embedding": [],
        "picture": "mine",
        "big": 2**64 - 1,
        "day": "2020-02-03",
        "tags": {"a": 1},
        "part": None,
        "_value": 7,
    }
    found = ask(
        client, "/search", collection="odd", query={"vector": [1, 0]}, columns=["part", "picture", "image_embedding"]
    )
    assert [(hit["id"], hit["distance"], hit["similarity"]) for hit in found["hits"]] == [
        (BIG, 0, None),
        (2, None, pytest.approx(0.3)),  # a vector without a direction has no distance
    ]
    assert found["hits"][0]["picture"] is None  # where a picture is shown, whatever a column is called
    assert found["hits"][1]["image_embedding"] == [0, 0]


def test_rows_are_counted(client: TestClient) -> None:
    assert ask(client, "/count") == {"rows": ROWS}
    assert ask(client, "/count", where="width >= 500", filters={"nsfw": ["NSFW"]}) == {"rows": 200}
    assert ask(client, "/count", collection="odd", where="_value = 8") == {"rows": 1}
    assert refused(client, "POST", "/count", json={"where": "count() > 1"})[:2] == (422, "invalid-filter")
    assert refused(client, "POST", "/count", json={"where": "toInt32(caption) = 1"})[:2] == (422, "invalid-filter")


def test_facets_count_what_passes(client: TestClient) -> None:
    fields = ["nsfw", "licence", "domain", "width", "height", "similarity"]
    found = ask(client, "/facets", fields=fields, where="id < 100")
    assert found["rows"] == 100

    def counted(name: str) -> dict[Any, int]:
        return {each["value"]: each["rows"] for each in found["facets"][name]}

    assert counted("nsfw") == {"UNLIKELY": 34, "UNSURE": 33, "NSFW": 33}
    assert counted("domain") == {"a.example": 50, "b.example": 50}
    assert counted("width") == Counter(float(100 * (row % 10) // 256 * 256) for row in range(100))
    assert counted("height") == {0.0: 100}
    assert counted("similarity") == Counter(
        None if row % 50 == 0 else (0.2, 0.3, 0.4, 0.5)[row % 4] for row in range(100)
    )
    assert [each["value"] for each in found["facets"]["width"]] == [0.0, 256.0, 512.0, 768.0]
    assert ask(client, "/facets", fields=["nsfw"], where="id < 100", limit=1)["facets"] == {
        "nsfw": [{"value": "UNLIKELY", "rows": 34}]
    }


def test_a_facet_without_a_column_is_left_out(client: TestClient) -> None:
    found = ask(client, "/facets", collection="odd", fields=["nsfw", "width", "similarity"], where="_value > 0")
    assert found == {
        "rows": 2,
        "facets": {
            "nsfw": [{"value": "", "rows": 2}],
            "similarity": [{"value": 0.3, "rows": 1}, {"value": None, "rows": 1}],
        },
    }


# -- the service ------------------------------------------------------------------------------------------------------


def test_collections_are_listed_and_other_tables_are_not(client: TestClient) -> None:
    found = {each["name"]: each for each in client.get("/api/v1/collections").json()}
    assert list(found) == ["laion", "odd"]
    assert (found["laion"]["rows"], found["laion"]["dim"], found["laion"]["encoder"]) == (ROWS, 256, "test-words")
    assert (found["odd"]["rows"], found["odd"]["dim"], found["odd"]["encoder"]) == (2, 2, "")
    assert "min_width" in found["laion"]["filters"]
    assert "min_width" not in found["odd"]["filters"]
    assert {"name": "big", "type": "UInt64"} in found["odd"]["columns"]


def test_the_status_has_the_last_evaluation(client: TestClient, served: Collection) -> None:
    status = client.get("/api/v1/status").json()
    assert status["evaluation"] is None
    assert (status["collection"]["rows"], status["encoder_ready"], status["encoder_problem"]) == (ROWS, True, None)
    assert status["total_bytes"] > 0
    assert status["max_k"] == 200
    options = EvaluationOptions(sample=3, k=1, filters=False, seconds=0.01, clients=1)
    measured = served.evaluate(options)
    kept = client.get("/api/v1/status").json()["evaluation"]
    assert kept.pop("evaluated_at").endswith("+00:00")
    whole = json.loads(json.dumps(measured.as_dict()))
    assert whole.pop("database")  # a path of this machine, which nobody else need know
    assert kept == whole


def test_a_collection_without_an_encoder_says_so(client: TestClient) -> None:
    status = client.get("/api/v1/status?collection=odd").json()
    assert status["encoder_ready"] is False
    assert "name its encoder" in status["encoder_problem"]


def test_texts_and_pictures_are_encoded(client: TestClient, served: Collection) -> None:
    encoder = served.encoder()
    found = ask(client, "/encode", text="number 7")
    assert found["vector"] == pytest.approx(encoder.encode_texts(["number 7"])[0].tolist())
    assert (found["encoder"], found["dim"]) == ("test-words", 256)
    found = ask(client, "/encode", image=base64.b64encode(a_picture()).decode())
    assert found["vector"] == pytest.approx(encoder.encode_images([Image.open(io.BytesIO(a_picture()))])[0].tolist())
    for wrong in ({}, {"text": "a", "image": "b"}):
        assert refused(client, "POST", "/encode", json=wrong)[:2] == (422, "invalid-request")


# -- the document -----------------------------------------------------------------------------------------------------


def test_the_document_has_examples_that_work_and_problems_everywhere(client: TestClient) -> None:
    document = client.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    names, examples = set(), 0
    for path, operations in document["paths"].items():
        if not path.startswith("/api/v1/"):
            continue
        for method, operation in operations.items():
            names.add(operation["operationId"])
            assert operation["tags"], path
            for code in ("404", "422", "503"):
                content = operation["responses"][code]["content"]
                assert content == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is None:
                continue
            for example in schemas[body["schema"]["$ref"].rpartition("/")[2]]["examples"]:
                answer = client.request(method, path, json=example)
                assert answer.status_code == 200, (path, answer.text)
                examples += 1
    assert names >= {"search", "search_by_query_string", "search_by_picture", "item", "count", "facets", "picture"}
    assert names >= {"export", "collections", "status", "encode"}
    assert examples >= 6
