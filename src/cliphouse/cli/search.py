"""`cliphouse search`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from cliphouse.cli.options import (
    database_options,
    device_option,
    encoder_option,
    open_collection,
    read_queries,
    read_vector,
    search_options,
)
from cliphouse.cli.render import print_answers, print_hits
from cliphouse.collection import Collection
from cliphouse.errors import UsageError
from cliphouse.types import EFFORT_NAMES, SearchParams


@click.command()
@click.argument("text", required=False)
@click.option("--image", type=click.Path(path_type=Path), help="Search with a picture.")
@click.option("--embedding", type=click.Path(path_type=Path), metavar="FILE.npy", help="Search with a vector.")
@click.option("--like", type=int, metavar="ID", help="Search with the embedding of a row.")
@click.option(
    "--queries",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Search with many at once: an npy file with a vector a row, or a text file with a text a line.",
)
@search_options
@click.option("--columns", default="", metavar="A,B", help="More columns to return, for example width,height,license.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "jsonl", "csv"]),
    default="table",
    show_default=True,
    help="json is one array of objects.",
)
@click.option("--sql", "show_sql", is_flag=True, help="Print the statement instead of running it.")
@click.option("--explain", is_flag=True, help="Run it, and say which path ran and why, with the engine's plan.")
@encoder_option
@device_option
@database_options
def search(
    text: str | None,
    image: Path | None,
    embedding: Path | None,
    like: int | None,
    queries: Path | None,
    params: SearchParams,
    columns: str,
    form: str,
    show_sql: bool,
    explain: bool,
    encoder: str | None,
    device: str | None,
    db: str,
    collection: str,
) -> None:
    """Find the pictures nearest to a TEXT, a picture, a vector or a row.

    A vector index is used where one can answer, as hard as `cliphouse tune` found it must be; otherwise every row is
    compared. With --where, as many results come back as match, up to k. The hits
    of --queries have the number of their query, from 0, in the column `query`.

    \b
    Examples:
      cliphouse search "a red car" -k 20
      cliphouse search --image photo.jpg --where "width >= 1024 AND NSFW = 'UNLIKELY'"
      cliphouse search --embedding query.npy --exact --format json
      cliphouse search --like 1200000345 --in text
      cliphouse search --queries queries.npy --format csv
      cliphouse search "a red car" -k 10 --offset 10
      cliphouse search "a red car" --recall 0.99 --explain
      cliphouse search "a red car" --sql | cliphouse sql
    """
    if sum(value is not None for value in (text, image, embedding, like, queries)) != 1:
        raise UsageError(
            "give one thing to search for: TEXT, --image FILE, --embedding FILE.npy, --like ID or --queries FILE"
        )
    if queries and (show_sql or explain):
        raise UsageError("--sql and --explain are of one search; leave out --queries")
    several = read_queries(queries) if queries else None
    query = read_vector(embedding) if embedding else image or text
    params = replace(params, columns=tuple(name.strip() for name in columns.split(",") if name.strip()))
    with open_collection(db, collection, encoder=encoder, device=device) as opened:
        if several is not None:
            print_answers(opened.search_many_with(several, params=params), form)
        elif show_sql:
            click.echo(opened.statement(query, like=like, params=params)[0].script())
        elif explain:
            _explain(opened, query, like, params)
        else:
            print_hits(opened.search_with(query, like=like, params=params), form)


def _explain(
    opened: Collection, query: NDArray[np.float32] | Path | str | None, like: int | None, params: SearchParams
) -> None:
    hits = opened.search_with(query, like=like, params=params)
    plan = hits.plan
    click.echo(f"path: {plan.path}\nreason: {plan.reason}")
    if plan.path != "exact":
        click.echo(f"index: {plan.index}\neffort: {EFFORT_NAMES[plan.path]} {plan.effort}")
    click.echo(f"hits: {len(hits)}")
    if plan.ran:
        click.echo(opened.explain(plan.ran))
