"""Which merged files are loaded, under which numbers and by which columns, and which are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cliphouse import Collection
from cliphouse.errors import (
    DimensionMismatch,
    MissingColumn,
    ShardConflict,
    ShardError,
    UnknownShard,
    UsageError,
)
from cliphouse.pipeline.find import find, number_files
from cliphouse.types import LoadOptions
from tests.conftest import Outcome
from tests.data import CAPTIONS, random_unit, write_shard
from tests.merged import ENCODED, lists, opened_at, write_merged

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
        opened_at(path, mapped)


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
    assert opened_at(_mixed(tmp_path / "0.parquet", "image_embedding", row_group_size=50)).dim == 16


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
