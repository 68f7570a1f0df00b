"""`cliphouse udf export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from cliphouse.cli.options import debug_option
from cliphouse.encoders import MODELS, location_of
from cliphouse.udf import Export, write

_DEFAULTS = Export()


@click.group()
def udf() -> None:
    """Give a ClickHouse server the SQL functions encode_text and encode_image.

    An embedded database has them already: see cliphouse sql --help.
    """


@udf.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--encoder",
    default=_DEFAULTS.encoder,
    envvar="CLIPHOUSE_ENCODER",
    show_default=True,
    metavar="NAME",
    help="Encoder that made the embeddings.",
)
@click.option(
    "--allow",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory on the server below which encode_image may open pictures; by default none. May be given again.",
)
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    default=_DEFAULTS.python,
    metavar="PATH",
    help="Python on the server that has cliphouse installed; by default the one that runs this command.",
)
@click.option(
    "--pool-size",
    default=_DEFAULTS.pool_size,
    show_default=True,
    metavar="N",
    help="Processes for each function; every one holds its own model.",
)
@debug_option
def export(directory: Path, encoder: str, allow: Sequence[Path], python: Path, pool_size: int) -> None:
    """Write what a server needs to DIR: two function definitions, one script, and where to put them.

    Weights that are on this machine are named by their folder, which the server's user must be able to read.

    Whoever may send SQL to the server may then have any picture opened that its user can read, but only below the
    directories that --allow names. URLs are never fetched.

    \b
    Examples:
      cliphouse udf export ./udf
      cliphouse udf export ./udf --allow /srv/pictures --python /opt/cliphouse/bin/python
    """
    for path in write(directory, Export(encoder=location_of(encoder), allow=allow, python=python, pool_size=pool_size)):
        click.echo(path)
    if encoder in MODELS and location_of(encoder) == encoder:
        click.echo(f"the weights of {encoder} are not on this machine; the server's user must find them by that name")
    click.echo(f"next: see {directory / 'README.md'}")
