"""Downloads that are killed, interrupted, or run twice: real commands."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.download.conftest import files, shards_of
from tests.download.server import Behaviour, Shelf

IMAGE = "img_emb_0.npy"


def _start(shelf: Shelf, out: Path, *more: str, shards: str = "0", **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cliphouse", "download", "--out", str(out), "--base-url", shelf.url]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([*command, "--shards", shards, *more], **pipes)


@pytest.fixture
def stuck(shelf: Shelf) -> Shelf:
    """A server that sends the first half of each large file, and then nothing until `go_on`."""
    for kind in ("img_emb", "text_emb"):
        shelf.behave[f"{kind}_0.npy"] = Behaviour(stall_after=40_000, stalls=1)
    return shelf


def _wait_for(part: Path, size: int) -> None:
    for _ in range(400):
        if part.exists() and part.stat().st_size >= size:
            return
        time.sleep(0.02)
    pytest.fail(f"{part} does not grow")


def test_a_killed_download_goes_on(stuck: Shelf, source: Path, out: Path) -> None:
    with _start(stuck, out) as process:
        for kind in ("img_emb", "text_emb"):
            _wait_for(out / kind / f"{kind}_0.npy.part", 40_000)
        process.kill()
    assert not (out / "img_emb" / IMAGE).exists(), "a file is in its place only when it is whole"
    stuck.asked.clear()
    with _start(stuck, out) as process:
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert files(out) == shards_of(source, 0)
    assert stuck.ranges(IMAGE) == ["bytes=40000-"]


def test_ctrl_c_stops_it_and_keeps_what_came(stuck: Shelf, out: Path) -> None:
    with _start(stuck, out) as process:
        for kind in ("img_emb", "text_emb"):
            _wait_for(out / kind / f"{kind}_0.npy.part", 40_000)
        stamp = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert time.monotonic() - stamp < 5, "not the 30 seconds of patience"
    assert process.returncode == 130
    assert errors.split("\n") == [
        "what came is kept; run the same command again to go on",
        "",
        "cliphouse: interrupted",
        "",
    ]
    assert len(files(out)[f"img_emb/{IMAGE}.part"]) == 40_000


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_ctrl_c_stops_the_wait_for_a_server_that_says_nothing(tmp_path: Path, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        environment = os.environ | {"AWS_ENDPOINT_URL": url, "no_proxy": "*"}
        base = url if kind == "http" else "s3://laion"
        command = [sys.executable, "-m", "cliphouse", "download", "--shards", "0", "--out", str(tmp_path)]
        with subprocess.Popen([*command, "--base-url", base], stderr=subprocess.PIPE, env=environment) as process:
            asked, _ = mute.accept()
            asked.recv(1)
            stamp = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            assert time.monotonic() - stamp < 5, "not the 30 seconds of patience"
            asked.close()


def test_two_processes_fetch_each_file_once(stuck: Shelf, source: Path, out: Path) -> None:
    with _start(stuck, out, shards="0-3") as one:
        for _ in range(2):
            assert stuck.stalled.acquire(timeout=20)
        probed = len(stuck.probes)
        with _start(stuck, out, shards="0-3") as other:
            for _ in range(400):
                if len(stuck.probes) >= 2 * probed:
                    break
                time.sleep(0.02)
            stuck.go_on.set()
            ends = [process.communicate(timeout=30) for process in (one, other)]
    assert [process.returncode for process in (one, other)] == [0, 0], ends
    assert files(out) == shards_of(source, 0, 1, 2, 3)
    assert sorted(stuck.names()) == sorted(Path(name).name for name in shards_of(source, 0, 1, 2, 3))


def test_a_terminal_shows_each_file_and_all(stuck: Shelf, out: Path) -> None:
    controller, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "140"}
    with _start(stuck, out, stdout=terminal, stderr=terminal, stdin=terminal, env=environment) as process:
        os.close(terminal)
        seen = b""
        wanted = (b"all files", b"img_emb_0.npy", b"text_emb_0.npy", b"39.1 KiB of 75.1 KiB")
        deadline = time.monotonic() + 20
        while not all(each in seen for each in wanted) and time.monotonic() < deadline:
            seen += os.read(controller, 65536)
        stuck.go_on.set()
        try:
            while chunk := os.read(controller, 65536):
                seen += chunk
        except OSError:  # the terminal is closed
            pass
        os.close(controller)
        assert process.wait(20) == 0
    assert all(each in seen for each in wanted)
    assert re.search(rb"fetched 3 files, 178.\d KiB", seen)
