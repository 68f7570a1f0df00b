"""Loading: what arrives in the table, on every kind of engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cliphouse import Collection, Progress
from cliphouse.engine import Engine
from cliphouse.errors import DimensionMismatch, EncoderMismatch, ShardConflict, UsageError
from cliphouse.pipeline import enter, ledger
from cliphouse.types import ROWS_PER_SHARD
from cliphouse.vectors import round_to_bfloat16
from tests.conftest import SHARED
from tests.data import CAPTIONS, random_unit, write_shard

DIFFICULT = (
    'it\'s "quoted", with, commas\tand tabs',
    "two\nlines\r\nand a null \0 byte",
    "Café \U0001f408 &amp; 猫 \U0001f468‍\U0001f469‍\U0001f467",
    "back\\slash \\N {curly} {q:String} $$heredoc$$ -- no comment",
    "",
    "x" * 61_000,
)


def test_captions_arrive_byte_for_byte(db: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "in", captions=DIFFICULT, images=random_unit(len(DIFFICULT), 4), with_text=False)
    with Collection.open(db) as collection:
        collection.load(tmp_path / "in")
        rows = collection.sql("SELECT hex(caption) AS caption FROM laion ORDER BY id").column("caption").to_pylist()
        hits = collection.search([1, 0, 0, 0], k=10)
    assert [bytes.fromhex(row).decode() for row in rows] == list(DIFFICULT)
    assert sorted(hit.caption for hit in hits) == sorted(DIFFICULT)


def test_ids_are_unique_over_shards_and_tell_shard_and_row(db: str, tmp_path: Path) -> None:
    for number in (0, 3, 409):
        write_shard(tmp_path / "in", number)
    with Collection.open(db, encoder="test-words") as collection:
        collection.load(tmp_path / "in")
        table = collection.sql("SELECT id, shard, row FROM laion ORDER BY id")
    rows = [(number * ROWS_PER_SHARD + row, number, row) for number in (0, 3, 409) for row in range(8)]
    assert list(zip(*(table.column(name).to_pylist() for name in ("id", "shard", "row")), strict=True)) == rows
    assert max(rows)[0] < 2**53


def test_loading_again_does_nothing(db: str, tmp_path: Path, shards: Path) -> None:
    with Collection.open(db, encoder="test-words") as collection:
        first = collection.load(shards)
        write_shard(shards, 1)
        second, third = collection.load(shards), collection.load(shards)
        assert (first.loaded, second.loaded, second.skipped, third.loaded) == ((0,), (1,), (0,), ())
        assert (collection.status().rows, collection.status().shards) == (16, (0, 1))


def test_other_files_under_a_loaded_number_are_refused(db: str, tmp_path: Path, shards: Path) -> None:
    other = write_shard(tmp_path / "other", captions=["something", "else"])
    with Collection.open(db, encoder="test-words") as collection:
        collection.load(shards)
        with pytest.raises(ShardConflict, match="shard 0: it is loaded already, from other files"):
            collection.load(other)
        assert collection.status().rows == 8


@pytest.mark.parametrize("how", ["DROP TABLE laion", "TRUNCATE TABLE laion", "DELETE FROM laion WHERE shard = 0"])
def test_a_shard_whose_rows_are_gone_is_loaded_again(db: str, shards: Path, how: str) -> None:
    with Collection.open(db, encoder="test-words") as collection:
        collection.load(shards)
        collection.sql(how)
        assert collection.load(shards).loaded == (0,)
        assert collection.status().rows == 8


def test_rows_deleted_on_purpose_do_not_come_back(db: str, shards: Path) -> None:
    with Collection.open(db, encoder="test-words") as collection:
        collection.load(shards)
        collection.sql("DELETE FROM laion WHERE id = 3")
        assert collection.load(shards).skipped == (0,)
        assert collection.status().rows == 7


@pytest.mark.parametrize("written", [1, 2])
def test_a_loader_that_dies_around_the_step_in_which_rows_join_is_understood(
    db: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """The ledger says that rows are joining, and they have not, or have: the next loader knows which."""
    write_shard(tmp_path / "first", 7)
    other = write_shard(tmp_path / "other", captions=[caption + " again" for caption in CAPTIONS])
    with Collection.open(db, encoder="test-words") as collection:
        collection.load(tmp_path / "first")
        with monkeypatch.context() as patched:
            original, states = ledger.write, []

            def die(engine: Engine, name: str, entry: ledger.Entry) -> None:
                if written == 1:
                    original(engine, name, entry)
                states.append(entry.state)
                if len(states) == written:
                    raise SystemExit("killed")
                original(engine, name, entry)

            patched.setattr(ledger, "write", die)
            with pytest.raises(SystemExit):
                collection.load(shards)
        assert states == ["joining", "loaded"][:written]
        assert collection.status().rows == (8 if written == 1 else 16)
        if written == 2:
            with pytest.raises(ShardConflict):
                collection.load(other)
        collection.load(shards)
        assert (collection.status().rows, collection.status().shards) == (16, (0, 7))
        assert collection.search(CAPTIONS[2], k=1)[0].caption == CAPTIONS[2]


def test_rows_put_in_by_hand_are_not_taken_for_a_shard(db: str, shards: Path, tmp_path: Path) -> None:
    with Collection.open(db, encoder="test-words") as collection:
        collection.load(write_shard(tmp_path / "first", 7))
        collection.sql(
            "INSERT INTO laion (id, caption, image_embedding) SELECT 3, 'mine', image_embedding FROM laion LIMIT 1"
        )
        with pytest.raises(ShardConflict, match="holds 1 rows under its ids that the ledger does not know; delete"):
            collection.load(shards)
        assert collection.status().rows == 9


@pytest.mark.parametrize("layout", [{}, {"folders": True}, {"digits": 4}, {"folders": True, "digits": 2}])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_layouts_names_and_types(tmp_path: Path, layout: dict, dtype: str) -> None:
    for number in (2, 10):
        write_shard(tmp_path / "in", number, dtype=dtype, **layout)
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        assert collection.load(tmp_path / "in", shards="2,10").loaded == (2, 10)
        assert collection.search("white horse", k=2).to_arrow().column("id").to_pylist() == [200000006, 1000000006]


def test_vectors_are_stored_rounded_to_nearest_even(db: str, tmp_path: Path) -> None:
    vectors = random_unit(64, 16) * 3
    write_shard(tmp_path / "in", captions=["x"] * 64, images=vectors, texts=-vectors, dtype="float32")
    with Collection.open(db) as collection:
        collection.load(tmp_path / "in")
        table = collection.sql(
            "SELECT image_embedding::Array(Float32) AS i, text_embedding::Array(Float32) AS t FROM laion ORDER BY id"
        )
    assert np.array(table.column("i").to_pylist(), np.float32).tolist() == round_to_bfloat16(vectors).tolist()
    assert np.array(table.column("t").to_pylist(), np.float32).tolist() == round_to_bfloat16(-vectors).tolist()


def test_float32_storage_is_lossless(tmp_path: Path) -> None:
    vectors = random_unit(64, 16)
    write_shard(tmp_path / "in", captions=["x"] * 64, images=vectors, with_text=False, dtype="float32")
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in", storage="float32")
        stored = collection.sql("SELECT image_embedding AS i FROM laion ORDER BY id").column("i").to_pylist()
        assert collection.info().storage == "float32"
        with pytest.raises(UsageError, match="stores float32, not bfloat16"):
            collection.load(tmp_path / "in", storage="bfloat16")
    assert np.array(stored, np.float32).tolist() == vectors.tolist()


def test_a_missing_text_embedding_is_empty_and_found_by_its_image(db: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "in", 0, with_text=False)
    write_shard(tmp_path / "in", 1)
    with Collection.open(db, encoder="test-words") as collection:
        collection.load(tmp_path / "in")
        assert {hit.shard for hit in collection.search("red car", k=2, columns=("shard",))} == {0, 1}
        by_text = collection.search("red car", k=16, column="text", columns=("shard",))
        assert (len(by_text), {hit.shard for hit in by_text}) == (8, {1})
        with pytest.raises(UsageError, match="row 1 has no text_embedding"):
            collection.search(like=1, column="text")


def test_metadata_is_read_by_name_with_defaults_and_in_any_type(db: str, tmp_path: Path) -> None:
    columns = {
        "url": None,
        "caption": None,
        "TEXT": ["a", None, "c"],
        "URL": ["u", "v", None],
        "similarity": [0.25, None, 6016.0],
        "width": ["640", "not a number", None],
        "height": [1.0, None, 1e12],
        "original_width": None,
        "NSFW": ["NSFW", None, "MAYBE"],
        "key": [7, 8, None],
        "extra": [[1], [2], [3]],
    }
    write_shard(tmp_path / "in", captions=["x"] * 3, images=random_unit(3, 4), with_text=False, columns=columns)
    with Collection.open(db) as collection:
        collection.load(tmp_path / "in")
        rows = collection.sql(
            "SELECT url, caption, NSFW, toString(similarity) AS similarity, width, height, original_width, key "
            "FROM laion ORDER BY id"
        ).to_pylist()
        hit = collection.search(like=1, k=1)[0]
    assert [tuple(row.values()) for row in rows] == [
        ("u", "a", "NSFW", "0.25", 640, 1, 0, "7"),
        ("v", "", "UNTAGGED", None, 0, 0, 0, "8"),
        ("", "c", "MAYBE", None, 0, 0, 0, ""),
    ]
    assert hit.similarity is None


def test_the_collection_remembers_what_made_it(db: str, tmp_path: Path, shards: Path) -> None:
    with Collection.open(db, encoder="test-words") as collection:
        collection.load(shards)
    with Collection.open(db) as again:
        info = again.info()
        assert (info.encoder, info.dim, info.storage, info.distance) == (
            "test-words",
            256,
            "bfloat16",
            "cosineDistance",
        )
        assert again.search("red car", k=1)[0].caption == "red car"
    write_shard(tmp_path / "narrow", 1, ["x"], images=random_unit(1, 8), with_text=False)
    with Collection.open(db) as again, pytest.raises(DimensionMismatch, match=r"8 dimensions.*256"):
        again.load(tmp_path / "narrow")
    with Collection.open(db, encoder="clip-vit-b32") as again, pytest.raises(EncoderMismatch):
        again.load(shards, shards=[0])


@pytest.mark.parametrize(("dim", "encoder"), [(512, "clip-vit-b32"), (2, ""), (4096, "")])
def test_data_without_a_named_encoder(tmp_path: Path, dim: int, encoder: str) -> None:
    write_shard(tmp_path / "in", captions=["x"] * 3, images=random_unit(3, dim), texts=random_unit(3, dim))
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in")
        assert (collection.info().encoder, collection.info().dim) == (encoder, dim)
        assert collection.search(random_unit(3, dim)[2], k=1)[0].id == 2


def test_many_batches_stay_aligned(db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches and inserts: row i of the vectors must stay beside row i of the metadata across all of them."""
    monkeypatch.setattr(enter, "_BLOCK_BYTES", 64 * 16 * 2 * 2)
    monkeypatch.setattr(enter, "_INSERT_BYTES", 300 * 16 * 2 * 2)
    monkeypatch.setattr(enter, "_SEGMENT_BYTES", 600 * 16 * 2 * 2)
    rows = 1000
    vectors = random_unit(rows, 16)
    captions = [f"caption {row}" for row in range(rows)]
    write_shard(tmp_path / "in", 5, captions, images=vectors, texts=vectors, dtype="float32")
    seen: list[Progress] = []
    with Collection.open(db) as collection:
        assert collection.load(tmp_path / "in", progress=seen.append).rows == rows
        for row in range(0, rows, 37):
            assert collection.search(vectors[row], k=1)[0].caption == f"caption {row}"
    assert [(step.label, step.done, step.total) for step in seen][-1] == ("shard 5 (1 of 1)", rows, rows)
    assert len(seen) > 10


