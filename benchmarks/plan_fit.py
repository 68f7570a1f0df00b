"""Measure what the cost model of `cliphouse plan` is fitted to, fit it, and write the result and the coefficients.

    python -m benchmarks.plan_fit [RUN] [--data DIR] [--out DIR] [--scratch DIR] [--points exact-50000,...] [--shared]
                                  [--mixed] [--model FILE]

Each point is measured in a process of its own and kept in SCRATCH/points, so that a run that was stopped, or is made
in parts with `--points`, goes on there; the points of `--points` are measured anew. Points that were measured on
different machines, from different sources or with different packages are refused, unless `--mixed` takes them. Fitting
alone needs nothing of today, so that a model with other formulas can be fitted to the points that are there.
`--shared` says that other work was on the machine. The result and the coefficients say both.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
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
from cliphouse.hardware import disk_speed
from cliphouse.types import IndexConfig

#: The coefficients, where the package reads them.
MODEL_FILE = HERE.parent / "src" / "cliphouse" / "cost_model.json"
PARTS = ("machine", "disk", "exact", "hnsw", "ivf")
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
    `efforts[part]`. `machine` measures disk and processor, `disk` writes as many bytes as that many rows hold, `exact`
    measures loading and exact searches, the others an index. Each is measured `rounds[part]` times, round by round,
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
    return {
        **(_disk(rows, run.dim, scratch) if part == "disk" else _work(run, part, rows, data, scratch)),
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
    command = [sys.executable, "-m", "benchmarks.plan_work", str(job)]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{part} over {rows:,} rows failed with {done.returncode}: {' '.join(done.stderr.splitlines()[-3:])}"
        )
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
    if different and not (mixed and different <= _MIXABLE):
        advice = ", or take it as it is with --mixed" if different <= _MIXABLE else ""
        raise ValueError(
            f"{path} was measured with other {', '.join(sorted(different))}; remove it to measure again{advice}"
        )
    return point


def differing(point: Measured, wanted: Mapping[str, Any]) -> set[str]:
    """What of a point's stamp is not as wanted."""
    known = point.get("stamp", {})
    return {each for each, value in wanted.items() if known.get(each) != value}


def medians(points: Sequence[Measured]) -> list[dict[str, Any]]:
    """One point for each part and number of rows, whose figures are the medians over its rounds."""
    rounds: dict[tuple[str, int], list[Measured]] = {}
    for each in points:
        rounds.setdefault((each["part"], each["rows"]), []).append(each)
    return [_median(each) for each in rounds.values()]


def _median(values: Sequence[Any]) -> Any:
    """The median of each number, in values that have all the same shape; of the rest, the first."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: _median([each[key] for each in values]) for key in first if key != "stamp"}
    if isinstance(first, list):
        return [_median(each) for each in zip(*values, strict=True)]
    if isinstance(first, int | float) and not isinstance(first, bool):
        middle = statistics.median(values)
        return int(middle) if isinstance(first, int) else middle
    return first


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
    known = medians(points)
    by_part = {part: sorted((e for e in known if e["part"] == part), key=lambda e: int(e["rows"])) for part in PARTS}
    ((machine,), (disk,)) = by_part["machine"], by_part["disk"]
    return Model(
        dim=dim,
        write_share=min(1.0, disk["disk_write"] / machine["disk_write"]),
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


def fit_growth(rows: NDArray[np.float64], seconds: NDArray[np.float64]) -> tuple[float, float]:
    """c and m of seconds = c n log2(1 + n / m), for n rows: of many values of m, the one that is nearest."""
    found = []
    for few in np.geomspace(10, 1e6, 101):
        shape = rows * np.log2(1 + rows / few)
        (row,) = least_squares([shape], seconds)
        found.append((float(np.sum((row * shape / seconds - 1) ** 2)), float(row), float(few)))
    _, row, few = min(found)
    return row, few


def _fit_hnsw(points: Sequence[Measured], cores: int, dim: int) -> dict[str, Any]:
    rows = np.array([each["rows"] for each in points], np.float64)
    row, few = fit_growth(rows, np.array([each["build_seconds"] for each in points]) * cores)
    searches = [(each["rows"], one) for each in points for one in each["efforts"]]
    steps = [one["ef_search"] * math.log2(n) for n, one in searches]
    reads = [hnsw_read_bytes(n, dim) for n, _ in searches]
    base, step, byte = least_squares([1, steps, reads], [one["p50_seconds"] for _, one in searches])
    graph = [each["rows"] * IndexConfig().bytes_per_row(dim) for each in points]
    return {
        "hnsw_row": row,
        "hnsw_few": few,
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
    (measured,) = (each for each in medians(points) if each["part"] == "machine")
    machine = points[0]["stamp"]["machine"]
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
            f"{each['part']}-{each['rows']}: other {what}"
            for each in points
            for what in differing(each, _like(run, each["part"], points[0]))
        ),
        "rows": {part: list(run.rows[part]) for part in PARTS},
        "rounds": dict(run.rounds),
    }


def _like(run: Run, part: str, point: Measured) -> dict[str, Any]:
    """The stamp of a point of this part that belongs to `point`."""
    return stamp(run, part) | {each: point["stamp"][each] for each in _MIXABLE}


def _together(run: Run, paths: Mapping[str, Path], *, anew: bool, mixed: bool) -> None:
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
        kept(path, stamp(run, part) if anew else _like(run, part, first), mixed=mixed)


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
    paths = {name: options.scratch / "points" / f"{name}.json" for name in run.points()}
    asked = [name for name in paths if options.points and name.rpartition("/")[2] in options.points.split(",")]
    asked = asked or [name for name, path in paths.items() if not path.exists()]
    if not options.points:
        _together(run, paths, anew=bool(asked), mixed=options.mixed)  # first, so that nothing is measured in vain
    data = options.data or laion_like.cached(run.shard_rows, run.seed)
    for name in asked:
        say(f"measuring {name}")
        point = measure(run, name, data, options.scratch, shared=options.shared)
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        paths[name].write_text(json.dumps(point) + "\n", encoding="utf-8")
    if options.points:
        return
    points = [json.loads(path.read_text(encoding="utf-8")) for path in paths.values()]
    machine = points[0]["stamp"]["machine"]
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
