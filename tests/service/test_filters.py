"""Typed filters: the rows that pass are those that Python says pass, whatever stands in texts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from cliphouse import Collection
from cliphouse.errors import InvalidFilter
from cliphouse.service import filters
from cliphouse.service.app import create_app
from cliphouse.service.contract import Filters
from cliphouse.types import Query
from tests.data import write_shard

TEXTS = (
    "a red car",
    "RED Ärger",
    'it\'s \\ a "quoted" `name`',
    "100% {target:Array(Float32)} %s %(x)s",
    "line\nbreak -- /* #",
    "nul\0byte ;)",
    "Жар-птица 漢字 😀",
    "",
    "(((",
    "\\'",
)
URLS = (
    "https://example.org/a.jpg",
    "https://IMG.Example.ORG/b.jpg",
    "https://notexample.org/c.jpg",
    "http://example.org:8080/d.jpg",
    "https://org/e.jpg",
    "file:///home/someone/f.jpg",
    "nothing",
    "",
    "//cdn.example.org/g.jpg",
    "https://münchen.example/h.jpg",
)
HOSTS = ("example.org", "EXAMPLE.org", "org", "img.example.org", "", ".org", "cdn.example.org", "'", "münchen.example")
LICENCES = ("", "cc-by", "it's", "CC-BY")
TAGS = ("UNLIKELY", "UNSURE", "NSFW", "UNTAGGED", "nsfw")
COLUMNS = ("id", "url", "caption", "NSFW", "similarity", "license", "width", "height")
TUTORIAL = (
    "`id` Int64, `url` String, `caption` String, `NSFW` String, `similarity` Float32, "
    "`image_embedding` Array(Float32), `text_embedding` Array(Float32)"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    folder: Path = tmp_path_factory.mktemp("filters")
    rows, chance = 60, np.random.default_rng(5)
    columns = {
        "url": [URLS[row % len(URLS)] for row in range(rows)],
        "NSFW": [TAGS[row % 4] for row in range(rows)],
        "LICENSE": [LICENCES[row % 3] for row in range(rows)],
        "similarity": [[0.3, 0.25, -0.1, None][row % 4] for row in range(rows)],
        "width": chance.integers(0, 5, rows).tolist(),
        "height": chance.integers(0, 2000, rows).tolist(),
    }
    captions = [TEXTS[row // 2 % len(TEXTS)] for row in range(rows)]
    vectors = chance.standard_normal((rows, 256)).astype(np.float32)
    with Collection.open(folder / "db", encoder="test-words") as collection:
        collection.load(write_shard(folder / "shards", 0, captions, images=vectors, columns=columns, with_text=False))
        engine = collection.engine
        engine.command(f"CREATE TABLE handmade ({TUTORIAL}, `WIDTH` UInt16, `LICENSE` String) ORDER BY id")
        engine.command(
            "INSERT INTO handmade SELECT number, 'https://a.example/' || number, 'caption ' || number, 'UNLIKELY', "
            "if(number = 2, nan, 0.3), [1, number], [1, 1], 100 * number, 'cc0' FROM numbers(4)"
        )
        yield collection


@pytest.fixture(scope="module")
def rows(served: Collection) -> list[dict[str, Any]]:
    sql = f"SELECT {', '.join(COLUMNS)}, domain(url) FROM laion ORDER BY id"
    return [dict(zip((*COLUMNS, "domain"), row, strict=True)) for row in served.engine.query(Query(sql=sql)).rows]


@pytest.fixture(scope="module")
def client(served: Collection) -> Iterator[TestClient]:
    with TestClient(create_app(served)) as opened:
        yield opened


def some(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | st.lists(values, max_size=3)


numbers = st.none() | st.integers(0, 2**31) | st.integers(0, 5)
shares = st.none() | st.floats(-1, 1) | st.sampled_from([0.3, 0.25, -0.1, 0.0])
pieces = st.sampled_from(TEXTS).flatmap(lambda text: st.sampled_from(["x", *text.split(), text[:3], text[1:], text]))
typed = st.builds(
    Filters,
    nsfw=some(st.sampled_from(TAGS)),
    min_width=numbers,
    max_width=numbers,
    min_height=numbers,
    max_height=numbers,
    licence=some(st.sampled_from(LICENCES)),
    domain=some(st.sampled_from(HOSTS)),
    min_similarity=shares,
    max_similarity=shares,
    caption_contains=st.none()
    | pieces.filter(bool)
    | pieces.filter(bool).map(str.swapcase)
    | st.text(st.sampled_from("aA'\\\"`%{}()\n\0;-äÄ漢"), min_size=1, max_size=4),
)


def passes(row: dict[str, Any], wanted: Filters) -> bool:
    similarity = None if row["similarity"] is None else np.float32(row["similarity"])
    host = "." + row["domain"].lower()
    checks = (
        wanted.nsfw is None or row["NSFW"] in wanted.nsfw,
        wanted.min_width is None or row["width"] >= wanted.min_width,
        wanted.max_width is None or row["width"] <= wanted.max_width,
        wanted.min_height is None or row["height"] >= wanted.min_height,
        wanted.max_height is None or row["height"] <= wanted.max_height,
        wanted.licence is None or row["license"] in wanted.licence,
        wanted.domain is None or any(host.endswith("." + domain.lower()) for domain in wanted.domain),
        wanted.min_similarity is None or (similarity is not None and similarity >= np.float32(wanted.min_similarity)),
        wanted.max_similarity is None or (similarity is not None and similarity <= np.float32(wanted.max_similarity)),
        wanted.caption_contains is None or wanted.caption_contains.lower() in row["caption"].lower(),
    )
    return all(checks)


@settings(max_examples=200, deadline=None)
@given(wanted=typed)
def test_the_rows_that_pass_are_those_that_python_says_pass(
    served: Collection, rows: list[dict[str, Any]], wanted: Filters
) -> None:
    condition = filters.condition(wanted, served.info().columns)
    sql = f"SELECT id FROM laion WHERE {condition or 'true'} ORDER BY id"
    found = [row[0] for row in served.engine.query(Query(sql=sql)).rows]
    assert found == [row["id"] for row in rows if passes(row, wanted)]


@settings(max_examples=40, deadline=None)
@given(wanted=typed)
def test_a_search_with_filters_gives_rows_that_pass(
    client: TestClient, rows: list[dict[str, Any]], wanted: Filters
) -> None:
    asked = {"query": {"text": "car"}, "k": 100, "filters": wanted.model_dump(), "where": "id >= 0 OR id < 0"}
    answer = client.post("/api/v1/search", json=asked)
    assert answer.status_code == 200, answer.text
    found = sorted(hit["id"] for hit in answer.json()["hits"])
    assert found == [row["id"] for row in rows if passes(row, wanted)]


def test_a_host_is_found_itself_and_with_those_below_it(client: TestClient) -> None:
    asked = {"filters": {"domain": ["example.org"]}, "fields": ["domain"]}
    (found,) = client.post("/api/v1/facets", json=asked).json()["facets"].values()
    assert {each["value"] for each in found} == {"example.org", "img.example.org", "cdn.example.org"}


def test_a_filter_and_an_expression_must_both_hold(client: TestClient) -> None:
    one = {"filters": {"nsfw": ["UNLIKELY"]}, "where": "id = 0 OR id = 1 OR id = 4"}
    assert client.post("/api/v1/count", json=one).json() == {"rows": 2}


def test_columns_of_other_tables_have_other_names(client: TestClient) -> None:
    asked = {"collection": "handmade", "filters": {"min_width": 200, "licence": ["cc0"]}}
    assert client.post("/api/v1/count", json=asked).json() == {"rows": 2}
    asked = {"collection": "handmade", "filters": {"max_similarity": 0.3}}
    assert client.post("/api/v1/count", json=asked).json() == {"rows": 3}  # not the one that is NaN


def test_a_filter_on_a_column_that_is_not_there_names_those_that_are(client: TestClient) -> None:
    asked = {"collection": "handmade", "query": {"vector": [1, 0]}, "filters": {"min_height": 200}}
    answer = client.post("/api/v1/search", json=asked)
    assert (answer.status_code, answer.json()["type"]) == (422, "invalid-filter")
    assert "min_height" in answer.json()["detail"]
    assert "caption, NSFW, similarity" in answer.json()["detail"]


def test_a_column_of_another_type_is_none_to_compare_with() -> None:
    columns = {"width": "String", "caption": "Array(String)", "similarity": "Nullable(Float64)"}
    assert filters.possible(columns) == ["min_similarity", "max_similarity", "caption_contains"]
    with pytest.raises(InvalidFilter, match="no column width or original_width"):
        filters.condition(Filters(min_width=1), columns)


def test_what_no_filter_can_be_is_told_by_name(client: TestClient) -> None:
    for wrong in ({"min_widht": 1}, {"min_width": -1}, {"min_similarity": 2}, {"nsfw": "UNLIKELY"}):
        answer = client.post("/api/v1/count", json={"filters": wrong})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"].endswith(next(iter(wrong)))
    assert not math.isnan(client.post("/api/v1/count", json={}).json()["rows"])
