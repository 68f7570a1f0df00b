"""`cliphouse plan`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from cliphouse.cli.options import DEFAULT_DB, debug_option, format_option
from cliphouse.cli.quantities import read_count, read_size, read_speed
from cliphouse.cli.render import print_table
from cliphouse.clusters import MAX_SAMPLE_ROWS, SAMPLE_PER_CLUSTER
from cliphouse.cost_model import Hardware, committed, measured_hardware
from cliphouse.costs import Cost, Plan, Wanted, trained_on
from cliphouse.costs import plan as plan_for
from cliphouse.hardware import detect, machine
from cliphouse.types import EFFORT_NAMES, MAX_DIM, MIN_DIM
from cliphouse.units import duration, size


@click.command()
@click.option("--rows", callback=read_count, required=True, metavar="N", help="Rows in all: 400M, 5.85B, 1000448.")
@click.option("--dim", type=click.IntRange(MIN_DIM, MAX_DIM), default=512, show_default=True, help="Of the vectors.")
@click.option(
    "--machines", type=click.IntRange(min=1), default=1, show_default=True, help="Rows are divided among them."
)
@click.option(
    "--recall",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.95,
    show_default=True,
    help="Share of the true neighbours of a text query that an index must find.",
)
@click.option("--cores", type=click.IntRange(min=1), help="Of each machine; those of this one by default.")
@click.option(
    "--memory", callback=read_size, metavar="SIZE", help="Of each machine, for example 64GiB; as here by default."
)
@click.option("--disk-read", callback=read_speed, metavar="SPEED", help="For example 2GB/s; measured by default.")
@click.option("--disk-write", callback=read_speed, metavar="SPEED", help="For example 1GB/s; measured by default.")
@click.option(
    "--place",
    default=DEFAULT_DB,
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the data would lie: the disk to measure, with a file of 256 MiB that is removed.",
)
@format_option
@debug_option
def plan(
    rows: int,
    dim: int,
    machines: int,
    recall: float,
    cores: int | None,
    memory: int | None,
    disk_read: float | None,
    disk_write: float | None,
    place: Path,
    form: str,
) -> None:
    """Tell what so many rows would take, before you load them: disk, memory, time to load and to build, latency.

    For an exact scan, for hnsw (a graph in memory) and for ivf (lists on disk), and which of them to choose and why.
    Figures are of each machine; those of all together are below. All machines work at the same time: each holds its
    share of the rows and answers every search.

    \b
    LAION-400M on this machine:
      cliphouse plan --rows 400M
    LAION-5B on twenty machines that are not there yet:
      cliphouse plan --rows 5.85B --dim 768 --machines 20 --cores 32 --memory 256GiB \\
        --disk-read 5GB/s --disk-write 2GB/s
    What it costs to find more:
      cliphouse plan --rows 400M --recall 0.99

    The figures are those of a model that was fitted to measured runs over up to half a million rows: what is far beyond
    is extrapolated, and other processors and pictures differ. Measure your own collection with `cliphouse evaluate`.
    """
    wanted = Wanted(rows=rows, dim=dim, machines=machines, recall=recall)
    hardware, measured = (machine(), True) if disk_read and disk_write else detect(place)
    hardware = Hardware(
        cores=cores or hardware.cores,
        memory_bytes=memory or hardware.memory_bytes,
        disk_read=disk_read or hardware.disk_read,
        disk_write=disk_write or hardware.disk_write,
    )
    found = plan_for(wanted, hardware)
    if form == "json":
        click.echo(json.dumps(_plain(found), indent=2))
        return
    click.echo(
        f"{rows:,} rows of {dim} dimensions on {machines} machine{'s' * (machines > 1)} of "
        + _shown(hardware, disk_read is None and measured, disk_write is None and measured)
        + ("" if measured else " (a disk that cannot be measured here: taken to be that of the model)")
    )
    print_table(
        ["", "disk", "memory", "load", "build", "latency", "reads from", "effort"],
        [_row(found, each) for each in found.costs],
    )
    for each in found.costs:
        if each.missing:
            click.echo(f"{each.kind} cannot be had: {each.missing}")
    if (trained := trained_on(found.wanted.rows_each)) < 0.9 * SAMPLE_PER_CLUSTER:
        click.echo(
            f"ivf trains its clusters on at most {MAX_SAMPLE_ROWS:,} rows, here {trained:.1f} a cluster, and on "
            f"{SAMPLE_PER_CLUSTER} in the runs behind these figures: it may need more effort for this recall"
        )
    if machines > 1:
        click.echo(_all_machines(found))
    click.echo(f"choose {found.choice.kind}: {found.choice.reason}")


def _row(found: Plan, cost: Cost) -> tuple[str, ...]:
    effort = "" if cost.kind == "exact" or cost.effort is None else f"{EFFORT_NAMES[cost.kind]} {cost.effort}"
    return (
        cost.kind,
        size(cost.disk_bytes),
        size(cost.memory_bytes),
        duration(found.load_seconds),
        duration(cost.build_seconds) if cost.build_seconds else "none",
        duration(cost.latency_seconds),
        cost.reads,
        effort,
    )


def _shown(hardware: Hardware, read_measured: bool, write_measured: bool) -> str:
    """The machine; what was measured and not given is marked."""
    read, write = (
        f"{speed / 1e9:.1f} GB/s" + " (measured here)" * is_measured
        for speed, is_measured in ((hardware.disk_read, read_measured), (hardware.disk_write, write_measured))
    )
    return f"{hardware.cores} cores, {size(hardware.memory_bytes)}, a disk that reads {read} and writes {write}"


def _all_machines(found: Plan) -> str:
    count = found.wanted.machines
    each = ", ".join(
        f"{cost.kind} {size(count * cost.disk_bytes)} of disk and {size(count * cost.memory_bytes)} of memory"
        for cost in found.costs
    )
    return f"{found.wanted.rows_each:,} rows a machine; all together: {each}"


def _plain(found: Plan) -> dict[str, Any]:
    """The plan as plain values, with what it rests on."""
    count = found.wanted.machines
    rests = {name: value for name, value in committed().items() if name not in ("coefficients", "hardware")}
    costs = {
        cost.kind: {name: value for name, value in dataclasses.asdict(cost).items() if name != "kind"}
        | {"total_disk_bytes": count * cost.disk_bytes, "total_memory_bytes": count * cost.memory_bytes}
        for cost in found.costs
    }
    return {
        **dataclasses.asdict(found.wanted),
        "rows_a_machine": found.wanted.rows_each,
        "hardware": dataclasses.asdict(found.hardware),
        "table_bytes": found.table_bytes,
        "load_seconds": found.load_seconds,
        "costs": costs,
        "choice": dataclasses.asdict(found.choice),
        "model": {**rests, "hardware": dataclasses.asdict(measured_hardware())},
    }
