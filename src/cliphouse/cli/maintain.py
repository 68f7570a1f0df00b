"""`cliphouse delete`, `cliphouse deny` and `cliphouse verify`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import click

from cliphouse.cli.options import database_options, format_option, merged_options, open_collection
from cliphouse.cli.render import print_table, progress_bars
from cliphouse.errors import TableDiffers, UsageError
from cliphouse.reports import Difference
from cliphouse.types import shard_ranges
from cliphouse.units import size

#: Differences that the error names.
_NAMED = 5


@click.command()
@click.option("--where", metavar="SQL", help="Rows for which a condition holds, for example \"NSFW = 'NSFW'\".")
@click.option("--ids", metavar="LIST", help="Rows by id: 1,2,3, or @FILE with one a line.")
@click.option(
    "--shard",
    "--shards",
    "shards",
    metavar="RANGES",
    help="Whole shards, for example 0-9,12; they may be loaded again.",
)
@click.option("--purge", is_flag=True, help="Also take everything that was ever deleted off the disk.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@database_options
def delete(
    where: str | None, ids: str | None, shards: str | None, purge: bool, yes: bool, db: str, collection: str
) -> None:
    """Delete rows from the collection: from every answer, at once.

    Rows named by --where or --ids stay away: loading their shard again does not bring them back. A --shard is forgotten
    with all that was deleted from it, and `cliphouse load` may bring it in again.

    The bytes stay on disk until --purge, which writes the parts that hold deleted rows anew. That takes as long as
    copying them, needs room for the largest beside itself, and builds their vector indexes again; searches go on
    meanwhile. Without rows to delete, --purge does only that.

    \b
    Examples:
      cliphouse delete --where "NSFW = 'NSFW' OR similarity < 0.25"
      cliphouse delete --ids 1200000345,1200000346 --yes
      cliphouse delete --ids @removed.txt --purge
      cliphouse delete --shard 12 && cliphouse load ./shards --shards 12
    """
    with open_collection(db, collection) as opened, progress_bars() as progress:
        report = opened.delete(
            where=where,
            ids=None if ids is None else _ids(ids),
            shards=shards,
            purge=purge,
            confirm=None if yes else _confirm,
            progress=progress,
        )
    if where is not None or ids is not None or shards is not None:
        click.echo(f"deleted {report.rows:,} rows")
    if report.again:
        click.echo(f"shards {shard_ranges(report.again)} may be loaded again")
    if purge:
        click.echo(f"freed {size(report.freed_bytes)}")
    if report.held_bytes:
        click.echo(f"{size(report.held_bytes)} are still read by queries; ClickHouse removes them later")


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--list", "show", is_flag=True, help="Show how many entries the list has.")
@click.option("--remove", is_flag=True, help="Take the entries of FILE off the list.")
@format_option
@database_options
def deny(file: Path | None, show: bool, remove: bool, form: str, db: str, collection: str) -> None:
    """Never show or load what FILE lists: urls, or hashes of pictures or of urls.

    FILE has one entry a line, or is a .csv, .tsv or .parquet with columns url, md5, sha256 or hash. A url is compared
    letter by letter. A hash (md5 or sha256, in hexadecimal) is compared with the columns md5 and sha256, which hold
    that of the picture if the metadata had it, and with the hash of the url.

    Rows that are there are deleted at once, as `cliphouse delete` does; `cliphouse load` and `cliphouse add` leave out
    those that come. Entries that are taken off with --remove bring no row back: delete its shard and load it again.

    \b
    Examples:
      cliphouse deny opt-outs.txt
      cliphouse deny removed.parquet
      cliphouse deny --list
      cliphouse deny opt-outs.txt --remove
    """
    if (file is None) != show or (show and remove):
        raise UsageError("give a FILE of urls or hashes, or --list")
    with open_collection(db, collection, create=not show) as opened, progress_bars() as progress:
        report = opened.deny(file, remove=remove, progress=progress) if file is not None else None
        counts = opened.denied()
    if report is not None:
        click.echo(f"{report.entries:,} entries read, {report.changed:,} {'taken off' if remove else 'new'}")
        click.echo("rows that were deleted stay deleted" if remove else f"deleted {report.rows:,} rows")
    elif form == "json":
        click.echo(json.dumps(counts, indent=2))
    else:
        print_table(["kind", "entries"], [(kind, f"{entries:,}") for kind, entries in counts.items()])


@click.command()
@click.argument("source")
@click.option("--shards", metavar="RANGES", help="Which shards, for example 0-9,12; all by default.")
@merged_options
@click.option(
    "--sample", default=1000, show_default=True, help="Rows of each shard whose vectors and texts to compare."
)
@click.option("--seed", default=0, show_default=True, help="Another seed takes other rows.")
@click.option("--checksums", is_flag=True, help="Read the files in full, and compare their sums with the ledger's.")
@database_options
def verify(
    source: str,
    shards: str | None,
    columns: dict[str, str],
    first_shard: int | None,
    sample: int,
    seed: int,
    checksums: bool,
    db: str,
    collection: str,
) -> None:
    """Compare the collection with the shards at SOURCE that it was loaded from.

    For every shard the rows of the files, of the ledger and of the table are counted; rows that were deleted or left
    out on purpose are allowed for. Of each shard a random sample is compared: url, caption and both vectors as they
    are stored, letter by letter and bit by bit. Ids that are there twice or belong to no loaded shard are found too.

    The exit code is 3 if anything differs, and the first differences are named.

    \b
    Examples:
      cliphouse verify ./shards
      cliphouse verify ./shards --shards 0-9 --sample 100000
    """
    if sample < 0 or seed < 0:
        raise UsageError("--sample and --seed are not negative")
    with open_collection(db, collection) as opened, progress_bars() as progress:
        report = opened.verify(
            source,
            shards=shards,
            first_shard=first_shard,
            columns=columns,
            sample=sample,
            seed=seed,
            checksums=checksums,
            progress=progress,
        )
    print_table(
        ["shard", "files", "ledger", "table", "deleted", "left out", "compared", "differences"],
        [
            (
                check.shard,
                f"{check.files:,}",
                "unknown" if check.ledger is None else f"{check.ledger:,}",
                *(f"{count:,}" for count in (check.table, check.deleted, check.left_out)),
                *(f"{count:,}" for count in (check.sampled, check.differences)),
            )
            for check in report.shards
        ],
    )
    if not report.same:
        raise TableDiffers(collection, [_said(each) for each in report.differences[:_NAMED]], report.different)
    compared = sum(check.sampled for check in report.shards)
    click.echo(f"the table is what the files say; {compared:,} rows compared in {report.seconds:.1f} s")


def _said(each: Difference) -> str:
    where = each.what if each.shard is None else f"shard {each.shard}, {each.what}"
    sides = [
        f"{value} {place}".strip() for value, place in ((each.files, "in the files"), (each.table, "in the table"))
    ]
    return f"{where}: {', '.join(side for side, value in zip(sides, (each.files, each.table), strict=True) if value)}"


def _ids(text: str) -> list[int]:
    try:
        words = re.split(r"[\s,]+", (Path(text[1:]).read_text(encoding="utf-8") if text[:1] == "@" else text).strip())
        return [int(word) for word in words if word]
    except OSError as error:
        raise UsageError(f"cannot read the ids in {text[1:]}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{text[:80]!r} is not a list of ids: {error}; write for example 1,2,3 or @FILE") from error


def _confirm(rows: int) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(f"this would delete {rows:,} rows; say --yes, for there is no terminal to ask at")
    return click.confirm(f"delete {rows:,} rows?")
