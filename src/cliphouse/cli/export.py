"""`cliphouse export`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cliphouse.cli.options import (
    database_options,
    device_option,
    encoder_option,
    open_collection,
    read_vector,
    search_options,
)
from cliphouse.cli.render import progress_bars
from cliphouse.errors import UsageError
from cliphouse.pipeline.export import Dtype, Form
from cliphouse.types import SearchParams
from cliphouse.units import size


@click.command()
@click.argument("out", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--query", metavar="TEXT", help="Results of a search by text.")
@click.option("--like", type=int, metavar="ID", help="Results of a search by a row.")
@click.option("--embedding", type=click.Path(path_type=Path), metavar="FILE.npy", help="Results of a search by vector.")
@search_options
@click.option("--shards", metavar="RANGES", help="Rows of these shards, for example 0-9,12.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["parquet", "npy"]),
    default="parquet",
    show_default=True,
    help="One file with all columns, or a directory of shards in the LAION layout.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Of npy vectors. float32 is exact; float16 halves the size, rounds, and has a smaller range than bfloat16.",
)
@click.option("--force", is_flag=True, help="Replace what is there.")
@encoder_option
@device_option
@database_options
def export(
    out: Path,
    query: str | None,
    like: int | None,
    embedding: Path | None,
    params: SearchParams,
    shards: str | None,
    form: Form,
    dtype: Dtype,
    force: bool,
    encoder: str | None,
    device: str | None,
    db: str,
    collection: str,
) -> None:
    """Write rows to OUT: results of a search, rows of a condition (all with --where true), or whole shards.

    A parquet file has all columns, embeddings as lists of float32; OUT is then FILE.parquet, or - for standard output.
    With --format npy, OUT is a directory of img_emb_N.npy, text_emb_N.npy and metadata_N.parquet, which
    `cliphouse load` takes. Shards named by --shards keep their numbers; other rows come in shards of a million,
    numbered from 0, those without a text embedding apart.

    Memory does not grow with the rows. A file is there when it is whole.

    \b
    Examples:
      cliphouse export red-cars.parquet --query "a red car" -k 1000 --where "width >= 1024"
      cliphouse export large.parquet --where "width >= 1024 AND height >= 1024"
      cliphouse export ./copy --format npy --shards 0-9 && cliphouse load ./copy --collection copy
      cliphouse export - --like 1200000345 -k 100 > alike.parquet
    """
    searches = [value for value in (query, like, embedding) if value is not None]
    if len(searches) > 1 or (searches and shards is not None):
        raise UsageError("say which rows in one way: --query, --like, --embedding, or --shards; --where goes with each")
    if not searches and params != SearchParams(where=params.where):
        raise UsageError(
            "-k, --offset, --in and how to search are of a search; say for what: --query, --like or --embedding"
        )
    to_stdout = str(out) == "-"
    if to_stdout and sys.stdout.isatty():
        raise UsageError("a parquet file would not look well on a terminal; redirect it, or name a file")
    with open_collection(db, collection, encoder=encoder, device=device) as opened, progress_bars() as progress:
        hits = None
        if searches:
            hits = opened.search_with(read_vector(embedding) if embedding else query, like=like, params=params)
        report = opened.export(
            sys.stdout.buffer if to_stdout else out,
            hits=hits,
            where=None if searches else params.where,
            shards=shards,
            form=form,
            dtype=dtype,
            force=force,
            progress=progress,
        )
    if not to_stdout:
        click.echo(f"wrote {report.rows:,} rows, {size(report.total_bytes)}, in {report.seconds:.1f} s to {out}")
