"""What several requests look for is encoded together, and what is wrong with one harms no other."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from cliphouse import Collection
from cliphouse.errors import Busy
from cliphouse.service.app import create_app
from cliphouse.service.encoding import Encoding
from cliphouse.service.metrics import Metrics
from cliphouse.service.settings import Settings
from tests.data import ENCODER, write_shard


class Held:
    """The encoder of the tests, which can be held; it remembers what it was asked together."""

    name, dim = ENCODER.name, ENCODER.dim

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.open = threading.Event()
        self.open.set()

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.batches.append(list(texts))
        assert self.open.wait(20)
        return ENCODER.encode_texts(texts)

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        self.batches.append([image.size for image in images])
        assert self.open.wait(20)
        return np.stack([ENCODER.encode_images([image])[0] for image in images])


@pytest.fixture
def encoder() -> Held:
    return Held()


@pytest.fixture
def collection(tmp_path: Path, encoder: Held) -> Iterator[Collection]:
    with Collection.open(tmp_path / "db", encoder=encoder) as opened:
        opened.load(write_shard(tmp_path / "shards"))
        yield opened


@contextmanager
def held(collection: Collection, encoder: Held, **settings: Any) -> Iterator[tuple[TestClient, ThreadPoolExecutor]]:
    """A service whose encoder is at work for as long as the block does not open it, and threads to ask it from."""
    with TestClient(create_app(collection, Settings(**settings))) as client, ThreadPoolExecutor(16) as threads:
        while not client.get("/readyz").is_success:
            pass
        encoder.batches.clear()
        encoder.open.clear()
        try:
            threads.submit(ask, client, "held up")
            while not encoder.batches:
                pass
            yield client, threads
        finally:
            encoder.open.set()


def ask(client: TestClient, text: str) -> Any:
    return client.post("/api/v1/search", json={"query": {"text": text}, "k": 1})


def send(client: TestClient, picture: bytes) -> Any:
    return client.post("/api/v1/search/image?k=1", content=picture)


def wait_for(client: TestClient, waiting: int) -> None:
    while f"\ncliphouse_encoding_waiting {waiting}.0" not in client.get("/metrics").text:
        pass


def png(width: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, 4), (width, 0, 0)).save(out, "PNG")
    return out.getvalue()


def test_texts_that_come_while_others_are_encoded_are_encoded_together(collection: Collection, encoder: Held) -> None:
    texts = ["red car", "blue sky", "white horse", "red car"]
    with held(collection, encoder) as (client, threads):
        answers: list[Future[Any]] = [threads.submit(ask, client, text) for text in texts]
        wait_for(client, len(texts))
        encoder.open.set()
        found = [answer.result().json()["hits"][0] for answer in answers]
        metrics = client.get("/metrics").text
    assert encoder.batches[0] == ["held up"]
    assert sorted(encoder.batches[1]) == ["blue sky", "red car", "white horse"]
    assert len(encoder.batches) == 2
    assert [hit["id"] for hit in found] == [collection.search(text, k=1)[0].id for text in texts]
    assert 'cliphouse_encoded_together_bucket{le="2.0"} 1.0' in metrics
    assert 'cliphouse_encoded_together_bucket{le="4.0"} 2.0' in metrics


def test_a_picture_that_cannot_be_read_is_its_senders_fault_alone(collection: Collection, encoder: Held) -> None:
    with held(collection, encoder) as (client, threads):
        good, bad = threads.submit(send, client, png(5)), threads.submit(send, client, b"no picture")
        wait_for(client, 2)
        other = threads.submit(send, client, png(6))
        wait_for(client, 3)
        encoder.open.set()
        assert [good.result().status_code, bad.result().status_code, other.result().status_code] == [200, 422, 200]
    assert sorted(encoder.batches[1]) == [(5, 4), (6, 4)]


def test_many_pictures_are_not_decoded_at_once(collection: Collection, encoder: Held) -> None:
    with held(collection, encoder) as (client, threads):
        answers = [threads.submit(send, client, png(5 + number)) for number in range(6)]
        wait_for(client, 6)
        encoder.open.set()
        assert all(answer.result().is_success for answer in answers)
    assert [len(batch) for batch in encoder.batches] == [1, 4, 2]


def test_who_comes_when_too_many_wait_is_told_to_come_again(collection: Collection, encoder: Held) -> None:
    with held(collection, encoder, waiting=2) as (client, threads):
        answers = [threads.submit(ask, client, text) for text in ("red car", "blue sky")]
        wait_for(client, 2)
        refused = ask(client, "white horse")
        assert (refused.status_code, int(refused.headers["Retry-After"]) >= 1) == (503, True)
        assert refused.json()["type"].endswith("busy")
        encoder.open.set()
        assert [answer.result().status_code for answer in answers] == [200, 200]


def test_what_waits_too_long_is_told_so_and_is_not_encoded(collection: Collection, encoder: Held) -> None:
    with held(collection, encoder, timeout=0.2) as (client, _):
        assert ask(client, "too late").status_code == 504
        encoder.open.set()
        assert ask(client, "in time").status_code == 200
    assert ["too late"] not in encoder.batches


def test_an_encoder_that_fails_answers_all_and_goes_on() -> None:
    class Failing(Held):
        def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
            if "bad" in texts:
                raise RuntimeError("broken")
            return super().encode_texts(texts)

    async def go() -> None:
        failing = Failing()
        encoding = Encoding(lambda _: failing, Settings(), Metrics())
        outcomes = await asyncio.gather(
            *(encoding.vector(None, text) for text in ("bad", "as well")), return_exceptions=True
        )
        assert [str(outcome) for outcome in outcomes] == ["broken", "broken"]
        assert (await encoding.vector(None, "good")).shape == (ENCODER.dim,)
        await encoding.close()

    asyncio.run(go())


def test_who_goes_away_is_not_encoded_and_an_end_leaves_nobody_waiting() -> None:
    async def go() -> None:
        encoder = Held()
        encoder.open.clear()
        encoding = Encoding(lambda _: encoder, Settings(waiting=2), Metrics())
        first = asyncio.create_task(encoding.vector(None, "first of these"))
        while not encoder.batches:
            await asyncio.sleep(0)
        gone, left = (asyncio.create_task(encoding.vector(None, text)) for text in ("gone", "left"))
        while encoding.waiting < 2:
            await asyncio.sleep(0)
        with pytest.raises(Busy):
            await encoding.vector(None, "one more")
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert encoding.waiting == 1
        encoder.open.set()
        await encoding.close()
        await asyncio.gather(first, left, return_exceptions=True)
        assert (gone.cancelled(), left.cancelled(), first.cancelled()) == (True, True, False)
        assert encoder.batches == [["first of these"]]

    asyncio.run(go())
