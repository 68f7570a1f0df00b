"""What a download says: how far it is, what failed, and why it does not begin."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import cliphouse
from cliphouse.errors import NotEnoughSpace, StorageError, StorageFull, UsageError
from cliphouse.types import Progress
from tests.conftest import Outcome
from tests.data import write_shard
from tests.download.conftest import IMAGE, METADATA, TEXT, files, shards_of
from tests.download.server import Behaviour, Shelf


def test_the_summary_lists_what_failed_as_ranges(shelf: Shelf, out: Path, cliphouse: Callable[..., Outcome]) -> None:
    outcome = cliphouse("download", "--shards", "0,3-6", "--out", out, "--base-url", shelf.url)
    assert outcome.code == 3
    assert "shards 0,3: whole in" in outcome.out
    assert re.search(r"^shard 5 failed: \w+_5\.\w+: http\S+_5\.\w+: the server answered 404", outcome.err, re.MULTILINE)
    assert outcome.err.endswith("to try again what failed, run the same command with --shards 4-6\n")
    again = cliphouse("download", "--shards", "0,3", "--out", out, "--base-url", shelf.url)
    assert (again.code, again.out) == (0, f"shards 0,3: there before, in {out}\n")


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
