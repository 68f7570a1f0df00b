"""From pictures to shards: every layout, how captions are joined, and what search then finds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cliphouse import Collection, Progress, embed
from cliphouse.encoders.words import COLOURS
from cliphouse.pipeline.plan import plan
from tests.pictures import data, draw, draw_folder, embed_words, img2dataset, skipped, write_tar


def test_a_folder_is_embedded_loaded_and_searched(db: str, tmp_path: Path) -> None:
    for colour in ("red", "green", "blue"):
        draw(tmp_path / "in" / "deep" / colour / f"a {colour} one.png", colour, (30, 20))
    (tmp_path / "in" / "deep" / "red" / "a red one.txt").write_text("  a ripe tomato\n")
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / "archive.zip").write_bytes(b"PK")
    draw(tmp_path / "in" / ".thumbnails" / "x.png")
    seen: list[Progress] = []
    report = embed(tmp_path / "in", tmp_path / "out", encoder="test-words", progress=seen.append)
    assert (report.pictures, report.captioned, report.known, report.skipped) == (3, 1, 0, {})
    assert (seen[-1].done, seen[-1].total, seen[-1].unit) == (3, 3, "pictures")
    with Collection.open(db) as collection:
        collection.load(tmp_path / "out")
        assert collection.info().encoder == "test-words"
        for colour in ("red", "green", "blue"):
            hit = collection.search(colour, k=1, columns=("image_path", "key", "width", "height", "original_width"))[0]
            path = tmp_path / "in" / "deep" / colour / f"a {colour} one.png"
            assert (hit.image_path, hit.key) == (str(path), f"deep/{colour}/a {colour} one.png")
            assert (hit.width, hit.height, hit.original_width, hit.url) == (30, 20, 30, path.as_uri())
        by_caption = collection.search("tomato", column="text")
        assert [hit.caption for hit in by_caption] == ["a ripe tomato"]


def test_pictures_without_captions_have_no_text_embedding(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 4, captions=False)
    (tmp_path / "in" / "01.txt").write_text("an orange")
    (tmp_path / "in" / "02.txt").write_text("\n")
    (tmp_path / "in" / "03.txt").write_text("!!!")  # no word in it: the test encoder cannot encode that
    report, rows = embed_words(tmp_path / "in", tmp_path / "out")
    assert (report.pictures, report.captioned, report.skipped) == (4, 1, {})
    shards = plan(tmp_path / "out")
    assert [shard.text_embeddings is not None for shard in shards] == [False, True]
    assert {key: row["caption"] for key, row in rows.items()} == {
        "00.png": None,
        "01.png": "an orange",
        "02.png": None,
        "03.png": "!!!",
    }
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "out")
        assert len(collection.search("orange", column="text")) == 1
        assert len(collection.search("orange")) == 4


def test_shards_are_as_laions(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 7)
    report, _ = embed_words(tmp_path / "in", tmp_path / "out", shard_size=3)
    assert report.shards == (0, 1, 2)
    rows = 0
    for shard in plan(tmp_path / "out"):
        image, text = np.load(shard.image_embeddings), np.load(shard.text_embeddings)
        table = pq.read_table(shard.metadata)
        assert image.dtype == text.dtype == np.float16
        assert image.shape == text.shape == (table.num_rows, 256)
        cosine = (image.astype(float) * text.astype(float)).sum(axis=1)
        assert table.column("similarity").to_pylist() == pytest.approx(cosine, abs=1e-3)
        rows += table.num_rows
    assert rows == 7
    assert [path.name for path in (tmp_path / "out" / "img_emb").iterdir() if path.suffix == ".part"] == []


@pytest.mark.parametrize("layout", ["files", "webdataset", "parquet"])
def test_img2datasets_layouts(tmp_path: Path, layout: str) -> None:
    colours = {"000000000": "red", "000000002": "green", "000000007": "blue"}
    img2dataset(tmp_path / "in", layout, colours)
    report, rows = embed_words(tmp_path / "in", tmp_path / "out")
    assert {key: row["caption"] for key, row in rows.items()} == {
        key: f"something {colour}" for key, colour in colours.items()
    }
    assert report.skipped == {"not downloaded": 1}
    assert skipped(tmp_path / "out") == {"000009999": "not downloaded: failed_to_download"}
    row = rows["000000002"]
    assert (row["url"], row["NSFW"], row["license"]) == ("https://example.com/000000002.jpg", "UNLIKELY", "?")
    assert (row["width"], row["original_width"], row["exif"]) == (24, 240, "{}")
    assert row["similarity"] == pytest.approx(0.5**0.5, abs=1e-3), "of these pixels and this caption"
    assert row["image_path"].startswith(str(tmp_path / "in" / "00000"))
    again, _ = embed_words(tmp_path / "in", tmp_path / "out")
    assert (again.pictures, again.known) == (0, 3)
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "out")
        assert collection.search("green", k=1)[0].caption == "something green"


@pytest.mark.parametrize("name", ["00000.tar", "00000.parquet"])
def test_a_tar_or_a_parquet_file_alone(tmp_path: Path, name: str) -> None:
    img2dataset(tmp_path / "in", "webdataset" if name.endswith("tar") else "parquet", {"000000001": "pink"})
    report, rows = embed_words(tmp_path / "in" / name, tmp_path / "out")
    assert (report.pictures, rows["000000001"]["caption"]) == (1, "something pink")


def test_hugging_faces_parquet_and_image_folder(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": [{"bytes": data("red"), "path": "a.jpg"}, {"bytes": data("blue"), "path": "b.jpg"}],
            "text": ["a red one", None],
            "label": [3, 4],
        }
    )
    pq.write_table(table, (tmp_path / "in.parquet"))
    _, rows = embed_words(tmp_path / "in.parquet", tmp_path / "out")
    assert {key: (row["caption"], row["label"]) for key, row in rows.items()} == {
        "a.jpg": ("a red one", 3),
        "b.jpg": (None, 4),
    }
    draw(tmp_path / "folder" / "train" / "a.png")
    (tmp_path / "folder" / "train" / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "a rose", "year": 9}\n'
    )
    _, rows = embed_words(tmp_path / "folder", tmp_path / "out2")
    assert (rows["train/a.png"]["caption"], rows["train/a.png"]["year"]) == ("a rose", 9)


def _csv(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("file_name,caption\n" + "".join(f'{name},"{caption}"\n' for name, caption in rows))


def _tsv(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text(
        "\ufeffKey\tTitle\n" + "".join(f"{Path(name).stem}\t{caption}\n" for name, caption in rows), "utf-8"
    )


def _parquet(path: Path, rows: list[tuple[str, str]]) -> None:
    absolute = [str(path.parent / name) for name, _ in rows]
    pq.write_table(pa.table({"Image_Path": absolute, "TEXT": [caption for _, caption in rows]}), path)


@pytest.mark.parametrize(("name", "write"), [("c.csv", _csv), ("c.tsv", _tsv), ("c.parquet", _parquet)])
def test_captions_of_a_table_are_joined_by_name(
    tmp_path: Path, name: str, write: Callable[[Path, list[tuple[str, str]]], None]
) -> None:
    """Shuffled rows, and rows for pictures that are not there."""
    expected = {}
    for number, colour in enumerate(COLOURS):
        key = f"{'sub/' if number % 2 else ''}{number:03d}.png"
        draw(tmp_path / "in" / key, colour)
        expected[key] = f"number {number}, {colour}"
    rows = [*expected.items(), ("absent.png", "nothing")]
    random.Random(3).shuffle(rows)
    write(tmp_path / "in" / name, rows)
    report, found = embed_words(tmp_path / "in", tmp_path / "out")
    assert {key: row["caption"] for key, row in found.items()} == expected
    assert (report.captioned, report.skipped) == (len(COLOURS), {})


def test_a_name_that_fits_two_pictures_or_has_two_captions_is_no_guess(tmp_path: Path) -> None:
    for name in ("cats/1.png", "dogs/1.png", "dogs/2.png", "dogs/3.png", "dogs/4.png"):
        draw(tmp_path / "in" / name)
    (tmp_path / "in" / "dogs" / "4.txt").write_text("its own caption")
    _csv(
        tmp_path / "in" / "c.csv", [("1.png", "a"), ("2.png", "b"), ("2.png", "c"), ("3", "d"), ("4", "e"), ("4", "f")]
    )
    report, rows = embed_words(tmp_path / "in", tmp_path / "out")
    assert {key: row["caption"] for key, row in rows.items()} == {"dogs/3.png": "d"}
    assert report.skipped == {"ambiguous description": 4}
    reasons = skipped(tmp_path / "out")
    assert reasons["1.png"] == "ambiguous description: in c.csv, '1.png' also fits cats/1.png and dogs/1.png"
    assert reasons["2.png"] == "ambiguous description: c.csv has several captions for it, in rows 2, 3"
    _csv(tmp_path / "in" / "c.csv", [("cats/1.png", "a"), ("dogs/1.png", "z"), ("2.png", "b")])
    report, rows = embed_words(tmp_path / "in", tmp_path / "out")
    assert (report.pictures, report.known, report.skipped) == (4, 1, {})
    assert (rows["cats/1.png"]["caption"], rows["dogs/1.png"]["caption"]) == ("a", "z")


def test_files_that_disagree_are_no_guess_and_files_that_agree_are_one_caption(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("p0", "p1", "p2", "p3", "sub/p4"):
        draw(folder / f"{name}.png")
    _csv(folder / "a.csv", [("p0.png", "from a"), ("p2.png", "from a"), ("p3.png", "same"), ("p4.png", "from above")])
    _csv(folder / "b.csv", [("p0.png", "from b"), ("p3.png", "same")])
    _csv(folder / "sub" / "a.csv", [("p4.png", "from here")])
    (folder / "p1.txt").write_text("from text")
    (folder / "p1.json").write_text('{"caption": "from json"}')
    (folder / "p2.txt").write_text("from text")
    (folder / "p3.txt").write_text(" same\n")
    (folder / "p3.json").write_text('{"caption": "same", "year": 7}')
    write_tar(folder / "t.tar", {"1.png": data("red", "PNG"), "1.txt": b"one", "1.json": b'{"caption": "two"}'})
    report, rows = embed_words(folder, tmp_path / "out")
    assert {key: (row["caption"], row["year"]) for key, row in rows.items()} == {"p3.png": ("same", 7)}
    assert report.skipped == {"ambiguous description": 5}
    said = {name: reason.removeprefix("ambiguous description: ") for name, reason in skipped(tmp_path / "out").items()}
    assert said == {
        "p0.png": "a.csv and b.csv have different captions for it",
        "p1.png": "p1.txt and p1.json have different captions for it",
        "p2.png": "p2.txt and a.csv have different captions for it",
        "p4.png": f"{folder}/sub/a.csv and {folder}/a.csv have different captions for it",
        "1.png": "1.txt and 1.json have different captions for it",
    }
    listed = embed([(folder / "p1.png", "I say so")], tmp_path / "out", encoder="test-words")
    assert (listed.captioned, listed.skipped) == (1, {})


def test_rows_that_name_no_picture_are_counted(tmp_path: Path) -> None:
    for name in ("000000000.png", "sub/000000001.png"):
        draw(tmp_path / "in" / name)
    numbers = pa.table({"key": [0, 1, 2], "caption": ["a", "b", "c"]})  # numbers have lost the zeros of the names
    pq.write_table(numbers, tmp_path / "in" / "t.parquet")
    _csv(tmp_path / "in" / "sub" / "c.csv", [("000000001.png", "one"), ("absent.png", "two")])
    report, _ = embed_words(tmp_path / "in", tmp_path / "out")
    assert report.captioned == 1
    assert report.unmatched == {f"{tmp_path}/in/t.parquet": 3, f"{tmp_path}/in/sub/c.csv": 1}
    for layout in ("files", "webdataset"):
        img2dataset(tmp_path / layout, layout, {"000000001": "red"})
        assert embed_words(tmp_path / layout, tmp_path / f"{layout} out")[0].unmatched == {}
    (tmp_path / "webdataset" / "00000.parquet").unlink()
    _csv(tmp_path / "webdataset" / "00000.csv", [("absent", "x")])
    report, _ = embed_words(tmp_path / "webdataset", tmp_path / "tar")
    assert report.unmatched == {f"{tmp_path}/webdataset/00000.csv": 1}


def test_captions_that_cannot_be_read_hold_their_pictures_back(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        draw(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "a.json").write_text('{"caption": "cut sh')
    (tmp_path / "in" / "b.json").write_text(
        json.dumps({"caption": "whole", "tags": ["x", "y"], "width": 1, "imageData": "base64" * 99_999})
    )
    (tmp_path / "in" / "b.txt").write_text("a book" * 999_999)
    (tmp_path / "in" / "broken.parquet").write_bytes(b"PAR1 and nothing more")
    (tmp_path / "in" / "sales.csv").write_text("month,sum\nMay,1,2,3\n")
    (tmp_path / "in" / "log.jsonl").write_text('{"event": 1}\nno JSON\n')
    report, rows = embed_words(tmp_path / "in", tmp_path / "out")
    assert (rows["b.png"]["caption"], rows["b.png"]["tags"], rows["b.png"]["width"]) == ("whole", '["x", "y"]', 24)
    assert list(rows) == ["b.png"]
    assert "imageData" not in rows["b.png"]
    assert report.skipped == {"description cannot be read": 2}
    assert skipped(tmp_path / "out")["a.png"].startswith("description cannot be read: a.json: ")
    assert skipped(tmp_path / "out")["c.png"].startswith("description cannot be read: broken.parquet: ")
