"""Measure what the cost model of `cliphouse plan` is fitted to, fit it, and write the result and the coefficients.

    python -m benchmarks.plan_fit [RUN] [--data DIR] [--out DIR] [--scratch DIR] [--points exact-50000,...] [--shared]
                                  [--mixed] [--model FILE]

Each point is measured in a process of its own and kept in SCRATCH/points, so that a run that was stopped, or is made
in parts with `--points`, goes on there; the points of `--points` are measured anew. Points from another machine, other
sources or other packages are refused, unless `--mixed` takes them. `--shared` says that other work was on the machine.
The result and the coefficients say both.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks import facts, laion_like
from benchmarks.files import HERE, read_parameters, say, write_result
from cliphouse.clusters import count_for
from cliphouse.cost_model import Model
from cliphouse.costs import hnsw_read_bytes, ivf_flops, ivf_read_bytes
from cliphouse.types import IndexConfig

#: The coefficients, where the package reads them.
MODEL_FILE = HERE.parent / "src" / "cliphouse" / "cost_model.json"
PARTS = ("machine", "exact", "hnsw", "ivf")
#: Recalls from which the effort that reaches another one is told: few misses are chance, and many follow another law.
_TELLING = (0.6, 0.995)
#: What the result says of what was measured.
_NOTES = {
    "load": "`Collection.load`, until all is on the disk; the files are in the page cache",
    "exact": "`Collection.search(vector, exact=True)`: from the engine's cache, from the page cache, and from the disk",
    "hnsw": "`Collection.build_index(config=IndexConfig())`: bf16, M 64, ef_construction 256",
    "ivf": "`Collection.build_index(config=IvfConfig())`: inverted lists in tables, on disk",
}
Measured = Mapping[str, Any]
#: What decides the figures of a point.
_SOURCES = (
    *(f"benchmarks/{name}.py" for name in ("laion_like", "plan_work", "systems", "truth", "watch")),
    "src/cliphouse/**/*.py",
)
_PACKAGES = ("chdb", "chdb-core", "numpy")
#: What `--mixed` allows to differ between points. Others answered another question.
_MIXABLE = frozenset({"machine", "sources", "packages"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to measure: each part over the first of `shard_rows` rows drawn with `seed`, so many as `rows[part]` lists.

    `queries` texts, drawn with `query_seed` and after `warm_up` others, are asked for `k` results, with each of
    `efforts[part]`. `machine` measures disk and processor, `exact` loading and exact searches, the others an index.
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
    efforts: Mapping[str, Sequence[Mapping[str, int]]]

    def points(self) -> list[str]:
        """The names of all points: part and rows."""
        return [f"{part}-{rows}" for part in PARTS for rows in self.rows[part]]


def measure(run: Run, name: str, data: Path, scratch: Path, *, shared: bool) -> dict[str, Any]:
    """One point, with when and where it was measured."""
    part, _, rows = name.rpartition("-")
    job = scratch / "job.json"
    wanted = {"part": part, "rows": int(rows), "data": str(data.resolve()), "place": str((scratch / "db").resolve())}
    wanted |= {each: getattr(run, each) for each in ("k", "queries", "query_seed", "warm_up")}
    job.write_text(json.dumps(wanted | {"efforts": list(run.efforts[part])}), encoding="utf-8")
    before = os.getloadavg()[0]
    command = [sys.executable, "-m", "benchmarks.plan_work", str(job)]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed with {done.returncode}: {' '.join(done.stderr.splitlines()[-3:])}")
    return {
        **json.loads(done.stdout.splitlines()[-1]),
        **facts.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "stamp": stamp(run, part),
        "load_average": before,
        "shared": shared,
    }


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


def kept(run: Run, name: str, path: Path, *, mixed: bool) -> dict[str, Any] | None:
    """The point that was measured before, if one was.

    Raises:
        ValueError: on another machine, from other sources or with other packages, and not `mixed`; or other parameters.
    """
    if not path.exists():
        return None
    point: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    different = differing(run, name, point)
    if different and not (mixed and different <= _MIXABLE):
        advice = ", or take it as it is with --mixed" if different <= _MIXABLE else ""
        raise ValueError(
            f"{path} was measured with other {', '.join(sorted(different))}; remove it to measure again{advice}"
        )
    return point


def differing(run: Run, name: str, point: Measured) -> set[str]:
    """What of a point's stamp is not as it is now."""
    known = point.get("stamp", {})
    return {each for each, value in stamp(run, name.rpartition("-")[0]).items() if known.get(each) != value}


