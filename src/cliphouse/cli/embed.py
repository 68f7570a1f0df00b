"""`cliphouse embed` and `cliphouse add`."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import platformdirs

from cliphouse.cli.options import database_options, debug_option, device_option, encoder_option, open_collection
from cliphouse.cli.render import progress_bars
from cliphouse.collection import DEFAULT_STORAGE
from cliphouse.encoders import LAION_ENCODER
from cliphouse.encoders.decode import MAX_PIXELS
from cliphouse.engine import Location, ServerLocation
from cliphouse.errors import UsageError
from cliphouse.pipeline.embed import SHARD_SIZE
from cliphouse.pipeline.embed import embed as embed_pictures
from cliphouse.pipeline.sources import Listed, Source
from cliphouse.reports import EmbedReport
from cliphouse.types import Storage, shard_ranges

F = TypeVar("F", bound=Callable[..., Any])


def source_options(function: F) -> F:
    """Add SRC, --null and --max-pixels; the function gets `src`, `null` and `max_pixels`."""
    function = click.option(
        "--max-pixels",
        default=MAX_PIXELS,
        show_default=True,
        metavar="N",
        help="Refuse larger pictures before they are decoded.",
    )(function)
    function = click.option(
        "-0",
        "--null",
        is_flag=True,
        help="With SRC -, paths end in NUL, as find -print0 ends them, and have no captions.",
    )(function)
    return click.argument("src")(function)


@click.command()
@source_options
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--encoder",
    envvar="CLIPHOUSE_ENCODER",
    default=LAION_ENCODER,
    show_default=True,
    metavar="NAME",
    help="Encoder of pictures and captions, by name or folder.",
)
@device_option
@click.option(
    "--shard-size", default=SHARD_SIZE, show_default=True, metavar="N", help="Most pictures that a shard holds."
)
@debug_option
def embed(src: str, out: Path, encoder: str, device: str | None, shard_size: int, max_pixels: int, null: bool) -> None:
    """Embed the pictures in SRC into shards in the folder OUT, for `cliphouse load OUT`.

    SRC is a folder with all below it, a webdataset tar, a parquet file with pictures in it, one picture, or - for a
    list on standard input: a path a line, or a path, a tab and a caption. img2dataset's three layouts are such folders.

    A caption is cat.txt or cat.json beside cat.jpg, or a row of a CSV, TSV, JSON lines or parquet file in the same
    folder or above that names the picture (columns file_name, image_path, key, ... and caption, text, ...). They are
    joined by name. Where a name fits several pictures, or a picture has several different captions, in one file or in
    several, the picture is skipped. Files that say the same agree. A caption in a list on standard input goes first.

    OUT is a new or empty folder, or one that `embed` wrote, and does not hold SRC.

    Run the same command again to go on where it stopped, or to take in new pictures: those that are in OUT already,
    by their path, are left alone, even if they have changed. Hidden files are left out.

    Pictures that are broken, too large, or no pictures at all are skipped, counted, and named in OUT/skipped.jsonl;
    each run tries them again. Rows of a table that name no picture are counted at the end. The exit code is 0 if any
    picture of SRC is in OUT at the end, and 2 if none is.

    \b
    Examples:
      cliphouse embed ~/Pictures ./shards
      cliphouse embed laion-subset/ ./shards --encoder test-words
      find /photos -name '*.jpg' -mtime -7 -print0 | cliphouse embed -0 - ./shards
      cliphouse load ./shards
    """
    with _going_on(), progress_bars() as progress:
        report = embed_pictures(
            _source(src, null),
            out,
            encoder=encoder,
            device=device,
            shard_size=shard_size,
            max_pixels=max_pixels,
            progress=progress,
        )
    if report.pictures:
        click.echo(
            f"embedded {_count(report)} into shards {shard_ranges(report.shards)} of {out} in {_speed(report)}; "
            f"encoder {report.encoder}, {report.dim} dimensions"
        )
    _say_rest(report, f"in {out}")


@click.command()
@source_options
@click.option(
    "--storage",
    type=click.Choice(["bfloat16", "float32"]),
    help=f"How a new collection stores its vectors; {DEFAULT_STORAGE} by default.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where shards wait to be loaded; by default in the data directory, for a server in the user's cache.",
)
@encoder_option
@device_option
@database_options
def add(
    src: str,
    null: bool,
    max_pixels: int,
    storage: Storage | None,
    work: Path | None,
    encoder: str | None,
    device: str | None,
    db: str,
    collection: str,
) -> None:
    """Embed the pictures in SRC and load them into the collection: `embed` and `load` in one.

    SRC is what `cliphouse embed --help` says. Pictures whose path is in the collection are left alone, so adding a
    folder again brings in what is new. Shards enter while others are embedded; after an interruption, run the same
    command again. A collection that is new is made by --encoder, clip-vit-b32 unless named.

    \b
    Examples:
      cliphouse add ~/Pictures
      cliphouse add 00000.tar --db clickhouse://user:password@host:8123/pictures
      cliphouse search "a red car in the snow" --columns image_path
    """
    source = _source(src, null)
    with _going_on(), open_collection(db, collection, encoder=encoder, device=device, create=True) as opened:
        place = work or _cache(opened.engine.location, collection)
        with progress_bars() as progress:
            report = opened.add(source, storage=storage, work=place, max_pixels=max_pixels, progress=progress)
    if report.pictures:
        click.echo(
            f"added {_count(report)} to {collection} as shards {shard_ranges(report.shards)} in {_speed(report)}; "
            f"encoder {report.encoder}, {report.dim} dimensions"
        )
    _say_rest(report, f"in {collection}")
    for name in report.stale_indexes if report.pictures else ():
        column = name.partition("_")[0]
        click.echo(f"{name} does not cover the new rows yet: cliphouse index build --column {column}")


@contextmanager
def _going_on() -> Iterator[None]:
    """Say after Ctrl-C that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("what was encoded is kept; run the same command again to go on", err=True)
        raise


