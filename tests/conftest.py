from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from cliphouse import Collection
from cliphouse.cli.main import main
from cliphouse.encoders import store
from cliphouse.engine import connect
from tests.data import write_shard
from tests.serving import serving

#: What opens the server that tests share.
KEY = "s3cret/pass"
SHARED = Path(__file__).parents[2] / "shared"
#: Where real weights are, if somebody fetched them; every other test sees an empty place of its own.
ENCODERS_OF_THE_USER = store.home()


@pytest.fixture(scope="session", autouse=True)
def encoders_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of encoders that tests, and the commands they start, see."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("encoders")
        patch.setenv(store.HOME_VARIABLE, str(home))
        patch.delenv("CLIPHOUSE_DEVICE", raising=False)
        yield home


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server's URL without a database: CLIPHOUSE_TEST_URL, or `cliphouse serve` with ClickHouse's interface."""
    if url := os.environ.get("CLIPHOUSE_TEST_URL"):
        yield url.rstrip("/")
        return
    place = tmp_path_factory.mktemp("server") / "db"
    with serving(place, "--allow-writes", key=KEY) as port:
        yield f"clickhouse://tester:{quote(KEY, safe='')}@127.0.0.1:{port}"


@pytest.fixture(params=["embedded", "server"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database on each kind of engine, as a URL."""
    if request.param == "embedded":
        yield str(tmp_path / "db")
        return
    url = request.getfixturevalue("server_url")
    name = f"test_{uuid.uuid4().hex}"
    with connect(f"{url}/default") as engine:
        engine.command(f"CREATE DATABASE {name}")
    yield f"{url}/{name}"
    with connect(f"{url}/default") as engine:
        engine.command(f"DROP DATABASE {name} SYNC")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A directory with one shard of eight captioned rows."""
    return write_shard(tmp_path / "shards")


@pytest.fixture
def collection(db: str, shards: Path) -> Iterator[Collection]:
    """Those eight rows, loaded, on each kind of engine."""
    with Collection.open(db, encoder="test-words") as opened:
        opened.load(shards)
        yield opened


@pytest.fixture
def embedded(tmp_path: Path, shards: Path) -> Iterator[Collection]:
    """Those eight rows, loaded, in a data directory."""
    with Collection.open(tmp_path / "db", encoder="test-words") as opened:
        opened.load(shards)
        yield opened


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB, if this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or os.geteuid()
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=24m", "tmpfs", place]).returncode
    ):
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def cliphouse(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run a command line as the shell would, with what it prints and its exit code."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["cliphouse", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return Outcome(int(exit_.value.code or 0), printed.out, printed.err)

    return run
