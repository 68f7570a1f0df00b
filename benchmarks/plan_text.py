"""The cost model as Markdown: how near it comes to what was measured, and what it says of LAION. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.plan_figures import WITHIN, Figure, medians, of_indexes, of_points
from benchmarks.text import opening, size, table
from cliphouse.clusters import MAX_SAMPLE_ROWS, SAMPLE_PER_CLUSTER
from cliphouse.cost_model import Hardware, Model, from_json
from cliphouse.costs import LONGEST_LISTS, Plan, Wanted, plan, trained_on
from cliphouse.units import duration

Result = Mapping[str, Any]

#: Rows and dimensions of the embeddings that are published with them.
_LAION = (("LAION-400M", 400_000_000, 512), ("LAION-5B", 5_850_000_000, 768))
#: What the metadata of a row of LAION takes more than that of a drawn one.
_REAL_METADATA_BYTES = 110.0
#: A machine that can be rented, and how many of them the tables ask.
_RENTED = Hardware(cores=32, memory_bytes=256 * 2**30, disk_read=5e9, disk_write=2e9)
_MACHINES = (1, 10)


def short_table(result: Result) -> str:
    """What the data sets of LAION take, on the machine that was measured and on larger ones."""
    model, hardware = model_of(result), Hardware(**result["model"]["hardware"])
    blocks = [_laion(*each, hardware, model) for each in _LAION]
    rows = max(result["model"]["rows"]["exact"])
    few = [
        f"{trained_on(-(-total // count)):.1f} for {name} on {count} machine{'s' * (count > 1)}"
        for name, total, _ in _LAION
        for count in _MACHINES
        if trained_on(-(-total // count)) < 0.9 * SAMPLE_PER_CLUSTER
    ]
    return (
        "\n".join(blocks)
        + f"\nExtrapolated by the model, which was fitted to runs over up to {rows:,} rows on {hardware.cores} cores "
        f"({result['machine']['cpu']}): nobody measured this. It takes the metadata of a row to be "
        f"{_REAL_METADATA_BYTES:.0f} bytes larger than that of the drawn rows it was fitted to. One embedding is "
        "indexed; at a recall of 0.95 for texts; all machines load and build at the same time. Clusters are "
        f"trained on at most {MAX_SAMPLE_ROWS:,} rows: {SAMPLE_PER_CLUSTER} a cluster in what was measured, but "
        f"{', '.join(few)}, which may cost recall that the model does not know of. Lists that take more than "
        f"{duration(LONGEST_LISTS)} to build are not advised: take more machines.\n"
    )


def _laion(name: str, rows: int, dim: int, measured: Hardware, model: Model) -> str:
    real = replace(model, metadata_bytes=model.metadata_bytes + _REAL_METADATA_BYTES)
    lines = [
        line
        for machines, hardware in ((1, measured), *((count, _RENTED) for count in _MACHINES))
        for line in _ways(plan(Wanted(rows=rows, dim=dim, machines=machines), hardware, real))
    ]
    header = ("machines", "search", "disk of all", "memory of all", "load", "build", "latency", "reads from")
    return f"{name}, {rows:,} rows of {dim} dimensions; what is advised is bold:\n\n" + table(header, lines)


def _ways(found: Plan) -> Iterator[tuple[str, ...]]:
    """A line for each way to search."""
    machines, hardware = found.wanted.machines, found.hardware
    for cost in found.costs:
        first = f"{machines} of {hardware.cores} cores, {size(hardware.memory_bytes)}"
        yield (
            first if cost is found.costs[0] else "",
            f"**{cost.kind}**" if cost.kind == found.choice.kind else cost.kind,
            size(machines * cost.disk_bytes),
            size(machines * cost.memory_bytes) + (", not there" if cost.missing else ""),
            duration(found.load_seconds),
            duration(cost.build_seconds) if cost.build_seconds else "none",
            duration(cost.latency_seconds),
            cost.reads,
        )


def fit_table(result: Result) -> str:
    """The model against the points it was fitted to."""
    hardware = Hardware(**result["model"]["hardware"])
    return figures_table(of_points(medians(result["points"]), result["parameters"]["dim"], model_of(result), hardware))


def figures_table(figures: Sequence[Figure]) -> str:
    """What the model says against what was measured."""
    return table(
        ("what", "rows", "measured", "predicted", "off by"),
        [
            (
                each.what,
                f"{each.rows:,}",
                *(_shown(each.what, value) for value in (each.measured, each.predicted)),
                f"{each.off:+.0%}" + (", not met" if abs(each.off) > WITHIN else ""),
            )
            for each in figures
        ],
    )


def check_table(result: Result, runs: Sequence[Result]) -> str:
    """The model against runs that it was not fitted to; "Not measured yet." if there are none."""
    model, hardware = model_of(result), Hardware(**result["model"]["hardware"])
    figures = [each for run in runs for each in of_indexes(run, model, hardware)]
    if not figures:
        return "Not measured yet.\n"
    missed = sum(abs(each.off) > WITHIN for each in figures)
    met = (
        f"{missed} of {len(figures)} are off by more than {WITHIN:.0%}: not met."
        if missed
        else f"All are within {WITHIN:.0%}."
    )
    return f"{figures_table(figures)}\n{met}\n"


def section(file_name: str, result: Result) -> str:
    """The run in full; `file_name` is that of its result."""
    run, model = result["parameters"], result["model"]
    told = sorted(model["coefficients"].items())
    coefficients = [
        (f"`{name}`", ", ".join(f"{each:.4g}" for each in (value if isinstance(value, list) else [value])))
        for name, value in told
    ]
    lines = (
        f"data: the first rows of a shard of {run['shard_rows']:,}, seed {run['seed']}; {run['queries']} texts that it "
        "does not hold",
        "other work was on the machine while points were measured" if model["shared_machine"] else "a quiet machine",
        *(["points of different machines, sources or packages"] if model.get("mixed") else []),
        f"commits of the points: {', '.join(model['commits'])}",
    )
    return "\n".join(
        [
            opening(file_name, result, lines),
            "### What it says of the points it was fitted to\n\n" + fit_table(result),
            "### Coefficients\n\nSeconds of one core, bytes and shares; `Model` in `src/cliphouse/cost_model.py` says "
            "what each means.\n\n" + table(("coefficient", "value"), coefficients),
        ]
    )


def model_of(result: Result) -> Model:
    """The model that the result holds."""
    return from_json(result["model"]["coefficients"])


def _shown(what: str, value: float) -> str:
    return size(value) if what.endswith(("disk", "memory")) else duration(value)
