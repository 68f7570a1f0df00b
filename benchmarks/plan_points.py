"""What the cost model is fitted to: points, each measured in a process of its own, and what they must have in common."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from benchmarks import facts
from benchmarks.files import HERE
from cliphouse.hardware import disk_speed

PARTS = ("machine", "disk", "load", "exact", "hnsw", "ivf")
Measured = Mapping[str, Any]
#: What decides the figures of a point.
_SOURCES = (
    *(f"benchmarks/{name}.py" for name in ("laion_like", "plan_work", "systems", "truth", "watch")),
    "src/cliphouse/**/*.py",
)
_PACKAGES = ("chdb", "chdb-core", "numpy")
#: What `--mixed` allows to differ between points. Others answered another question.
MIXABLE = frozenset({"machine", "sources", "packages"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to measure: each part over the first of `shard_rows` rows drawn with `seed`, so many as `rows[part]` lists.

    `queries` texts, drawn with `query_seed` and after `warm_up` others, are asked for `k` results, with each of
    `efforts[part]`. `machine` measures disk and processor, `disk` writes as many bytes as that many rows hold, `load`
    loads the shard that many times over, `exact` measures loading and exact searches, the others an index. Each is measured `rounds[part]` times, round by round,
    because a machine that is rented is not always as fast.
    """

    name: str
    kind: Literal["plan"]
    title: str
    shard_rows: int
    seed: int
    dim: int
    k: int
    queries: int
    query_seed: int
    warm_up: int
    rows: Mapping[str, Sequence[int]]
    rounds: Mapping[str, int]
    efforts: Mapping[str, Sequence[Mapping[str, int]]]

    def points(self) -> list[str]:
        """The names of all points in the order they are measured: round, part and rows."""
        return [
            f"{turn}/{part}-{rows}"
            for turn in range(1, max(self.rounds.values()) + 1)
            for part in PARTS
            if turn <= self.rounds[part]
            for rows in self.rows[part]
        ]


def measure(run: Run, name: str, data: Path, scratch: Path, *, shared: bool) -> dict[str, Any]:
    """One point, with when and where it was measured."""
    part, rows = _part(name), int(name.rpartition("-")[2])
    before = os.getloadavg()[0]
    if part == "disk":
        told = _disk(rows, run.dim, scratch)
    elif part == "load":
        told = _told("benchmarks.plan_load", str(data), str(rows // run.shard_rows), str(scratch / "db"))
    else:
        told = _work(run, part, rows, data, scratch)
    return {
        **told,
        **facts.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "stamp": stamp(run, part),
        "load_average": before,
        "shared": shared,
    }


def _part(name: str) -> str:
    """The part of a point's name, as round/part-rows."""
    return name.rpartition("/")[2].rpartition("-")[0]


def _disk(rows: int, dim: int, scratch: Path) -> dict[str, Any]:
    """How fast as many bytes are written, and read, as the vectors of so many rows take."""
    write, read = disk_speed(scratch, rows * dim * 4)
    return {"part": "disk", "rows": rows, "engine": "", "disk_write": write, "disk_read": read}


def _work(run: Run, part: str, rows: int, data: Path, scratch: Path) -> dict[str, Any]:
    job = scratch / "job.json"
    wanted = {"part": part, "rows": rows, "data": str(data.resolve()), "place": str((scratch / "db").resolve())}
    wanted |= {each: getattr(run, each) for each in ("k", "queries", "query_seed", "warm_up")}
    job.write_text(json.dumps(wanted | {"efforts": list(run.efforts[part])}), encoding="utf-8")
    return _told("benchmarks.plan_work", str(job))


def _told(module: str, *arguments: str) -> dict[str, Any]:
    """What a module that is run prints at its end."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {' '.join(done.stderr.splitlines()[-3:])}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def stamp(run: Run, part: str) -> dict[str, Any]:
    """What must be the same for two points to belong together, as it is now."""
    asked = {each: getattr(run, each) for each in ("shard_rows", "seed", "k", "queries", "query_seed", "warm_up")}
    now = {
        "machine": facts.machine(),
        "sources": facts.sources_digest(HERE.parent, _SOURCES),
        "packages": {package: version(package) for package in _PACKAGES},
        "parameters": asked | {"efforts": run.efforts[part]},
    }
    plain: dict[str, Any] = json.loads(json.dumps(now))  # as it will be read
    return plain


def kept(path: Path, wanted: Mapping[str, Any], *, mixed: bool) -> dict[str, Any] | None:
    """The point that was measured before, if one was, and belongs to others of the stamp `wanted`.

    Raises:
        ValueError: on another machine, from other sources or with other packages, and not `mixed`; or other parameters.
    """
    if not path.exists():
        return None
    point: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    different = differing(point, wanted)
    if different and not (mixed and different <= MIXABLE):
        advice = ", or take it as it is with --mixed" if different <= MIXABLE else ""
        raise ValueError(
            f"{path} was measured with other {', '.join(sorted(different))}; remove it to measure again{advice}"
        )
    return point


def differing(point: Measured, wanted: Mapping[str, Any]) -> set[str]:
    """What of a point's stamp is not as wanted."""
    known = point.get("stamp", {})
    return {each for each, value in wanted.items() if known.get(each) != value}


def like(run: Run, part: str, point: Measured) -> dict[str, Any]:
    """The stamp of a point of this part that belongs to `point`."""
    return stamp(run, part) | {each: point["stamp"][each] for each in MIXABLE}


def together(run: Run, paths: Mapping[str, Path], *, anew: bool, mixed: bool) -> None:
    """Check that the points that are there belong together, and with those that are to be measured now.

    Raises:
        ValueError: they do not.
    """
    there = [(name, path) for name, path in paths.items() if path.exists()]
    if not there:
        return
    first = json.loads(there[0][1].read_text(encoding="utf-8"))
    for name, path in there:
        part = _part(name)
        kept(path, stamp(run, part) if anew else like(run, part, first), mixed=mixed)
