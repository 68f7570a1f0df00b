"""Every SQL statement of the ClickHouse tutorial "Laion-400M dataset", as printed there, against NumPy.

The one thing put in is a path where the tutorial has a placeholder. Its own merge script makes the CSV.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cliphouse import Collection, statements
from cliphouse.encoders.words import WordEncoder
from cliphouse.engine import Session
from cliphouse.errors import UsageError
from tests.conftest import SHARED
from tests.data import cosine_distances, random_unit, write_shard

ROWS, DIM = 600, 512

CREATE = """
CREATE TABLE laion
(
    `id` Int64,
    `url` String,
    `caption` String,
    `NSFW` String,
    `similarity` Float32,
    `image_embedding` Array(Float32),
    `text_embedding` Array(Float32)
)
ENGINE = MergeTree
ORDER BY id
"""
INSERT = "INSERT INTO laion FROM INFILE '{path_to_csv_files}/*.csv'"
SEARCH = "SELECT url, caption FROM laion ORDER BY cosineDistance(image_embedding, {target:Array(Float32)}) LIMIT 10"
ADD_INDEXES = (  # printed there without a semicolon between the two
    "ALTER TABLE laion ADD INDEX image_index image_embedding TYPE "
    "vector_similarity('hnsw', 'cosineDistance', 512, 'bf16', 64, 256)\n"
    "ALTER TABLE laion ADD INDEX text_index text_embedding TYPE "
    "vector_similarity('hnsw', 'cosineDistance', 512, 'bf16', 64, 256)\n"
)
MATERIALIZE = """
ALTER TABLE laion MATERIALIZE INDEX image_index;
ALTER TABLE laion MATERIALIZE INDEX text_index;
"""
ENCODE_TEXT = "SELECT encode_text('cat');"
SEARCH_TEXT = """
SELECT url
FROM laion
ORDER BY cosineDistance(text_embedding, encode_text('a dog and a cat')) ASC
LIMIT 10
"""
ENCODE_IMAGE = "SELECT encode_image('/path/to/your/image');"
SEARCH_IMAGE = """
SELECT
    url,
    caption
FROM laion
ORDER BY cosineDistance(image_embedding, encode_image('/path/to/your/image')) ASC
LIMIT 10
"""


class WideWords(WordEncoder):
    """The word encoder with the dimension of the tutorial's index; it remembers the texts it was asked for."""

    name, dim = "test-words-512", DIM

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += texts
        return super().encode_texts(texts)


@pytest.fixture
def encoder() -> WideWords:
    return WideWords()


@pytest.fixture
def run(tmp_path: Path, encoder: WideWords) -> Iterator[Callable[[str], list[list[str]]]]:
    """Run statements in one session of an empty data directory, as `cliphouse sql` does."""
    with Collection.open(tmp_path / "db", encoder=encoder) as collection:
        collection.install_functions()
        with collection.engine.session() as session:
            yield lambda text: _rows(session, text)


def _rows(session: Session, text: str) -> list[list[str]]:
    out: list[bytes] = []
    for statement in statements.split(text):
        form = "TabSeparated" if statements.takes_format(statement) else None
        session.run(statement, out.append, parameters={}, format=form)
    return [line.split("\t") for line in b"".join(out).decode().splitlines()]


@pytest.fixture
def table(run: Callable[[str], list[list[str]]], tmp_path: Path, encoder: WideWords) -> pd.DataFrame:
    """The tutorial's table, made and filled with its own statements; a data frame of what is in it."""
    images, texts = random_unit(ROWS, DIM, seed=1), random_unit(ROWS, DIM, seed=2)
    texts[7] = encoder.encode_texts(["a dog and a cat sleeping"])[0]
    images[3] = encoder.encode_images([Image.new("RGB", (8, 8), (220, 30, 30))])[0]
    encoder.texts.clear()
    data = pd.DataFrame(
        {
            "url": [f"https://example.com/{row}.jpg" for row in range(ROWS)],
            "caption": [f"caption, number {row}" for row in range(ROWS)],
            "NSFW": "UNLIKELY",
            "similarity": 0.3,
            "image_embedding": [row.tolist() for row in images],
            "text_embedding": [row.tolist() for row in texts],
        }
    )
    (tmp_path / "csv").mkdir()
    data.to_csv(tmp_path / "csv" / "0.csv", header=False)
    run(CREATE)
    run(INSERT.replace("{path_to_csv_files}", str(tmp_path / "csv")))
    return data


def _nearest(data: pd.DataFrame, column: str, target: np.ndarray) -> list[int]:
    return np.argsort(cosine_distances(np.array(data[column].tolist()), target))[:10].tolist()


def test_brute_force_search_with_a_client_parameter(run: Callable, table: pd.DataFrame) -> None:
    target = random_unit(1, DIM, seed=5)[0]
    run(f"SET param_target={target.tolist()}")
    wanted = _nearest(table, "image_embedding", target)
    assert run(SEARCH) == [[table.url[row], table.caption[row]] for row in wanted]


