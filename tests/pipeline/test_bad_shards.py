"""Shards that are not as they should be: one line that names the file and the values, and nothing half-done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cliphouse import CliphouseError, Collection
from cliphouse.errors import (
    DimensionMismatch,
    InvalidEmbedding,
    MissingColumn,
    RowCountMismatch,
    ShardError,
    TruncatedShard,
    UnknownShard,
    UsageError,
)
from cliphouse.types import LoadOptions
from tests.data import CAPTIONS, ENCODER, random_unit, write_shard


def _edit(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(path, change(np.load(path)))


def _set(row: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[row] = value
        return array

    return change


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


STRICT = LoadOptions(on_bad_row="fail")
CASES: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "nan": (lambda d: _edit(d / "img_emb_1.npy", _set(5, np.nan)), InvalidEmbedding, "img_emb_1.npy row 5 holds NaN"),
    "infinite": (lambda d: _edit(d / "text_emb_1.npy", _set(2, np.inf)), InvalidEmbedding, "text_emb_1.npy row 2"),
    "zero": (lambda d: _edit(d / "img_emb_1.npy", _set(7, 0)), InvalidEmbedding, "img_emb_1.npy row 7 is all zeros"),
    "too long": (
        lambda d: _edit(d / "img_emb_1.npy", lambda a: _set(4, 3e38)(a.astype(np.float32))),
        InvalidEmbedding,
        r"img_emb_1.npy row 4 has values of about 3e\+38",
    ),
    "too short": (
        lambda d: _edit(d / "img_emb_1.npy", lambda a: _set(4, 1e-30)(a.astype(np.float32))),
        InvalidEmbedding,
        "img_emb_1.npy row 4 has values of about 1e-30",
    ),
    "beyond float32": (
        lambda d: _edit(d / "img_emb_1.npy", lambda a: _set(4, 1e300)(a.astype(np.float64))),
        InvalidEmbedding,
        "img_emb_1.npy row 4 holds NaN or infinite",
    ),
    "captions of lists": (
        lambda d: write_shard(d, 1, columns={"caption": [["a", "b"]] * 8}),
        ShardError,
        "metadata_1.parquet has a column that is neither text nor numbers",
    ),
    "fewer texts": (
        lambda d: _edit(d / "text_emb_1.npy", lambda a: a[:6]),
        RowCountMismatch,
        "text_emb_1.npy has 6 rows",
    ),
    "more images": (
        lambda d: _edit(d / "img_emb_1.npy", lambda a: np.vstack([a, a])),
        RowCountMismatch,
        r"img_emb_1.npy has 16 rows.*metadata_1.parquet has 8 rows",
    ),
    "other dim": (
        lambda d: _edit(d / "text_emb_1.npy", lambda a: a[:, :100]),
        DimensionMismatch,
        "text_emb_1.npy has 100 dimensions",
    ),
    "truncated npy": (
        lambda d: _cut(d / "img_emb_1.npy", 1000),
        TruncatedShard,
        r"img_emb_1.npy.*promises 4224 bytes, 1000",
    ),
    "npy without header": (lambda d: _cut(d / "img_emb_1.npy", 5), ShardError, "img_emb_1.npy is not an npy file"),
    "truncated parquet": (
        lambda d: _cut(d / "metadata_1.parquet", 500),
        ShardError,
        "metadata_1.parquet is not a whole parquet file",
    ),
    "no metadata": (lambda d: (d / "metadata_1.parquet").unlink(), ShardError, "has no metadata_1.parquet"),
    "integers": (lambda d: _edit(d / "img_emb_1.npy", lambda a: a.astype(np.int32)), ShardError, "holds int32"),
    "one dimension": (lambda d: _edit(d / "img_emb_1.npy", lambda a: a[:, 0]), ShardError, r"shape \(8,\)"),
    "twice": (
        lambda d: (d / "img_emb_001.npy").write_bytes((d / "img_emb_1.npy").read_bytes()),
        ShardError,
        "img_emb_1.npy claim it",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_shard_is_named_and_leaves_no_row(tmp_path: Path, case: str) -> None:
    spoil, error, words = CASES[case]
    directory = write_shard(tmp_path / "in", 1)
    spoil(directory)
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        with pytest.raises(error, match=words) as caught:
            collection.load(directory, options=STRICT)
        assert isinstance(caught.value, CliphouseError)
        assert "\n" not in str(caught.value)
        assert collection.sql("SHOW TABLES").num_rows == 0


@pytest.mark.parametrize("case", CASES)
def test_the_good_shards_before_it_stay_and_the_mended_one_follows(tmp_path: Path, case: str) -> None:
    spoil, error, _ = CASES[case]
    directory = write_shard(tmp_path / "in", 1)
    write_shard(tmp_path / "good", 0)
    spoil(directory)
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        collection.load(tmp_path / "good")
        with pytest.raises(error):
            collection.load(directory, options=STRICT)
        assert (collection.status().rows, collection.status().shards) == (8, (0,))
        assert sorted(collection.sql("SHOW TABLES").column("name").to_pylist()) == ["laion", "laion_shards"]
        (directory / "img_emb_001.npy").unlink(missing_ok=True)
        write_shard(directory, 1)
        assert collection.load(directory).loaded == (1,)
        assert collection.search(CAPTIONS[3], k=2).to_arrow().column("id").to_pylist() == [3, 100_000_003]


def test_a_failure_after_some_batches_leaves_nothing_of_that_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cliphouse.pipeline.enter._BLOCK_BYTES", 100 * 8 * 2)
    monkeypatch.setattr("cliphouse.pipeline.enter._INSERT_BYTES", 100 * 8 * 2)
    vectors = random_unit(1000, 8)
    vectors[950] = np.nan
    write_shard(tmp_path / "in", captions=["x"] * 1000, images=vectors, with_text=False)
    with Collection.open(tmp_path / "db") as collection:
        with pytest.raises(InvalidEmbedding, match="row 950"):
            collection.load(tmp_path / "in", options=STRICT)
        assert collection.sql("SHOW TABLES").num_rows == 0


def test_a_table_without_describing_columns_is_refused(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("image_path", "caption", "url"))
    write_shard(tmp_path / "in", columns=nothing)
    with (
        Collection.open(tmp_path / "db", encoder="test-words") as collection,
        pytest.raises(MissingColumn, match=r"none of the columns url, caption, image_path; it has: NSFW"),
    ):
        collection.load(tmp_path / "in")


@pytest.mark.parametrize(
    ("shards", "error", "words"),
    [
        ("7", UnknownShard, "no shard 7 in .*: it holds shards 1-3"),
        ("1-9", UnknownShard, "no shard 4-9"),
        ("3-1", UsageError, "'3-1' is not valid"),
        ("one", UsageError, "not a list of shards"),
        ("0-60000000", UsageError, "is not valid"),
        ("-1", UsageError, "not a list of shards"),
    ],
)
def test_wanted_shards_must_be_there(tmp_path: Path, shards: str, error: type[Exception], words: str) -> None:
    for number in (1, 2, 3):
        write_shard(tmp_path / "in", number)
    with Collection.open(tmp_path / "db") as collection, pytest.raises(error, match=words):
        collection.load(tmp_path / "in", shards=shards)


def test_a_directory_without_shards(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with Collection.open(tmp_path / "db") as collection:
        with pytest.raises(UnknownShard, match=r"it holds no img_emb_N\.npy"):
            collection.load(tmp_path / "in")
        with pytest.raises(UsageError, match="absent is not a directory"):
            collection.load(tmp_path / "absent")


def test_an_encoder_of_another_dimension_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "in")
    assert ENCODER.dim == 256
    with (
        Collection.open(tmp_path / "db", encoder="clip-vit-b32") as collection,
        pytest.raises(DimensionMismatch, match=r"256 dimensions, the encoder clip-vit-b32 holds 512"),
    ):
        collection.load(tmp_path / "in")
