"""Several places, in order: which of them has what, and files of one shard that do not belong together."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import cliphouse
from cliphouse.errors import DownloadFailed
from tests.conftest import Outcome
from tests.data import write_shard
from tests.download.conftest import IMAGE, METADATA, TEXT, files, shards_of
from tests.download.server import Behaviour, Shelf


@pytest.mark.parametrize(
    "wrong",
    [
        Behaviour(content=b"<!DOCTYPE html><title>sign in</title>", type="text/html"),
        Behaviour(content=b""),
        Behaviour(statuses=[(404, {})] * 9),
        Behaviour(statuses=[(503, {})] * 9),
        Behaviour(cut_after=0),
    ],
    ids=["html", "empty", "404", "503", "cut"],
)
@pytest.mark.parametrize("name", [IMAGE, METADATA])
def test_the_next_mirror_is_asked_for_what_the_first_has_not(
    shelf: Shelf, second: Shelf, source: Path, out: Path, wrong: Behaviour, name: str
) -> None:
    shelf.behave[name] = Behaviour(**vars(wrong) | {"statuses": list(wrong.statuses)})
    report = cliphouse.download(out, shards="0-1", base_urls=[shelf.url, second.url])
    assert files(out) == shards_of(source, 0, 1)
    assert report.failed == {}
    assert second.names() == [name]


@pytest.mark.parametrize("name", [IMAGE, METADATA])
def test_a_file_that_the_mirror_holds_cut_off(shelf: Shelf, second: Shelf, source: Path, out: Path, name: str) -> None:
    whole = (source / name.rpartition("_")[0] / name).read_bytes()
    shelf.behave[name] = Behaviour(content=whole[:-100])
    alone = cliphouse.download(out, shards="0-1", base_urls=[shelf.url])
    said = f"its header promises {len(whole):,} bytes, it has {len(whole) - 100:,}" if name == IMAGE else "not a whole"
    assert list(alone.failed) == [0]
    assert f"{shelf.url}/{name.rpartition('_')[0]}/{name}: " in alone.failed[0]
    assert said in alone.failed[0]
    assert alone.fetched == (1,), "the others are not stopped"
    assert name not in {Path(path).name.removesuffix(".part") for path in files(out)}, "it is thrown away"
    cliphouse.download(out, shards="0-1", base_urls=[shelf.url, second.url])
    assert files(out) == shards_of(source, 0, 1)
    assert second.names() == [name]


def test_who_wants_to_be_left_alone_for_an_hour_is_left(shelf: Shelf, second: Shelf, out: Path) -> None:
    later = formatdate(time.time() + 3600, usegmt=True)
    shelf.behave[IMAGE] = Behaviour(statuses=[(503, {"Retry-After": later})])
    shelf.behave[TEXT] = Behaviour(statuses=[(429, {"Retry-After": "3600"})])
    assert cliphouse.download(out, shards="0", base_urls=[shelf.url, second.url]).failed == {}
    assert (shelf.ranges(IMAGE), sorted(second.names())) == (["all"], [IMAGE, TEXT])


@pytest.mark.parametrize("runs", [1, 2])
def test_what_another_mirror_began_is_not_gone_on_with(
    shelf: Shelf, second: Shelf, source: Path, out: Path, runs: int
) -> None:
    """Half of one file and half of another is a file of the right length, and of nobody's data."""
    shelf.behave[IMAGE] = Behaviour(cut_after=30_000)
    shelf.on_request = lambda name: (
        shelf.behave[IMAGE].statuses.append((404, {})) if shelf.ranges(IMAGE)[1:] and name == IMAGE else None
    )
    theirs = (source / "img_emb" / "img_emb_1.npy").read_bytes()
    second.behave[IMAGE] = Behaviour(content=theirs, etag="", heeds_if_range=False)
    both = [shelf.url, second.url]
    for mirrors in [both] if runs == 1 else [both[:1], both[1:]]:
        cliphouse.download(out, shards="0", base_urls=mirrors)
    assert shelf.ranges(IMAGE) == ["all", "bytes=30000-"]
    assert (out / "img_emb" / IMAGE).read_bytes() == theirs


def _fewer_rows(source: Path, rows: int) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    pq.write_table(pq.read_table(source / "metadata" / METADATA).slice(0, rows), sink)
    return bytes(sink.getvalue())


def test_files_of_one_shard_that_disagree(shelf: Shelf, second: Shelf, source: Path, out: Path) -> None:
    shelf.behave[METADATA] = Behaviour(content=_fewer_rows(source, 599))
    alone = cliphouse.download(out, shards="0-1", base_urls=[shelf.url])
    assert alone.failed[0].startswith("row counts differ: metadata 599, text 600, image 600; metadata_0.parquet: ")
    assert f"metadata/{METADATA}" not in files(out), "two outvote it"
    both = cliphouse.download(out, shards="0-1", base_urls=[shelf.url, second.url])
    assert (both.fetched, both.present) == ((0,), (1,))
    assert files(out) == shards_of(source, 0, 1)
    assert second.names() == [METADATA]


def test_two_files_that_disagree_are_both_fetched_again(shelf: Shelf, second: Shelf, source: Path, out: Path) -> None:
    shelf.behave[METADATA] = Behaviour(content=_fewer_rows(source, 599))
    cliphouse.download(out, shards="0", base_urls=[shelf.url, second.url], text=False)
    assert files(out) == shards_of(source, 0, text=False)
    assert sorted(second.names()) == [IMAGE, METADATA]


