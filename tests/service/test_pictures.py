"""Thumbnails: of files in the directories that may be shown, and of nothing else."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from cliphouse import Collection
from cliphouse.service.app import create_app
from cliphouse.service.settings import Settings
from tests.data import write_shard

SHOWN = ("plain", "by address", "by odd address", "small", "upright", "palette")
HIDDEN = (
    "outside",
    "by dots",
    "by link",
    "by link to a folder",
    "remote",
    "other host",
    "relative",
    "not there",
    "broken",
    "too many pixels",
    "a folder",
    "a pipe",
    "a text",
    "zero byte",
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root: Path = tmp_path_factory.mktemp("pictures")
    inside, outside = root / "shown", root / "shown-not"
    inside.mkdir()
    outside.mkdir()
    picture = Image.new("RGB", (300, 200), "red")
    picture.save(inside / "a.png")
    picture.save(inside / "ö 100%.png")
    picture.save(outside / "secret.png")
    Image.new("RGB", (20, 10), "red").save(inside / "small.png")
    Image.new("P", (100, 100)).save(inside / "palette.gif")
    Image.new("RGB", (2100, 1000)).save(inside / "large.png")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"  # turned by a quarter
    picture.save(inside / "turned.jpg", exif=exif)
    (inside / "broken.png").write_bytes((inside / "a.png").read_bytes()[:60])
    (inside / "words.png").write_text("no picture")
    (inside / "link.png").symlink_to(outside / "secret.png")
    (inside / "folder").symlink_to(outside)
    os.mkfifo(inside / "pipe.png")
    return {
        "root": str(inside),
        "plain": f"{inside}/a.png",
        "by address": f"file://{inside}/a.png",
        "by odd address": f"file://localhost{inside}/%C3%B6%20100%25.png",
        "small": f"{inside}/small.png",
        "upright": f"{inside}/turned.jpg",
        "palette": f"{inside}/palette.gif",
        "outside": f"{outside}/secret.png",
        "by dots": f"{inside}/../shown-not/secret.png",
        "by link": f"{inside}/link.png",
        "by link to a folder": f"{inside}/folder/secret.png",
        "remote": "https://example.org/a.png",
        "other host": f"file://example.org{inside}/a.png",
        "relative": "a.png",
        "not there": f"{inside}/none.png",
        "broken": f"{inside}/broken.png",
        "too many pixels": f"{inside}/large.png",
        "a folder": str(inside),
        "a pipe": f"{inside}/pipe.png",
        "a text": f"{inside}/words.png",
        "zero byte": f"{inside}/a.png\0",
    }


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, places: dict[str, str]) -> Iterator[TestClient]:
    folder: Path = tmp_path_factory.mktemp("rows")
    named = [places[name] for name in (*SHOWN, *HIDDEN)]
    addresses = [each if ":" in each else f"https://example.org/{row}" for row, each in enumerate(named)]
    columns = {"url": addresses, "image_path": ["" if ":" in each else each for each in named]}
    captions = [f"{name} picture" for name in (*SHOWN, *HIDDEN)]
    settings = Settings(pictures=(Path(places["root"]),), max_pixels=2_000_000)
    with Collection.open(folder / "db", encoder="test-words") as collection:
        collection.load(write_shard(folder / "shards", 0, captions, columns=columns))
        engine = collection.engine
        engine.command("CREATE TABLE another AS laion")
        engine.command("INSERT INTO another SELECT * FROM laion WHERE id = 0")
        with TestClient(create_app(collection, settings)) as opened:
            yield opened


def item_of(name: str) -> int:
    return (*SHOWN, *HIDDEN).index(name)


def shown(client: TestClient, name: str, **options: Any) -> Image.Image:
    answer = client.get(f"/api/v1/pictures/{item_of(name)}", params=options)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["x-content-type-options"] == "nosniff"
    return Image.open(io.BytesIO(answer.content))


@pytest.mark.parametrize("name", SHOWN)
def test_a_file_that_may_be_shown_is_shown_small(client: TestClient, name: str) -> None:
    assert shown(client, name).format == "WEBP"


def test_a_thumbnail_has_the_size_that_was_asked_for(client: TestClient) -> None:
    assert shown(client, "plain").size == (256, 171)
    assert shown(client, "plain", size=30).size == (30, 20)
    assert shown(client, "small", size=1024).size == (20, 10)  # never larger than the file
    assert shown(client, "upright", size=300).size == (200, 300)
    for size in (15, 1025, "x"):
        assert client.get("/api/v1/pictures/0", params={"size": size}).status_code == 422


def test_nothing_of_the_camera_is_left(client: TestClient) -> None:
    picture = shown(client, "upright")
    assert not picture.getexif()
    assert b"a camera" not in client.get(f"/api/v1/pictures/{item_of('upright')}").content


@pytest.mark.parametrize("name", HIDDEN)
def test_what_may_not_be_shown_is_answered_as_what_is_not_there(client: TestClient, name: str) -> None:
    answer, none = (client.get(f"/api/v1/pictures/{item}") for item in (item_of(name), 999_999))
    assert answer.status_code == none.status_code == 404
    said, nothing = answer.json(), none.json()
    assert said["detail"].replace(str(item_of(name)), "N") == nothing["detail"].replace("999999", "N")
    assert (said["type"], said["title"]) == (nothing["type"], nothing["title"])


def test_hits_and_rows_say_which_pictures_are_shown(client: TestClient) -> None:
    found = client.post("/api/v1/search", json={"query": {"text": "picture"}, "k": 100}).json()["hits"]
    links = {hit["id"]: hit["picture"] for hit in found}
    for name in (*SHOWN, *HIDDEN):
        item = item_of(name)
        link = f"/api/v1/pictures/{item}"
        # What is in a file is not looked at for a link: it may turn out to be no picture.
        maybe = name in SHOWN or name in ("broken", "too many pixels", "a text")
        assert links[item] == (link if maybe else None), name
        assert client.get(f"/api/v1/items/{item}").json()["picture"] == links[item]
    assert "image_path" not in found[0]


def test_the_picture_of_another_collection_has_an_address_of_its_own(client: TestClient) -> None:
    (hit,) = client.get("/api/v1/search", params={"text": "plain", "collection": "another"}).json()["hits"]
    assert hit["picture"] == "/api/v1/pictures/0?collection=another"
    assert client.get(hit["picture"]).status_code == 200


def test_a_picture_that_has_not_changed_is_not_sent_again(client: TestClient, places: dict[str, str]) -> None:
    first = client.get("/api/v1/pictures/0")
    assert "max-age" in first.headers["cache-control"]
    again = client.get("/api/v1/pictures/0", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get("/api/v1/pictures/0", params={"size": 64}, headers={"If-None-Match": first.headers["etag"]})
    assert other.status_code == 200
    os.utime(places["plain"], (1, 1))
    assert client.get("/api/v1/pictures/0", headers={"If-None-Match": first.headers["etag"]}).status_code == 200


def test_without_directories_nothing_is_shown(client: TestClient, places: dict[str, str]) -> None:
    served = client.app.state.service.collection  # type: ignore[attr-defined]
    with TestClient(create_app(served)) as closed:
        assert closed.get("/api/v1/pictures/0").status_code == 404
        assert closed.get("/api/v1/items/0").json()["picture"] is None