def least_squares(columns: Sequence[ArrayLike], values: ArrayLike) -> NDArray[np.float64]:
    """The coefficients, none below 0, of the sum of `columns` that is nearest to `values`, as a share of each.

    What would be below 0 is left out, the lowest first, and the rest is fitted again.
    """
    wanted = np.asarray(values, np.float64)
    matrix = np.stack([np.broadcast_to(np.asarray(each, np.float64), wanted.shape) for each in columns], axis=1)
    matrix = matrix / wanted[:, None]
    used = list(range(len(columns)))
    scale = np.abs(matrix).max(axis=0)
    while True:
        found = np.linalg.lstsq(matrix[:, used] / scale[used], np.ones(len(wanted)), rcond=None)[0]
        if found.min() >= 0 or len(used) == 1:
            break
        used.pop(int(found.argmin()))
    result = np.zeros(len(columns))
    result[used] = np.maximum(found, 0) / scale[used]
    return result


def fit_misses(points: Iterable[tuple[float, float, float]], least: float, most: float) -> tuple[float, float, float]:
    """a, p and q of misses = exp(a - p ln x + q ln n), from points (x, n, recall), with q / p from `least` to `most`.

    Outside of these bounds a larger collection would be easier to search, as a few points may well say by chance:
    fewer candidates of a graph would do, or fewer of root-many lists.

    Raises:
        ValueError: the points say that more effort finds no more.
    """
    telling = [each for each in points if _TELLING[0] <= each[2] <= _TELLING[1]]
    x, n, recall = np.array(telling, np.float64).T
    misses, one = np.log(1 - recall), np.ones_like(x)
    a, p, q = np.linalg.lstsq(np.stack([one, -np.log(x), np.log(n)], axis=1), misses, rcond=None)[0]
    if not least <= q / p <= most:
        ratio = min(max(q / p, least), most)
        a, p = np.linalg.lstsq(np.stack([one, ratio * np.log(n) - np.log(x)], axis=1), misses, rcond=None)[0]
        q = ratio * p
    if p <= 0:
        raise ValueError("more effort finds no more; measure more queries, or other efforts")
    return float(a), float(p), float(q)


def fit(points: Sequence[Measured], cores: int, dim: int) -> Model:
    """The model that is nearest to what was measured on a machine of so many cores."""
    by_part = {part: sorted((e for e in points if e["part"] == part), key=lambda e: int(e["rows"])) for part in PARTS}
    (machine,) = by_part["machine"]
    return Model(
        dim=dim,
        **_fit_exact(by_part["exact"], machine, cores, dim),
        **_fit_hnsw(by_part["hnsw"], cores, dim),
        **_fit_ivf(by_part["ivf"], machine, cores, dim),
    )


def _fit_exact(points: Sequence[Measured], machine: Measured, cores: int, dim: int) -> dict[str, Any]:
    rows = np.array([each["rows"] for each in points], np.float64)
    column = rows * dim * 2
    load_fixed, load_row = least_squares([1, rows / cores], [each["load_seconds"] for each in points])
    base, cached = least_squares([1, column / cores], [each["cached"]["p50_seconds"] for each in points])
    _, paged = least_squares([1, column / cores], [each["paged"]["p50_seconds"] for each in points])
    _, cold = least_squares([1, column], [each["cold"]["p50_seconds"] for each in points])
    return {
        "metadata_bytes": float(np.mean([each["table_bytes"] for each in points] / rows)) - 4 * dim,
        "engine_bytes": float(np.mean([each["resident_bytes"] for each in points])),
        "load_fixed": float(load_fixed),
        "load_row": float(load_row),
        "exact_base": float(base),
        "cached_byte": float(cached),
        "paged_byte": float(max(paged, cached)),
        "disk_share": float(min(1.0, 1 / cold / machine["disk_read"])),
    }


def _fit_hnsw(points: Sequence[Measured], cores: int, dim: int) -> dict[str, Any]:
    rows = np.array([each["rows"] for each in points], np.float64)
    (build,) = least_squares([rows * np.log2(rows) / cores], [each["build_seconds"] for each in points])
    searches = [(each["rows"], one) for each in points for one in each["efforts"]]
    steps = [one["ef_search"] * math.log2(n) for n, one in searches]
    reads = [hnsw_read_bytes(n, dim) for n, _ in searches]
    base, step, byte = least_squares([1, steps, reads], [one["p50_seconds"] for _, one in searches])
    graph = [each["rows"] * IndexConfig().bytes_per_row(dim) for each in points]
    return {
        "hnsw_row": float(build),
        "hnsw_disk": float(np.mean([each["index_bytes"] / one for each, one in zip(points, graph, strict=True)])),
        "hnsw_base": float(base),
        "hnsw_step": float(step),
        "hnsw_byte": float(byte),
        "hnsw_miss": fit_misses(((one["ef_search"], n, one["recall"]) for n, one in searches), 0, math.inf),
    }


