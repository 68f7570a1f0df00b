"""From pictures to shards: every layout, every bad input, and what search then finds."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, features

from cliphouse import Collection, Progress, embed
from cliphouse.encoders.decode import OpenImage
from cliphouse.encoders.words import COLOURS, WordEncoder
from cliphouse.errors import (
    EncoderMismatch,
    EncoderUnavailable,
    NoPictures,
    ShardError,
    StorageFull,
    UnknownEncoder,
    UsageError,
)
from cliphouse.pipeline import ahead
from cliphouse.pipeline import embed as job
from cliphouse.pipeline.items import Item
from cliphouse.pipeline.plan import plan
from cliphouse.types import Shard
from tests.data import write_shard
from tests.pictures import bomb, data, draw, draw_folder, img2dataset, rows_of, write_tar


def _embed(src: Any, out: Path, **options: Any) -> tuple[Any, dict[str, dict[str, Any]]]:
    """The report, and the metadata by key."""
    report = embed(src, out, encoder="test-words", **options)
    return report, {row["key"]: row for row in rows_of(plan(out))}


def _skipped(out: Path) -> dict[str, str]:
    lines = map(json.loads, (out / "skipped.jsonl").read_text().splitlines())
    return {Path(line["image_path"]).name: line["reason"] for line in lines}


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
    report, rows = _embed(tmp_path / "in", tmp_path / "out")
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
    report, _ = _embed(tmp_path / "in", tmp_path / "out", shard_size=3)
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
    report, rows = _embed(tmp_path / "in", tmp_path / "out")
    assert {key: row["caption"] for key, row in rows.items()} == {
        key: f"something {colour}" for key, colour in colours.items()
    }
    assert report.skipped == {"not downloaded": 1}
    assert _skipped(tmp_path / "out") == {"000009999": "not downloaded: failed_to_download"}
    row = rows["000000002"]
    assert (row["url"], row["NSFW"], row["license"]) == ("https://example.com/000000002.jpg", "UNLIKELY", "?")
    assert (row["width"], row["original_width"], row["exif"]) == (24, 240, "{}")
    assert row["similarity"] == pytest.approx(0.5**0.5, abs=1e-3), "of these pixels and this caption"
    assert row["image_path"].startswith(str(tmp_path / "in" / "00000"))
    again, _ = _embed(tmp_path / "in", tmp_path / "out")
    assert (again.pictures, again.known) == (0, 3)
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "out")
        assert collection.search("green", k=1)[0].caption == "something green"


@pytest.mark.parametrize("name", ["00000.tar", "00000.parquet"])
def test_a_tar_or_a_parquet_file_alone(tmp_path: Path, name: str) -> None:
    img2dataset(tmp_path / "in", "webdataset" if name.endswith("tar") else "parquet", {"000000001": "pink"})
    report, rows = _embed(tmp_path / "in" / name, tmp_path / "out")
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
    _, rows = _embed(tmp_path / "in.parquet", tmp_path / "out")
    assert {key: (row["caption"], row["label"]) for key, row in rows.items()} == {
        "a.jpg": ("a red one", 3),
        "b.jpg": (None, 4),
    }
    draw(tmp_path / "folder" / "train" / "a.png")
    (tmp_path / "folder" / "train" / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "a rose", "year": 9}\n'
    )
    _, rows = _embed(tmp_path / "folder", tmp_path / "out2")
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
    report, found = _embed(tmp_path / "in", tmp_path / "out")
    assert {key: row["caption"] for key, row in found.items()} == expected
    assert (report.captioned, report.skipped) == (len(COLOURS), {})


def test_a_name_that_fits_two_pictures_or_has_two_captions_is_no_guess(tmp_path: Path) -> None:
    for name in ("cats/1.png", "dogs/1.png", "dogs/2.png", "dogs/3.png", "dogs/4.png"):
        draw(tmp_path / "in" / name)
    (tmp_path / "in" / "dogs" / "4.txt").write_text("its own caption")
    _csv(
        tmp_path / "in" / "c.csv", [("1.png", "a"), ("2.png", "b"), ("2.png", "c"), ("3", "d"), ("4", "e"), ("4", "f")]
    )
    report, rows = _embed(tmp_path / "in", tmp_path / "out")
    assert {key: row["caption"] for key, row in rows.items()} == {"dogs/3.png": "d"}
    assert report.skipped == {"ambiguous description": 4}
    reasons = _skipped(tmp_path / "out")
    assert reasons["1.png"] == "ambiguous description: in c.csv, '1.png' also fits cats/1.png and dogs/1.png"
    assert reasons["2.png"] == "ambiguous description: c.csv has several captions for it, in rows 2, 3"
    _csv(tmp_path / "in" / "c.csv", [("cats/1.png", "a"), ("dogs/1.png", "z"), ("2.png", "b")])
    report, rows = _embed(tmp_path / "in", tmp_path / "out")
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
    report, rows = _embed(folder, tmp_path / "out")
    assert {key: (row["caption"], row["year"]) for key, row in rows.items()} == {"p3.png": ("same", 7)}
    assert report.skipped == {"ambiguous description": 5}
    said = {name: reason.removeprefix("ambiguous description: ") for name, reason in _skipped(tmp_path / "out").items()}
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
    report, _ = _embed(tmp_path / "in", tmp_path / "out")
    assert report.captioned == 1
    assert report.unmatched == {f"{tmp_path}/in/t.parquet": 3, f"{tmp_path}/in/sub/c.csv": 1}
    for layout in ("files", "webdataset"):
        img2dataset(tmp_path / layout, layout, {"000000001": "red"})
        assert _embed(tmp_path / layout, tmp_path / f"{layout} out")[0].unmatched == {}
    (tmp_path / "webdataset" / "00000.parquet").unlink()
    _csv(tmp_path / "webdataset" / "00000.csv", [("absent", "x")])
    report, _ = _embed(tmp_path / "webdataset", tmp_path / "tar")
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
    report, rows = _embed(tmp_path / "in", tmp_path / "out")
    assert (rows["b.png"]["caption"], rows["b.png"]["tags"], rows["b.png"]["width"]) == ("whole", '["x", "y"]', 24)
    assert list(rows) == ["b.png"]
    assert "imageData" not in rows["b.png"]
    assert report.skipped == {"description cannot be read": 2}
    assert _skipped(tmp_path / "out")["a.png"].startswith("description cannot be read: a.json: ")
    assert _skipped(tmp_path / "out")["c.png"].startswith("description cannot be read: broken.parquet: ")


BAD = {
    "text.jpg": (b"this is a text file", "not a picture that Pillow knows"),
    "empty.png": (b"", "empty file"),
    "cut.jpg": (data("red", size=(400, 300))[:900], "broken: image file is truncated"),
    "cut.png": (data("red", "PNG")[:20], "broken: Truncated File Read"),
    "script.gif": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture that Pillow knows"),
    "bomb.png": (bomb(30_000, 30_000), "too large: 30,000 x 30,000 pixels, the limit is 89,478,485 in all"),
    "large.png": (bomb(10_000, 9_000), "too large: 10,000 x 9,000 pixels"),
}


def test_bad_pictures_are_skipped_and_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "good.png")
    for name, (content, _) in BAD.items():
        (tmp_path / "in" / name).write_bytes(content)
    (tmp_path / "in" / "absent.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    report, rows = _embed(tmp_path / "in", tmp_path / "out")
    assert list(rows) == ["good.png"]
    reasons = _skipped(tmp_path / "out")
    for name, (_, reason) in BAD.items():
        assert reasons.pop(name).startswith(reason)
    assert reasons == {"absent.png": "cannot be opened: No such file or directory", "pipe.png": "empty file"}
    assert report.skipped["too large"] == 2
    assert report.skipped_list == tmp_path / "out" / "skipped.jsonl"


def test_the_limit_of_pixels_is_the_jobs_own(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "small.png", size=(20, 10))
    draw(tmp_path / "in" / "wide.png", size=(30, 10))
    report, _ = _embed(tmp_path / "in", tmp_path / "out", max_pixels=200)
    assert (report.pictures, report.skipped) == (1, {"too large": 1})
    report, _ = _embed(tmp_path / "in", tmp_path / "out", max_pixels=10**9)
    assert (report.pictures, report.known, report.skipped) == (1, 1, {})


def test_a_damaged_archive_gives_what_is_whole(tmp_path: Path) -> None:
    write_tar(tmp_path / "in" / "a.tar", {"1.png": data("red", "PNG"), "2.bmp": data("blue", "BMP", (60, 60))})
    whole = (tmp_path / "in" / "a.tar").read_bytes()
    (tmp_path / "in" / "a.tar").write_bytes(whole[:3000])
    (tmp_path / "in" / "b.tar").write_bytes(b"no tar at all")
    (tmp_path / "in" / "c.tar.gz").write_bytes(b"\x1f\x8b\x08\0 and no more")
    draw(tmp_path / "in" / "d.png")
    report, rows = _embed(tmp_path / "in", tmp_path / "out")
    assert sorted(rows) == ["1.png", "d.png"]
    assert {"b.tar", "c.tar.gz"} <= set(_skipped(tmp_path / "out"))
    assert set(report.skipped) == {"broken archive"}


def test_a_compressed_tar_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step back in it would unpack it again from its beginning."""
    members = {f"{number:03d}.png": data("red", "PNG") for number in range(20)}
    members |= {f"{number:03d}.txt": b"late" for number in reversed(range(20))}
    whole = write_tar(tmp_path / "a.tar", members).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(whole))
    rewound: list[object] = []
    monkeypatch.setattr(gzip._GzipReader, "_rewind", rewound.append)  # type: ignore[attr-defined]
    report, rows = _embed(tmp_path / "a.tar.gz", tmp_path / "out")
    assert (report.captioned, report.skipped, rewound) == (20, {}, [])
    assert list(rows) == list(members)[:20]
    noise = random.Random(1).randbytes(50_000)
    packed = gzip.compress(write_tar(tmp_path / "b.tar", {"1.png": data("red", "PNG"), "n": noise}).read_bytes())
    (tmp_path / "b.tgz").write_bytes(packed[:20_000])
    report, rows = _embed(tmp_path / "b.tgz", tmp_path / "cut")
    assert (list(rows), report.skipped) == (["1.png"], {"broken archive": 1})


