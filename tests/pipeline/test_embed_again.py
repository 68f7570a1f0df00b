"""Running again, running out of room, and places that are not ours to write: what `embed` leaves behind."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cliphouse import Collection, Progress, embed
from cliphouse.encoders.decode import OpenImage
from cliphouse.encoders.words import WordEncoder
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
from tests.pictures import draw, draw_folder, embed_words, rows_of


def test_running_again_takes_in_what_is_new_and_tries_what_was_skipped(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 3)
    (tmp_path / "in" / "late.png").write_bytes(b"half written")
    first, _ = embed_words(tmp_path / "in", tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*_0.*")}
    draw(tmp_path / "in" / "late.png")
    draw(tmp_path / "in" / "new" / "one.png")
    second, rows = embed_words(tmp_path / "in", tmp_path / "out")
    third, _ = embed_words(f"{tmp_path}/in/../in/", tmp_path / "out")
    assert (first.pictures, second.pictures, second.known, third.pictures, third.known) == (3, 2, 3, 0, 5)
    assert (first.shards, second.shards, third.shards) == ((0,), (1,), ())
    assert (len(rows), second.skipped, third.skipped) == (5, {}, {})
    assert {path: path.read_bytes() for path in before} == before
    assert (tmp_path / "out" / "skipped.jsonl").read_text() == ""


def test_an_older_shard_is_written_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "SHARD_SECONDS", 0.0)
    monkeypatch.setattr(job, "BATCH", 2)
    draw_folder(tmp_path / "in", 5)
    assert embed_words(tmp_path / "in", tmp_path / "out")[0].shards == (0, 1, 2)


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
    _, rows = embed_words(tmp_path / "in", tmp_path / "out")
    assert sorted(rows) == ["one/x.png", "two/y.png"]


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "x.png")
    (tmp_path / "in" / "x.png").rename(tmp_path / "in" / os.fsdecode(b"\xff it's \\ 50%.png"))
    (tmp_path / "in" / "y.json").write_text('{"caption": "half \\ud83d a pair"}')
    draw(tmp_path / "in" / "y.png")
    report, rows = embed_words(tmp_path / "in", tmp_path / "out")
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
    _, rows = embed_words(tmp_path / "out", tmp_path / "new")
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
        report, rows = embed_words(tmp_path / "in", disk / "out")
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
    report, rows = embed_words(tmp_path / "in", tmp_path / "out")
    assert (report.pictures, report.known, len(rows)) == (8, 32, 40)
