"""`cliphouse serve` with ClickHouse's HTTP interface, as a process of its own.

Run as a program, with a data directory and options of `serve`, it loads the eight captioned rows of `tests.data` there
if there is no collection yet, and serves them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cliphouse import Collection
from cliphouse.cli.main import main as cliphouse
from tests.data import write_shard

_ADDRESS = re.compile(r"clickhouses?://[^:/]+:(\d+)/")


@contextmanager
def serving(place: Path, *options: str, key: str = "") -> Iterator[int]:
    """The port of ClickHouse's interface to a database at `place`, until the block is left."""
    environment = {**os.environ, "CLIPHOUSE_API_KEY": key} if key else dict(os.environ)
    command = [sys.executable, "-m", "tests.serving", str(place), *options]
    log = place.with_name(f"{place.name}.log")
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=Path(__file__).parents[1]
        ) as process,
    ):
        try:
            assert process.stdout is not None
            found = next((match for line in process.stdout if (match := _ADDRESS.search(line))), None)
            assert found, log.read_text()
            yield int(found[1])
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()


def main() -> None:
    place, options = Path(sys.argv[1]), sys.argv[2:]
    if not place.exists():
        with Collection.open(place, encoder="test-words") as collection:
            collection.load(write_shard(place.with_name(f"{place.name}-shards")))
    sys.argv = ["cliphouse", "serve", "--db", str(place), "--port", "0", "--clickhouse-port", "0", *options]
    cliphouse()


if __name__ == "__main__":
    main()
