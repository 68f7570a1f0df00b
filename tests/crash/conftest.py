"""How much is tried: a little by default, as many deaths as CLIPHOUSE_CRASHES says where somebody has the time."""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.clickhouse_http import PASSWORD, USER
from tests.crash.source import Source

#: Deaths in each test that draws them; 0 for the few of the ordinary tests.
CRASHES = int(os.environ.get("CLIPHOUSE_CRASHES") or 0)
#: Rows of a shard.
ROWS = int(os.environ.get("CLIPHOUSE_CRASH_ROWS", "300"))

long = pytest.mark.skipif(not CRASHES, reason="takes minutes: make test-crash")


@pytest.fixture
def dice() -> random.Random:
    """Chance that can be repeated: a test that fails has printed its seed."""
    seed = os.environ.get("CLIPHOUSE_CRASH_SEED") or secrets.token_hex(4)
    print(f"CLIPHOUSE_CRASH_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A folder for shards."""
    return Source(tmp_path / "in")


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A server that fails when it is asked to: a small one over the same engine, in memory."""
    if url := os.environ.get("CLIPHOUSE_TEST_URL"):
        yield url.rstrip("/")
        return
    program = Path(__file__).parents[1] / "clickhouse_http.py"
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as process:
        try:
            port = process.stdout.readline().strip()
            yield f"clickhouse://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}"
        finally:
            process.kill()


@pytest.fixture
def faults(db: str) -> Iterator[Callable[..., None]]:
    """Let the server of `db` fail: each argument is a `clickhouse_http.Fault` as a dictionary."""
    if "CLIPHOUSE_TEST_URL" in os.environ:
        pytest.skip("a real server does not fail when it is asked to")
    host = db.rpartition("@")[2].partition("/")[0]

    def set_faults(*each: dict[str, object]) -> None:
        request = urllib.request.Request(f"http://{host}/faults", json.dumps(each).encode())
        request.add_header("X-ClickHouse-User", USER)
        request.add_header("X-ClickHouse-Key", PASSWORD)
        urllib.request.urlopen(request).close()

    yield set_faults
    set_faults()


on_server = pytest.mark.parametrize("db", ["server"], indirect=True)
