"""The command `cliphouse`, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback

import click

from cliphouse import __version__
from cliphouse.cli.data import load, status
from cliphouse.cli.download import download
from cliphouse.cli.embed import add, embed
from cliphouse.cli.encoder import encoder
from cliphouse.cli.evaluate import evaluate
from cliphouse.cli.export import export
from cliphouse.cli.index import index
from cliphouse.cli.maintain import delete, deny, verify
from cliphouse.cli.options import Invocation, debug_option
from cliphouse.cli.plan import plan
from cliphouse.cli.search import search
from cliphouse.cli.serve import serve
from cliphouse.cli.sql import sql
from cliphouse.cli.tune import tune
from cliphouse.cli.udf import udf
from cliphouse.errors import CliphouseError

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="cliphouse")
@debug_option
def cli() -> None:
    """Search pictures by text, by picture or by vector, over CLIP embeddings in ClickHouse.

    \b
    Load LAION-layout shards, or add your own pictures, then ask:
      cliphouse download --shards 0-9 --out ./shards
      cliphouse load ./shards
      cliphouse add ~/Pictures
      cliphouse search "a red car in the snow"
      cliphouse search --like 1200000345 --where "width >= 1024"
      cliphouse sql "SELECT count() FROM laion"
      cliphouse serve --open

    Data lives in ./cliphouse-data unless --db (after the command's name) or CLIPHOUSE_DB says otherwise: a directory,
    or clickhouse://user:password@host:8123/database for a server.

    Exit codes: 0 done, 2 wrong request, 3 bad or missing shard or weights, 4 not enough memory, 5 ClickHouse or
    storage, 130 interrupted, 143 terminated.
    """


COMMANDS = (
    download,
    load,
    embed,
    add,
    search,
    index,
    tune,
    evaluate,
    plan,
    serve,
    sql,
    status,
    export,
    delete,
    deny,
    verify,
    encoder,
    udf,
)
for command in COMMANDS:
    cli.add_command(command)


class _Terminated(KeyboardInterrupt):
    """SIGTERM: everything stops as it does for Ctrl-C."""


def _terminate(*_: object) -> None:
    raise _Terminated


def main() -> None:
    """Run the command line and leave with its exit code."""
    invocation = Invocation()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = cli.main(standalone_mode=False, obj=invocation)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 0
    except click.ClickException as error:
        where = f" (see: {error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
        code = _fail(error.format_message() + where, error.exit_code, debug=invocation.debug)
    except CliphouseError as error:
        code = _fail(str(error), error.exit_code, debug=invocation.debug)
    except OSError as error:  # standard output, or a file that vanished
        code = _fail(f"{error.filename or 'output'}: {error.strerror or error}", 1, debug=invocation.debug)
    except (KeyboardInterrupt, click.Abort) as error:
        asked = error.__cause__ or error  # click's Abort came of it
        word, code = ("terminated", TERMINATED) if isinstance(asked, _Terminated) else ("interrupted", INTERRUPTED)
        _fail(word, code, debug=invocation.debug)
        # Whatever still runs in the engine must not keep the process: the data survive a kill at any moment.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    click.echo(f"cliphouse: {message}", err=True)
    return code
