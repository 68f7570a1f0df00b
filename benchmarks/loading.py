"""Measure how shards are loaded and write the result.

    python -m benchmarks.loading [RUN] [--data DIR] [--out DIR] [--scratch DIR] [--parts shard,tutorial,ten]

RUN is a name in benchmarks/runs or the path of a TOML file. Every load is a process of its own, timed from its start to
its end and watched from outside (`watch.py`). `shard`: one shard by each system and the floor, in rounds, whose order
shifts by one. `tutorial`: fewer rows by the tutorial's own pipeline and by cliphouse. `ten`: many shards by one
`cliphouse load`. A result without all three is written only where `--out` says.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

from benchmarks import facts, laion_like, tutorial_steps
from benchmarks.files import HERE, read_parameters, read_through, say, write_result
from benchmarks.load_systems import CLIPHOUSE, PEERS, TUTORIAL, System, own_command, shard_files, under_numbers
from benchmarks.watch import Watched, disk_bytes, watch

PACKAGES = (
    "chdb", "chdb-core", "clickhouse-connect", "numpy", "pyarrow", "pandas", "lancedb", "duckdb",
)  # fmt: skip
PARTS = ("shard", "tutorial", "ten")
FLOOR = "floor"
#: Disk that a part needs, in bytes a row: of cliphouse's table while it is merged, or of the CSV file.
_TABLE_ROW_BYTES, _CSV_ROW_BYTES = 2_300, 23_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to measure: a shard of `rows` rows drawn with `seed`, loaded by each system in each of `rounds` rounds.

    The tutorial's pipeline loads one of `tutorial_rows`, once. `shards` times the first shard, under as many numbers,
    are loaded by one command. Memory is sampled every `sample_seconds`; of each load, `points` samples are kept, the
    highest of equally many. `left_out` says what the run does not measure and why; the report repeats it.
    """

    name: str
    kind: Literal["loading"]
    title: str
    rows: int
    seed: int
    rounds: int
    tutorial_rows: int
    shards: int
    sample_seconds: float
    points: int
    left_out: Sequence[str]

    def __post_init__(self) -> None:
        if self.kind != "loading":
            raise ValueError(f"this measures runs of the kind 'loading', not {self.kind!r}")
        small = [name for name in ("rows", "rounds", "tutorial_rows", "shards", "points") if getattr(self, name) < 1]
        if small:
            raise ValueError(f"{' and '.join(small)} must be 1 or more")

    def disk_needed(self, parts: Sequence[str]) -> int:
        """The free bytes that the largest of `parts` needs while it runs; databases go before the next one comes."""
        needs = {
            "shard": 2 * self.rows * 2 * _TABLE_ROW_BYTES,  # DuckDB's numbers are twice as wide
            "tutorial": self.tutorial_rows * (_CSV_ROW_BYTES + 2 * _TABLE_ROW_BYTES),
            "ten": (self.shards + 2) * self.rows * _TABLE_ROW_BYTES,
        }
        return max(needs[part] for part in parts)


