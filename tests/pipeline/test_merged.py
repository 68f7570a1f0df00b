"""Shards that are one parquet file, embeddings included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cliphouse import Collection, IndexConfig
from cliphouse.errors import (
    DimensionMismatch,
    MissingColumn,
    ShardConflict,
    ShardError,
    UnknownShard,
    UsageError,
)
from cliphouse.pipeline import merged
from cliphouse.pipeline.find import find, number_files
from cliphouse.pipeline.merged import open_merged
from cliphouse.types import LoadOptions, MergedShard
from tests.conftest import Outcome
from tests.data import CAPTIONS, ENCODER, random_unit, write_shard
from tests.merged import lists, write_merged

EVERYTHING = "SELECT * FROM laion ORDER BY id"
ENCODED = ENCODER.encode_texts(CAPTIONS)


def _opened(path: Path, columns: dict[str, str] | None = None) -> Any:
    return open_merged(MergedShard(number=0, location=str(path)), columns or {})


# -- what is in the table ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed_size_list", "tensor"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_embeddings_are_read_as_they_are(tmp_path: Path, kind: str, dtype: str) -> None:
    vectors = random_unit(100, 8).astype(dtype)
    columns = {"image_embedding": lists(vectors, kind), "text_embedding": lists(vectors[::-1], kind)}
    path = write_merged(tmp_path / "0.parquet", ["a"] * 100, columns=columns, row_group_size=30)
    (rows,) = _opened(path).batches(1000)
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
        again.delete(where="row >= 5", purge=True)
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
    assert _opened(write_merged(tmp_path / "0.parquet", columns=columns)).dim == 3


@pytest.mark.parametrize("size", [-1, 256])
def test_a_text_column_without_embeddings_is_none(tmp_path: Path, size: int) -> None:
    columns = {"text_embedding": pa.array([None] * 8, pa.list_(pa.float32(), size))}
    assert not _opened(write_merged(tmp_path / "0.parquet", columns=columns)).has_text


@pytest.mark.parametrize(
    ("image", "text"),
    [("vector", None), ("img_emb", None), ("Image_Emb", "TEXT_EMB"), ("embedding", None), ("emb", "caption_embedding")],
)
def test_columns_have_the_names_of_public_exports(tmp_path: Path, image: str, text: str | None) -> None:
    columns = {"image_embedding": None, "text_embedding": None, image: lists(ENCODED)}
    columns |= {text: lists(ENCODED[::-1])} if text else {}
    columns |= {"url": None, "caption": None, "URL": ["u"] * 8, "TEXT": pa.array(CAPTIONS).dictionary_encode()}
    opened = _opened(write_merged(tmp_path / "0.parquet", columns=columns))
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
    opened = _opened(path)
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
    for number, rows in enumerate(_opened(path).batches(at_a_time)):
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
    opened = _opened(path)
    (everything,) = opened.batches(60)
    for numbers in ([0], [59], [0, 6, 7, 8, 30, 59], list(range(60)), []):
        rows = opened.take(np.array(numbers, np.int64))
        np.testing.assert_array_equal(rows.numbers, numbers)
        np.testing.assert_array_equal(rows.image, everything.image[numbers])
        if numbers:
            assert rows.metadata["caption"].to_pylist() == [f"picture {row}" for row in numbers]


# -- which shard it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("0012.parquet", 12),
        ("laion_7.parquet", 7),
        ("laion-400m.parquet", 0),
        ("shard7.parquet", 7),
        ("part-00012-5b54c5d5-bbcf-484d-a2ce-0d6f73df1a36-c000.snappy.parquet", 12),
        ("part.3.parquet", 3),
        ("train-00003-of-00010.parquet", 3),
        ("train-00001-of-00002-01327b2e453ae8e9.parquet", 1),
        ("laion5b_100m_part_4_of_10.parquet", 4),
        ("file-000000000012.zstd.parquet", 12),
        ("00005-01327b2e453ae8e9.parquet", 5),
        ("everything.parquet", 0),
    ],
)
def test_a_file_has_the_number_in_its_name(name: str, number: int) -> None:
    assert number_files([f"/data/99/{name}"]) == {number: f"/data/99/{name}"}
    address = f"https://host/99/{name}?signed=1-of-2"
    assert number_files([address]) == {number: address}


def test_files_without_numbers_of_their_own_are_counted_on_demand() -> None:
    names = ["b_2_x.parquet", "a.parquet", "b_10_x.parquet"]
    with pytest.raises(UsageError, match=r"a\.parquet has no number .*--first-shard 0"):
        number_files(names)
    assert number_files(names, 5) == {5: "a.parquet", 6: "b_2_x.parquet", 7: "b_10_x.parquet"}
    with pytest.raises(
        UsageError, match=r"test-00000-of-00001.parquet and train-00000-of-00002.parquet would both be shard 0"
    ):
        number_files(["train-00000-of-00002.parquet", "test-00000-of-00001.parquet"])


def test_files_are_chosen_by_number(tmp_path: Path) -> None:
    for number in (3, 4, 20):
        write_merged(tmp_path / "in" / f"laion_{number:04}.parquet")
    (tmp_path / "in" / "_metadata.parquet").touch()
    (tmp_path / "in" / "README.md").touch()
    assert [shard.number for shard in find(tmp_path / "in")] == [3, 4, 20]
    assert [shard.number for shard in find(f"file://{tmp_path}/in", range(4, 5))] == [4]
    assert [shard.number for shard in find(tmp_path / "in", [7], first_shard=5)] == [7]
    with pytest.raises(UnknownShard, match=r"no shard 5 in .*: it holds shards 3-4,20"):
        find(tmp_path / "in", [4, 5])


def test_a_folder_has_one_kind_of_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "in", 3)
    with pytest.raises(UsageError, match=r"--first-shard numbers merged parquet files, and .*in holds none"):
        find(tmp_path / "in", first_shard=1)
    write_merged(tmp_path / "in" / "laion_7.parquet")
    with pytest.raises(UsageError, match=r"holds both shards of npy files \(3\) and merged .* \(laion_7\.parquet\)"):
        find(tmp_path / "in")
    (tmp_path / "README").touch()
    with pytest.raises(UsageError, match="README is no parquet file"):
        find(tmp_path / "README")


def test_loading_again_is_exactly_once(tmp_path: Path) -> None:
    write_merged(tmp_path / "in" / "laion_1.parquet")
    write_merged(tmp_path / "in" / "laion_2.parquet")
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        assert collection.load(tmp_path / "in", shards="2").loaded == (2,)
        again = collection.load(tmp_path / "in")
        assert (again.loaded, again.skipped) == ((1,), (2,))
        assert collection.status().rows == 16
        write_merged(tmp_path / "in" / "laion_2.parquet", CAPTIONS[::-1])
        with pytest.raises(ShardConflict, match=r"from other files than .*laion_2\.parquet"):
            collection.load(tmp_path / "in")


def test_the_table_is_verified_by_the_file_and_exported_to_one(
    tmp_path: Path, cliphouse: Callable[..., Outcome]
) -> None:
    columns = {"image_embedding": None, "features": lists(ENCODED, without=[3])}
    path = write_merged(tmp_path / "in" / "laion_1.parquet", columns=columns, row_group_size=3)
    place = ("--db", tmp_path / "db", "--map", "image_embedding=features", "--first-shard", 2)
    assert cliphouse("load", path.parent, "--encoder", "test-words", *place).code == 0
    verified = cliphouse("verify", path.parent, "--checksums", *place)
    assert (verified.code, "the table is what the files say; 8 rows compared" in verified.out) == (0, True)
    with Collection.open(tmp_path / "db") as collection:
        collection.export(tmp_path / "out.parquet", where="true")
        again = Collection(collection.engine, "again", "test-words")
        assert again.load(tmp_path / "out.parquet", first_shard=5).rows == 7
        columns_of = "SELECT caption, url, similarity, image_embedding, text_embedding FROM {} ORDER BY id"
        assert again.sql(columns_of.format("again")) == collection.sql(columns_of.format("laion"))


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], dict[str, str], type[Exception], str]] = {
    "no embeddings": (
        {"image_embedding": None, "text_embedding": None},
        {},
        ShardError,
        r"no list of floats by a name .*it has: url \(string\), .*leave the file out",
    ),
    "integers": (
        {"image_embedding": [[1, 2]] * 8, "text_embedding": None},
        {},
        ShardError,
        r"image_embedding \(list<element: int64>\); the integers in image_embedding are no embeddings",
    ),
    "blobs": ({"image_embedding": [b"12345678"] * 8}, {}, ShardError, r"image_embedding \(binary\)"),
    "another name": (
        {"image_embedding": None, "text_embedding": None, "features": lists(ENCODED)},
        {},
        ShardError,
        "--map image_embedding=features",
    ),
    "mapped to none": ({}, {"image_embedding": "clip"}, UsageError, "no column 'clip' to fill image_embedding from"),
    "mapped to text": (
        {},
        {"image_embedding": "url"},
        ShardError,
        "column url of .* is of type string; embeddings are lists of float16, float32 or float64",
    ),
    "nothing to show": ({"url": None, "caption": None}, {}, MissingColumn, "none of the columns url, caption"),
    "other texts": (
        {"text_embedding": lists(random_unit(8, 4))},
        {},
        DimensionMismatch,
        "text_embedding in .*0.parquet has 4 dimensions, its column image_embedding holds 256",
    ),
    "one of several": (
        {"image_embedding": None, "emb": lists(ENCODED), "Vector": lists(ENCODED)},
        {},
        ShardError,
        "several columns that could fill image_embedding: emb, Vector; name one with --map image_embedding=emb",
    ),
    "no whole row": (
        {"image_embedding": pa.array([None] * 8, pa.list_(pa.float32()))},
        {},
        ShardError,
        "column image_embedding of .* holds no embedding in 8 rows",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_loaded_says_why(tmp_path: Path, case: str) -> None:
    columns, mapped, error, words = REFUSED[case]
    path = write_merged(tmp_path / "0.parquet", columns=columns)
    with pytest.raises(error, match=words):
        _opened(path, mapped)


@pytest.mark.parametrize("name", ["caption", "image_embedding"])
def test_a_column_that_is_there_twice(tmp_path: Path, name: str) -> None:
    path = write_merged(tmp_path / "in" / "0.parquet")
    table = pq.read_table(path)
    pq.write_table(table.append_column(name, table[name]), path)
    write_merged(tmp_path / "in" / "1.parquet")
    options = LoadOptions(on_bad_shard="skip")
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        report = collection.load(tmp_path / "in", options=options)
    assert f"0.parquet has 2 columns named '{name}'" in report.quarantined[0]
    assert report.loaded == (1,)


def test_a_column_of_metadata_that_is_there_twice(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "in") / "metadata_0.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("caption", table["caption"]), path)
    with (
        Collection.open(tmp_path / "db", encoder="test-words") as collection,
        pytest.raises(ShardError, match=r"metadata_0\.parquet has 2 columns named 'caption'"),
    ):
        collection.load(path.parent)


def _mixed(path: Path, name: str, **options: Any) -> Path:
    """300 rows, the first 100 with 8 numbers and the others with 16, in the column `name` alone."""
    rows: list[list[float]] = [list(map(float, row)) for row in (*random_unit(100, 8), *random_unit(200, 16))]
    columns = {"image_embedding": lists(random_unit(300, 8)), "text_embedding": None, name: pa.array(rows)}
    return write_merged(path, ["x"] * 300, columns=columns, **options)


@pytest.mark.parametrize("name", ["image_embedding", "text_embedding"])
def test_most_rows_are_never_left_out_for_their_length(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cliphouse.pipeline.merged._SAMPLE_ROWS", 50)
    path = _mixed(tmp_path / "0.parquet", name)
    words = f"{name} of .* has lists of 8 numbers in 100 rows, and of another length in 200"
    with Collection.open(tmp_path / "db", encoder="") as collection:
        with pytest.raises(ShardError, match=words):
            collection.load(path)
        assert collection.sql("SHOW TABLES LIKE 'laion'").num_rows == 0


def test_the_usual_length_is_that_of_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliphouse.pipeline.merged._SAMPLE_ROWS", 50)
    assert _opened(_mixed(tmp_path / "0.parquet", "image_embedding", row_group_size=50)).dim == 16


@pytest.mark.parametrize("kind", ["merged", "npy"])
def test_text_does_not_fill_a_column_of_numbers(tmp_path: Path, kind: str) -> None:
    columns = {"width": None, "wide": [*"12345", None, "x", ""]}
    if kind == "merged":
        place = write_merged(tmp_path / "0.parquet", columns=columns)
    else:
        place = write_shard(tmp_path / "in", columns=columns)
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        for name in ("width", "similarity"):
            words = f"column caption of .* is to fill {name}, and holds no numbers but string; name another with --map"
            with pytest.raises(ShardError, match=words):
                collection.load(place, options=LoadOptions(columns={name: "caption"}))
        collection.load(place, options=LoadOptions(columns={"width": "wide"}))
        widths = collection.sql("SELECT width FROM laion ORDER BY id").to_pylist()
    assert [row["width"] for row in widths] == [1, 2, 3, 4, 5, 0, 0, 0]


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    path = write_merged(tmp_path / "9.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    with (
        Collection.open(tmp_path / "db", encoder="test-words") as collection,
        pytest.raises(ShardError, match=r"cannot read .*9\.parquet as a parquet file: .*; download it again"),
    ):
        collection.load(path)


def test_a_bad_file_is_passed_over_if_wanted(tmp_path: Path) -> None:
    write_merged(tmp_path / "in" / "1.parquet")
    (tmp_path / "in" / "2.parquet").write_bytes(b"PAR1")
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        report = collection.load(tmp_path / "in", options=LoadOptions(on_bad_shard="skip"))
    assert report.loaded == (1,)
    assert "2.parquet as a parquet file" in report.quarantined[2]


# -- from the shell ----------------------------------------------------------------------------------------------------


def test_columns_are_mapped_by_option(tmp_path: Path, cliphouse: Callable[..., Outcome]) -> None:
    columns = {"image_embedding": None, "caption": None, "title": list(CAPTIONS), "clip.vit": lists(ENCODED)}
    path = write_merged(tmp_path / "export.parquet", columns=columns)
    command = ("load", path, "--encoder", "test-words", "--db", tmp_path / "db", "--first-shard", 4)
    refused = cliphouse(*command)
    assert (refused.code, "--map image_embedding=clip.vit" in refused.err) == (3, True)
    unknown = cliphouse(*command, "--map", "title=caption")
    assert unknown.code == 2
    assert "'title' is no column that a merged parquet file fills; there are: url, caption, NSFW" in unknown.err
    assert "is not COLUMN=SOURCE" in cliphouse(*command, "--map", "caption").err
    done = cliphouse(*command, "--map", "image_embedding=clip.vit", "--map", "caption=title")
    assert (done.code, "loaded 8 rows of shards 4" in done.out) == (0, True)
    found = cliphouse("search", "a red car parked", "-k", 1, "--db", tmp_path / "db")
    assert "a red car parked" in found.out


def test_columns_of_npy_shards_are_mapped_too(tmp_path: Path, cliphouse: Callable[..., Outcome]) -> None:
    write_shard(tmp_path / "in", columns={"caption": None, "title": list(CAPTIONS)})
    command = ("load", tmp_path / "in", "--encoder", "test-words", "--db", tmp_path / "db")
    refused = cliphouse(*command, "--map", "image_embedding=x")
    assert (refused.code, "'image_embedding' is no column that the parquet file" in refused.err) == (2, True)
    assert cliphouse(*command, "--map", "caption=title").code == 0
    assert "white horse" in cliphouse("search", "white horse", "-k", 1, "--db", tmp_path / "db").out
