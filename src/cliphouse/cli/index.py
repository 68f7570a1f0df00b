"""`cliphouse index build | show | drop`."""

from __future__ import annotations

import dataclasses
import json
from typing import Literal

import click

from cliphouse.cli.options import database_options, format_option, open_collection
from cliphouse.cli.render import print_table, progress_bars
from cliphouse.index import describe
from cliphouse.types import QUANTIZATION_BITS, IndexConfig, Modality, Quantization
from cliphouse.units import size

_DEFAULTS = IndexConfig()
_COLUMNS = ("image", "text", "image_embedding", "text_embedding")


def _modality(_: click.Context, __: click.Parameter, value: str) -> Modality:
    return "text" if value.startswith("text") else "image"


column_option = click.option(
    "--column",
    type=click.Choice(_COLUMNS),
    default="image",
    show_default=True,
    callback=_modality,
    help="Which embedding.",
)


@click.group()
def index() -> None:
    """Build, show and drop vector indexes, which make searches approximate and much faster."""


@index.command()
@column_option
@click.option("--kind", type=click.Choice(["hnsw"]), default=_DEFAULTS.kind, show_default=True, help="Kind of index.")
@click.option("--m", default=_DEFAULTS.m, show_default=True, help="Neighbours of a node: recall against memory.")
@click.option(
    "--ef-construction", default=_DEFAULTS.ef_construction, show_default=True, help="Build effort: recall against time."
)
@click.option(
    "--quantization",
    type=click.Choice(list(QUANTIZATION_BITS)),
    default=_DEFAULTS.quantization,
    show_default=True,
    help="How the index stores vectors. Distances are always computed again from the table's own.",
)
@database_options
def build(
    column: Modality,
    kind: Literal["hnsw"],
    m: int,
    ef_construction: int,
    quantization: Quantization,
    db: str,
    collection: str,
) -> None:
    """Build an index, or take new rows into one that is there.

    The defaults are the tutorial's: HNSW with m 64 and ef_construction 256 over bfloat16. The graph takes 1.5 KB of
    memory for a row of 512 dimensions, which is checked first; building takes minutes to hours. Ctrl-C leaves the table
    as it was.
    """
    config = IndexConfig(kind=kind, m=m, ef_construction=ef_construction, quantization=quantization)
    with open_collection(db, collection) as opened, progress_bars() as progress:
        state = opened.build_index(column, config, progress=progress)
    click.echo(
        f"{state.name} is {state.state}: {state.rows_indexed:,} rows, {describe(state.config)}, "
        f"{size(state.memory_bytes)} in memory when searched"
    )


@index.command()
@format_option
@database_options
def show(form: str, db: str, collection: str) -> None:
    """Show the indexes with their state: building, partial (new rows wait), or ready."""
    with open_collection(db, collection) as opened:
        states = opened.status().indexes
    if form == "json":
        click.echo(json.dumps([dataclasses.asdict(state) | {"state": state.state} for state in states], indent=2))
        return
    if not states:
        click.echo("no vector index; build one with: cliphouse index build")
        return
    print_table(
        ["index", "column", "state", "rows", "parameters", "disk", "memory"],
        [
            (
                state.name,
                state.column,
                state.state,
                f"{state.rows_indexed:,} of {state.rows_total:,}",
                describe(state.config),
                size(state.disk_bytes),
                size(state.memory_bytes),
            )
            for state in states
        ],
    )


@index.command()
@column_option
@database_options
def drop(column: Modality, db: str, collection: str) -> None:
    """Drop an index; searches become exact again."""
    with open_collection(db, collection) as opened:
        click.echo(f"dropped {opened.drop_index(column)}")
