"""Shards that are one parquet file, embeddings included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cliphouse import Collection, IndexConfig
from cliphouse.errors import (
    ShardError,
    UsageError,
)
from cliphouse.pipeline import merged
from cliphouse.types import LoadOptions
from tests.data import CAPTIONS, random_unit, write_shard
from tests.merged import ENCODED, lists, opened_at, write_merged

EVERYTHING = "SELECT * FROM laion ORDER BY id"


# -- what is in the table ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed_size_list", "tensor"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_embeddings_are_read_as_they_are(tmp_path: Path, kind: str, dtype: str) -> None:
    vectors = random_unit(100, 8).astype(dtype)
    columns = {"image_embedding": lists(vectors, kind), "text_embedding": lists(vectors[::-1], kind)}
    path = write_merged(tmp_path / "0.parquet", ["a"] * 100, columns=columns, row_group_size=30)
    (rows,) = opened_at(path).batches(1000)
    assert rows.image.dtype == dtype
    np.testing.assert_array_equal(rows.image, vectors)
    np.testing.assert_array_equal(rows.text, vectors[::-1])


def test_a_merged_file_fills_the_table_as_npy_files_do(db: str, tmp_path: Path) -> None:
    npy = write_shard(tmp_path / "npy", columns={"LICENSE": None, "key": None, "image_path": None, "height": None})
    write_merged(tmp_path / "merged" / "laion_0.parquet", dtype="float16", row_group_size=3)
    with Collection.open(db, encoder="test-words") as collection:
        collection.load(npy)
        expected = collection.sql(EVERYTHING)
        other = Collection(collection.engine, "other", "test-words")
        assert other.load(tmp_path / "merged").loaded == (0,)
        assert _comparable(other.sql("SELECT * FROM other ORDER BY id")) == _comparable(expected)
        assert other.search("a red car parked", k=1)[0].caption == "a red car parked"


def _comparable(table: pa.Table) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = table.drop_columns(["original_width", "original_height"]).to_pylist()
    return rows


def test_rows_without_a_whole_embedding_keep_their_place(tmp_path: Path) -> None:
    image = [list(map(float, vector)) for vector in ENCODED]
    broken: list[Any] = [*image]
    broken[1], broken[3], broken[4], broken[6] = None, [], broken[4][:-1], [None, *broken[6][1:]]
    columns = {"image_embedding": pa.array(broken, pa.list_(pa.float32())), "text_embedding": None}
    path = write_merged(tmp_path / "5.parquet", columns=columns)
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        report = collection.load(path)
        assert (report.rows, dict(report.left_out)) == (4, {"vector": 4})
        found = collection.sql("SELECT row, caption FROM laion ORDER BY id").to_pylist()
    assert found == [{"row": row, "caption": CAPTIONS[row]} for row in (0, 2, 5, 7)]


def test_rows_without_a_text_embedding_go_out_and_come_back(tmp_path: Path) -> None:
    write_shard(tmp_path / "in", 0)
    write_shard(tmp_path / "in", 1, with_text=False)
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        collection.load(tmp_path / "in")
        collection.export(tmp_path / "7.parquet", where="row < 5")
        again = Collection(collection.engine, "again", "test-words")
        report = again.load(tmp_path / "7.parquet")
        assert (report.rows, report.left_out) == (10, {})
        assert len(again.search("red car", k=20)) == 10
        assert {hit.id % 100 for hit in again.search("red car", k=20, column="text")} == set(range(5))
        assert again.verify(tmp_path / "7.parquet").same
        again.delete(where="row >= 5")
        again.build_index("text", IndexConfig(m=16, ef_construction=64))
        again.export(tmp_path / "8.parquet", where="true")
        assert again.load(tmp_path / "8.parquet").rows == 5
        (tmp_path / "7.parquet").rename(tmp_path / "9.parquet")
        with pytest.raises(
            UsageError, match=r"9\.parquet row 5 has no text embedding, and text_embedding has an index"
        ):
            again.load(tmp_path / "9.parquet")
        assert again.status().shards == (7, 8)


@pytest.mark.parametrize("broken", [[0.0] * 256, [1.0], [float("nan")] * 256])
def test_a_text_embedding_that_is_there_and_broken_is_dirt(tmp_path: Path, broken: list[float]) -> None:
    texts = [broken, None, [], *(list(map(float, vector)) for vector in ENCODED[3:])]
    path = write_merged(tmp_path / "5.parquet", columns={"text_embedding": pa.array(texts, pa.list_(pa.float32()))})
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        assert dict(collection.load(path).left_out) == {"vector": 1}
        found = collection.sql("SELECT row FROM laion WHERE empty(text_embedding) ORDER BY id")
    assert found.column("row").to_pylist() == [1, 2]


def test_a_row_without_an_embedding_says_where_it_is_if_it_must_not_be(tmp_path: Path) -> None:
    columns = {"image_embedding": lists(ENCODED, without=[2]), "text_embedding": None}
    path = write_merged(tmp_path / "5.parquet", columns=columns)
    with (
        Collection.open(tmp_path / "db", encoder="test-words") as collection,
        pytest.raises(ShardError, match=r"shard 5: .*5\.parquet row 2 holds NaN"),
    ):
        collection.load(path, options=LoadOptions(on_bad_row="fail"))


def test_what_lies_below_a_null_is_not_read() -> None:
    """Arrow lets anything be there, and its own parquet reader, so far, puts nulls."""
    column, out = lists(ENCODED, "fixed_size_list", without=[2, 5]), np.zeros_like(ENCODED)
    merged._copy(column.slice(1), out[1:])
    assert np.isnan(out[[2, 5]]).all()
    np.testing.assert_array_equal(out[[1, 3, 4, 6, 7]], ENCODED[[1, 3, 4, 6, 7]])


def test_the_usual_length_counts_not_the_first(tmp_path: Path) -> None:
    vectors = [[1.0], *([[0.6, 0.8, 0.0]] * 7)]
    columns = {"image_embedding": pa.array(vectors), "text_embedding": None}
    assert opened_at(write_merged(tmp_path / "0.parquet", columns=columns)).dim == 3


@pytest.mark.parametrize("size", [-1, 256])
def test_a_text_column_without_embeddings_is_none(tmp_path: Path, size: int) -> None:
    columns = {"text_embedding": pa.array([None] * 8, pa.list_(pa.float32(), size))}
    assert not opened_at(write_merged(tmp_path / "0.parquet", columns=columns)).has_text


@pytest.mark.parametrize(
    ("image", "text"),
    [("vector", None), ("img_emb", None), ("Image_Emb", "TEXT_EMB"), ("embedding", None), ("emb", "caption_embedding")],
)
def test_columns_have_the_names_of_public_exports(tmp_path: Path, image: str, text: str | None) -> None:
    columns = {"image_embedding": None, "text_embedding": None, image: lists(ENCODED)}
    columns |= {text: lists(ENCODED[::-1])} if text else {}
    columns |= {"url": None, "caption": None, "URL": ["u"] * 8, "TEXT": pa.array(CAPTIONS).dictionary_encode()}
    opened = opened_at(write_merged(tmp_path / "0.parquet", columns=columns))
    (rows,) = opened.batches(8)
    np.testing.assert_array_equal(rows.image, ENCODED)
    assert opened.has_text == (text is not None)
    assert rows.metadata["caption"].to_pylist() == list(CAPTIONS)
    assert opened.take(np.array([1, 6])).metadata["caption"].to_pylist() == [CAPTIONS[1], CAPTIONS[6]]


# -- how much is in memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row_group", [1000, 60_000])
def test_memory_does_not_grow_with_the_row_group(tmp_path: Path, row_group: int) -> None:
    """60,000 rows of 256 numbers twice are 123 MB; a reader that holds row groups or their chunks has more at once."""
    rows, dim = 60_000, 256
    vectors = random_unit(1000, dim).repeat(60, axis=0)
    columns = {"image_embedding": lists(vectors), "text_embedding": lists(vectors), "NSFW": None, "width": None}
    columns |= {name: ["x"] * rows for name in ("url", "caption")} | {"similarity": None}
    path = write_merged(
        tmp_path / "0.parquet",
        ["x"] * rows,
        columns=columns,
        row_group_size=row_group,
        use_dictionary=False,
        compression="none",
    )
    opened = opened_at(path)
    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        assert sum(len(batch.numbers) for batch in opened.batches(8192)) == rows
        assert len(opened.take(np.array([3, rows - 1])).image) == 2
    finally:
        pa.set_memory_pool(usual)
    assert 10e6 < pool.max_memory() < 100e6


@pytest.mark.parametrize("row_group", [1, 7, 100])
@pytest.mark.parametrize("at_a_time", [1, 9, 10, 60])
def test_blocks_are_as_large_as_they_are_wanted(
    tmp_path: Path, row_group: int, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cliphouse.pipeline.merged._PIECE_NUMBERS", 32)  # four rows
    vectors = random_unit(50, 8)
    path = write_merged(
        tmp_path / "0.parquet",
        [f"picture {row}" for row in range(50)],
        columns={name: lists(vectors) for name in ("image_embedding", "text_embedding")},
        row_group_size=row_group,
    )
    for number, rows in enumerate(opened_at(path).batches(at_a_time)):
        here = range(50)[number * at_a_time : (number + 1) * at_a_time]
        assert rows.numbers.tolist() == list(here)
        assert rows.metadata["caption"].to_pylist() == [f"picture {row}" for row in here]
        np.testing.assert_array_equal(rows.image, vectors[list(here)])
    assert here[-1] == 49


@pytest.mark.parametrize("row_group", [1, 7, 100])
def test_rows_here_and_there(tmp_path: Path, row_group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliphouse.pipeline.merged._PIECE_NUMBERS", 40)
    path = write_merged(
        tmp_path / "0.parquet",
        [f"picture {row}" for row in range(60)],
        columns={name: lists(random_unit(60, 8)) for name in ("image_embedding", "text_embedding")},
        row_group_size=row_group,
    )
    opened = opened_at(path)
    (everything,) = opened.batches(60)
    for numbers in ([0], [59], [0, 6, 7, 8, 30, 59], list(range(60)), []):
        rows = opened.take(np.array(numbers, np.int64))
        np.testing.assert_array_equal(rows.numbers, numbers)
        np.testing.assert_array_equal(rows.image, everything.image[numbers])
        if numbers:
            assert rows.metadata["caption"].to_pylist() == [f"picture {row}" for row in numbers]