def _fit_ivf(points: Sequence[Measured], machine: Measured, cores: int, dim: int) -> dict[str, Any]:
    rows = np.array([each["rows"] for each in points], np.float64)
    flops = np.array([ivf_flops(each["rows"], dim) for each in points])
    # The last equation is a multiplication measured by itself: they are a small part of builds over few rows.
    fixed, row, flop = least_squares(
        [
            [*np.ones(len(points)), 0],
            [*(rows / cores), 0],
            [*(flops / cores), 1],
        ],
        [*(each["build_seconds"] for each in points), machine["flop_seconds"]],
    )
    # nprobe counts clusters of mean size, so it is a share of the rows too.
    asked = [(each["rows"], one, one["nprobe"] / count_for(each["rows"])) for each in points for one in each["efforts"]]
    searches = [each for each in asked if each[2] < 1]
    base, probe, byte = least_squares(
        [
            1,
            [one["nprobe"] for _, one, _ in searches],
            [ivf_read_bytes(n, dim, share) / cores for n, _, share in searches],
        ],
        [one["p50_seconds"] for _, one, _ in searches],
    )
    return {
        "ivf_fixed": float(fixed),
        "ivf_row": float(row),
        "ivf_flop": float(flop),
        "ivf_disk": float(np.mean([each["index_bytes"] / (each["rows"] * dim * 2) for each in points])),
        "ivf_base": float(base),
        "ivf_list": float(probe),
        "ivf_byte": float(byte),
        "ivf_miss": fit_misses(((share, n, one["recall"]) for n, one, share in searches), -0.5, 0),
    }


def committed(model: Model, points: Sequence[Measured], run: Run) -> dict[str, Any]:
    """What the package keeps: coefficients, the machine, and where they come from."""
    (measured,) = (each for each in points if each["part"] == "machine")
    machine = facts.machine()
    return {
        "coefficients": asdict(model),
        "hardware": {
            "cores": machine["cores"],
            "memory_bytes": machine["memory_bytes"],
            "disk_read": measured["disk_read"],
            "disk_write": measured["disk_write"],
        },
        "cpu": machine["cpu"],
        "run": run.name,
        "dim": run.dim,
        "commits": sorted({each["commit"][:12] for each in points}),
        "measured": max(each["date"] for each in points),
        "shared_machine": any(each["shared"] for each in points),
        "mixed": sorted(
            f"{name}: other {what}"
            for each in points
            for name in [f"{each['part']}-{each['rows']}"]
            for what in differing(run, name, each)
        ),
        "rows": {part: [each["rows"] for each in points if each["part"] == part] for part in PARTS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure, fit the cost model, and write both.")
    parser.add_argument("run", nargs="?", default="plan", help="a name in benchmarks/runs, or a TOML file")
    parser.add_argument("--data", type=Path, help="a directory with shard 0; drawn and kept if not given")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where the result goes")
    parser.add_argument("--model", type=Path, default=MODEL_FILE, help="where the coefficients go")
    parser.add_argument("--scratch", type=Path, default=laion_like.DATA / "plan", help="where points are kept")
    parser.add_argument("--points", help="measure these anew and nothing else, with commas between; writes no result")
    parser.add_argument("--mixed", action="store_true", help="take points as they are, and say so in the result")
    parser.add_argument("--shared", action="store_true", help="other work is on the machine")
    options = parser.parse_args()
    run = Run(**read_parameters(options.run))
    place = options.scratch / "points"
    place.mkdir(parents=True, exist_ok=True)
    if not options.points:
        for name in run.points():  # first, so that nothing is measured in vain
            kept(run, name, place / f"{name}.json", mixed=options.mixed)
    data = options.data or laion_like.cached(run.shard_rows, run.seed)
    for name in options.points.split(",") if options.points else run.points():
        if options.points or not (place / f"{name}.json").exists():
            say(f"measuring {name}")
            point = measure(run, name, data, options.scratch, shared=options.shared)
            (place / f"{name}.json").write_text(json.dumps(point) + "\n", encoding="utf-8")
    if options.points:
        return
    points = [json.loads((place / f"{name}.json").read_text(encoding="utf-8")) for name in run.points()]
    machine = facts.machine()
    package = committed(fit(points, machine["cores"], run.dim), points, run)
    options.model.write_text(json.dumps(package, indent=1) + "\n", encoding="utf-8")
    result = {
        "run": run.name,
        "kind": run.kind,
        "date": package["measured"],
        **facts.commit(),
        "machine": machine,
        "versions": facts.versions(points[-1]["engine"], ("chdb", "numpy")),
        "systems": [{"label": label, "note": note} for label, note in _NOTES.items()],
        "parameters": asdict(run),
        "model": package,
        "points": points,
    }
    say(f"wrote {write_result(result, options.out)} and {options.model}")


if __name__ == "__main__":
    main()
