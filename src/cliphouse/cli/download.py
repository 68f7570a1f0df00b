"""`cliphouse download`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from cliphouse.addresses import shown
from cliphouse.cli.data import say_bad_rows
from cliphouse.cli.options import database_options, encoder_option, load_options, open_collection
from cliphouse.cli.render import print_table, progress_bars
from cliphouse.errors import DownloadFailed, UsageError
from cliphouse.pipeline.download import download as download_shards
from cliphouse.pipeline.download import probe
from cliphouse.pipeline.how import PARALLEL, Keep
from cliphouse.pipeline.mirrors import KNOWN, Place
from cliphouse.pipeline.plan import parse_shards
from cliphouse.reports import DownloadReport
from cliphouse.types import LoadOptions, Storage, shard_ranges
from cliphouse.units import size
from cliphouse.web import PATIENCE

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
#: Exit code when a shard could not be had or loaded.
_INCOMPLETE = DownloadFailed.exit_code


def parse_rate(text: str) -> float:
    """Bytes a second: a number, with K, M or G behind it for 2**10, 2**20 or 2**30.

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?(?:/s)?", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) * _UNITS[match[2].upper()] < 1:
        raise UsageError(f"{text!r} is no rate; write bytes a second, for example 800K or 50M")
    return float(match[1]) * _UNITS[match[2].upper()]


