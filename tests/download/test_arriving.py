"""What is on disk afterwards: of shards that arrive, are cut, stall, lie about themselves, and are gone on with."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import cliphouse
from cliphouse.pipeline import plan
from cliphouse.types import Progress
from tests.download.conftest import IMAGE, TEXT, files, shards_of
from tests.download.server import Behaviour, Shelf


def test_shards_arrive_as_they_are_published(shelf: Shelf, source: Path, out: Path) -> None:
    report = cliphouse.download(out, shards="0-2", base_urls=[shelf.url])
    assert files(out) == shards_of(source, 0, 1, 2)
    assert (report.fetched, report.present, report.failed) == ((0, 1, 2), (), {})
    assert (report.files, report.received_bytes) == (9, sum(map(len, files(out).values())))
    assert [shard.number for shard in plan.plan(out)] == [0, 1, 2], "as load finds them"


def test_what_is_whole_is_not_asked_for_again(shelf: Shelf, source: Path, out: Path) -> None:
    cliphouse.download(out, shards=[1], base_urls=[shelf.url])
    shelf.asked.clear()
    shelf.probes.clear()
    again = cliphouse.download(out, shards=[1], base_urls=[shelf.url])
    assert (again.present, again.fetched, again.received_bytes) == ((1,), (), 0)
    assert shelf.asked == shelf.probes == []
    (out / "img_emb" / "img_emb_1.npy").unlink()
    assert cliphouse.download(out, shards=[1], base_urls=[shelf.url]).files == 1
    assert files(out) == shards_of(source, 1)


def test_files_stay_in_the_layout_they_are_in(shelf: Shelf, source: Path, out: Path) -> None:
    for name, content in shards_of(source, 0).items():
        if "metadata" not in name:
            out.mkdir(exist_ok=True)
            (out / Path(name).name).write_bytes(content)
    (out / IMAGE).write_bytes(b"\x93NUMPY half of it")
    cliphouse.download(out, shards="0", base_urls=[shelf.url])
    assert sorted(files(out)) == [IMAGE, "metadata/metadata_0.parquet", TEXT]
    assert (out / IMAGE).read_bytes() == (source / "img_emb" / IMAGE).read_bytes()


def test_image_embeddings_alone(shelf: Shelf, source: Path, out: Path) -> None:
    cliphouse.download(out, shards="0-1", base_urls=[shelf.url], text=False)
    assert files(out) == shards_of(source, 0, 1, text=False)


def test_a_cut_file_goes_on_where_it_stopped(shelf: Shelf, source: Path, out: Path) -> None:
    shelf.behave["*"] = Behaviour(cut_after=30_000)
    report = cliphouse.download(out, shards="0", base_urls=[shelf.url])
    assert files(out) == shards_of(source, 0)
    assert shelf.ranges(IMAGE) == ["all", "bytes=30000-", "bytes=60000-"]
    assert report.received_bytes == sum(map(len, files(out).values())), "no byte came twice"


def test_a_server_that_stalls_is_left_and_asked_for_the_rest(shelf: Shelf, source: Path, out: Path) -> None:
    shelf.behave[IMAGE] = Behaviour(stall_after=20_000, stalls=1)
    cliphouse.download(out, shards="0", base_urls=[shelf.url], patience=0.2)
    assert shelf.ranges(IMAGE) == ["all", "bytes=20000-"]
    assert files(out) == shards_of(source, 0)


def test_a_server_that_ignores_ranges_is_asked_for_all_of_it(shelf: Shelf, source: Path, out: Path) -> None:
    shelf.behave[IMAGE] = Behaviour(ranges=False, cut_after=50_000, cuts=2)
    report = cliphouse.download(out, shards="0", base_urls=[shelf.url])
    assert files(out) == shards_of(source, 0)
    assert report.received_bytes == sum(map(len, files(out).values())) + 100_000, "what came twice is counted"


def test_a_range_that_begins_elsewhere_is_not_taken(shelf: Shelf, source: Path, out: Path) -> None:
    shelf.behave[IMAGE] = Behaviour(cut_after=50_000, cuts=1, off_by=7)
    cliphouse.download(out, shards="0", base_urls=[shelf.url])
    assert files(out) == shards_of(source, 0)


@pytest.mark.parametrize("lie", [1000, -1000])
def test_a_length_that_is_a_lie(shelf: Shelf, second: Shelf, source: Path, out: Path, lie: int) -> None:
    """Too long: the rest is asked for, and there is none. Too short: the header tells, and the next mirror has it."""
    shelf.behave[IMAGE] = Behaviour(lie=lie)
    report = cliphouse.download(out, shards="0", base_urls=[shelf.url, second.url])
    assert files(out) == shards_of(source, 0)
    assert (report.failed, second.names()) == ({}, [] if lie > 0 else [IMAGE])


def test_a_length_that_is_not_said_is_read_from_the_header(shelf: Shelf, source: Path, out: Path) -> None:
    shelf.behave[IMAGE] = Behaviour(says_length=False, ranges=True, cut_after=40_000, cuts=1)
    cliphouse.download(out, shards="0", base_urls=[shelf.url])
    assert files(out) == shards_of(source, 0)
    assert shelf.ranges(IMAGE) == ["all", "bytes=40000-"]


def test_a_server_is_left_alone_as_long_as_it_wants(shelf: Shelf, source: Path, out: Path) -> None:
    shelf.behave[IMAGE] = Behaviour(statuses=[(429, {"Retry-After": "1"})])
    started = time.monotonic()
    cliphouse.download(out, shards="0", base_urls=[shelf.url])
    assert time.monotonic() - started >= 1
    assert files(out) == shards_of(source, 0)


def test_a_file_that_changed_between_two_runs_is_fetched_anew(shelf: Shelf, source: Path, out: Path) -> None:
    shelf.behave[IMAGE] = Behaviour(cut_after=30_000, cuts=1, statuses=[])
    older = (source / "img_emb" / IMAGE).read_bytes()[::-1]
    part = out / "img_emb" / f"{IMAGE}.part"
    for heeds in (True, False):
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(older[:40_000])
        part.with_name(part.name + ".etag").write_text('"older"')
        shelf.behave[IMAGE] = Behaviour(heeds_if_range=heeds)
        cliphouse.download(out, shards="0", base_urls=[shelf.url])
        assert files(out) == shards_of(source, 0), "a server that heeds If-Range, and one that does not"
        (out / "img_emb" / IMAGE).unlink()


def test_a_second_run_goes_on_with_what_the_first_left(shelf: Shelf, source: Path, out: Path) -> None:
    shelf.behave[IMAGE] = Behaviour(cut_after=30_000, cuts=1, statuses=[])

    def give_up(progress: Progress) -> None:
        if (progress.label, progress.done) == (IMAGE, 30_000):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cliphouse.download(out, shards="0", base_urls=[shelf.url], progress=give_up)
    assert f"img_emb/{IMAGE}.part" in files(out)
    shelf.asked.clear()
    cliphouse.download(out, shards="0", base_urls=[shelf.url])
    assert shelf.ranges(IMAGE) == ["bytes=30000-"]
    assert files(out) == shards_of(source, 0)
