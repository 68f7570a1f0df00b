"""`cliphouse load` and `cliphouse status`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import click

from cliphouse.cli.options import (
    database_options,
    encoder_option,
    format_option,
    load_options,
    merged_options,
    open_collection,
)
from cliphouse.cli.render import print_table, progress_bars
from cliphouse.errors import ShardError
from cliphouse.index import describe, describe_effort
from cliphouse.reports import DownloadReport, LoadReport, Status
from cliphouse.types import LoadOptions, Storage, shard_ranges
from cliphouse.units import duration, size


@click.command()
@click.argument("source")
@click.option("--shards", metavar="RANGES", help="Which shards, for example 0-9,12; all by default.")
@merged_options
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Shards to load at a time.")
@load_options
@encoder_option
@database_options
def load(
    source: str,
    shards: str | None,
    columns: dict[str, str],
    first_shard: int | None,
    storage: Storage | None,
    workers: int,
    options: LoadOptions,
    encoder: str | None,
    db: str,
    collection: str,
) -> None:
    """Load the shards at SOURCE into the collection.

    In the LAION layout a shard is img_emb_N.npy, metadata_N.parquet and, if there, text_emb_N.npy: all in the directory
    SOURCE, or in its folders img_emb, metadata and text_emb. Files are paired by N and their row counts compared before
    anything is written.

    A shard can also be one parquet file that holds the embeddings as lists. SOURCE is then the file, a directory of
    such files, or an address: s3://, gs://, az:// (of a file or a folder), https:// (of a file). Its number is the one
    in the file's name.

    A shard enters whole or not at all; loading it again does nothing, so after Ctrl-C, a crash or a full disk the same
    command goes on. Each worker takes memory of its own.

    Bad rows are counted by kind, here and in `cliphouse status`:

    \b
      vector      NaN, infinite or all zero: left out (keep: stored without that embedding)
      norm        not of length 1: kept, as distances are cosines
      url         missing: kept
      caption     missing: kept
      similarity  missing, or no cosine: kept as NULL
      nsfw        outside UNLIKELY, UNSURE, NSFW, UNTAGGED: kept; missing becomes UNTAGGED

    What shards lack that `cliphouse embed` or `export` wrote is not counted.

    \b
    Examples:
      cliphouse load ./shards
      cliphouse load ./shards --shards 0-9,12 --db /data/laion
      cliphouse load s3://bucket/laion-5b/ --shards 1-3
      cliphouse load train.parquet --map image_embedding=clip_vit --map caption=title
      cliphouse load ./shards --on-bad-shard skip --on-bad-row skip,caption=skip,nsfw=fail
      cliphouse load ./shards --shards 0-204 --workers 4 --db clickhouse://user:password@host:8123/laion

    Leaves with exit code 3 if a shard was passed over.
    """
    with (
        open_collection(db, collection, encoder=encoder, create=True) as opened,
        progress_bars(several=True) as progress,
    ):
        report = opened.load(
            source,
            shards=shards,
            first_shard=first_shard,
            storage=storage,
            options=dataclasses.replace(options, workers=workers, columns=columns),
            progress=progress,
        )
        info = opened.info()
    if report.loaded:
        rate = report.rows / report.seconds
        click.echo(
            f"loaded {report.rows:,} rows of shards {shard_ranges(report.loaded)} in {report.seconds:.1f} s "
            f"({rate:,.0f} rows/s); {info.dim} dimensions, encoder {info.encoder or 'unnamed'}, {info.storage}"
        )
    if report.without_text:
        click.echo(f"shards {shard_ranges(report.without_text)} have no text embeddings")
    if report.skipped:
        click.echo(f"shards {shard_ranges(report.skipped)} were loaded already")
    say_bad_rows(report)
    for reason in report.quarantined.values():
        click.echo(f"passed over {reason}", err=True)
    if report.loaded and report.stale_indexes:
        for name in report.stale_indexes:
            column = name.partition("_")[0]
            click.echo(f"{name} does not cover the new rows yet: cliphouse index build --column {column}")
    if report.quarantined:
        again = shard_ranges(report.quarantined)
        click.echo(f"mend or download these again, then run the same command with --shards {again}", err=True)
        click.get_current_context().exit(ShardError.exit_code)


@click.command()
@format_option
@database_options
def status(form: str, db: str, collection: str) -> None:
    """Show rows, shards, disk by column, indexes, encoder and engine."""
    with open_collection(db, collection) as opened:
        found = opened.status()
    if form == "json":
        click.echo(json.dumps(as_json(found), indent=2))
        return
    facts = [
        ("collection", found.collection),
        ("database", found.database),
        ("engine", f"ClickHouse {found.engine_version}"),
        ("rows", f"{found.rows:,}"),
        ("shards", f"{len(found.shards)} ({shard_ranges(found.shards)})" if found.shards else "none in the ledger"),
        ("encoder", f"{found.encoder or 'unnamed'}, {found.dim} dimensions, stored as {found.storage}"),
        ("disk", size(found.total_bytes)),
        *((f"  {column}", size(bytes_)) for column, bytes_ in found.disk_bytes.items()),
    ]
    if found.left_out:
        facts.append(("left out", by_kind(found.left_out)))
    if found.kept:
        facts.append(("kept, not as they should be", by_kind(found.kept)))
    facts += [("passed over", reason) for reason in found.quarantined.values()]
    for state in found.indexes:
        covered = f"{state.rows_indexed:,} of {state.rows_total:,} rows"
        facts.append((state.name, f"{state.state}, {covered}, {describe(state.config)}"))
        built = f", built in {duration(state.build_seconds)}" if state.build_seconds is not None else ""
        memory = size(state.memory_bytes)
        facts.append(("", f"{size(state.disk_bytes)} on disk, {memory} in memory when searched{built}"))
        facts.append(("", describe_effort(state)))
    if not found.indexes:
        facts.append(("indexes", "none; build one with: cliphouse index build"))
    print_table(["", ""], facts)


def say_bad_rows(report: LoadReport | DownloadReport) -> None:
    """Which rows were left out, and which were kept in spite of what is wrong with them."""
    if report.left_out:
        click.echo(
            f"left out {sum(report.left_out.values()):,} of {report.rows_read:,} rows: {by_kind(report.left_out)}"
        )
    if report.kept:
        click.echo(f"kept though not as they should be: {by_kind(report.kept)}")


def by_kind(counts: Mapping[str, int]) -> str:
    """Counts of bad rows, the most first."""
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items(), key=lambda item: -item[1]))


def as_json(found: Status) -> dict[str, object]:
    """The status as plain values."""
    return dataclasses.asdict(found) | {
        "indexes": [dataclasses.asdict(state) | {"state": state.state} for state in found.indexes]
    }
