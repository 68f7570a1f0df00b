"""Pictures that are broken, huge, turned, animated or odd: what is skipped, and that the rest goes on."""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, features

from cliphouse import Collection, embed
from cliphouse.encoders.words import COLOURS, WordEncoder
from cliphouse.pipeline.plan import plan
from tests.pictures import bomb, data, draw, draw_folder, embed_words, rows_of, skipped, write_tar

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
    report, rows = embed_words(tmp_path / "in", tmp_path / "out")
    assert list(rows) == ["good.png"]
    reasons = skipped(tmp_path / "out")
    for name, (_, reason) in BAD.items():
        assert reasons.pop(name).startswith(reason)
    assert reasons == {"absent.png": "cannot be opened: No such file or directory", "pipe.png": "empty file"}
    assert report.skipped["too large"] == 2
    assert report.skipped_list == tmp_path / "out" / "skipped.jsonl"


def test_the_limit_of_pixels_is_the_jobs_own(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "small.png", size=(20, 10))
    draw(tmp_path / "in" / "wide.png", size=(30, 10))
    report, _ = embed_words(tmp_path / "in", tmp_path / "out", max_pixels=200)
    assert (report.pictures, report.skipped) == (1, {"too large": 1})
    report, _ = embed_words(tmp_path / "in", tmp_path / "out", max_pixels=10**9)
    assert (report.pictures, report.known, report.skipped) == (1, 1, {})


def test_a_damaged_archive_gives_what_is_whole(tmp_path: Path) -> None:
    write_tar(tmp_path / "in" / "a.tar", {"1.png": data("red", "PNG"), "2.bmp": data("blue", "BMP", (60, 60))})
    whole = (tmp_path / "in" / "a.tar").read_bytes()
    (tmp_path / "in" / "a.tar").write_bytes(whole[:3000])
    (tmp_path / "in" / "b.tar").write_bytes(b"no tar at all")
    (tmp_path / "in" / "c.tar.gz").write_bytes(b"\x1f\x8b\x08\0 and no more")
    draw(tmp_path / "in" / "d.png")
    report, rows = embed_words(tmp_path / "in", tmp_path / "out")
    assert sorted(rows) == ["1.png", "d.png"]
    assert {"b.tar", "c.tar.gz"} <= set(skipped(tmp_path / "out"))
    assert set(report.skipped) == {"broken archive"}


def test_a_compressed_tar_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step back in it would unpack it again from its beginning."""
    members = {f"{number:03d}.png": data("red", "PNG") for number in range(20)}
    members |= {f"{number:03d}.txt": b"late" for number in reversed(range(20))}
    whole = write_tar(tmp_path / "a.tar", members).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(whole))
    rewound: list[object] = []
    monkeypatch.setattr(gzip._GzipReader, "_rewind", rewound.append)  # type: ignore[attr-defined]
    report, rows = embed_words(tmp_path / "a.tar.gz", tmp_path / "out")
    assert (report.captioned, report.skipped, rewound) == (20, {}, [])
    assert list(rows) == list(members)[:20]
    noise = random.Random(1).randbytes(50_000)
    packed = gzip.compress(write_tar(tmp_path / "b.tar", {"1.png": data("red", "PNG"), "n": noise}).read_bytes())
    (tmp_path / "b.tgz").write_bytes(packed[:20_000])
    report, rows = embed_words(tmp_path / "b.tgz", tmp_path / "cut")
    assert (list(rows), report.skipped) == (["1.png"], {"broken archive": 1})


def test_a_parquet_file_that_became_another_is_looked_at_again(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.png")
    pq.write_table(pa.table({"key": ["x"], "png": [data("red")]}), tmp_path / "in" / "t.parquet")
    assert embed(tmp_path / "in", tmp_path / "one", encoder="test-words").pictures == 2
    pq.write_table(pa.table({"key": ["a"], "caption": ["a plum"]}), tmp_path / "in" / "t.parquet")
    _, rows = embed_words(tmp_path / "in", tmp_path / "two")
    assert {key: row["caption"] for key, row in rows.items()} == {"a": "a plum"}


def test_keys_of_a_parquet_file_that_come_twice(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"key": ["a", "a", "b"], "png": [data("red"), data("blue"), None]}), tmp_path / "in.parquet"
    )
    report, rows = embed_words(tmp_path / "in.parquet", tmp_path / "out")
    assert list(rows) == ["a"]
    assert report.skipped == {"not unique": 1, "no picture in its row": 1}


def test_rows_without_keys_are_told_apart(tmp_path: Path) -> None:
    pictures = [{"bytes": data(colour), "path": "image.jpg"} for colour in ("red", "blue", "pink")]
    pq.write_table(pa.table({"image": pictures, "caption": ["a", "b", "c"]}), tmp_path / "in.parquet")
    pq.write_table(pa.table({"jpg": [data("red"), data("blue")]}), tmp_path / "bare.parquet")
    _, rows = embed_words(tmp_path / "in.parquet", tmp_path / "out")
    assert [row["caption"] for row in rows.values()] == ["a", "b", "c"]
    assert list(embed_words(tmp_path / "bare.parquet", tmp_path / "bare")[1]) == ["row 1", "row 2"]
    assert embed_words(tmp_path / "in.parquet", tmp_path / "out")[0].known == 3


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
    embed_words(tmp_path / "in", tmp_path / "out")
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
    assert skipped(tmp_path / "out") == {
        "02.png": "not encoded: no yellow",
        "03.png": "not encoded: the encoder gave no direction",
    }
