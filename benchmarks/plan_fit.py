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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks import facts, laion_like
from benchmarks.files import HERE, read_parameters, say, write_result
from benchmarks.plan_figures import medians
from benchmarks.plan_points import PARTS, Measured, Run, differing, like, measure, together
from cliphouse.clusters import count_for
from cliphouse.cost_model import Model
from cliphouse.costs import hnsw_read_bytes, ivf_flops, ivf_read_bytes
from cliphouse.types import IndexConfig

#: The coefficients, where the package reads them.
MODEL_FILE = HERE.parent / "src" / "cliphouse" / "cost_model.json"
#: Recalls from which the effort that reaches another one is told: few misses are chance, and many follow another law.
_TELLING = (0.6, 0.995)
#: What the result says of what was measured.
_NOTES = {
    "load": "`Collection.load`, until all is on the disk; the files are in the page cache",
    "exact": "`Collection.search(vector, exact=True)`: from the engine's cache, from the page cache, and from the disk",
    "hnsw": "`Collection.build_index(config=IndexConfig())`: bf16, M 64, ef_construction 256",
    "ivf": "`Collection.build_index(config=IvfConfig())`: inverted lists in tables, on disk",
}
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
        **_fit_load([*by_part["exact"], *by_part["load"]], cores),
        **_fit_exact(by_part["exact"], machine, cores, dim),
        **_fit_hnsw(by_part["hnsw"], cores, dim),
        **_fit_ivf(by_part["ivf"], machine, cores, dim),
    )


def _fit_load(points: Sequence[Measured], cores: int) -> dict[str, Any]:
    rows = np.array([each["rows"] for each in points], np.float64)
    fixed, row = least_squares([1, rows / cores], [each["load_seconds"] for each in points])
    return {"load_fixed": float(fixed), "load_row": float(row)}


def _fit_exact(points: Sequence[Measured], machine: Measured, cores: int, dim: int) -> dict[str, Any]:
    rows = np.array([each["rows"] for each in points], np.float64)
    column = rows * dim * 2
    base, cached = least_squares([1, column / cores], [each["cached"]["p50_seconds"] for each in points])
    _, paged = least_squares([1, column / cores], [each["paged"]["p50_seconds"] for each in points])
    _, cold = least_squares([1, column], [each["cold"]["p50_seconds"] for each in points])
    return {
        "metadata_bytes": float(np.mean([each["table_bytes"] for each in points] / rows)) - 4 * dim,
        "engine_bytes": float(np.mean([each["resident_bytes"] for each in points])),
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
            for what in differing(each, like(run, each["part"], points[0]))
        ),
        "rows": {part: list(run.rows[part]) for part in PARTS},
        "rounds": dict(run.rounds),
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
    paths = {name: options.scratch / "points" / f"{name}.json" for name in run.points()}
    asked = [name for name in paths if options.points and name.rpartition("/")[2] in options.points.split(",")]
    asked = asked or [name for name, path in paths.items() if not path.exists()]
    if not options.points:
        together(run, paths, anew=bool(asked), mixed=options.mixed)  # first, so that nothing is measured in vain
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
