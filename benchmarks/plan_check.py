"""Compare what the cost model says with measurements that it was not fitted to; exit 1 if it is off by too much.

    python -m benchmarks.plan_check [--results DIR] [--measure 1000448 --data DIR] [--within 0.25]

By default those are the newest results of the runs over one shard and over four, `indexes-1m` and `indexes-4m`.
`--measure` measures an exact search and the indexes over so many rows of a shard instead.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import laion_like, plan_figures, plan_text
from benchmarks.files import HERE, read_parameters, say
from benchmarks.plan_points import Run, measure
from benchmarks.report import CHECKED, kind_of, newest_results
from cliphouse.cost_model import fitted, measured_hardware

_PARTS = ("exact", "hnsw", "ivf")


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the cost model with measurements it was not fitted to.")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where the results of runs are")
    parser.add_argument("--measure", type=int, help="so many rows of a shard, and not the results")
    parser.add_argument("--parts", default=",".join(_PARTS), help="what of that to measure")
    parser.add_argument("--data", type=Path, help="a directory with the shard to measure; drawn if not given")
    parser.add_argument("--scratch", type=Path, default=laion_like.DATA / "plan", help="where databases are made")
    parser.add_argument("--within", type=float, default=plan_figures.WITHIN, help="by how much the model may be off")
    options = parser.parse_args()
    model, hardware = fitted(), measured_hardware()
    figures = []
    if options.measure:
        run = Run(**read_parameters("plan"))
        data = options.data or laion_like.cached(options.measure, run.seed)
        options.scratch.mkdir(parents=True, exist_ok=True)
        points = []
        for part in options.parts.split(","):
            say(f"measuring {part} over {options.measure:,} rows")
            points.append(measure(run, f"{part}-{options.measure}", data, options.scratch, shared=False))
        figures = plan_figures.of_points(points, run.dim, model, hardware)
    else:
        for _, result in newest_results(options.results):
            if kind_of(result) == "indexes" and result["run"] in CHECKED:
                figures += plan_figures.of_indexes(result, model, hardware)
    if not figures:
        print(f"there is no result of {' or '.join(CHECKED)} in {options.results}; use --measure", file=sys.stderr)
        return 2
    print(plan_text.figures_table(figures), end="")
    return int(plan_figures.worst(figures) > options.within)


if __name__ == "__main__":
    sys.exit(main())
