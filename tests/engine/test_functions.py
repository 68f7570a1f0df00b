"""`encode_text` and `encode_image` in SQL, in embedded databases."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cliphouse import Collection, IndexConfig
from cliphouse.encoders.access import ImageAccess
from cliphouse.engine import connect
from cliphouse.errors import (
    CliphouseError,
    EncoderUnavailable,
    EngineError,
    ImageNotAllowed,
    InvalidImage,
    InvalidVector,
    UsageError,
)
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
    ("call", "error", "words"),
    [
        ("encode_text('?!')", InvalidVector, "no word"),
        ("encode_text(materialize('?!'))", InvalidVector, "no word"),
        ("encode_image('/nowhere/cat.png')", InvalidImage, "/nowhere/cat.png: cannot be opened: No such file"),
        ("encode_image('https://example.com/cat.png')", ImageNotAllowed, "URLs are not fetched"),
    ],
)
def test_what_cannot_be_encoded_is_the_encoders_own_error(
    embedded: Collection, cliphouse: Callable, call: str, error: type[CliphouseError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        embedded.sql(f"SELECT {call}")
    path = embedded.engine.location.path
    embedded.close()
    outcome = cliphouse("sql", f"SELECT {call}", "--db", path)
    assert (outcome.code, outcome.err) == (2, f"cliphouse: {caught.value}\n")


def test_what_an_encoder_does_wrong_is_an_engine_error_in_one_line(tmp_path: Path, shards: Path) -> None:
    class Broken(type(ENCODER)):
        def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
            raise ArithmeticError("out of tune")

    with Collection.open(tmp_path / "db", encoder=Broken()) as collection:
        with pytest.raises(EngineError, match=r"^out of tune") as caught:
            collection.sql("SELECT encode_text('a')")
        assert "\n" not in str(caught.value)


def test_threads_get_each_their_own_error(embedded: Collection) -> None:
    def refused(number: int) -> bool:
        with pytest.raises(InvalidImage) as caught:
            embedded.sql("SELECT encode_image({p:String})", {"p": f"/nowhere/{number}.png"})
        return caught.value.path == f"/nowhere/{number}.png"

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(refused, range(40)))


class Counting(type(ENCODER)):
    """The word encoder; it remembers what it was asked for."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += texts
        return super().encode_texts(texts)


@pytest.fixture
def counted(tmp_path: Path, shards: Path) -> Iterator[tuple[Collection, list[str]]]:
    """The eight rows, and the texts that SQL had encoded since."""
    encoder = Counting()
    with Collection.open(tmp_path / "db", encoder=encoder) as collection:
        collection.load(shards)
        yield collection, encoder.texts


DISTANCE = "cosineDistance(encode_text(caption), encode_text('red car'))"
NEAREST = "SELECT caption FROM laion ORDER BY cosineDistance(text_embedding, {}) LIMIT 1"


@pytest.mark.parametrize(
    ("sql", "answer"),
    [
        ("SELECT count() FROM laion WHERE length(encode_text(caption)) = 256", [8]),
        (f"SELECT caption FROM laion ORDER BY {DISTANCE} LIMIT 2", ["red car", "a red car parked"]),
        ("SELECT sum(length(encode_text(caption))) FROM laion", [8 * 256]),
        ("SELECT count() FROM laion GROUP BY encode_text(caption) = encode_text('red car') ORDER BY 1", [1, 7]),
        ("SELECT arraySum(arrayMap(text -> length(encode_text(text)), ['a', 'b']))", [512]),
        ("SELECT length(encode_text(caption)) FROM laion WHERE id < 0", []),
        ("SELECT length(encode_text(toFixedString('cat', 3)))", [256]),
        ("SELECT length(encode_text(toLowCardinality(caption))) FROM laion LIMIT 2", [256, 256]),
        (f"WITH encode_text('red car') AS v {NEAREST.format('v')}", ["red car"]),
        (NEAREST.format("encode_text((SELECT caption FROM laion WHERE id = 4))"), ["two yellow birds"]),
    ],
)
def test_the_functions_stand_wherever_sql_takes_an_expression(
    embedded: Collection, sql: str, answer: list[object] | int
) -> None:
    found = embedded.sql(sql)
    rows = found.column(0).to_pylist() if found.num_columns else []
    assert (len(rows) if isinstance(answer, int) else rows) == answer


def test_a_limit_encodes_no_more_rows_than_it_shows(counted: tuple[Collection, list[str]]) -> None:
    collection, texts = counted
    assert collection.sql("SELECT encode_text(caption) FROM laion LIMIT 2").num_rows == 2
    assert len(texts) == 2


