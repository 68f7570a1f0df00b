"""Shards that are loaded while others come."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import cliphouse
from cliphouse import Collection
from tests.conftest import Outcome
from tests.data import random_unit, write_shard
from tests.download.conftest import ROWS, files, shards_of
from tests.download.server import Behaviour, Shelf


def _numbers(out: Path) -> set[str]:
    """The shards that have files or parts of files in `out`, as numbers."""
    return {match[1] for path in out.rglob("*") if (match := re.search(r"_(\d+)\.", path.name))}


def test_shards_are_loaded_and_deleted(
    shelf: Shelf, out: Path, tmp_path: Path, cliphouse: Callable[..., Outcome]
) -> None:
    """Few are on disk at once, however many come; in the end all rows are in the table, and no file is left."""
    at_once: list[int] = []
    shelf.on_request = lambda _: at_once.append(len(_numbers(out)))
    db = tmp_path / "db"
    command = ("download", "--out", out, "--base-url", shelf.url, "--then", "load", "--db", db)
    outcome = cliphouse(*command, "--shards", "0-3", "--keep", "none", "--parallel", 3)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"shards 0-3: loaded into laion, {4 * ROWS:,} new rows" in outcome.out
    assert files(out) == {}
    assert max(at_once) <= 2
    with Collection.open(db) as collection:
        assert collection.status().shards == (0, 1, 2, 3)
        assert collection.search(random_unit(ROWS, 64, 4)[7], k=1)[0].caption == "picture 7 of shard 2"
    shelf.asked.clear()
    again = cliphouse(*command, "--shards", "1-3", "--keep", "none")
    assert again.out == "shards 1-3: in laion already, and were not downloaded\n"
    assert shelf.asked == shelf.probes[4:] == []


def test_what_is_loaded_stays_unless_told_otherwise(shelf: Shelf, source: Path, out: Path, tmp_path: Path) -> None:
    with Collection.open(tmp_path / "db") as collection:
        report = cliphouse.download(out, shards="0-1", base_urls=[shelf.url], into=collection)
        assert (report.loaded, report.rows, report.fetched) == ((0, 1), 2 * ROWS, (0, 1))
        assert collection.status().rows == 2 * ROWS
        assert files(out) == shards_of(source, 0, 1)
        # A run that was killed between loading and deleting left them; they are deleted when they are known to be in.
        last = cliphouse.download(out, shards="0-2", base_urls=[shelf.url], into=collection, keep="none")
        assert (last.present, last.fetched, last.rows) == ((0, 1), (2,), ROWS)
        assert files(out) == {}


def test_a_shard_that_cannot_be_loaded_does_not_stop_the_others(shelf: Shelf, out: Path, tmp_path: Path) -> None:
    """It stays on disk, and the report says why; so does one that cannot be fetched."""
    shelf.root = tmp_path / "web"
    for number in range(4):
        nothing = dict.fromkeys(("url", "caption", "image_path")) if number == 1 else None
        images = random_unit(20, 16, number)
        write_shard(shelf.root, number, ["x"] * 20, images=images, with_text=False, folders=True, columns=nothing)
    shelf.behave["metadata_2.parquet"] = Behaviour(statuses=[(404, {})] * 9)
    with Collection.open(tmp_path / "db") as collection:
        report = cliphouse.download(out, shards="0-3", base_urls=[shelf.url], text=False, into=collection, keep="none")
        assert report.loaded == collection.status().shards == (0, 3)
    assert list(report.failed) == [1, 2]
    assert "metadata_1.parquet has none of the columns" in report.failed[1]
    assert "404" in report.failed[2]
    assert {name for name in files(out) if "_2" not in name} == {"img_emb/img_emb_1.npy", "metadata/metadata_1.parquet"}


def test_a_shard_of_other_dimensions_does_not_stop_the_others(shelf: Shelf, out: Path, tmp_path: Path) -> None:
    shelf.root = tmp_path / "web"
    for number in range(3):
        images = random_unit(20, 8 if number == 1 else 16, number)
        write_shard(shelf.root, number, ["x"] * 20, images=images, with_text=False, folders=True)
    first = write_shard(tmp_path / "first", 9, ["x"] * 20, images=random_unit(20, 16), with_text=False)
    with Collection.open(tmp_path / "db") as collection:
        collection.load(first)  # or the shard that happens to come first would decide
        report = cliphouse.download(out, shards="0-2", base_urls=[shelf.url], text=False, into=collection)
        assert (report.loaded, collection.status().shards) == ((0, 2), (0, 2, 9))
    assert list(report.failed) == [1]
    assert "has 8 dimensions" in report.failed[1]


def test_what_ends_it_does_not_hide_what_was_done(
    shelf: Shelf, out: Path, tmp_path: Path, cliphouse: Callable[..., Outcome]
) -> None:
    """The disk is full at the third shard: what was loaded, and what failed before, is said before the error."""
    shelf.behave["img_emb_0.npy"] = Behaviour(statuses=[(404, {})] * 9)
    (out / "img_emb").mkdir(parents=True)
    (out / "img_emb" / "img_emb_2.npy.part").symlink_to("/dev/full")
    to = ("--out", out, "--base-url", shelf.url, "--then", "load", "--db", tmp_path / "db", "--parallel", 1)
    outcome = cliphouse("download", "--shards", "0-2", *to)
    assert outcome.code == 5
    assert f"shards 1: loaded into laion, {ROWS:,} new rows" in outcome.out
    failed, again, error = outcome.err.splitlines()
    assert failed.startswith("shard 0 failed: img_emb_0.npy: ")
    assert again.endswith("--shards 0")
    assert error.startswith("cliphouse: no space left on")


def test_rows_are_left_out_and_kept_as_load_is_told(
    shelf: Shelf, out: Path, tmp_path: Path, cliphouse: Callable[..., Outcome]
) -> None:
    shelf.root = tmp_path / "web"
    for number in range(2):
        images = random_unit(20, 16, number)
        images[3] = 0
        captions = ["x"] * 19 + [None]  # type: ignore[list-item]
        write_shard(shelf.root, number, captions, images=images, with_text=False, folders=True)
    to = ("--out", out, "--base-url", shelf.url, "--no-text", "--then", "load", "--shards", "0-1", "--db")
    told = cliphouse("download", *to, tmp_path / "db").out
    assert "left out 2 of 40 rows: 2 vector\n" in told
    assert "kept though not as they should be: 2 caption\n" in told
    strict = cliphouse("download", *to, tmp_path / "strict", "--on-bad-row", "fail", "--storage", "float32")
    assert strict.code == 3
    assert "shard 0 failed: " in strict.err
    kept = cliphouse("download", *to, tmp_path / "kept", "--on-bad-row", "keep", "--storage", "float32")
    assert "40 new rows" in kept.out
    with Collection.open(tmp_path / "kept") as collection:
        assert collection.status().storage == "float32"


def test_files_are_deleted_when_the_table_is_on_the_disk(
    shelf: Shelf, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[bool] = []
    monkeypatch.setattr("os.sync", lambda: there.append((out / "img_emb" / "img_emb_0.npy").exists()))
    with Collection.open(tmp_path / "db") as collection:
        cliphouse.download(out, shards="0", base_urls=[shelf.url], into=collection, keep="none")
    assert there == [True]
    assert files(out) == {}
