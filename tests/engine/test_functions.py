"""`encode_text` and `encode_image` in SQL, in embedded databases."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliphouse import Collection, IndexConfig
from cliphouse.errors import EngineError, UsageError
from tests.data import CAPTIONS, ENCODER


def test_a_column_of_texts_is_encoded_row_by_row(embedded: Collection) -> None:
    rows = embedded.sql("SELECT id, encode_text(caption) AS v FROM laion ORDER BY id").column("v").to_pylist()
    assert np.array(rows) == pytest.approx(ENCODER.encode_texts(CAPTIONS))


def test_the_collections_own_encoder_answers_without_being_named(embedded: Collection) -> None:
    with Collection.open(embedded.engine.location.path) as again:
        found = again.sql("SELECT caption FROM laion ORDER BY cosineDistance(text_embedding, encode_text('red car'))")
    assert found.column("caption").to_pylist()[:2] == ["red car", "a red car parked"]


def test_a_constant_text_keeps_the_index_in_use(embedded: Collection) -> None:
    embedded.build_index(config=IndexConfig(m=16, ef_construction=32))
    found = embedded.sql(
        "SELECT caption FROM laion ORDER BY cosineDistance(image_embedding, encode_text('red car')) LIMIT 1 "
        "SETTINGS force_data_skipping_indices = 'image_index'"
    )
    assert found.column("caption").to_pylist() == ["red car"]


def test_pictures_are_encoded_from_local_files(embedded: Collection, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), (30, 70, 220)).save(tmp_path / "it's blue.png")
    found = embedded.sql(
        "SELECT caption FROM laion ORDER BY cosineDistance(image_embedding, encode_image({p:String})) LIMIT 1",
        {"p": str(tmp_path / "it's blue.png")},
    )
    assert found.column("caption").to_pylist() == ["blue sky over the sea"]


def test_a_picture_that_changed_is_encoded_again(embedded: Collection, tmp_path: Path) -> None:
    path, sql = tmp_path / "p.png", "SELECT encode_image({p:String}) AS v"
    answers = []
    for stamp, colour in enumerate(((220, 30, 30), (30, 70, 220))):
        Image.new("RGB", (9, 9), colour).save(path)
        os.utime(path, ns=(stamp, stamp))
        answers.append(embedded.sql(sql, {"p": str(path)}).column("v")[0].as_py())
    assert answers[0] != answers[1]


@pytest.mark.parametrize(
    ("call", "words"),
    [("encode_text('?!')", "no word"), ("encode_image('/nowhere/cat.png')", "/nowhere/cat.png: No such file")],
)
def test_what_cannot_be_encoded_is_said_in_one_line(embedded: Collection, call: str, words: str) -> None:
    with pytest.raises(EngineError, match=words) as caught:
        embedded.sql(f"SELECT {call}")
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_eight_threads_use_the_functions_at_once(embedded: Collection) -> None:
    sql = "SELECT caption FROM laion ORDER BY cosineDistance(text_embedding, encode_text({t:String})) LIMIT 1"

    def first(number: int) -> str:
        return embedded.sql(sql, {"t": CAPTIONS[number % len(CAPTIONS)]}).column("caption").to_pylist()[0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(first, range(80))) == [CAPTIONS[number % len(CAPTIONS)] for number in range(80)]


def test_python_takes_one_statement_and_no_format(embedded: Collection) -> None:
    with pytest.raises(UsageError, match="one statement"):
        embedded.sql("SELECT 1; SELECT 2")
    with pytest.raises(UsageError, match="FORMAT"):
        embedded.sql("SELECT 1 FORMAT JSON")


def test_the_functions_survive_reopening_and_follow_the_encoder(embedded: Collection) -> None:
    path = embedded.engine.location.path
    embedded.sql("SELECT encode_text('a')")
    embedded.close()
    for _ in range(2):
        with Collection.open(path) as again:
            assert len(again.sql("SELECT encode_text('a') AS v").column("v")[0].as_py()) == 256


def test_an_encoder_that_cannot_run_says_so(tmp_path: Path) -> None:
    with Collection.open(tmp_path / "db") as empty, pytest.raises(EngineError, match="'clip-vit-b32' cannot run here"):
        empty.sql("SELECT encode_text('cat')")


def test_a_server_is_not_given_functions(server_url: str) -> None:
    with Collection.open(f"{server_url}/default") as collection, pytest.raises(UsageError, match="embedded"):
        collection.engine.install_function("f", lambda text: text.encode())