def test_a_shard_is_one_part(embedded: Collection) -> None:
    parts = embedded.sql("SELECT count() AS parts FROM system.parts WHERE table = 'laion' AND active")
    assert parts.column("parts").to_pylist() == [1]


def test_an_empty_shard_is_recorded(tmp_path: Path) -> None:
    write_shard(tmp_path / "in", 0)
    write_shard(tmp_path / "in", 1, [], images=np.zeros((0, 256)), texts=np.zeros((0, 256)))
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        assert collection.load(tmp_path / "in").loaded == (0, 1)
        assert collection.status().rows == 8


def test_rows_that_clip_retrieval_really_wrote(db: str) -> None:
    sample = SHARED / "data" / "clip_retrieval_sample"
    if not sample.is_dir():
        pytest.skip("the sample is not shipped with the project")
    with Collection.open(db) as collection:
        assert collection.load(sample).rows == 9
        texts = np.load(sample / "text_emb" / "text_emb_0.npy")
        images = np.load(sample / "img_emb" / "img_emb_0.npy")
        for row in range(9):
            best = int(np.argmax(images.astype(np.float32) @ texts[row].astype(np.float32)))
            assert collection.search(texts[row], k=1)[0].id == best
        assert collection.search(images[0], k=1, columns=("image_path",))[0].image_path == "/content/catalog/img1.png"


def test_the_word_encoders_captions_are_all_found(embedded: Collection) -> None:
    for row, caption in enumerate(CAPTIONS):
        assert embedded.search(caption, k=1)[0].id == row
