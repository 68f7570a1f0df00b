"""What is on disk afterwards, and what is said: servers that cut, stall, lie, refuse and change their mind."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import cliphouse
from cliphouse.errors import DownloadFailed, NotEnoughSpace, StorageError, StorageFull, UsageError
from cliphouse.pipeline import plan
from cliphouse.types import Progress
from tests.conftest import Outcome
from tests.data import write_shard
from tests.download.conftest import files, shards_of
from tests.download.server import Behaviour, Shelf

IMAGE, TEXT, METADATA = "img_emb_0.npy", "text_emb_0.npy", "metadata_0.parquet"


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


def test_a_server_is_left_alone_as_long_as_it_wants(shelf: Shelf, source: Path, out: Path) -> None:
    shelf.behave[IMAGE] = Behaviour(statuses=[(429, {"Retry-After": "1"})])
    started = time.monotonic()
    cliphouse.download(out, shards="0", base_urls=[shelf.url])
    assert time.monotonic() - started >= 1
    assert files(out) == shards_of(source, 0)


def test_who_wants_to_be_left_alone_for_an_hour_is_left(shelf: Shelf, second: Shelf, out: Path) -> None:
    later = formatdate(time.time() + 3600, usegmt=True)
    shelf.behave[IMAGE] = Behaviour(statuses=[(503, {"Retry-After": later})])
    shelf.behave[TEXT] = Behaviour(statuses=[(429, {"Retry-After": "3600"})])
    assert cliphouse.download(out, shards="0", base_urls=[shelf.url, second.url]).failed == {}
    assert (shelf.ranges(IMAGE), sorted(second.names())) == (["all"], [IMAGE, TEXT])


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


def test_the_summary_lists_what_failed_as_ranges(shelf: Shelf, out: Path, cliphouse: Callable[..., Outcome]) -> None:
    outcome = cliphouse("download", "--shards", "0,3-6", "--out", out, "--base-url", shelf.url)
    assert outcome.code == 3
    assert "shards 0,3: whole in" in outcome.out
    assert re.search(r"^shard 5 failed: \w+_5\.\w+: http\S+_5\.\w+: the server answered 404", outcome.err, re.MULTILINE)
    assert outcome.err.endswith("to try again what failed, run the same command with --shards 4-6\n")
    again = cliphouse("download", "--shards", "0,3", "--out", out, "--base-url", shelf.url)
    assert (again.code, again.out) == (0, f"shards 0,3: there before, in {out}\n")


def test_what_mirrors_answer_is_shown(shelf: Shelf, cliphouse: Callable[..., Outcome]) -> None:
    shown = cliphouse("download", "--probe", "--base-url", shelf.url, "--base-url", "/nowhere/at/all")
    assert shown.code == 0
    first, last = shown.out.splitlines()[1:]
    assert first.split()[:3] == [shelf.url, "yes", "img_emb/:"]
    assert "image 75.1 KiB" in first
    assert "there is no such folder" in last
    assert shelf.asked == []
    assert cliphouse("download", "--probe", "--base-url", "/nowhere/at/all").code == 3


def test_a_server_that_packs_what_it_sends(shelf: Shelf, out: Path) -> None:
    shelf.behave[TEXT] = Behaviour(encoding="gzip")
    assert "the server sends it packed as gzip" in cliphouse.download(out, shards="0", base_urls=[shelf.url]).failed[0]


def test_what_cannot_fit_is_said_before_it_begins(shelf: Shelf, out: Path, cliphouse: Callable[..., Outcome]) -> None:
    shelf.behave[IMAGE] = Behaviour(lie=2**60)
    with pytest.raises(
        NotEnoughSpace, match=r"shards 0 needs about 1,048,576\.\d\d TiB in .*[GT]iB are free; make room"
    ):
        cliphouse_download(out, shelf)
    assert files(out) == {}
    refused = cliphouse("download", "--shards", "0", "--out", out, "--base-url", shelf.url)
    assert refused.code == 5
    assert "--then load --keep none" in refused.err


def cliphouse_download(out: Path, shelf: Shelf) -> None:
    cliphouse.download(out, shards="0", base_urls=[shelf.url])


def test_a_full_disk_ends_it(shelf: Shelf, source: Path, out: Path) -> None:
    part = out / "img_emb" / f"{IMAGE}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(StorageFull, match=r"no space left on .*img_emb_0.npy; what was complete is kept"):
        cliphouse_download(out, shelf)
    part.unlink()
    cliphouse_download(out, shelf)
    assert files(out) == shards_of(source, 0)


def test_a_folder_that_cannot_be_made(shelf: Shelf, out: Path) -> None:
    out.mkdir()
    (out / "img_emb").touch()
    with pytest.raises(StorageError, match=r"cannot write .*img_emb: "):
        cliphouse_download(out, shelf)


def test_the_rate_is_that_of_all_files_together(shelf: Shelf, source: Path, out: Path) -> None:
    """All but the last helping of each thread was paid for: the rest takes at least its size by the rate."""
    rate = 200_000
    started = time.monotonic()
    report = cliphouse.download(out, shards="0", base_urls=[shelf.url], limit_rate=rate)
    assert time.monotonic() - started >= (report.received_bytes - 4 * rate / 4) / rate
    assert files(out) == shards_of(source, 0)


def test_progress_is_told_by_file_and_of_all(shelf: Shelf, source: Path, out: Path) -> None:
    cliphouse.download(out, shards="1", base_urls=[shelf.url])
    seen: dict[str, list[Progress]] = {}
    shelf.behave["*"] = Behaviour(cut_after=10_000)
    cliphouse.download(
        out,
        shards="0-1",
        base_urls=[shelf.url],
        progress=lambda step: seen.setdefault(step.label, []).append(step),
    )
    assert set(seen) == {IMAGE, TEXT, METADATA, "all files"}
    size = sum(map(len, shards_of(source, 0).values()))
    assert {step.total for step in seen["all files"]} == {size}
    assert (seen["all files"][-1].done, seen["all files"][-1].unit) == (size, "bytes")
    assert all(steps[-1].done == steps[-1].total for steps in seen.values())


def test_wrong_requests(shelf: Shelf, out: Path, source: Path, cliphouse: Callable[..., Outcome]) -> None:
    to = ("--out", out, "--base-url", shelf.url)
    for arguments, said in (
        (("--shards", "0"), "name the shards and the folder"),
        (to, "name the shards and the folder"),
        ((*to, "--shards", "x"), "is not a list of shards"),
        ((*to, "--shards", "0", "--keep", "none"), "add --then load"),
        ((*to, "--shards", "0", "--limit-rate", "fast"), "'fast' is no rate"),
        ((*to, "--shards", "0", "--limit-rate", "0"), "'0' is no rate"),
        ((*to, "--shards", "0", "--parallel", "0"), "parallel must be from 1 to 64"),
        ((*to, "--shards", "0", "--patience", "0"), "patience must be more than 0"),
        (("--shards", "0", "--out", out, "--base-url", "ftp://x/y"), "a folder or begin with https://, http://, s3://"),
        ((*to, "--shards", "0", "--patience", "inf"), "patience must be more than 0 seconds and at most a day"),
        ((*to, "--shards", "0", "--limit-rate", "9" * 400), "limit_rate must be"),
        ((*to, "--shards", "0", "--base-url", "http://[::1"), "'http://[::1' is no address"),
        ((*to, "--shards", "0", "--base-url", "s3://[::1"), "'s3://[::1' is no address"),
        ((*to, "--shards", "0", "--base-url", "http://x:y"), "'http://x:y' is no address"),
        ((*to, "--shards", "0", "--base-url", " "), "an empty address"),
        (("--probe", "--patience", "1e12"), "patience must be more than 0 seconds and at most a day"),
        (("--shards", "0", "--out", out, "--base-url", "https:///x"), "is no address to download from"),
        (("--shards", "0", "--out", source / "img_emb" / IMAGE, "--base-url", shelf.url), "is not a directory"),
    ):
        refused = cliphouse("download", *arguments)
        assert refused.code == 2, arguments
        assert said in refused.err
    for wrong in ({"shards": []}, {"shards": [-1]}, {"shards": "0", "keep": "none"}):
        with pytest.raises(UsageError):
            cliphouse_download_with(out, **wrong)


def cliphouse_download_with(out: Path, **options: object) -> None:
    cliphouse.download(out, base_urls=["/nowhere"], **options)  # type: ignore[arg-type]


def test_a_folder_that_holds_a_file_twice_is_said(shelf: Shelf, out: Path) -> None:
    write_shard(out, 0)
    write_shard(out, 0, folders=True)
    with pytest.raises(cliphouse.CliphouseError, match=r"both .* and .* claim it"):
        cliphouse_download(out, shelf)


@pytest.mark.parametrize(
    "answer",
    [
        (503, {"Retry-After": "\xb2"}),
        (503, {"Retry-After": "Mon, 01 Jan 0001 00:00:00 +2359"}),
        (200, {"Content-Length": "\xb2"}),
        (206, {"Content-Range": f"bytes 0-1/{'9' * 5000}"}),
        (302, {"Location": "http://[::1"}),
    ],
    ids=["rest", "date", "length", "range", "redirect"],
)
def test_answers_that_make_no_sense(
    shelf: Shelf, second: Shelf, source: Path, out: Path, answer: tuple[int, dict[str, str]]
) -> None:
    shelf.behave[IMAGE] = Behaviour(statuses=[answer] * 9, says_length="Content-Length" not in answer[1])
    assert cliphouse.download(out, shards="0", base_urls=[shelf.url, second.url]).failed == {}
    assert files(out) == shards_of(source, 0)


def test_a_user_and_a_query_are_sent_and_never_shown(
    shelf: Shelf, second: Shelf, source: Path, out: Path, cliphouse: Callable[..., Outcome]
) -> None:
    """The password goes to its own server alone, also when that sends us on."""
    shelf.authorization = "Basic bWU6UzNDUkVUIQ=="  # me:S3CRET!
    shelf.query = "token=S3CRET/"
    address = shelf.url.replace("//", "//me:S3CRET%21@") + "/?token=S3CRET/"
    here = f"{shelf.url}/img_emb/img_emb_1.npy?{shelf.query}"
    shelf.behave[IMAGE] = Behaviour(statuses=[(302, {"Location": here})] * 5)
    away = f"{second.url}/img_emb/img_emb_2.npy?S3CRET"
    shelf.behave["img_emb_3.npy"] = Behaviour(statuses=[(302, {"Location": away})] * 5)
    second.authorization = shelf.authorization
    outcome = cliphouse("download", "--shards", "0,1,3,7", "--out", out, "--base-url", address)
    assert outcome.code == 3
    assert (out / "img_emb" / IMAGE).read_bytes() == (source / "img_emb" / "img_emb_1.npy").read_bytes()
    assert files(out).keys() >= shards_of(source, 0, 1).keys()
    assert f"{shelf.url}/img_emb/img_emb_3.npy: the server answered 401" in outcome.err
    assert f"{shelf.url}/metadata/metadata_7.parquet: the server answered 404" in outcome.err
    probed = cliphouse("download", "--probe", "--base-url", address)
    assert f"{shelf.url} " in probed.out
    shelf.root = shelf.root / "nothing"
    refused = cliphouse("download", "--shards", "2", "--out", out, "--base-url", address)
    assert refused.code == 3
    for scheme in ("s3", "ftp"):
        for wrong in (f"{scheme}://AK:S3CRET@bucket/x", f"{scheme}://bucket/x?token=S3CRET"):
            told = cliphouse("download", "--shards", "2", "--out", out, "--base-url", wrong)
            assert told.code == 2
            assert f"'{scheme}://bucket/x'" in told.err
            refused = Outcome(refused.code, refused.out, refused.err + told.err)
    assert "S3CRET" not in outcome.out + outcome.err + probed.out + refused.err