def test_null_has_no_embedding_and_is_an_empty_array(counted: tuple[Collection, list[str]]) -> None:
    collection, texts = counted
    found = collection.sql("SELECT encode_text(if(id % 2 = 1, NULL, caption)) AS v FROM laion ORDER BY id LIMIT 4")
    assert [len(v) for v in found.column("v").to_pylist()] == [256, 0, 256, 0]
    assert collection.sql("SELECT encode_text(NULL) AS v").column("v").to_pylist() == [[]]
    assert texts == [CAPTIONS[0], CAPTIONS[2]]
    with pytest.raises(EngineError, match="equal sizes"):
        collection.sql("SELECT cosineDistance(text_embedding, encode_text(NULL)) FROM laion")


def test_a_directory_that_holds_only_functions_opens_again(tmp_path: Path) -> None:
    for _ in range(2):
        with Collection.open(tmp_path / "db", encoder="test-words") as collection:
            assert collection.sql("SELECT length(encode_text('a')) AS n").column("n").to_pylist() == [256]


def test_bytes_that_are_no_text_do_no_harm(embedded: Collection) -> None:
    assert embedded.sql("SELECT length(encode_text(unhex('ff2061'))) AS n").column("n").to_pylist() == [256]
    for path in (r"a\0b", r"\xff.png"):
        with pytest.raises(InvalidImage, match="cannot read the picture"):
            embedded.sql(f"SELECT encode_image('{path}')")


def test_a_session_that_may_only_read_encodes_too(embedded: Collection) -> None:
    embedded.install_functions()
    out: list[bytes] = []
    with embedded.engine.session() as session:
        for sql in (
            "SET readonly = 1",
            "SELECT length(encode_text(caption)) + length(encode_text('a')) FROM laion LIMIT 1",
        ):
            session.run(sql, out.append, parameters={}, format="TabSeparated" if "SELECT" in sql else None)
    assert b"".join(out) == b"512\n"


def test_pictures_are_opened_only_where_the_collection_allows(embedded: Collection, tmp_path: Path) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 9), (30, 70, 220)).save(tmp_path / name / "blue.png")
    sql = "SELECT length(encode_image({p:String})) AS n"
    paths = [str(tmp_path / name / "blue.png") for name in ("in", "out")]
    assert [embedded.sql(sql, {"p": path}).column("n").to_pylist() for path in paths] == [[256], [256]]
    embedded.image_access = ImageAccess((tmp_path / "in",))
    assert embedded.sql(sql, {"p": paths[0]}).column("n").to_pylist() == [256]
    with pytest.raises(ImageNotAllowed, match="not below an allowed directory"):
        embedded.sql(sql, {"p": paths[1]})


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


def test_the_functions_are_stored_once_and_replace_those_of_an_older_version(embedded: Collection) -> None:
    path = embedded.engine.location.path
    embedded.engine.command(
        "CREATE FUNCTION encode_text AS t -> (SELECT reinterpret(assumeNotNull(_encode_text(t)), 'Array(Float32)'))"
    )
    assert embedded.sql("SELECT sum(length(encode_text(caption))) AS n FROM laion").column("n").to_pylist() == [8 * 256]
    stored = {file: file.stat().st_ino for file in path.rglob("function_encode_*.sql")}
    assert len(stored) == 2
    embedded.close()
    with Collection.open(path) as again:
        again.sql("SELECT encode_text('a')")
    assert {file: file.stat().st_ino for file in path.rglob("function_encode_*.sql")} == stored


def test_an_encoder_that_cannot_run_says_so(tmp_path: Path) -> None:
    with (
        Collection.open(tmp_path / "db") as empty,
        pytest.raises(EncoderUnavailable, match="'clip-vit-b32' cannot run here"),
    ):
        empty.sql("SELECT encode_text('cat')")


def test_a_server_is_not_given_functions(server_url: str) -> None:
    with Collection.open(f"{server_url}/default") as collection, pytest.raises(UsageError, match="embedded"):
        collection.engine.install_function("f", lambda text: text.encode())


def test_threads_with_other_encoders_get_the_answers_of_their_own(tmp_path: Path) -> None:
    @dataclass  # which cannot be hashed, and two of which are equal
    class Constant:
        value: float = field(compare=False)
        name: str = "constant"
        dim: int = 3

        def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
            return np.full((len(texts), self.dim), self.value, dtype=np.float32)

        def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
            return np.full((len(images), self.dim), self.value, dtype=np.float32)

    with connect(str(tmp_path / "db")) as engine:
        collections = [Collection(engine, f"c{value}", Constant(value)) for value in (1, 2)]

        def ask(number: int) -> tuple[int, float]:
            kind = number % 2
            answer = collections[kind].sql(f"SELECT encode_text('text {number // 4}') AS v")
            return kind, answer["v"][0].as_py()[0]

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(ask, range(40)))
    assert {value for kind, value in answers if kind == 0} == {1.0}
    assert {value for kind, value in answers if kind == 1} == {2.0}
