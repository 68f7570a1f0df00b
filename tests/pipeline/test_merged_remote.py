"""Merged parquet files in object storage and on the web."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cliphouse import Collection, storage
from cliphouse.errors import ShardError, SourceUnavailable, UsageError
from cliphouse.pipeline.merged import open_merged
from cliphouse.types import LoadOptions, MergedShard
from tests.conftest import Outcome
from tests.data import CAPTIONS, random_unit
from tests.merged import Site, lists, s3_server, web, write_merged

boto3 = pytest.importorskip("boto3", reason="needs the group test")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's credentials and proxies, and no rest between attempts."""
    for name in os.environ:
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_")) or name.lower() in ("http_proxy", "all_proxy"):
            monkeypatch.delenv(name)
    moment = timedelta(milliseconds=1)
    backoff = {"init_backoff": moment, "max_backoff": 4 * moment, "base": 2}
    monkeypatch.setattr(storage, "_RETRIES", {"max_retries": 2, "backoff": backoff})


# -- on the web --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three merged shards of eight captions, and `large_1.parquet`: 10,000 rows in 100 row groups, 5 MB."""
    folder = tmp_path_factory.mktemp("site")
    for number in range(3):
        write_merged(folder / "laion" / f"train-{number:05}-of-00003.parquet", CAPTIONS[number:] + CAPTIONS[:number])
    vectors = {name: lists(random_unit(10_000, 64, seed), "list") for seed, name in enumerate(("img_emb", "text_emb"))}
    columns = {"image_embedding": None, "text_embedding": None, "NSFW": None, "width": None, "similarity": None}
    texts = {"url": ["x"] * 10_000, "caption": [f"picture {row}" for row in range(10_000)]}
    path = folder / "laion" / "more" / "large_1.parquet"
    write_merged(path, ["x"] * 10_000, columns=columns | texts | vectors, row_group_size=100, compression="none")
    return folder


@pytest.fixture
def site(files: Path) -> Iterator[Site]:
    with web(files) as served:
        yield served


def test_a_file_on_the_web_is_loaded_once(site: Site, files: Path, tmp_path: Path) -> None:
    address = f"{site.url}/laion/train-00001-of-00003.parquet?key=secret"
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        assert collection.load(address).loaded == (1,)
        assert collection.search("red car", k=1, columns=["shard"])[0].caption == "red car"
        assert collection.load(address).skipped == (1,)
        copy = files / "laion" / "train-00001-of-00003.parquet"
        assert collection.load(copy).skipped == (1,)  # the same file in another place
        sources = collection.sql("SELECT source FROM laion_shards FINAL").to_pylist()
    assert sources == [{"source": address.partition("?")[0]}]


def _read(address: str) -> Any:
    opened = open_merged(MergedShard(number=1, location=address), {})
    (rows,) = opened.batches(100_000)
    return opened, rows