class Bench:
    """One run at work in a directory `scratch`, where everything is made and removed."""

    def __init__(self, run: Run, scratch: Path) -> None:
        self.run, self.scratch = run, scratch

    def load(self, system: System, shard: Path, *, shards: int = 1) -> dict[str, Any]:
        """Load the files in `shard` into a new database, check what is there, and remove it."""
        with self.place(system.name) as database:
            told = self.timed(system.command(shard, database), shard, database)
            return told | self.checked(system, shard, database, shards)

    def floor(self, shard: Path, size: int) -> dict[str, Any]:
        """Only read the files and write `size` bytes."""
        with self.place(FLOOR) as directory:
            directory.mkdir()
            return self.timed(own_command(FLOOR, shard, directory / "bytes", size), shard, directory)

    def tutorial(self, shard: Path) -> dict[str, Any]:
        """The tutorial's pipeline, step by step."""
        with self.place("csv") as csv, self.place(TUTORIAL.name) as database:
            csv.mkdir()
            for file in shard_files(shard):
                (csv / file.name).symlink_to(file.resolve())
            script = csv / "process.py"
            script.write_text(tutorial_steps.PROCESS, encoding="utf-8")
            process = self.timed([sys.executable, str(script), "0"], shard, csv, cwd=csv)
            csv_bytes = (csv / "0.csv").stat().st_size
            insert = self.timed(TUTORIAL.command(csv, database), csv, database)
            return {
                "csv_bytes": csv_bytes,
                "steps": {"process": process, "insert": insert | self.checked(TUTORIAL, shard, database, 1)},
            }

    def timed(self, command: Sequence[str], shard: Path, directory: Path, *, cwd: Path | None = None) -> dict[str, Any]:
        """What `command` takes, with the files in `shard` in the page cache and nothing waiting for the disk."""
        warm(shard)
        os.sync()
        watched: Watched = watch(command, every=self.run.sample_seconds, directory=directory, cwd=cwd or HERE.parent)
        start = time.perf_counter()
        os.sync()
        return watched.as_json(points=self.run.points) | {
            "sync_seconds": time.perf_counter() - start,
            "disk_bytes": disk_bytes(directory),
        }

    def checked(self, system: System, shard: Path, database: Path, shards: int) -> dict[str, Any]:
        """What the system says of its `database`, in a process of its own.

        Raises:
            RuntimeError: it does not hold what the files hold.
        """
        command = own_command("check", system.name, shard, database, shards)
        done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{system.label} was loaded and is not right: {done.stderr.strip().splitlines()[-1]}")
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told

    @contextmanager
    def place(self, name: str) -> Iterator[Path]:
        """A path that nothing is at, before and after."""
        path = self.scratch / name
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def execute(run: Run, data: Path | None, scratch: Path, parts: Sequence[str] = PARTS) -> dict[str, Any]:
    """The result of `run`, or of some parts of it. `data` holds shard 0; if None, it is drawn once and kept.

    Raises:
        ValueError: `data` holds another shard than the run wants, or `scratch` is too small.
    """
    started, load_before = time.perf_counter(), os.getloadavg()
    date, commit = datetime.now(UTC).isoformat(timespec="seconds"), facts.commit()
    check_room(run, scratch, parts)
    shard = (data or laion_like.cached(run.rows, run.seed)).resolve()
    found: dict[str, Any] = {"data": facts.data_files(shard)}
    with tempfile.TemporaryDirectory(dir=scratch, prefix="loading-") as directory:
        bench = Bench(run, Path(directory))
        if "shard" in parts:
            found["shard"] = {"rows": run.rows, "loads": load_in_rounds(bench, shard)}
        if "tutorial" in parts:
            found["tutorial"] = load_as_the_tutorial(bench)
        if "ten" in parts:
            say(f"loading {run.shards} shards")
            found["ten"] = load_many(bench, shard)
    return {
        "run": run.name,
        "kind": run.kind,
        "date": date,
        **commit,
        "machine": facts.machine(),
        "versions": facts.versions(engine_version(found), PACKAGES),
        "parameters": asdict(run),
        "page_cache": "warm, the files are read before each load",
        "systems": [{"name": each.name, "label": each.label, "note": each.note} for each in (*PEERS, TUTORIAL)]
        + [{"name": FLOOR, "label": FLOOR, "note": "read the files, write as many bytes as cliphouse's table, fsync"}],
        **found,
        "process": {
            "seconds": time.perf_counter() - started,
            "load_average_before": load_before[0],
            "load_average_after": os.getloadavg()[0],
        },
    }


def check_room(run: Run, scratch: Path, parts: Sequence[str]) -> None:
    """Raises ValueError if `scratch` has not the room that the parts need."""
    free, needed = shutil.disk_usage(scratch).free, run.disk_needed(parts)
    if free < needed:
        raise ValueError(
            f"{scratch} has {free / 1e9:.1f} GB free, and {', '.join(parts)} needs {needed / 1e9:.1f} GB; "
            "choose another disk with --scratch"
        )


