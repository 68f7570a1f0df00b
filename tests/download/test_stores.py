"""Shards from an S3 server, by the usual variables, and from folders."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cliphouse
from cliphouse.errors import DownloadFailed, UsageError
from cliphouse.types import Progress
from tests.conftest import Outcome
from tests.download.conftest import files, shards_of

boto3 = pytest.importorskip("boto3", reason="needs the group test")
IMAGE = "img_emb_0.npy"


@pytest.fixture(scope="session")
def s3_server(source: Path) -> Iterator[str]:
    """A real S3 server with two shards below 400m/ in the buckets `laion`, for all, and `private`; `empty` has none."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(300):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            client = boto3.client(
                "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
            )
            for bucket in ("laion", "private", "empty"):
                client.create_bucket(Bucket=bucket)
            for name, content in shards_of(source, 0, 1).items():
                client.put_object(Bucket="laion", Key=f"400m/{name}", Body=content, ACL="public-read")
                client.put_object(Bucket="private", Key=f"400m/{name}", Body=content)
            client.close()
            yield url
        finally:
            process.kill()


@pytest.fixture
def s3(s3_server: str, impatient: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The base URL of the shards on that server, which the environment names."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    return "s3://laion/400m"


def test_shards_come_from_s3(s3: str, source: Path, out: Path, cliphouse: Callable[..., Outcome]) -> None:
    outcome = cliphouse("download", "--shards", "0-1", "--out", out, "--base-url", s3)
    assert (outcome.code, outcome.err) == (0, "")
    assert files(out) == shards_of(source, 0, 1)


def test_a_private_bucket_needs_a_name(
    s3: str, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, cliphouse: Callable[..., Outcome]
) -> None:
    command = ("download", "--shards", "0", "--out", out, "--base-url", "s3://private/400m")
    refused = cliphouse(*command)
    assert refused.code == 3
    assert "s3://private/400m: img_emb/img_emb_0.npy: it may not be read" in refused.err
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    assert cliphouse(*command).code == 0
    assert files(out) == shards_of(source, 0)


def test_an_object_goes_on_where_it_stopped(s3: str, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliphouse.objects._PIECE", 20_000)

    def give_up(progress: Progress) -> None:
        if (progress.label, progress.done) == (IMAGE, 40_000):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cliphouse.download(out, shards="0", base_urls=[s3], progress=give_up)
    had = sum(len(content) for name, content in files(out).items() if not name.endswith((".etag", ".lock")))
    assert had >= 40_000
    report = cliphouse.download(out, shards="0", base_urls=[s3])
    assert files(out) == shards_of(source, 0)
    assert report.received_bytes == sum(map(len, files(out).values())) - had


def test_an_object_that_changed_is_fetched_anew(s3: str, source: Path, out: Path) -> None:
    part = out / "img_emb" / f"{IMAGE}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"older" * 1000)
    part.with_name(part.name + ".etag").write_text('"older"')
    cliphouse.download(out, shards="0", base_urls=[s3])
    assert files(out) == shards_of(source, 0)


def test_what_a_store_has_not(s3: str, out: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    report = cliphouse.download(out, shards="1-2", base_urls=[s3])
    assert report.fetched == (1,)
    assert "s3://laion/400m/metadata/metadata_2.parquet: there is no such file" in report.failed[2]
    with pytest.raises(DownloadFailed, match=r"s3://empty: img_emb/img_emb_5.npy: there is no such file"):
        cliphouse.download(out, shards="5", base_urls=["s3://empty"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DownloadFailed, match="s3://laion/400m: Generic S3 error"):
        cliphouse.download(out, shards="5", base_urls=[s3])
    with pytest.raises(UsageError, match="is no address of a store"):
        cliphouse.download(out, shards="5", base_urls=["s3:///400m"])


@pytest.mark.parametrize("kind", ["path", "url"])
def test_shards_come_from_a_folder(source: Path, tmp_path: Path, out: Path, kind: str) -> None:
    place = tmp_path / "my disk" / "100% mine"
    place.mkdir(parents=True)
    for name, content in shards_of(source, 0).items():  # side by side
        (place / Path(name).name).write_bytes(content)
    cliphouse.download(out, shards="0", base_urls=[place if kind == "path" else place.as_uri()])
    assert files(out) == shards_of(source, 0)
    assert {path.read_bytes() for path in place.iterdir()} == set(files(out).values()), "they are copied"