def test_blocks_are_fetched_once_and_ahead(site: Site, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of column chunks in 5 MB are not hundreds of requests; all sizes are a sixteenth of the real ones."""
    monkeypatch.setattr(storage, "_BLOCK", 2**18)
    monkeypatch.setattr("cliphouse.pipeline.merged._PIECE_NUMBERS", 2**17)
    path = files / "laion" / "more" / "large_1.parquet"
    opened, _ = _read(f"{site.url}/laion/more/large_1.parquet")
    site.asked.clear()
    (rows,) = opened.batches(100_000)
    blocks = [start for _, start, end in site.asked if end - start > 2**16]
    assert len(blocks) == len(set(blocks)) <= -(-path.stat().st_size // 2**18)
    (expected,) = open_merged(MergedShard(number=1, location=str(path)), {}).batches(100_000)
    np.testing.assert_array_equal(rows.image, expected.image)
    np.testing.assert_array_equal(rows.text, expected.text)
    assert rows.metadata["caption"].equals(expected.metadata["caption"])


def test_what_is_read_is_the_file(site: Site, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_BLOCK", 2**14)
    monkeypatch.setattr(storage, "_END", 2**10)
    content = (files / "laion" / "more" / "large_1.parquet").read_bytes()
    dice = random.Random(7)
    with storage.RemoteFile(f"{site.url}/laion/more/large_1.parquet") as file:
        assert file.size == len(content)
        for _ in range(80):
            start, size = dice.randrange(len(content) + 100), dice.choice([0, 1, 100, 2**14, 2**16])
            file.seek(start)
            assert file.read(size) == content[start : start + size]
            assert file.read(10) == content[start + size :][:10]
        file.seek(-50, os.SEEK_END)
        assert file.read() == content[-50:]


def test_a_connection_that_breaks_is_taken_up_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_BLOCK", 2**20)
    site.rule["/laion/more/large_1.parquet"] = "cut"
    _, rows = _read(f"{site.url}/laion/more/large_1.parquet")
    np.testing.assert_array_equal(rows.image, random_unit(10_000, 64, 0))


def test_a_file_that_is_somewhere_else(site: Site) -> None:
    site.rule["/laion/train-00000-of-00003.parquet"] = "moved"
    assert _read(f"{site.url}/laion/train-00000-of-00003.parquet")[0].rows == 8


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("refuse", "its server refuses to give it; use an address that holds its own permission"),
        ("whole", "its server does not give parts of a file; download the file, and load the copy"),
        ("changing", "it was changed while it was read; run the same command again"),
    ],
)
def test_servers_that_do_not_help(site: Site, rule: str, words: str) -> None:
    address = f"{site.url}/laion/more/large_1.parquet"
    site.rule["/laion/more/large_1.parquet"] = rule
    with pytest.raises(ShardError, match=f"shard 1: cannot read {address}: {words}") as caught:
        _read(f"{address}?key=secret")
    assert "secret" not in str(caught.value)


def test_a_file_that_changes_between_opening_and_loading(site: Site, files: Path, tmp_path: Path) -> None:
    address = f"{site.url}/laion/train-00000-of-00003.parquet"
    opened = open_merged(MergedShard(number=0, location=address), {})
    site.rule["/laion/train-00000-of-00003.parquet"] = "changing"
    with pytest.raises(ShardError, match="was changed meanwhile; run the command again"):
        next(opened.batches(8))


def test_addresses_that_lead_nowhere(site: Site, tmp_path: Path) -> None:
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        with pytest.raises(ShardError, match=r"absent\.parquet: there is no such file; check the address"):
            collection.load(f"{site.url}/absent.parquet")
        with pytest.raises(UsageError, match="cannot be listed; give the address of one file"):
            collection.load(f"{site.url}/laion/")
        with pytest.raises(UsageError, match=r"'ftp://host/a' is no address of a store; .*s3, gs, az, http, https"):
            collection.load("ftp://host/a/")
        with pytest.raises(ShardError, match="check the address and the network"):
            collection.load("http://127.0.0.1:1/x.parquet")
        skipped = collection.load(f"{site.url}/laion/train-00000-of-00003.parquet")
        assert skipped.loaded == (0,)
        report = collection.load(f"{site.url}/laion/absent_7.parquet", options=LoadOptions(on_bad_shard="skip"))
        assert "there is no such file" in report.quarantined[7]


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1/m_4.parquet?sig=S3CRET",
        "http://127.0.0.1:1/m_4.parquet#S3CRET",
        "http://user:S3CRET@127.0.0.1:1/m_4.parquet",
        "http://127.0.0.1:1/folder/?sig=S3CRET",
        "http://user:S3CRET@[::1/m_4.parquet?S3CRET",
        "http://user:S3CRET@127.0.0.1:port/m_4.parquet",
        "ftp://user:S3CRET@127.0.0.1/m_4.parquet",
        "s3://user:S3CRET@/m_4.parquet",
    ],
)
@pytest.mark.parametrize("options", [(), ("--shards", 9)])
def test_secrets_of_an_address_are_not_shown(
    tmp_path: Path, cliphouse: Callable[..., Outcome], address: str, options: tuple[object, ...]
) -> None:
    refused = cliphouse("load", address, *options, "--db", tmp_path / "db")
    assert refused.code in (2, 3)
    assert "S3CRET" not in refused.out + refused.err
    assert not re.search(r" in \d", refused.err)


def test_a_password_is_not_kept(site: Site, tmp_path: Path) -> None:
    address = f"{site.url}/laion/train-00001-of-00003.parquet"
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        collection.load(address.replace("://", "://user:S3CRET@"))
        assert collection.sql("SELECT source FROM laion_shards FINAL").to_pylist() == [{"source": address}]


def test_an_address_that_is_none(tmp_path: Path, cliphouse: Callable[..., Outcome]) -> None:
    refused = cliphouse("load", "http://[::1/x.parquet", "--db", tmp_path / "db")
    assert (refused.code, "'http://[::1/x.parquet' cannot be used" in refused.err) == (2, True)


# -- in object storage -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3_endpoint(files: Path) -> Iterator[str]:
    """An S3 server with these files in the buckets `public` and `private`; `empty` has none."""
    with s3_server() as url:
        client = boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
        )
        client.create_bucket(Bucket="public", ACL="public-read")
        client.create_bucket(Bucket="empty", ACL="public-read")
        client.create_bucket(Bucket="private")
        for path in files.rglob("*.parquet"):
            key = str(path.relative_to(files))
            client.put_object(Bucket="public", Key=key, Body=path.read_bytes(), ACL="public-read")
            client.put_object(Bucket="private", Key=key, Body=path.read_bytes())
        client.close()
        yield url


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    return s3_endpoint


def test_a_folder_of_a_bucket_is_loaded(s3: str, tmp_path: Path, cliphouse: Callable[..., Outcome]) -> None:
    command = ("load", "s3://public/laion/", "--encoder", "test-words", "--db", tmp_path / "db")
    first = cliphouse(*command, "--shards", "1-2")
    assert (first.code, "loaded 16 rows of shards 1-2" in first.out) == (0, True)
    second = cliphouse(*command)
    assert "loaded 8 rows of shards 0 " in second.out
    assert "shards 1-2 were loaded already" in second.out
    assert cliphouse("load", "s3://public/laion/train-00002-of-00003.parquet", "--db", tmp_path / "db").code == 0
    found = cliphouse("search", "a red car parked", "-k", 3, "--db", tmp_path / "db")
    assert found.out.count("a red car parked") == 3


def test_keys_are_no_addresses(s3: str, files: Path, tmp_path: Path) -> None:
    """Characters that mean something in an address mean nothing in a key, neither in a folder nor in a file."""
    client = boto3.client(
        "s3", endpoint_url=s3, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    content = (files / "laion" / "train-00000-of-00003.parquet").read_bytes()
    for name in ("x_1", "x#2_2", "x?3_3", "x%204_4"):
        client.put_object(Bucket="public", Key=f"a#b?c%20d/{name}.parquet", Body=content, ACL="public-read")
    client.close()
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        assert collection.load("s3://public/a#b?c%20d/").loaded == (1, 2, 3, 4)
        assert collection.load("s3://public/a#b?c%20d/x?3_3.parquet").skipped == (3,)
        sources = collection.sql("SELECT source FROM laion_shards FINAL WHERE shard = 3").to_pylist()
    assert sources == [{"source": "s3://public/a#b?c%20d/x?3_3.parquet"}]


def test_its_etag_is_kept_as_its_sum(s3: str) -> None:
    opened, rows = _read("s3://public/laion/more/large_1.parquet")
    assert len(rows.numbers) == 10_000
    assert opened.checksums()["etag"].startswith('"')


def test_a_private_bucket_needs_credentials(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "s3://private/laion/train-00000-of-00003.parquet"
    with pytest.raises(ShardError, match=f"{address}: it is not public, or not there; set AWS_ACCESS_KEY_ID"):
        _read(address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    assert _read(address)[0].rows == 8
    assert len(storage.files_below("s3://private/laion")) == 3


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://nowhere/laion/", "cannot read s3://nowhere/laion/: there is no such bucket; check the address"),
        ("s3://empty/", "there is no merged parquet file directly below s3://empty/; give the folder that holds them"),
        ("s3://public/laion/absent_1.parquet", "absent_1.parquet: there is no such file; check the address"),
    ],
)
def test_what_is_not_in_storage(
    s3: str, tmp_path: Path, cliphouse: Callable[..., Outcome], address: str, words: str
) -> None:
    refused = cliphouse("load", address, "--db", tmp_path / "db")
    assert refused.code in (2, 3)
    assert words in refused.err.replace("\n", " ")
    assert not (tmp_path / "db" / "laion").exists()


def test_storage_that_must_not_be_listed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", site.url)
    site.rule["/private"] = "refuse"
    with pytest.raises(SourceUnavailable, match="s3://private/laion/: it is not public, or not there; set AWS_ACCESS"):
        storage.files_below("s3://private/laion/")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    with pytest.raises(SourceUnavailable, match="the credentials in the environment may not read it; use others"):
        storage.files_below("s3://private/laion/")


def test_storage_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    started = time.monotonic()
    with pytest.raises(SourceUnavailable, match=r"s3://bucket/x/: .*check the address and the network"):
        storage.files_below("s3://bucket/x/")
    assert time.monotonic() - started < 5