@pytest.mark.parametrize("text", [True, False])
def test_files_that_their_publisher_replaced(shelf: Shelf, source: Path, out: Path, tmp_path: Path, text: bool) -> None:
    """Those that were there are outvoted by all that is to be had."""
    cliphouse.download(out, shards="0", base_urls=[shelf.url], text=text)
    (out / "metadata" / METADATA).unlink()
    shelf.root = tmp_path / "web"
    write_shard(shelf.root, 0, ["new"] * 599, folders=True)
    assert cliphouse.download(out, shards="0", base_urls=[shelf.url], text=text).fetched == (0,)
    assert files(out) == shards_of(shelf.root, 0, text=text)


def test_what_was_there_is_only_replaced_by_what_is_whole(shelf: Shelf, source: Path, out: Path) -> None:
    cliphouse.download(out, shards="0", base_urls=[shelf.url])
    mine = _fewer_rows(source, 300)
    (out / "metadata" / METADATA).write_bytes(mine)
    shelf.behave[METADATA] = Behaviour(statuses=[(404, {})])
    assert 0 in cliphouse.download(out, shards="0", base_urls=[shelf.url]).failed
    assert (out / "metadata" / METADATA).read_bytes() == mine
    assert cliphouse.download(out, shards="0", base_urls=[shelf.url]).fetched == (0,)
    assert files(out) == shards_of(source, 0)


@pytest.mark.parametrize("layout", ["images", "flat"])
def test_layouts_are_found_out(
    shelf: Shelf, source: Path, out: Path, tmp_path: Path, layout: str, cliphouse: Callable[..., Outcome]
) -> None:
    shelf.root = tmp_path / "web"
    folders = {"img_emb": "images", "text_emb": "texts", "metadata": "metadata"}
    for name, content in shards_of(source, 0, 1).items():
        place = shelf.root / (folders[Path(name).parts[0]] if layout == "images" else "") / Path(name).name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    assert cliphouse("download", "--shards", "0-1", "--out", out, "--base-url", f"{shelf.url}/").code == 0
    assert files(out) == shards_of(source, 0, 1)


def test_the_known_places_are_asked_in_order(
    shelf: Shelf, second: Shelf, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cliphouse.pipeline import mirrors

    assert [place.base.split("/")[2] for place in mirrors.KNOWN] == ["deploy.laion.ai", "the-eye.eu"]
    ours = [mirrors.Mirror(shelf.url, (mirrors.THE_EYE,)), mirrors.Mirror(second.url, (mirrors.CLIP_RETRIEVAL,))]
    monkeypatch.setattr("cliphouse.pipeline.download.KNOWN", ours)
    cliphouse.download(out, shards="0", parallel=1)
    assert files(out) == shards_of(source, 0)
    assert shelf.probes == [f"images/{IMAGE}"]
    assert shelf.asked == []
    assert second.names() == [METADATA, TEXT, IMAGE], "by its image embeddings a shard is found: they come last"


def test_where_nobody_answers_it_is_said_of_each(shelf: Shelf, out: Path) -> None:
    shelf.root = shelf.root / "nothing"
    with pytest.raises(DownloadFailed, match=r"9/img_emb.*refused; http.*: img_emb/.*404.*--base-url"):
        cliphouse.download(out, shards="0", base_urls=["http://127.0.0.1:9", shelf.url])
    shelf.behave["*"] = Behaviour(content=b"<!DOCTYPE html>")
    with pytest.raises(DownloadFailed, match="begins with b'<!DOCTYPE"):
        cliphouse.download(out, shards="0", base_urls=[shelf.url])


def test_a_mirror_that_has_a_few_of_the_shards(shelf: Shelf, source: Path, out: Path, tmp_path: Path) -> None:
    """Neither the first nor the middle nor the last."""
    shelf.root = tmp_path / "web"
    for name, content in shards_of(source, 1, 2).items():
        (shelf.root / name).parent.mkdir(parents=True, exist_ok=True)
        (shelf.root / name).write_bytes(content)
    report = cliphouse.download(out, shards="0-7", base_urls=[shelf.url])
    assert (report.fetched, list(report.failed)) == ((1, 2), [0, 3, 4, 5, 6, 7])
    assert files(out) == shards_of(source, 1, 2)


def test_a_mirror_that_is_busy_at_the_start_is_asked_later(
    shelf: Shelf, second: Shelf, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cliphouse.pipeline.mirrors.REST_SECONDS", 0)
    shelf.busy_probes = 3
    second.behave[IMAGE] = Behaviour(statuses=[(404, {})] * 9)
    assert cliphouse.download(out, shards="0", base_urls=[shelf.url, second.url]).failed == {}
    assert files(out) == shards_of(source, 0)
    assert len(shelf.probes) > 3


def test_what_mirrors_answer_is_shown(shelf: Shelf, cliphouse: Callable[..., Outcome]) -> None:
    shown = cliphouse("download", "--probe", "--base-url", shelf.url, "--base-url", "/nowhere/at/all")
    assert shown.code == 0
    first, last = shown.out.splitlines()[1:]
    assert first.split()[:3] == [shelf.url, "yes", "img_emb/:"]
    assert "image 75.1 KiB" in first
    assert "there is no such folder" in last
    assert shelf.asked == []
    assert cliphouse("download", "--probe", "--base-url", "/nowhere/at/all").code == 3
