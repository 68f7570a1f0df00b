from __future__ import annotations

import gzip
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("onnxruntime")

from cliphouse.encoders import demo_text
from cliphouse.encoders.demo import FILES, DemoEncoder
from cliphouse.encoders.demo_text import WordPiece
from cliphouse.errors import InvalidVector

PACK = Path(__file__).resolve().parents[2] / "demo" / "pictures.parquet"
QUERIES = PACK.with_name("queries")
NAMED = {"noto/1f408", "noto/1f415", "noto/1f6b2", "noto/1f33b", "twemoji/1f1ef-1f1f5"}


@pytest.fixture(scope="module")
def alone() -> DemoEncoder:
    """The encoder without MiniLM: needs nothing that is not in the package."""
    return DemoEncoder(minilm=False)


@pytest.fixture(scope="module")
def pictures() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(PACK).to_pylist()
    others = [row for row in rows if row["source"] in ("noto", "twemoji") and row["key"] not in NAMED]
    return others[::10] + [row for row in rows if row["key"] in NAMED]


def opened(row: dict[str, object]) -> Image.Image:
    webp = row["webp"]
    assert isinstance(webp, bytes)
    return Image.open(io.BytesIO(webp))


def test_the_files_are_those_that_were_measured() -> None:
    files = json.loads((FILES / "encoder.json").read_text(encoding="utf-8"))["files"]
    for name, facts in files.items():
        assert hashlib.sha256((FILES / name).read_bytes()).hexdigest() == facts["sha256"]
    assert sum(facts["bytes"] for facts in files.values()) <= 12_000_000


@pytest.mark.parametrize(
    ("text", "key"),
    [("cat", "noto/1f408"), ("dog", "noto/1f415"), ("bicycle", "noto/1f6b2"), ("flag of Japan", "twemoji/1f1ef-1f1f5")],
)
def test_words_find_pictures_without_minilm(
    alone: DemoEncoder, pictures: list[dict[str, object]], text: str, key: str
) -> None:
    scores = alone.encode_images([opened(row) for row in pictures]) @ alone.encode_texts([text])[0]
    assert key in [pictures[at]["key"] for at in np.argsort(-scores)[:3]]


@pytest.mark.parametrize(("name", "key"), [("bicycle", "noto/1f6b2"), ("sunflower", "noto/1f33b")])
def test_a_picture_finds_another_vendors_drawing(
    alone: DemoEncoder, pictures: list[dict[str, object]], name: str, key: str
) -> None:
    with Image.open(QUERIES / f"{name}.png") as image:
        query = alone.encode_images([image])[0]
    scores = alone.encode_images([opened(row) for row in pictures]) @ query
    assert pictures[int(scores.argmax())]["key"] == key


def test_words_that_did_not_train_are_read_as_known_words_near_them(alone: DemoEncoder) -> None:
    without = DemoEncoder(minilm=False, dictionary=False)
    for unknown, known in (("valise", "suitcase"), ("sabre", "sword"), ("raptor", "eagle")):
        wanted = alone.encode_texts([known])[0]
        assert alone.encode_texts([unknown])[0] @ wanted > without.encode_texts([unknown])[0] @ wanted + 0.1
    texts = ["suitcase", "xyzzyx"]  # the one from training, the other in no dictionary
    assert np.array_equal(alone.encode_texts(texts), without.encode_texts(texts))


def test_a_vector_depends_on_its_own_text_and_picture_alone(alone: DemoEncoder) -> None:
    texts = ["a red car", "snow", "the moon at night"]
    assert np.array_equal(alone.encode_texts(texts), np.concatenate([alone.encode_texts([text]) for text in texts]))
    images = [Image.new("RGB", (90, 40), colour) for colour in ("red", "navy", "gold")]
    one_by_one = np.concatenate([alone.encode_images([image]) for image in images])
    assert np.allclose(alone.encode_images(images), one_by_one, atol=1e-5)


def test_transparent_means_white(alone: DemoEncoder) -> None:
    drawn = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    drawn.paste((200, 30, 30, 255), (10, 10, 50, 50))
    on_white = Image.new("RGB", (64, 64), "white")
    on_white.paste((200, 30, 30), (10, 10, 50, 50))
    assert np.allclose(*alone.encode_images([drawn, on_white]), atol=1e-5)


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_a_blank_text_is_refused(alone: DemoEncoder, text: str) -> None:
    with pytest.raises(InvalidVector):
        alone.encode_texts([text])


def test_no_texts_and_no_pictures_give_no_rows(alone: DemoEncoder) -> None:
    assert alone.encode_texts([]).shape == alone.encode_images([]).shape == (0, alone.dim)


def test_another_minilm_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_text, "MINILM_SHA256", "0" * 64)
    monkeypatch.setattr(demo_text, "MINILM_PACKAGE", "json")  # any installed package, with a file of that name or not
    with pytest.warns(UserWarning, match="without MiniLM"):
        DemoEncoder()


def test_word_piece_gives_berts_ids() -> None:
    vocabulary = gzip.decompress((FILES / "wordpiece.txt.gz").read_bytes()).decode().splitlines()
    word_piece = WordPiece(vocabulary)
    assert word_piece.encode("Hello, world!") == [101, 7592, 1010, 2088, 999, 102]
    assert word_piece.encode("naïve café") == word_piece.encode("NAIVE cafe")
    assert len(word_piece.encode("word " * 200)) == 64
