"""Getting weights from a server that cuts, lies and changes its mind; and what is said of damaged ones."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from cliphouse import Collection, encoders
from cliphouse.encoders import convert, load_encoder, specs, store
from cliphouse.errors import (
    ChecksumMismatch,
    DimensionMismatch,
    DownloadFailed,
    EncoderMismatch,
    EncoderUnavailable,
    UsageError,
    WeightsNotStored,
)
from tests.conftest import Outcome
from tests.data import write_shard
from tests.encoders import tiny


@dataclass
class Hub:
    """A web server with one file, and what it does wrong."""

    content: bytes
    etag: str = '"v1"'
    cut_after: int | None = None  # bytes of an answer before the connection breaks
    ranges: bool = True
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    redirect: bool = False
    asked: list[str] = field(default_factory=list)
    proxied: list[str] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def hub(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("cliphouse.pace.PAUSE", 0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    state = Hub(content=tiny_checkpoint.read_bytes())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.headers.get("Range", "all"))
            if state.redirect and not self.path.startswith("/cdn"):
                self.send_response(302)
                self.send_header("Location", f"/cdn{self.path}")
                for name, value in state.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if self.path.startswith("http://"):  # asked as a proxy
                state.proxied.append(self.path)
            start = 0
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if wanted and state.ranges and self.headers.get("If-Range") == state.etag:
                start = int(wanted[1])
            partial = start > 0
            if partial and start >= len(state.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(state.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if partial else state.status)
            body = state.content[start:] if state.status == 200 else b"no"
            self.send_header("ETag", state.etag)
            if partial:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # who refuses the file does not read it
                self.wfile.write(body[: state.cut_after])
            if state.cut_after is not None:
                self.close_connection = True
                self.connection.close()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        state.url = f"http://127.0.0.1:{server.server_port}/tiny.safetensors"
        yield state
        server.shutdown()


@pytest.fixture
def known(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., specs.ModelSpec]:
    """Enter the tiny model in the table, with the sum it should have, and give it a home of its own."""
    monkeypatch.setenv(store.HOME_VARIABLE, str(tmp_path / "home"))

    def enter(sha256: str | None = "right") -> specs.ModelSpec:
        right = hashlib.sha256(hub.content).hexdigest()
        download = specs.Download(url=hub.url, sha256=right if sha256 == "right" else sha256)
        return dataclasses.replace(tiny.CLIP, checkpoint=download)

    return enter


def test_fetched_weights_run(hub: Hub, known: Callable[..., specs.ModelSpec]) -> None:
    made = convert.fetch(known())
    assert made.folder == store.home() / "tiny-clip"
    assert made.made["from"] == {hub.url: hashlib.sha256(hub.content).hexdigest()}
    assert np.linalg.norm(load_encoder("tiny-clip").encode_texts(["a dog"])) == pytest.approx(1, abs=1e-6)
    assert list((store.home() / "downloads").iterdir()) == [], "the checkpoint is not kept"


def test_a_cut_download_goes_on_where_it_stopped(hub: Hub, known: Callable[..., specs.ModelSpec]) -> None:
    hub.cut_after = len(hub.content) // 3 + 1
    steps: list[int] = []
    convert.fetch(known(), progress=lambda step: steps.append(step.done) if step.unit == "bytes" else None)
    third = len(hub.content) // 3 + 1
    assert hub.asked == ["all", f"bytes={third}-", f"bytes={2 * third}-"]
    assert steps == sorted(steps)
    assert steps[-1] == len(hub.content)


def test_a_second_run_takes_up_what_the_first_left(hub: Hub, known: Callable[..., specs.ModelSpec]) -> None:
    spec, hub.cut_after, hub.status = known(), 1000, 200
    answered = len(hub.asked)

    def give_up(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert.fetch(spec, progress=give_up)
    hub.cut_after = None
    convert.fetch(spec)
    assert hub.asked[answered + 1].startswith("bytes=")


def test_a_file_that_changed_is_fetched_anew(hub: Hub, known: Callable[..., specs.ModelSpec]) -> None:
    spec = known()
    part = store.home() / "downloads" / "tiny-clip-tiny.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"an older file")
    part.with_name(part.name + ".etag").write_text('"v0"')
    convert.fetch(spec)
    assert hub.asked == ["bytes=13-"], "the server answered with all of it"


def test_a_server_without_ranges_gives_the_whole_again(hub: Hub, known: Callable[..., specs.ModelSpec]) -> None:
    hub.ranges = False
    spec = known()
    part = store.home() / "downloads" / "tiny-clip-tiny.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(hub.content[:500])
    part.with_name(part.name + ".etag").write_text(hub.etag)
    assert convert.fetch(spec).spec.name == "tiny-clip"


def test_a_wrong_checksum_is_named_and_the_file_thrown_away(hub: Hub, known: Callable[..., specs.ModelSpec]) -> None:
    with pytest.raises(ChecksumMismatch, match=r"expected 0{16}"):
        convert.fetch(known("0" * 64))
    assert list((store.home() / "downloads").iterdir()) == []


def test_without_a_known_sum_the_hubs_own_is_checked(hub: Hub, known: Callable[..., specs.ModelSpec]) -> None:
    hub.redirect, hub.headers = True, {"X-Linked-ETag": f'"{"1" * 64}"'}
    with pytest.raises(ChecksumMismatch, match=r"expected 1{16}"):
        convert.fetch(known(None))
    hub.headers = {"X-Linked-ETag": f'"{hashlib.sha256(hub.content).hexdigest()}"'}
    convert.fetch(known(None))


def test_what_a_server_refuses_is_said(hub: Hub, known: Callable[..., specs.ModelSpec]) -> None:
    hub.status = 503
    with pytest.raises(DownloadFailed, match=r"the server answered 503 Service Unavailable"):
        convert.fetch(known())
    assert len(hub.asked) == 5, "it may answer better later"
    hub.status = 404
    with pytest.raises(DownloadFailed, match=r"tiny\.safetensors: the server answered 404 Not Found"):
        convert.fetch(known())
    spec = dataclasses.replace(known(), checkpoint=specs.Download(url="http://127.0.0.1:9/tiny.safetensors"))
    with pytest.raises(DownloadFailed, match=r"refused.*run the same command again"):
        convert.fetch(spec)


def test_what_no_second_try_mends_is_not_tried_again(hub: Hub, known: Callable[..., specs.ModelSpec]) -> None:
    for status in (401, 403, 404):
        hub.status, hub.asked = status, []
        with pytest.raises(DownloadFailed, match=rf"{status} .*--base-url, or convert a file you have") as caught:
            convert.fetch(known())
        assert "same command again" not in str(caught.value)
        assert hub.asked == ["all"]
    for url in ("mirror.example", "file:///tmp", "https:///nobody"):
        with pytest.raises(UsageError, match="must begin with https://"):
            convert.fetch(known(), base_url=url)


def test_without_any_sum_a_file_is_taken_only_knowingly(
    hub: Hub,
    known: Callable[..., specs.ModelSpec],
    cliphouse: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = hashlib.sha256(hub.content).hexdigest()
    monkeypatch.setitem(specs.MODELS, "tiny-clip", known(None))  # type: ignore[arg-type]
    fetch = ("encoder", "fetch", "tiny-clip", "--force")
    refused = cliphouse(*fetch)
    assert refused.code == 3
    assert "--sha256 HEX, or take it as it is with --unverified" in refused.err
    assert cliphouse(*fetch, "--sha256", "12").code == 2
    assert "is not the file that was published" in cliphouse(*fetch, "--sha256", "0" * 64).err
    assert cliphouse(*fetch, "--sha256", right.upper()).out.endswith("; sha256 as given\n")
    assert cliphouse(*fetch, "--unverified").out.endswith("; not verified\n")
    hub.redirect, hub.headers = True, {"X-Linked-ETag": f'"{right}"'}
    assert cliphouse(*fetch).out.endswith("; sha256 as the hub declares\n")
    git = hashlib.sha1(b"blob %d\0" % len(hub.content) + hub.content).hexdigest()
    hub.redirect, hub.headers, hub.etag = True, {"X-Linked-ETag": f'"{git}"'}, '"v2"'
    assert cliphouse(*fetch).out.endswith("; git sum as the hub declares\n"), "as for small files"
    monkeypatch.setitem(specs.MODELS, "tiny-clip", known())  # type: ignore[arg-type]
    assert cliphouse(*fetch).out.endswith("; sha256 as published\n")
    assert cliphouse(*fetch, "--sha256", "0" * 64).code == 2
    asked = len(hub.asked)
    assert "is ready already" in cliphouse("encoder", "fetch", "tiny-clip").out
    assert len(hub.asked) == asked


def test_two_processes_do_not_fetch_the_same(hub: Hub, known: Callable[..., specs.ModelSpec]) -> None:
    spec, second = known(), []

    def meanwhile(_: object) -> None:
        if not second:
            with pytest.raises(DownloadFailed, match="another process is fetching it; wait until it is done") as caught:
                convert.fetch(spec)
            second.append(caught.value)

    assert convert.fetch(spec, progress=meanwhile).spec.name == "tiny-clip"
    assert second
    assert hub.asked == ["all"]


def test_a_place_that_cannot_be_written_is_named(
    known: Callable[..., specs.ModelSpec], tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = known()
    (tmp_path / "file").touch()
    monkeypatch.setenv(store.HOME_VARIABLE, str(tmp_path / "file" / "home"))
    for work in (lambda: convert.fetch(spec), lambda: convert.convert(tiny.CLIP, tiny_checkpoint)):
        with pytest.raises(WeightsNotStored, match=r"cannot write .*file/home.*: Not a directory.*CLIPHOUSE_ENCODERS"):
            work()


def test_a_full_disk_is_named(
    known: Callable[..., specs.ModelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home" / "downloads").mkdir(parents=True)
    (tmp_path / "home" / "downloads" / "tiny-clip-tiny.safetensors.part").symlink_to("/dev/full")
    with pytest.raises(WeightsNotStored, match=r"\.part: No space left on device"):
        convert.fetch(known())


def test_proxies_of_the_environment_are_used(
    hub: Hub, known: Callable[..., specs.ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", hub.url.rsplit("/", 1)[0])
    monkeypatch.setenv("no_proxy", "")
    convert.fetch(known(), base_url="http://weights.invalid")
    assert hub.proxied == ["http://weights.invalid/tiny.safetensors"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    convert.fetch(known())
    assert len(hub.proxied) == 1


def test_a_mirror_has_the_same_files(hub: Hub, known: Callable[..., specs.ModelSpec]) -> None:
    download = specs.Download(url="https://nowhere.invalid/tiny.safetensors", sha256=known().checkpoint.sha256)  # type: ignore[union-attr]
    convert.fetch(dataclasses.replace(known(), checkpoint=download), base_url=hub.url.rsplit("/", 1)[0] + "/")


def test_a_gpu_that_is_asked_for_and_absent_is_no_silent_fallback(
    tiny_encoder: store.Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EncoderUnavailable, match="CUDA was asked for and this ONNX Runtime has none"):
        load_encoder(str(tiny_encoder.folder), "cuda")
    # A GPU build of ONNX Runtime on a machine without the driver offers CUDA, and then runs on the processor.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(EncoderUnavailable, match="CUDA was asked for and cannot be started"),
    ):
        load_encoder(str(tiny_encoder.folder), "cuda").encode_texts(["a dog"])


def test_a_folder_serves_a_collection_that_remembers_its_name(
    tiny_encoder: store.Stored, cliphouse: Callable[..., Outcome], tmp_path: Path
) -> None:
    encoder = load_encoder(str(tiny_encoder.folder))
    captions = ["a dog and a cat", "a red car in the snow", "an old lighthouse"]
    vectors = encoder.encode_texts(captions)
    write_shard(tmp_path / "shards", captions=captions, images=vectors, texts=vectors)
    db, folder = str(tmp_path / "db"), str(tiny_encoder.folder)
    cliphouse("load", tmp_path / "shards", "--db", db, "--encoder", folder)
    answer = cliphouse("search", captions[1], "--db", db, "--encoder", folder, "-k", "1", "--format", "json")
    assert json.loads(answer.out)[0]["caption"] == captions[1]
    missing = cliphouse("search", captions[1], "--db", db)
    assert missing.code == 2
    assert "there is no encoder 'tiny-clip'" in missing.err
    sql = "SELECT caption FROM laion ORDER BY cosineDistance(text_embedding, encode_text('an old lighthouse')) LIMIT 1"
    assert cliphouse("sql", sql, "--db", db, "--encoder", folder).out.strip() == captions[2]


def test_an_int8_variant_may_search_what_the_full_one_made(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(store.HOME_VARIABLE, str(tmp_path / "home"))
    made = convert.convert(tiny.CLIP, tiny_checkpoint)
    from tests.oracles.pictures import picture

    convert.quantize(made, ["a dog"], [picture("RGB", 70, 80)], min_cosine=0.9)
    vectors = load_encoder(str(made.folder)).encode_texts(["a dog", "a red car"])
    write_shard(tmp_path / "shards", captions=["a dog", "a red car"], images=vectors, texts=vectors)
    with Collection.open(tmp_path / "db", encoder="tiny-clip") as collection:
        collection.load(tmp_path / "shards")
    with Collection.open(tmp_path / "db", encoder="tiny-clip-int8") as collection:
        assert collection.search("a red car", column="text", k=1)[0].caption == "a red car"
        picture("RGB", 70, 80).save(tmp_path / "new.png")
        with pytest.raises(EncoderMismatch, match="holds tiny-clip embeddings, not tiny-clip-int8"):
            collection.add(tmp_path / "new.png")
    with (
        Collection.open(tmp_path / "db", encoder="test-words") as collection,
        pytest.raises(EncoderMismatch, match="holds tiny-clip embeddings, not test-words"),
    ):
        collection.search("a red car")


def test_an_encoder_of_another_dimension_is_refused(tiny_encoder: store.Stored, tmp_path: Path) -> None:
    write_shard(tmp_path / "shards", captions=["a", "b"], images=np.eye(2, 16), with_text=False)
    with (
        Collection.open(tmp_path / "db", encoder=str(tiny_encoder.folder)) as collection,
        pytest.raises(DimensionMismatch, match="has 16 dimensions, the encoder tiny-clip holds 32"),
    ):
        collection.load(tmp_path / "shards")


def test_a_text_is_encoded_once(tiny_encoder: store.Stored, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    encoder = load_encoder(str(tiny_encoder.folder))
    vectors = encoder.encode_texts(["a dog", "a red car"])
    write_shard(tmp_path / "shards", captions=["a dog", "a red car"], images=vectors, texts=vectors)
    asked: list[str] = []
    run = type(encoder).encode_texts
    monkeypatch.setattr(type(encoder), "encode_texts", lambda self, texts: (asked.extend(texts), run(self, texts))[1])
    with Collection.open(tmp_path / "db", encoder=str(tiny_encoder.folder)) as collection:
        collection.load(tmp_path / "shards")
        first = collection.search("something never asked before")
        assert [hit.id for hit in collection.search("something never asked before")] == [hit.id for hit in first]
    assert asked == ["something never asked before"]


def test_encoder_commands(tiny_checkpoint: Path, tiny_encoder: store.Stored, cliphouse: Callable[..., Outcome]) -> None:
    listed = json.loads(cliphouse("encoder", "list", "--format", "json").out)
    assert {"name": "clip-vit-b32", "dim": 512, "state": "not here"}.items() <= listed[
        -1 - len(encoders.MODELS) + 1
    ].items()
    assert "is whole: image.onnx, text.onnx" in cliphouse("encoder", "check", tiny_encoder.folder).out
    assert "there is no encoder 'nope'" in cliphouse("encoder", "fetch", "nope").err
    assert "nothing to fetch" in cliphouse("encoder", "fetch", "test-words").err
    unknown = cliphouse("encoder", "export", "--from", tiny_checkpoint)
    assert "say which model it is: cliphouse encoder export NAME --from" in unknown.err
    out = tiny_checkpoint.with_name("wrong")
    wrong = cliphouse(
        "encoder", "export", "clip-vit-b32", "--from", tiny_checkpoint, "--out", out, "--name", "own", "--no-verify"
    )
    assert "no checkpoint for this encoder" in wrong.err
    assert not out.exists()