def load_in_rounds(bench: Bench, shard: Path) -> dict[str, list[dict[str, Any]]]:
    """All loads of each system and of the floor, which follows the size of cliphouse's table."""
    loads: dict[str, list[dict[str, Any]]] = {name: [] for name in (*(each.name for each in PEERS), FLOOR)}
    for number in range(bench.run.rounds):
        shift = number % len(loads)
        for name in (*list(loads)[shift:], *list(loads)[:shift]):
            say(f"round {number + 1} of {bench.run.rounds}: {name}")
            if name == FLOOR:
                loads[name].append(bench.floor(shard, loads[CLIPHOUSE.name][-1]["table_bytes"]))
            else:
                system = next(each for each in PEERS if each.name == name)
                loads[name].append(bench.load(system, shard))
    return loads


def load_as_the_tutorial(bench: Bench) -> dict[str, Any]:
    """The same rows by the tutorial's pipeline, once, and by cliphouse, in rounds."""
    run = bench.run
    shard = laion_like.cached(run.tutorial_rows, run.seed).resolve()
    say(f"the tutorial's pipeline, {run.tutorial_rows:,} rows")
    tutorial = bench.tutorial(shard)
    say("the same rows by cliphouse")
    loads = [bench.load(CLIPHOUSE, shard) for _ in range(run.rounds)]
    seconds = sum(step["seconds"] for step in tutorial["steps"].values())
    return {
        "rows": run.tutorial_rows,
        **tutorial,
        "seconds": seconds,
        "cliphouse": loads,
        "ratio": seconds / median(each["seconds"] for each in loads),
    }


def load_many(bench: Bench, shard: Path) -> dict[str, Any]:
    """The shard's files under many numbers, by one command; and when each shard was in, in seconds from its start."""
    with bench.place("shards") as directory:
        told = bench.load(CLIPHOUSE, under_numbers(shard, directory, bench.run.shards), shards=bench.run.shards)
    finished = [
        {"shard": each["shard"], "seconds": max(0.0, each["at"] - told["started"])}  # the ledger may know seconds only
        for each in told.pop("shards")
    ]
    return {"rows": bench.run.rows * bench.run.shards, "load": told, "finished": finished}


def engine_version(found: Mapping[str, Any]) -> str:
    """The version of ClickHouse, as whichever part ran was told it."""
    if "shard" in found:
        return str(found["shard"]["loads"][CLIPHOUSE.name][0]["version"])
    if "ten" in found:
        return str(found["ten"]["load"]["version"])
    return str(found["tutorial"]["cliphouse"][0]["version"])


def warm(directory: Path) -> None:
    """Read the shard files in `directory`, so that they are in the page cache."""
    for path in directory.iterdir():
        if path.suffix in (".npy", ".parquet", ".csv"):
            read_through(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how shards are loaded and write the result.")
    parser.add_argument("run", nargs="?", default="loading", help="a name in benchmarks/runs, or a TOML file")
    parser.add_argument("--data", type=Path, help="a directory with shard 0; drawn and kept if not given")
    parser.add_argument("--out", type=Path, help="where the result goes; benchmarks/results if all parts ran")
    parser.add_argument("--scratch", type=Path, default=laion_like.DATA, help="where databases are made and removed")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"which, of {','.join(PARTS)}; all by default")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"--parts takes {', '.join(PARTS)}")
    if options.out is None and set(parts) != set(PARTS):
        parser.error("a result of some parts only is no result of the run; say where it may go with --out DIR")
    result = execute(Run(**read_parameters(options.run)), options.data, options.scratch, parts)
    say(f"wrote {write_result(result, options.out or HERE / 'results')}")


if __name__ == "__main__":
    main()