def _source(src: str, null: bool) -> str | Listed:
    """SRC, or the list on standard input that it stands for."""
    if src != "-":
        if null:
            raise UsageError("--null is about a list on standard input; give - as SRC")
        Source(src)  # says what is wrong with it before anything is made
        return src
    # As file names are: bytes that are no UTF-8 come through.
    text = sys.stdin.buffer.read().decode(sys.getfilesystemencoding(), "surrogateescape")
    if null:
        return [path for path in text.split("\0") if path]
    parts = (line.removesuffix("\r").partition("\t") for line in text.split("\n"))
    return [(path, caption) if tab else path for path, tab, caption in parts if path]


def _cache(location: Location, collection: str) -> Path | None:
    """Where shards on their way to a server wait, which a killed run finds again."""
    if not isinstance(location, ServerLocation):
        return None
    name = hashlib.sha256(f"{location}/{collection}".encode()).hexdigest()[:16]
    return platformdirs.user_cache_path("cliphouse") / "add" / name


def _count(report: EmbedReport) -> str:
    pictures = f"{report.pictures:,} picture{'s' if report.pictures != 1 else ''}"
    return f"{pictures} ({report.captioned:,} with a caption)" if report.captioned != report.pictures else pictures


def _speed(report: EmbedReport) -> str:
    return f"{report.seconds:.1f} s ({report.pictures / report.seconds:,.1f} pictures/s)"


def _say_rest(report: EmbedReport, where: str) -> None:
    if report.known:
        click.echo(f"{report.known:,} were {where} already")
    if report.skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.skipped.items())
        listed = f"; see {report.skipped_list}" if report.skipped_list else ""
        click.echo(f"skipped {sum(report.skipped.values()):,}: {reasons}{listed}")
    if report.unmatched:
        rows = sum(report.unmatched.values())
        first, *others = report.unmatched
        more = f" and {len(others):,} more tables" if others else ""
        click.echo(f"{rows:,} row{'s' if rows != 1 else ''} of {first}{more} named no picture of the source")