def test_a_parquet_file_that_became_another_is_looked_at_again(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.png")
    pq.write_table(pa.table({"key": ["x"], "png": [data("red")]}), tmp_path / "in" / "t.parquet")
    assert embed(tmp_path / "in", tmp_path / "one", encoder="test-words").pictures == 2
    pq.write_table(pa.table({"key": ["a"], "caption": ["a plum"]}), tmp_path / "in" / "t.parquet")
    _, rows = _embed(tmp_path / "in", tmp_path / "two")
    assert {key: row["caption"] for key, row in rows.items()} == {"a": "a plum"}


def test_keys_of_a_parquet_file_that_come_twice(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"key": ["a", "a", "b"], "png": [data("red"), data("blue"), None]}), tmp_path / "in.parquet"
    )
    report, rows = _embed(tmp_path / "in.parquet", tmp_path / "out")
    assert list(rows) == ["a"]
    assert report.skipped == {"not unique": 1, "no picture in its row": 1}


def test_rows_without_keys_are_told_apart(tmp_path: Path) -> None:
    pictures = [{"bytes": data(colour), "path": "image.jpg"} for colour in ("red", "blue", "pink")]
    pq.write_table(pa.table({"image": pictures, "caption": ["a", "b", "c"]}), tmp_path / "in.parquet")
    pq.write_table(pa.table({"jpg": [data("red"), data("blue")]}), tmp_path / "bare.parquet")
    _, rows = _embed(tmp_path / "in.parquet", tmp_path / "out")
    assert [row["caption"] for row in rows.values()] == ["a", "b", "c"]
    assert list(_embed(tmp_path / "bare.parquet", tmp_path / "bare")[1]) == ["row 1", "row 2"]
    assert _embed(tmp_path / "in.parquet", tmp_path / "out")[0].known == 3


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    """Stored lying, shown standing: the red half comes to the top."""
    picture = Image.new("RGB", (40, 20), COLOURS["blue"])
    picture.paste(COLOURS["red"], (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in").mkdir()
    picture.save(tmp_path / "in" / "turned.jpg", exif=exif, quality=95)
    seen: list[Image.Image] = []

    class Watching(WordEncoder):
        def encode_images(self, images: Any) -> Any:
            seen.extend(images)
            return super().encode_images(images)

    embed(tmp_path / "in", tmp_path / "out", encoder=Watching())
    (row,) = rows_of(plan(tmp_path / "out"))
    assert (row["width"], row["height"], seen[0].size) == (20, 40, (20, 40))
    assert seen[0].getpixel((10, 3))[0] > 150
    assert seen[0].getpixel((10, 36))[2] > 150


KINDS = ["x.png", "x.JPG", "x.webp", "x.gif", "x.bmp", "x.tiff", "x.avif"]


@pytest.mark.parametrize("name", KINDS)
def test_what_pillow_reads(tmp_path: Path, name: str) -> None:
    if name.endswith("avif") and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    draw(tmp_path / "in" / name, "green")
    _embed(tmp_path / "in", tmp_path / "out")
    with Collection.open("chdb://memory") as collection:
        collection.load(tmp_path / "out")
        assert collection.search("green", k=1)[0].distance < 0.01


def test_the_first_frame_of_an_animation_in_its_own_mode(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 9), COLOURS[name]) for name in ("yellow", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"):
        Image.new(mode, (5, 4)).save(tmp_path / f"mode {mode.replace(';', '')}.{'tiff' if mode in 'CMYKF' else 'png'}")
    seen: dict[str, Image.Image] = {}

    class Watching(WordEncoder):
        def encode_images(self, images: Any) -> Any:
            assert len(images) == 10
            seen.update(zip(sorted(path.name for path in tmp_path.glob("*.*")), images, strict=True))
            return super().encode_images(images)

    out = tmp_path / "out"
    assert embed(tmp_path, out, encoder=Watching()).pictures == 10
    assert seen["moving.gif"].convert("RGB").getpixel((4, 4)) == COLOURS["yellow"]
    assert seen["moving.webp"].convert("RGB").getpixel((4, 4)) == COLOURS["yellow"]
    for name, mode in (("mode L.png", "L"), ("mode P.png", "P"), ("mode CMYK.tiff", "CMYK"), ("mode I16.png", "I;16")):
        assert seen[name].mode == mode


def test_a_picture_that_the_encoder_refuses_does_not_cost_its_batch(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 5)

    class Particular(WordEncoder):
        def encode_images(self, images: Any) -> Any:
            vectors = super().encode_images(images)
            if any(image.getpixel((0, 0)) == COLOURS["yellow"] for image in images):
                raise ValueError("no yellow")
            vectors[[image.getpixel((0, 0)) == COLOURS["green"] for image in images]] = np.nan
            return vectors

    report = embed(tmp_path / "in", tmp_path / "out", encoder=Particular())
    assert (report.pictures, report.skipped) == (3, {"not encoded": 2})
    assert _skipped(tmp_path / "out") == {
        "02.png": "not encoded: no yellow",
        "03.png": "not encoded: the encoder gave no direction",
    }


def test_running_again_takes_in_what_is_new_and_tries_what_was_skipped(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 3)
    (tmp_path / "in" / "late.png").write_bytes(b"half written")
    first, _ = _embed(tmp_path / "in", tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*_0.*")}
    draw(tmp_path / "in" / "late.png")
    draw(tmp_path / "in" / "new" / "one.png")
    second, rows = _embed(tmp_path / "in", tmp_path / "out")
    third, _ = _embed(f"{tmp_path}/in/../in/", tmp_path / "out")
    assert (first.pictures, second.pictures, second.known, third.pictures, third.known) == (3, 2, 3, 0, 5)
    assert (first.shards, second.shards, third.shards) == ((0,), (1,), ())
    assert (len(rows), second.skipped, third.skipped) == (5, {}, {})
    assert {path: path.read_bytes() for path in before} == before
    assert (tmp_path / "out" / "skipped.jsonl").read_text() == ""


def test_an_older_shard_is_written_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "SHARD_SECONDS", 0.0)
    monkeypatch.setattr(job, "BATCH", 2)
    draw_folder(tmp_path / "in", 5)
    assert _embed(tmp_path / "in", tmp_path / "out")[0].shards == (0, 1, 2)


def test_decoded_pictures_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget of three pictures: so many are decoded and wait, never more, and all come, in order."""
    budget = 3 * 24 * 16 * 4
    monkeypatch.setattr(ahead, "BUDGET_BYTES", budget)
    draw_folder(tmp_path / "in", 20)
    large = draw(tmp_path / "in" / "10.png", "red", (500, 500))  # alone over the budget
    lock, held, most = threading.Lock(), dict[str, int](), list[int]()
    decode = OpenImage.decode

    def counting(opened: OpenImage) -> Image.Image:
        with lock:
            held[opened.name] = opened.decoded_bytes
            most.append(sum(held.values()))
        return decode(opened)

    monkeypatch.setattr(OpenImage, "decode", counting)
    paths = sorted((tmp_path / "in").glob("*.png"))
    taken = []
    for picture in ahead.decoded((Item(path=str(path), key="", data=path) for path in paths), max_pixels=10**6):
        time.sleep(0.02)  # an encoder at work: the threads decode all that they may
        taken.append(picture.item.path)
        with lock:
            del held[picture.item.path]
    assert taken == list(map(str, paths))
    assert large in paths
    assert sorted(set(most))[-2:] == [budget, 500 * 500 * 4], "three, or the large one alone"


def test_no_batch_is_larger_than_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "BUDGET_BYTES", 3 * 24 * 16 * 4)
    draw_folder(tmp_path / "in", 20)
    draw(tmp_path / "in" / "10.png", "red", (500, 500))
    sizes = []

    class Counting(WordEncoder):
        def encode_images(self, images: Any) -> Any:
            sizes.append(len(images))
            return super().encode_images(images)

    embed(tmp_path / "in", tmp_path / "out", encoder=Counting())
    assert sizes == [3, 3, 3, 2, 3, 3, 3]
    assert [row["key"] for row in rows_of(plan(tmp_path / "out"))] == [f"{number:02d}.png" for number in range(20)]


def test_a_list_of_paths_with_and_without_captions(tmp_path: Path) -> None:
    red, blue = draw(tmp_path / "a" / "x.png"), draw(tmp_path / "b" / "x.png", "blue")
    (tmp_path / "b" / "x.txt").write_text("from beside")
    listed = [(str(red), "from the list"), blue, str(red), tmp_path / "absent.png", tmp_path / "a", "x" * 999, "a\0b"]
    report = embed(listed, tmp_path / "out", encoder="test-words")
    captions = {row["image_path"]: row["caption"] for row in rows_of(plan(tmp_path / "out"))}
    assert captions == {str(red): "from the list", str(blue): "from beside"}
    assert embed([(red, "again")], tmp_path / "out", encoder="test-words").known == 1
    assert (report.known, report.skipped) == (1, {"cannot be opened": 3, "not a file": 1})


def test_links_are_followed_once(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "one" / "x.png")
    draw(tmp_path / "elsewhere" / "y.png")
    (tmp_path / "in" / "one" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "two").symlink_to(tmp_path / "elsewhere")
    _, rows = _embed(tmp_path / "in", tmp_path / "out")
    assert sorted(rows) == ["one/x.png", "two/y.png"]


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "x.png")
    (tmp_path / "in" / "x.png").rename(tmp_path / "in" / os.fsdecode(b"\xff it's \\ 50%.png"))
    (tmp_path / "in" / "y.json").write_text('{"caption": "half \\ud83d a pair"}')
    draw(tmp_path / "in" / "y.png")
    report, rows = _embed(tmp_path / "in", tmp_path / "out")
    assert report.pictures == 2
    assert "half" in rows["y.png"]["caption"]
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        assert collection.add(tmp_path / "in").pictures == 2
        assert collection.add(tmp_path / "in").known == 2


def test_its_own_output_is_not_taken_for_pictures(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 2)
    embed(tmp_path / "in", tmp_path / "in" / "shards", encoder="test-words")
    report = embed(tmp_path / "in", tmp_path / "in" / "shards", encoder="test-words")
    assert (report.known, report.skipped) == (2, {})
    with pytest.raises(UsageError, match="is the source"):
        embed(tmp_path / "in", tmp_path / "in", encoder="test-words")


def test_what_the_user_has_is_not_written_over(tmp_path: Path) -> None:
    mine = tmp_path / "par"
    draw(mine / "2020" / "x.png")
    draw(mine / "top.png")
    (mine / "skipped.jsonl").write_text("mine")
    for out, reason in ((mine, "par holds the source .*/par/2020;"), (tmp_path, "holds the source")):
        with pytest.raises(UsageError, match=reason):
            embed(mine / "2020", out, encoder="test-words")
        with Collection.open(tmp_path / "db", encoder="test-words") as it, pytest.raises(UsageError, match=reason):
            it.add(mine / "2020", work=out)
    draw(tmp_path / "in" / "y.png")
    for source in (tmp_path / "in", [tmp_path / "in" / "y.png"]):
        with pytest.raises(UsageError, match=r"par holds 2020, which `cliphouse embed` did not write"):
            embed(source, mine, encoder="test-words")
    assert sorted(path.name for path in mine.iterdir()) == ["2020", "skipped.jsonl", "top.png"]
    assert (mine / "skipped.jsonl").read_text() == "mine"
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".DS_Store").write_bytes(b"")
    (tmp_path / "new" / "cliphouse.json.part").write_bytes(b"killed")
    assert embed(mine, tmp_path / "new", encoder="test-words").pictures == 2


def test_a_folder_of_shards_as_the_source(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "x.png")
    (tmp_path / "in" / "y.png").write_bytes(b"broken")
    embed(tmp_path / "in", tmp_path / "out", encoder="test-words")
    with pytest.raises(UsageError, match=r"out is a folder of shards .*, without pictures; load it"):
        embed(tmp_path / "out", tmp_path / "new", encoder="test-words")
    draw(tmp_path / "out" / "top.png")
    _, rows = _embed(tmp_path / "out", tmp_path / "new")
    assert {key: row.get("reason") for key, row in rows.items()} == {"top.png": None}


def test_a_folder_of_another_encoder_or_of_nobody_is_refused(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 2)

    class Other(WordEncoder):
        name = "other"

    embed(tmp_path / "in", tmp_path / "out", encoder=Other())
    with pytest.raises(EncoderMismatch, match=r"folder .*out' holds other embeddings, not test-words"):
        embed(tmp_path / "in", tmp_path / "out", encoder="test-words")
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        with pytest.raises(EncoderMismatch, match="holds other embeddings"):
            collection.load(tmp_path / "out")
        collection.add(tmp_path / "in")
    with Collection.open(tmp_path / "db") as collection, pytest.raises(EncoderMismatch, match="not other"):
        collection.load(tmp_path / "out")
    with pytest.raises(UsageError, match="did not write"):
        embed(tmp_path / "in", write_shard(tmp_path / "theirs"), encoder="test-words")


def test_what_cannot_begin_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 1)
    with pytest.raises(UnknownEncoder, match="no encoder 'clop'"):
        embed(tmp_path / "in", tmp_path / "out", encoder="clop")
    with pytest.raises(UsageError, match="there is nothing at"):
        embed(tmp_path / "absent", tmp_path / "out", encoder="test-words")
    with pytest.raises(UsageError, match="a shard holds from 1"):
        embed(tmp_path / "in", tmp_path / "out", encoder="test-words", shard_size=0)
    with pytest.raises(UsageError, match="max_pixels"):
        embed(tmp_path / "in", tmp_path / "out", encoder="test-words", max_pixels=0)
    with pytest.raises(UsageError, match=r"cannot use .* as a folder"):
        embed(tmp_path / "in", tmp_path / "in" / "00.png", encoder="test-words")
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_said(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 1)
    with pytest.raises(EncoderUnavailable, match="'clip-vit-b32' cannot run here: its weights are not here"):
        embed(tmp_path / "in", tmp_path / "out")
    with Collection.open(tmp_path / "db") as collection, pytest.raises(EncoderUnavailable):
        collection.add(tmp_path / "in")
    assert not (tmp_path / "out").exists()


def test_nothing_to_embed_is_an_error_with_its_reasons(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(NoPictures, match=r"no picture to embed in .*: it holds none"):
        embed(tmp_path / "in", tmp_path / "out", encoder="test-words")
    (tmp_path / "in" / "x.jpg").write_bytes(b"")
    with pytest.raises(NoPictures, match=r"skipped 1: 1 empty file; see .*skipped.jsonl") as caught:
        embed(tmp_path / "in", tmp_path / "out", encoder="test-words")
    assert caught.value.skipped == {"empty file": 1}


def test_a_full_disk_is_said_and_keeps_what_was_whole(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 9)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        with pytest.raises(StorageFull, match=r"no space left on .*; what was complete is kept"):
            embed(tmp_path / "in", disk / "out", encoder="test-words", shard_size=1)
        written = len(plan(disk / "out"))
        assert 0 < written < 9
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        report, rows = _embed(tmp_path / "in", disk / "out")
        assert (report.known, report.pictures, len(rows)) == (written, 9 - written, 9)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_shard_that_was_damaged_since_is_named(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 2)
    embed(tmp_path / "in", tmp_path / "out", encoder="test-words")
    (tmp_path / "out" / "metadata" / "metadata_0.parquet").write_bytes(b"PAR1")
    with pytest.raises(ShardError, match=r"shard 0: cannot read .*metadata_0.parquet"):
        embed(tmp_path / "in", tmp_path / "out", encoder="test-words")
    (tmp_path / "out" / "cliphouse.json").write_text("{}")
    with pytest.raises(UsageError, match=r"cliphouse.json cannot be read .*; remove it"):
        embed(tmp_path / "in", tmp_path / "out", encoder="test-words")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 1)

    class Impatient(WordEncoder):
        def encode_images(self, images: Any) -> Any:
            with pytest.raises(UsageError, match="another process embeds into"):
                embed(tmp_path / "in", tmp_path / "out", encoder="test-words")
            return super().encode_images(images)

    assert embed(tmp_path / "in", tmp_path / "out", encoder=Impatient()).pictures == 1


def _whole(shards: list[Shard]) -> bool:
    return all(len(np.load(shard.image_embeddings)) == len(rows_of([shard])) for shard in shards)


def test_an_interruption_keeps_what_was_encoded(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 40)

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path / "in", tmp_path / "out", encoder="test-words", progress=interrupt)
    assert len(rows_of(plan(tmp_path / "out"))) == 32
    assert _whole(plan(tmp_path / "out"))
    report, rows = _embed(tmp_path / "in", tmp_path / "out")
    assert (report.pictures, report.known, len(rows)) == (8, 32, 40)