def test_search_with_both_indexes(run: Callable, table: pd.DataFrame) -> None:
    run(ADD_INDEXES)
    run(MATERIALIZE)
    target = np.array(table.image_embedding[11]) + 0.01 * random_unit(1, DIM, seed=6)[0]
    run(f"SET param_target={target.tolist()}")
    found = run(SEARCH)
    wanted = [[table.url[row], table.caption[row]] for row in _nearest(table, "image_embedding", target)]
    assert found[0] == wanted[0]
    assert sum(row in wanted for row in found) >= 9
    assert "image_index" in str(run(f"EXPLAIN indexes = 1 {SEARCH}"))


def test_the_statements_here_are_those_printed_there() -> None:
    pages = list((SHARED / "seed").glob("*.txt"))
    if not pages:
        pytest.skip("the tutorial is not shipped with the project")
    printed = pages[0].read_text()
    for statement in (
        CREATE,
        INSERT,
        SEARCH,
        ADD_INDEXES,
        MATERIALIZE,
        ENCODE_TEXT,
        SEARCH_TEXT,
        ENCODE_IMAGE,
        SEARCH_IMAGE,
    ):
        assert statement.strip() in printed


def test_encode_text(run: Callable, encoder: WideWords) -> None:
    ((answer,),) = run(ENCODE_TEXT)
    vector = np.array(answer.strip("[]").split(","), dtype=np.float32)
    assert vector == pytest.approx(WideWords().encode_texts(["cat"])[0])


def test_search_with_encode_text(run: Callable, table: pd.DataFrame, encoder: WideWords) -> None:
    target = WideWords().encode_texts(["a dog and a cat"])[0]
    wanted = [[table.url[row]] for row in _nearest(table, "text_embedding", target)]
    assert wanted[0] == ["https://example.com/7.jpg"]
    assert run(SEARCH_TEXT) == wanted
    assert encoder.texts == ["a dog and a cat"], "encoded once for the query, not once for each row"
    run(ADD_INDEXES)
    run(MATERIALIZE)
    assert run(SEARCH_TEXT)[0] == wanted[0]
    assert run(f"{SEARCH_TEXT} SETTINGS force_data_skipping_indices = 'text_index'")[0] == wanted[0]
    assert encoder.texts == ["a dog and a cat"]


def test_encode_image_and_search_with_it(run: Callable, table: pd.DataFrame, tmp_path: Path) -> None:
    picture = Image.new("RGB", (60, 40), (220, 30, 30))
    picture.save(tmp_path / "lego.png")
    target = WideWords().encode_images([picture])[0]
    ((answer,),) = run(ENCODE_IMAGE.replace("/path/to/your/image", str(tmp_path / "lego.png")))
    assert np.array(answer.strip("[]").split(","), dtype=np.float32) == pytest.approx(target)
    search = SEARCH_IMAGE.replace("/path/to/your/image", str(tmp_path / "lego.png"))
    wanted = _nearest(table, "image_embedding", target)
    assert wanted[0] == 3
    assert run(search) == [[table.url[row], table.caption[row]] for row in wanted]
    run(ADD_INDEXES)
    run(MATERIALIZE)
    assert run(f"{search} SETTINGS force_data_skipping_indices = 'image_index'")[0][0] == table.url[3]


def test_shards_go_into_the_tutorials_table_too(
    run: Callable, table: pd.DataFrame, tmp_path: Path, encoder: WideWords
) -> None:
    columns = {"similarity": [None, 0.25]}
    vectors = random_unit(2, DIM)
    write_shard(tmp_path / "in", 5, ["x", "y"], images=vectors, texts=vectors, dtype="float32", columns=columns)
    with Collection.open(tmp_path / "db", encoder=encoder) as collection:
        collection.load(tmp_path / "in")
        hits = collection.search(vectors[1], k=1)
        assert (hits[0].id, hits[0].caption, hits[0].similarity) == (500_000_001, "y", 0.25)
        found = collection.sql("SELECT toString(similarity) AS s, image_embedding AS v FROM laion WHERE id = 500000000")
        assert found.column("s").to_pylist() == ["nan"]
        assert found.column("v").to_pylist()[0] == vectors[0].tolist()


def test_a_table_without_the_tutorials_columns_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "in")
    with Collection.open(tmp_path / "db") as collection:
        collection.sql("CREATE TABLE laion (id Int64, image_embedding Array(Float32)) ENGINE = MergeTree ORDER BY id")
        with pytest.raises(UsageError, match="'laion' was not made by cliphouse and lacks the columns url, caption"):
            collection.load(tmp_path / "in")


def test_the_tables_made_by_hand_serve_the_python_api_too(
    run: Callable, table: pd.DataFrame, tmp_path: Path, encoder: WideWords
) -> None:
    with Collection.open(tmp_path / "db", encoder=encoder) as collection:
        info = collection.info()
        assert (info.encoder, info.dim, info.storage) == ("", DIM, "float32")
        hits = collection.search("a dog and a cat", column="text")
        assert hits[0].url == table.url[7]
        collection.build_index("text")
        assert collection.search("a dog and a cat", column="text").plan.path == "hnsw"
