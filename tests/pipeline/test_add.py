"""Pictures straight into a collection, on every kind of engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cliphouse import Collection, IndexConfig, Progress
from cliphouse.encoders.words import WordEncoder
from cliphouse.errors import DimensionMismatch, EncoderMismatch, NoPictures, UnknownEncoder, UsageError
from cliphouse.pipeline.add import WORK
from tests.data import random_unit, write_shard
from tests.pictures import draw, draw_folder, img2dataset


def _paths(collection: Collection) -> list[str]:
    table = collection.sql("SELECT image_path FROM laion WHERE image_path LIKE '/%' ORDER BY image_path")
    return table.column("image_path").to_pylist()


def test_a_folder_enters_and_is_found(db: str, tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 11)
    draw(tmp_path / "in" / "plain.png", "orange")
    seen: list[Progress] = []
    with Collection.open(db, encoder="test-words") as collection:
        report = collection.add(tmp_path / "in", progress=seen.append)
        assert (report.pictures, report.captioned, report.shards) == (12, 11, (0, 1))
        assert (seen[-1].done, seen[-1].total) == (12, 12)
        assert collection.search("number3", k=1, column="text")[0].caption == "number3 green"
        assert collection.search("orange", k=1, where="caption = ''")[0].url.endswith("plain.png")
        assert collection.status().shards == (0, 1)
    with Collection.open(db) as again:
        assert again.info().encoder == "test-words"
        assert again.search("green", k=1)[0].caption == "number3 green"


def test_adding_again_brings_only_what_is_new(db: str, tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 5)
    with Collection.open(db, encoder="test-words") as collection:
        collection.add(tmp_path / "in")
        again = collection.add(tmp_path / "in")
        assert (again.pictures, again.known, again.shards) == (0, 5, ())
        draw_folder(tmp_path / "in", 7)
        draw(tmp_path / "other" / "00.png")
        more = collection.add(tmp_path / "in")
        other = collection.add(tmp_path / "other")
        assert (more.pictures, more.known, other.pictures, other.known) == (2, 5, 1, 0)
        paths = _paths(collection)
        assert len(paths) == len(set(paths)) == 8
        listed = collection.add([tmp_path / "in" / "03.png", tmp_path / "other" / "00.png"])
        assert (listed.pictures, listed.known) == (0, 2)


def test_shards_are_numbered_after_those_of_the_ledger(tmp_path: Path, shards: Path) -> None:
    write_shard(shards, 409)
    draw_folder(tmp_path / "in", 3)
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        collection.load(shards)
        assert collection.add(tmp_path / "in").shards == (410,)
        collection.sql("DELETE FROM laion WHERE shard = 410")
        assert collection.add(tmp_path / "in").shards == (411,), "a ledger entry keeps its number"
        assert collection.status().rows == 19
        assert collection.search("red car", k=1)[0].caption == "red car"


def test_deleted_pictures_come_back_when_added_again(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 4)
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        collection.add(tmp_path / "in")
        collection.sql("DELETE FROM laion WHERE caption = 'number2 yellow'")
        report = collection.add(tmp_path / "in")
        assert (report.pictures, report.known) == (1, 3)


@pytest.mark.parametrize("layout", ["files", "webdataset", "parquet"])
def test_img2datasets_layouts(embedded: Collection, tmp_path: Path, layout: str) -> None:
    img2dataset(tmp_path / "in", layout, {"000000000": "pink", "000000001": "grey"})
    report = embedded.add(tmp_path / "in")
    assert (report.pictures, report.skipped) == (2, {"not downloaded": 1})
    assert embedded.search("pink", k=1, columns=("key",))[0].key == "000000000"
    assert embedded.add(tmp_path / "in").known == 2


def test_what_is_skipped_is_listed_in_the_data_directory(embedded: Collection, tmp_path: Path) -> None:
    draw(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"bad")
    report = embedded.add(tmp_path / "in")
    assert report.skipped_list == embedded.engine.location.path / WORK / "laion" / "skipped.jsonl"
    assert json.loads(report.skipped_list.read_text())["image_path"] == str(tmp_path / "in" / "bad.png")
    embedded.close()
    with Collection.open(tmp_path / "db") as again:  # whose directory now holds a folder of ours
        assert again.status().rows == 9


def test_a_text_index_keeps_pictures_without_captions_out(embedded: Collection, tmp_path: Path) -> None:
    embedded.build_index("text", IndexConfig(m=16, ef_construction=32))
    draw_folder(tmp_path / "in", 3)
    draw(tmp_path / "in" / "plain.png")
    (tmp_path / "in" / "02.txt").write_text("!!!")  # the test encoder finds no word
    report = embedded.add(tmp_path / "in")
    assert (report.pictures, report.captioned, report.stale_indexes) == (2, 2, ("text_index",))
    listed = report.skipped_list.read_text()
    assert "drop it first: cliphouse index drop --column text" in listed
    assert "caption not encoded" in listed
    embedded.drop_index("text")
    assert embedded.add(tmp_path / "in").pictures == 2


def test_another_encoder_or_dimension_is_refused(tmp_path: Path, shards: Path) -> None:
    draw_folder(tmp_path / "in", 1)
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        collection.load(shards)

    class Short(WordEncoder):
        name, dim = "short", 8

    with (
        Collection.open(tmp_path / "db", encoder=Short()) as collection,
        pytest.raises(EncoderMismatch, match="not short"),
    ):
        collection.add(tmp_path / "in")
    write_shard(tmp_path / "unnamed", captions=["x"], images=random_unit(1, 16), with_text=False)
    with Collection.open(tmp_path / "db", name="unnamed") as collection:
        collection.load(tmp_path / "unnamed")
        with pytest.raises(UnknownEncoder, match="does not name its encoder"):
            collection.add(tmp_path / "in")
    with Collection.open(tmp_path / "db", name="unnamed", encoder="test-words") as collection:
        with pytest.raises(DimensionMismatch, match=r"the encoder test-words has 256 dimensions, .*unnamed' holds 16"):
            collection.add(tmp_path / "in")
        with pytest.raises(UsageError, match="stores bfloat16, not float32"):
            collection.add(tmp_path / "in", storage="float32")
        assert collection.status().rows == 1


def test_nothing_to_add_makes_no_collection(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(b"")
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        with pytest.raises(NoPictures, match="1 empty file"):
            collection.add(tmp_path / "in")
        assert not collection.exists()


def test_an_interrupted_add_goes_on_from_its_work_folder(db: str, tmp_path: Path) -> None:
    """What was encoded when the first run ended is loaded by the second, which encodes only the rest."""
    draw_folder(tmp_path / "in", 40)
    encoded = []

    class Counting(WordEncoder):
        def encode_images(self, images: object) -> np.ndarray:
            encoded.append(len(images))
            return super().encode_images(images)

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with Collection.open(db, encoder=Counting()) as collection:
        with pytest.raises(KeyboardInterrupt):
            collection.add(tmp_path / "in", work=tmp_path / "work", progress=interrupt)
        assert not collection.exists()
        report = collection.add(tmp_path / "in", work=tmp_path / "work")
        assert (encoded, report.pictures, report.known) == ([32, 8], 8, 32)
        assert len(_paths(collection)) == collection.status().rows == 40
        assert list((tmp_path / "work").rglob("*.npy")) == []


def test_a_work_folder_that_is_lost_or_late_brings_nothing_twice(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 40)

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        with pytest.raises(KeyboardInterrupt):
            collection.add(tmp_path / "in", work=tmp_path / "work", progress=interrupt)
        shutil.copytree(tmp_path / "work", tmp_path / "late")
        shutil.rmtree(tmp_path / "work")
        assert collection.add(tmp_path / "in", work=tmp_path / "work").pictures == 40
        assert collection.add(tmp_path / "in", work=tmp_path / "late").known == 40
        assert len(_paths(collection)) == collection.status().rows == 40
        # A collection that was dropped starts again: what waits of another source does not come along.
        collection.sql("TRUNCATE TABLE laion")
        with pytest.raises(KeyboardInterrupt):
            collection.add(tmp_path / "in", work=tmp_path / "work", progress=interrupt)
        collection.sql("DROP TABLE laion")
        draw(tmp_path / "other" / "x.png")
        assert collection.add(tmp_path / "other", work=tmp_path / "work").pictures == 1
        assert _paths(collection) == [str(tmp_path / "other" / "x.png")]


def test_a_memory_database_takes_pictures_too(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 3)
    (tmp_path / "in" / "x.png").write_bytes(b"")
    with Collection.open("chdb://memory", encoder="test-words") as collection:
        report = collection.add(tmp_path / "in")
        assert (report.pictures, report.skipped, report.skipped_list) == (3, {"empty file": 1}, None)
        assert collection.search("orange", k=1)[0].caption == "number1 orange"