def _rate(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    return None if value is None else parse_rate(value)


@click.command()
@click.option("--shards", metavar="RANGES", help="Which shards, for example 0-9,12; LAION-400M has 0-409.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for the files; made if need be.")
@click.option(
    "--base-url",
    "base_urls",
    multiple=True,
    metavar="URL",
    help="Where to get them: https://, s3://, gs://, az://, file:// or a folder. Give several to try them in order.",
)
@click.option("--no-text", is_flag=True, help="Leave out the text embeddings, which are half of all.")
@click.option("--parallel", default=PARALLEL, show_default=True, metavar="N", help="Files that come at once.")
@click.option(
    "--limit-rate", callback=_rate, metavar="RATE", help="Bytes a second of all files together, for example 50M."
)
@click.option(
    "--patience",
    default=PATIENCE,
    show_default=True,
    metavar="SECONDS",
    help="Give up an attempt that brings no byte for so long.",
)
@click.option(
    "--probe",
    "probing",
    is_flag=True,
    help="Show what each mirror answers, and download nothing; exit code 3 if none has them.",
)
@click.option("--then", type=click.Choice(["load"]), help="Load each shard as soon as it is whole.")
@click.option(
    "--keep",
    type=click.Choice(["all", "none"]),
    default="all",
    show_default=True,
    help="With --then load: whether the files of a loaded shard stay.",
)
@load_options
@encoder_option
@database_options
@click.pass_context
def download(
    context: click.Context,
    shards: str | None,
    out: Path | None,
    base_urls: tuple[str, ...],
    no_text: bool,
    parallel: int,
    limit_rate: float | None,
    patience: float,
    probing: bool,
    then: str | None,
    keep: Keep,
    storage: Storage | None,
    options: LoadOptions,
    encoder: str | None,
    db: str,
    collection: str,
) -> None:
    """Download LAION-400M's shards, or others in its layout, into the folder DIR.

    Each shard is three files: DIR/img_emb/img_emb_N.npy, DIR/text_emb/text_emb_N.npy and
    DIR/metadata/metadata_N.parquet, which `cliphouse load DIR` takes. For LAION-400M they are about 2.2 GB a shard.

    A file is in its place only when its length is what its header or footer says, and a shard is whole when its files
    have as many rows. What was cut is gone on with, in the same run or the next; what is whole is not fetched again.
    What a mirror lacks, cuts off or garbles is fetched from the next one. A shard that cannot be had does not stop the
    others: it is listed at the end, and the exit code is 3.

    Without --base-url the two places are asked where LAION-400M was published. Nobody promises that they still answer;
    see with --probe. Under a base URL the files are in img_emb/ text_emb/ metadata/, in images/ texts/ metadata/, or
    side by side, which is found out. Stores are asked with the usual variables (AWS_ACCESS_KEY_ID, AWS_REGION,
    AWS_ENDPOINT_URL, ...), and without a name where there are none; web servers through HTTPS_PROXY.

    With --then load the shards go into --db and --collection while others come; those that the collection holds are
    not downloaded. With --keep none they are deleted when they are loaded, and only a few are on the disk at once.
    --storage, --on-bad-row, --on-bad-shard and --similarity are about loading: see cliphouse load --help.

    \b
    Examples:
      cliphouse download --shards 0-409 --out ./shards
      cliphouse download --shards 0-9 --out ./shards --base-url s3://my-bucket/laion400m --limit-rate 50M
      cliphouse download --shards 0-409 --out ./shards --then load --keep none --db /data/laion
      cliphouse download --probe --base-url https://mirror.example/laion400m
    """
    if probing:
        if not _show(base_urls, shards, patience):
            context.exit(_INCOMPLETE)
        return
    if not shards or out is None:
        raise UsageError("name the shards and the folder: cliphouse download --shards 0-9 --out ./shards")
    if then is None and keep != "all":
        raise UsageError("--keep none is about shards that are loaded; add --then load")
    with _summed_up(collection, keep) as reports, _going_on(), ExitStack() as stack:
        into = (
            stack.enter_context(open_collection(db, collection, encoder=encoder, create=True))
            if then == "load"
            else None
        )
        progress = stack.enter_context(progress_bars(several=True))
        report = download_shards(
            out,
            shards=shards,
            base_urls=base_urls,
            text=not no_text,
            parallel=parallel,
            limit_rate=limit_rate,
            patience=patience,
            into=into,
            keep=keep,
            storage=storage,
            options=options,
            progress=progress,
            ended=reports.append,
        )
    if report.failed:
        context.exit(_INCOMPLETE)


@contextmanager
def _summed_up(collection: str, keep: Keep) -> Iterator[list[DownloadReport]]:
    """Say at the end what was done by the report that was put into the list, before any error is said."""
    reports: list[DownloadReport] = []
    try:
        yield reports
    finally:
        for report in reports:
            _say(report, collection, keep)


def _say(report: DownloadReport, collection: str, keep: Keep) -> None:
    """What came, what was there, what was loaded, and what failed and why."""
    if report.files:
        rate = size(report.received_bytes / report.seconds)
        click.echo(
            f"fetched {report.files:,} file{'s' if report.files != 1 else ''}, {size(report.received_bytes)} in "
            f"{report.seconds:.1f} s ({rate}/s)"
        )
    for numbers, what in (
        (report.fetched, f"whole in {report.directory}" if keep == "all" else "fetched"),
        (report.present, f"there before, in {report.directory}"),
        (report.held, f"in {collection} already, and were not downloaded"),
        (report.loaded, f"loaded into {collection}, {report.rows:,} new rows"),
    ):
        if numbers:
            click.echo(f"shards {shard_ranges(numbers)}: {what}")
    say_bad_rows(report)
    for name in report.stale_indexes if report.rows else ():
        column = name.partition("_")[0]
        click.echo(f"{name} does not cover the new rows yet: cliphouse index build --column {column}")
    for number, reason in report.failed.items():
        click.echo(f"shard {number} failed: {reason}", err=True)
    if report.failed:
        click.echo(
            f"to try again what failed, run the same command with --shards {shard_ranges(report.failed)}", err=True
        )


def _show(base_urls: tuple[str, ...], shards: str | None, patience: float) -> bool:
    """A line for each mirror; whether one of them has the shard."""
    rows = []
    answers = probe(base_urls, shard=parse_shards(shards or "0")[0], patience=patience)
    for base, found in answers.items():
        if isinstance(found, DownloadFailed):
            rows.append((shown(base), "no", found.reason))
            continue
        sizes = ", ".join(f"{kind} {size(count)}" if count else f"no {kind}" for kind, count in found.sizes.items())
        rows.append((shown(base), "yes", f"{found.layout.name}: {sizes}"))
    print_table(["mirror", "has it", "answer"], rows)
    if not base_urls:
        click.echo(f"{len(KNOWN)} known places; name your own with --base-url")
    return any(isinstance(found, Place) for found in answers.values())


@contextmanager
def _going_on() -> Iterator[None]:
    """Say after Ctrl-C that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("what came is kept; run the same command again to go on", err=True)
        raise
