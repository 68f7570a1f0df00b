"""clip-retrieval's interface, asked by clip-retrieval's own client and by whoever speaks as its page does."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import math
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import requests
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

from cliphouse import Collection
from cliphouse.service.app import create_app
from cliphouse.service.clip_neighbours import first_of_each
from cliphouse.service.settings import Settings
from tests.data import ENCODER, write_shard

CAPTIONS = (
    "a red car parked",
    "red car",
    "blue sky over the sea",
    "a green tree",
    "two yellow birds",
    "black cat on a sofa",
    "white horse",
    "a bowl of orange soup",
)
TAGS = ["UNLIKELY", "NSFW", "UNLIKELY", "UNSURE", "UNTAGGED", "", "porn", "UNLIKELY"]


def _client_module() -> ModuleType:
    """`clip_retrieval.clip_client` alone: the package itself imports a server, with torch, faiss and Flask."""
    package = importlib.util.find_spec("clip_retrieval")
    if package is None or not package.submodule_search_locations:
        pytest.skip("clip-retrieval is not installed; `make test` does")
    path = Path(package.submodule_search_locations[0]) / "clip_client.py"
    spec = importlib.util.spec_from_file_location("clip_client", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["clip_client"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    Image.new("RGB", (1500, 20), "red").save(folder / "red.png")
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Iterator[Collection]:
    """Eight rows of which one is a file of this machine, and beside them twenty of which half are one picture."""
    folder = tmp_path_factory.mktemp("clip")
    paths = [str(pictures / "red.png"), "/etc/hostname", *("00000000" for _ in CAPTIONS[2:])]
    with Collection.open(folder / "db", encoder="test-words") as collection:
        collection.load(write_shard(folder / "shards", captions=CAPTIONS, columns={"NSFW": TAGS, "image_path": paths}))
        many = Collection(collection.engine, "many", "test-words")
        same = np.repeat(ENCODER.encode_texts(["red car"]), 10, axis=0)
        others = np.concatenate([same, ENCODER.encode_texts([f"red car number{n}" for n in range(10)])])
        texts = [f"row {n}" for n in range(20)]
        many.load(write_shard(folder / "many", captions=texts, images=others, texts=others, dtype="float32"))
        yield collection


@pytest.fixture(scope="module")
def client(served: Collection, pictures: Path) -> Iterator[TestClient]:
    with TestClient(create_app(served, Settings(workers=2, pictures=(pictures,)))) as client:
        yield client


@pytest.fixture(scope="module")
def address(served: Collection) -> Iterator[str]:
    with running(served, Settings()) as address:
        yield address


@contextmanager
def running(served: Collection, settings: Settings) -> Iterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(served, settings), log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def ask(client: TestClient, **fields: Any) -> list[dict[str, Any]]:
    answer = client.post("/knn-service", content=json.dumps(_body(**fields)))
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def _body(**fields: Any) -> dict[str, Any]:
    return {"text": None, "modality": "image", "num_images": 3, "indice_name": None} | fields


# -- its own client ---------------------------------------------------------------------------------------------------


def test_the_real_client_asks_by_text_picture_and_embedding(address: str, served: Collection, pictures: Path) -> None:
    module = _client_module()
    client = module.ClipClient(f"{address}/knn-service", "laion", num_images=2, use_safety_model=False)
    found = client.query(text="a red car parked")
    assert [set(hit) for hit in found] == [{"url", "image_path", "caption", "NSFW", "id", "similarity"}] * 2
    assert found[0]["caption"] == "a red car parked"
    assert found[0]["similarity"] == pytest.approx(1, abs=1e-3)
    vector = served.encoder().encode_texts(["a red car parked"])[0].tolist()
    assert [hit["id"] for hit in client.query(embedding_input=vector)] == [hit["id"] for hit in found]
    assert len(client.query(image=str(pictures / "red.png"))) == 2
    by_text = module.ClipClient(f"{address}/knn-service", "laion", modality=module.Modality.TEXT, num_images=1)
    assert by_text.query(text="white horse")[0]["similarity"] < 0.999  # its tag is not known to be safe


def test_the_real_client_gets_refusals_as_json(address: str) -> None:
    module = _client_module()
    refused = module.ClipClient(f"{address}/knn-service", "nothing").query(text="a cat")
    assert "no collection 'nothing'" in refused["message"]
    assert (
        "fetch" in module.ClipClient(f"{address}/knn-service", None).query(image="http://example.com/a.jpg")["message"]
    )


def test_the_real_client_gives_a_key_in_its_address(served: Collection) -> None:
    module = _client_module()
    with running(served, Settings(api_keys=frozenset({"se:cret"}))) as address:
        there = f"{address.partition('//')[2]}/knn-service"
        for wrong in (there, f":other@{there}"):
            assert "key" in module.ClipClient(f"http://{wrong}", "laion").query(text="red car")["message"]
        assert module.ClipClient(f"http://:se:cret@{there}", "laion").query(text="red car")
        odd = requests.get(f"{address}/indices-list", headers={"Authorization": "Basic é!".encode()}, timeout=10)
        assert (odd.status_code, list(odd.json())) == (401, ["message"])


def test_what_cannot_be_done_is_done_without_and_named(address: str) -> None:
    module = _client_module()
    seen: list[requests.Response] = []
    with pytest.MonkeyPatch.context() as patch:
        post = requests.post
        patch.setattr(requests, "post", lambda *a, **k: seen.append(post(*a, **k)) or seen[-1])
        assert len(module.ClipClient(f"{address}/knn-service", "laion", num_images=2).query(text="red")) == 2
    assert seen[0].headers["X-Cliphouse-Ignored"] == "use_violence_detector, aesthetic_score, aesthetic_weight"


# -- what a request may say -------------------------------------------------------------------------------------------


def test_only_the_first_results_carry_metadata(client: TestClient) -> None:
    found = ask(client, text="red car", num_images=1, num_result_ids=4)
    assert len(found) == 4
    assert "caption" in found[0]
    assert [set(hit) for hit in found[1:]] == [{"id", "similarity"}] * 3
    assert ask(client, text="red car", num_result_ids=0) == []


def test_the_first_input_that_is_not_empty_counts(client: TestClient) -> None:
    picture = base64.b64encode(_png()).decode()
    horse = ENCODER.encode_texts(["white horse"])[0].tolist()
    first = ask(client, text="white horse", image="not base64!", embedding_input=[1])[0]
    assert first["caption"] == "white horse"
    assert ask(client, text="", image=picture, image_url="http://10.0.0.1/", embedding_input=[1])
    assert ask(client, text="", image=None, image_url="", embedding_input=horse)[0]["caption"] == "white horse"
    refused = client.post(
        "/knn-service", content=json.dumps(_body(image_url="http://10.0.0.1/", embedding_input=horse))
    )
    assert refused.status_code == 403
    assert "fetch" in refused.json()["message"]


def test_an_embedding_is_compared_as_it_is_given(client: TestClient) -> None:
    horse = ENCODER.encode_texts(["white horse"])[0]
    one, three = (ask(client, embedding_input=(n * horse).tolist())[0]["similarity"] for n in (1, 3))
    assert one == pytest.approx(1, abs=1e-3)
    assert three == pytest.approx(3 * one, rel=1e-5)


@pytest.mark.parametrize("vector", [[0.0] * 64, [math.nan] * 64, [1, 2], [], ["a"] * 64, [[1.0]], [10**400] * 64, "a"])
def test_an_embedding_without_direction_is_refused(client: TestClient, vector: Any) -> None:
    answer = client.post("/knn-service", content=json.dumps(_body(embedding_input=vector)))
    assert (answer.status_code, list(answer.json())) == (422, ["message"])


def test_rows_that_do_not_say_they_are_safe_are_left_out(client: TestClient) -> None:
    safe = ask(client, text="a red car", num_images=8, use_safety_model=True)
    assert sorted({hit["NSFW"] for hit in safe}) == ["UNLIKELY", "UNTAGGED"]
    assert len(safe) == 5  # an empty tag is loaded as UNTAGGED
    assert len(ask(client, text="a red car", num_images=8, use_safety_model=False)) == 8


def test_near_duplicates_are_left_out_and_others_take_their_place(client: TestClient) -> None:
    plain = ask(client, text="red car", indice_name="many", num_images=5)
    assert [hit["similarity"] > 0.999 for hit in plain] == [True] * 5
    once = ask(client, text="red car", indice_name="many", num_images=5, deduplicate=True)
    assert [hit["similarity"] > 0.999 for hit in once] == [True] + [False] * 4
    assert once[0]["id"] == plain[0]["id"]
    assert len(ask(client, text="red car", indice_name="many", num_images=20, deduplicate=True)) == 11


def test_duplicates_of_duplicates_are_one_set() -> None:
    angles = np.radians([0, 15, 30, 45, 90, 91, 180])  # neighbours at 15 degrees are alike, at 30 they are not
    assert first_of_each(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)) == [0, 4, 6]
    rows = np.eye(2100, dtype=np.float32)
    rows[2050] = rows[3]
    assert first_of_each(rows) == [each for each in range(2100) if each != 2050]


# -- the other paths --------------------------------------------------------------------------------------------------


def test_collections_are_indices_and_the_served_one_is_first(client: TestClient) -> None:
    assert client.get("/indices-list").json() == ["laion", "many"]
    told = client.get("/config.json").json()
    assert told == {"defaultBackend": "http://testserver", "defaultIndex": "", "urlColumn": "url"}


def test_metadata_comes_in_the_order_of_ids(client: TestClient) -> None:
    answer = client.post("/metadata", content=json.dumps({"indice_name": "laion", "ids": [2, 77, -1, 2**70, 1, 2]}))
    assert [each["id"] for each in answer.json()] == [2, 1, 2]
    assert answer.json()[0]["metadata"] == {
        "url": "https://example.com/0/2.jpg",
        "image_path": "00000000",
        "caption": "blue sky over the sea",
        "NSFW": "UNLIKELY",
    }
    assert client.post("/metadata", content='{"indice_name": null, "ids": []}').json() == []


def test_a_picture_comes_with_a_row_whose_file_may_be_shown(client: TestClient) -> None:
    first, second = ask(client, text="red car", num_images=2)
    shown, hidden = (first, second) if first["id"] == 0 else (second, first)
    with Image.open(io.BytesIO(base64.b64decode(shown["image"]))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (1024, 14))
    assert "image" not in hidden  # a file, but not below a directory of pictures


def test_the_summary_and_the_metrics_count_the_steps_by_the_originals_names(served: Collection) -> None:
    with TestClient(create_app(served)) as client:
        assert client.get("/metrics-summary").headers["content-type"].startswith("text/plain")
        ask(client, text="red car", indice_name="many", deduplicate=True)
        ask(client, image=base64.b64encode(_png()).decode())
        steps = [line.split() for line in client.get("/metrics-summary").text.splitlines()]
        calls = {words[0]: int(words[-3]) for words in steps[1:]}
        assert calls == {
            "full_knn_request_time": 2,
            "download_time": 0,
            "text_clip_inference_time": 1,
            "image_clip_inference_time": 1,
            "metadata_get_time": 2,
            "knn_index_time": 2,
            "dedup_time": 1,
            "safety_time": 0,
            "image_prepro_time": 1,
            "text_prepro_time": 0,
        }
        assert "knn_index_time_count 2.0" in client.get("/metrics").text


def test_keys_are_asked_for_and_lack_of_one_is_a_message(served: Collection, pictures: Path) -> None:
    body = json.dumps(_body(text="a red car parked", num_images=1))
    there = {"Origin": "https://example.com"}
    with TestClient(create_app(served, Settings(api_keys=frozenset({"secret"}), pictures=(pictures,)))) as client:
        for path in ("/knn-service", "/metadata"):
            refused = client.post(path, content=body, headers=there)
            assert (refused.status_code, list(refused.json())) == (401, ["message"])
            assert refused.headers["Access-Control-Allow-Origin"] == "*"
        asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        assert client.options("/knn-service", headers=there | asking).status_code == 200  # browsers ask without a key
        given = client.post("/knn-service", content=body, headers=there | {"Authorization": "Bearer secret"})
        assert "image" in given.json()[0]


def test_a_body_that_is_too_large_and_a_wrong_method_are_messages_too(served: Collection) -> None:
    with TestClient(create_app(served, Settings(max_body=1000))) as client:
        large = client.post("/knn-service", content=json.dumps(_body(image="a" * 2000)))
        assert (large.status_code, list(large.json())) == (413, ["message"])
        assert list(client.get("/knn-service").json()) == ["message"]


# -- pages of others --------------------------------------------------------------------------------------------------


def test_pages_of_any_origin_may_ask_as_with_the_original(client: TestClient) -> None:
    there = {"Origin": "https://rom1504.github.io"}
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    allowed = client.options("/knn-service", headers=there | asking)
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == "*"
    assert "authorization" in allowed.headers["Access-Control-Allow-Headers"]
    answer = client.post("/knn-service", content=json.dumps(_body(text="red car")), headers=there)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "X-Cliphouse-Ignored" in answer.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Origin" not in client.get("/api/v1/status", headers=there).headers


def test_pages_of_other_origins_get_no_files_of_this_disk(client: TestClient) -> None:
    body = json.dumps(_body(text="a red car parked", num_images=8))

    def pictures(origin: str) -> int:
        answer = client.post("/knn-service", content=body, headers={"Origin": origin})
        return sum("image" in hit for hit in answer.json())

    assert pictures("http://testserver") == 1
    assert [pictures(origin) for origin in ("https://example.com", "null", "http://testserver:8001")] == [0, 0, 0]


def test_the_address_of_a_back_may_end_in_a_slash(client: TestClient) -> None:
    assert client.post("http://testserver//knn-service", content=json.dumps(_body(text="red"))).status_code == 200


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": None}, "nothing to look for"),
        ({"text": 7}, "text must be a text"),
        ({"text": "a" * 3000}, "2,000 characters"),
        ({"text": "a", "modality": None}, "modality must be"),
        ({"text": "a", "modality": "audio"}, "modality must be"),
        ({"text": "a", "num_images": None}, "num_images must be a whole number"),
        ({"text": "a", "num_images": -1}, "num_images must be"),
        ({"text": "a", "num_images": True}, "num_images must be"),
        ({"text": "a", "num_result_ids": 10_001}, "from 0 to 10,000"),
        ({"text": "a", "indice_name": 3}, "indice_name must be"),
        ({"image": "!!"}, "base64"),
        ({"image": base64.b64encode(b"no picture").decode()}, "picture"),
    ],
)
def test_what_is_wrong_is_a_message(client: TestClient, fields: dict[str, Any], message: str) -> None:
    answer = client.post("/knn-service", content=json.dumps(_body(**fields)))
    assert (answer.status_code, list(answer.json())) == (422, ["message"])
    assert message in answer.json()["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"num_images": ' + b"9" * 5000 + b"}"])
def test_bodies_that_are_no_request_are_refused_in_json(client: TestClient, body: bytes) -> None:
    for path in ("/knn-service", "/metadata"):
        answer = client.post(path, content=body, headers={"Content-Type": "text/plain"})
        assert (answer.status_code, list(answer.json())) == (422, ["message"])


def test_other_refusals_are_json_too(client: TestClient) -> None:
    unknown = client.post("/knn-service", content=json.dumps(_body(text="a", indice_name="laion_shards")))
    assert (unknown.status_code, list(unknown.json())) == (404, ["message"])
    missing = client.post("/metadata", content='{"ids": [1]}')
    assert "indice_name is missing" in missing.json()["message"]
    assert "ids must be" in client.post("/metadata", content='{"indice_name": null, "ids": ["1"]}').json()["message"]


def test_options_that_nobody_knows_are_named_if_a_header_can_hold_them(client: TestClient) -> None:
    odd = {"color": "red", "bad\r\nname": 1, "off": False, "empty": "", "none": None, "aesthetic_score": 0}
    answer = client.post("/knn-service", content=json.dumps(_body(text="a red car", use_mclip=True) | odd))
    assert answer.status_code == 200
    assert answer.headers["X-Cliphouse-Ignored"] == "use_mclip, color, aesthetic_score"


def _png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "blue").save(out, "PNG")
    return out.getvalue()
