"""`cliphouse index build | show | drop`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from cliphouse.cli.options import column_option, database_options, format_option, open_collection
from cliphouse.cli.render import print_table, progress_bars
from cliphouse.collection import Collection
from cliphouse.errors import UsageError
from cliphouse.index import describe
from cliphouse.types import (
    EFFORT_NAMES,
    QUANTIZATION_BITS,
    IndexConfig,
    IndexKind,
    IndexState,
    IvfConfig,
    Modality,
    Quantization,
)
from cliphouse.units import duration, size

_DEFAULTS = IndexConfig()
_KINDS: tuple[IndexKind, ...] = ("hnsw", "ivf")


@click.group()
def index() -> None:
    """Build, show and drop vector indexes, which make searches approximate and much faster."""


@index.command()
@column_option
@click.option(
    "--kind",
    type=click.Choice(["auto", *_KINDS]),
    default="auto",
    show_default=True,
    help="hnsw: a graph in memory. ivf: lists on disk. auto: what suits, and it says why.",
)
@click.option("--recall", default=0.95, show_default=True, help="The recall that auto reckons with.")
@click.option("--nlist", type=int, metavar="N", help="Clusters of an ivf index; as many as suit the rows by default.")
@click.option(
    "--m", type=int, metavar="N", help=f"hnsw: neighbours of a node, recall against memory; {_DEFAULTS.m} by default."
)
@click.option(
    "--ef-construction",
    type=int,
    metavar="N",
    help=f"hnsw: build effort, recall against time; {_DEFAULTS.ef_construction} by default.",
)
@click.option(
    "--quantization",
    type=click.Choice(list(QUANTIZATION_BITS)),
    help=f"hnsw: how it stores vectors; {_DEFAULTS.quantization} by default. Distances are always computed again from "
    "the table's own.",
)
@database_options
def build(
    column: Modality,
    kind: str,
    recall: float,
    nlist: int | None,
    m: int | None,
    ef_construction: int | None,
    quantization: Quantization | None,
    db: str,
    collection: str,
) -> None:
    """Build an index, or take new rows into one that is there.

    hnsw is the tutorial's graph, by default with m 64 and ef_construction 256 over bfloat16. It takes 1.5 KB of memory
    for a row of 512 dimensions, which is checked first; building takes minutes to hours. ivf keeps one more copy of the
    vectors on disk, by clusters, needs next to no memory, and builds in a small part of that time.

    auto goes by the rows, the memory and --recall, as `cliphouse plan` does, and prints its reason in one line; for few
    rows it builds none, for an exact search is as fast. A parameter of one kind asks for that kind. Where there is an
    index already, auto is the kind that is there.

    Searches go on meanwhile, by an older index of the kind if there is one. Ctrl-C leaves the table as it was; of ivf,
    what was built is kept, and the same command goes on from there. How hard searches look is for `cliphouse tune`.

    \b
    Examples:
      cliphouse index build
      cliphouse index build --kind ivf && cliphouse tune
      cliphouse index build --column text --recall 0.99
      cliphouse index build --kind hnsw --m 32 --quantization i8
    """
    parameters: dict[str, Any] = {"m": m, "ef_construction": ef_construction, "quantization": quantization}
    graph = {name: value for name, value in parameters.items() if value is not None}
    wanted = _kind_of(kind, graph, nlist)
    with open_collection(db, collection) as opened:
        states = [state for state in opened.status().indexes if state.column == f"{column}_embedding"]
        if wanted is None and states:
            configs = [_as_it_is(state) for state in states]
        else:
            if wanted is None and (wanted := _choose(opened, column, recall)) is None:
                return
            configs = [IvfConfig(nlist=nlist or 0) if wanted == "ivf" else IndexConfig(**graph)]
        for config in configs:
            _build(opened, column, config)


def _kind_of(kind: str, graph: dict[str, Any], nlist: int | None) -> IndexKind | None:
    """The kind that is asked for, by itself or by a parameter of it; None for any."""
    if graph and nlist is not None:
        raise UsageError(f"--nlist is of an ivf index, and {_option(graph)} of an hnsw index; leave one out")
    if kind == "hnsw" and nlist is not None:
        raise UsageError("--nlist is of an ivf index, and --kind asks for hnsw")
    if kind == "ivf" and graph:
        raise UsageError(f"{_option(graph)} is of an hnsw index, and --kind asks for ivf")
    if kind == "hnsw" or graph:
        return "hnsw"
    return "ivf" if kind == "ivf" or nlist is not None else None


def _option(parameters: dict[str, Any]) -> str:
    return f"--{next(iter(parameters)).replace('_', '-')}"


def _as_it_is(state: IndexState) -> IndexConfig | IvfConfig:
    """What completes an index: of lists, any number of clusters will do but for a build that was broken off."""
    return state.config if isinstance(state.config, IndexConfig) or state.effort is None else IvfConfig()


def _choose(opened: Collection, column: Modality, recall: float) -> IndexKind | None:
    choice = opened.choose_index(column, recall)
    if choice.kind == "exact":
        click.echo(f"no index is built: {choice.reason}; to have one all the same: --kind hnsw or --kind ivf")
        return None
    click.echo(f"{choice.kind} is chosen: {choice.reason}")
    return choice.kind


def _build(opened: Collection, column: Modality, config: IndexConfig | IvfConfig) -> None:
    try:
        with progress_bars() as progress:
            state = opened.build_index(column, config, progress=progress)
    except KeyboardInterrupt:
        kept = "what was built is kept, and the same command goes on" if config.kind == "ivf" else "nothing was changed"
        click.echo(f"stopped building the {config.kind} index: {kept}; searches are answered as before", err=True)
        raise
    click.echo(
        f"{state.name} is {state.state}: {state.rows_indexed:,} rows, {describe(state.config)}, "
        f"{size(state.memory_bytes)} in memory when searched"
    )


@index.command()
@format_option
@database_options
def show(form: str, db: str, collection: str) -> None:
    """Show the indexes: their state, size, time to build, and what effort searches take.

    An index is building, empty (its build was broken off, and the same command goes on), partial (new rows wait for
    `cliphouse index build`, and are compared one by one meanwhile), or ready. The effort is ef_search for hnsw and
    nprobe for ivf; the recall is that which `cliphouse tune` found it for.
    """
    with open_collection(db, collection) as opened:
        states = opened.status().indexes
    if form == "json":
        click.echo(json.dumps([dataclasses.asdict(state) | {"state": state.state} for state in states], indent=2))
        return
    if not states:
        click.echo("no vector index; build one with: cliphouse index build")
        return
    print_table(
        ["index", "column", "state", "rows", "parameters", "disk", "memory", "built in", "effort", "recall"],
        [
            (
                state.name,
                state.column,
                state.state,
                f"{state.rows_indexed:,} of {state.rows_total:,}",
                describe(state.config),
                size(state.disk_bytes),
                size(state.memory_bytes),
                "" if state.build_seconds is None else duration(state.build_seconds),
                "" if state.effort is None else f"{EFFORT_NAMES[state.config.kind]} {state.effort}",
                "not tuned" if state.tuned is None else f"{state.tuned:g}",
            )
            for state in states
        ],
    )


@index.command()
@column_option
@click.option("--kind", type=click.Choice(_KINDS), help="Which, where the column has two.")
@database_options
def drop(column: Modality, kind: IndexKind | None, db: str, collection: str) -> None:
    """Drop an index, and what was tuned for it; searches take another one or become exact again.

    \b
    Examples:
      cliphouse index drop
      cliphouse index drop --column text --kind ivf
    """
    with open_collection(db, collection) as opened:
        click.echo(f"dropped {opened.drop_index(column, kind)}")
