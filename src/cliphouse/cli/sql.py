"""`cliphouse sql`: statements from the command line, a file or a person."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from platformdirs import user_state_path

from cliphouse import statements
from cliphouse.cli.options import database_options, device_option, encoder_option, open_collection, read_vector
from cliphouse.engine import Session
from cliphouse.errors import CliphouseError, UsageError

_FOR_PEOPLE, _FOR_PROGRAMS = "PrettyCompact", "TabSeparated"


@click.command()
@click.argument("query", required=False)
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Fill {NAME:Type}; @FILE.npy reads a vector. May be given again.",
)
@click.option(
    "--format",
    "form",
    metavar="FORMAT",
    help="Any ClickHouse output format: JSONEachRow, CSVWithNames, Parquet, Vertical, ... By default a table on a "
    "terminal and tab-separated values elsewhere.",
)
@encoder_option
@device_option
@database_options
def sql(
    query: str | None,
    params: Sequence[str],
    form: str | None,
    encoder: str | None,
    device: str | None,
    db: str,
    collection: str,
) -> None:
    """Run SQL statements, or open a shell if there is no QUERY.

    Statements end with a semicolon; several run one after the other in one session, so that SET lasts. Without QUERY
    they are read from standard input, or typed: the shell has a history, and a statement may take several lines.

    encode_text('...') and encode_image('/path') give the embedding of a text or a picture; on a server they are there
    after cliphouse udf export.

    \b
    Examples:
      cliphouse sql "SELECT NSFW, count() FROM laion GROUP BY NSFW"
      cliphouse sql "SELECT url FROM laion ORDER BY cosineDistance(text_embedding, encode_text('a dog')) LIMIT 10"
      cliphouse sql "SELECT id FROM laion ORDER BY cosineDistance(image_embedding, {target:Array(Float32)}) LIMIT 10" \\
          --param target=@vector.npy --format JSONEachRow
    """
    parameters = dict(_parse_parameter(text) for text in params)
    with open_collection(db, collection, encoder=encoder, device=device, create=True) as opened:
        opened.install_functions()
        with opened.engine.session() as session:
            if query is None and sys.stdin.isatty():
                _converse(session, parameters, form or _FOR_PEOPLE)
                return
            text = sys.stdin.read() if query is None else query
            for statement in statements.split(text):
                _run(session, statement, parameters, form or (_FOR_PEOPLE if sys.stdout.isatty() else _FOR_PROGRAMS))


def _run(session: Session, statement: str, parameters: Mapping[str, object], form: str) -> None:
    out = sys.stdout.buffer
    session.run(
        statement, out.write, parameters=parameters, format=form if statements.takes_format(statement) else None
    )
    out.flush()


def _parse_parameter(text: str) -> tuple[str, object]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise UsageError(f"--param {text!r} is not NAME=VALUE")
    if not value.startswith("@"):
        return name, value
    vector = read_vector(Path(value[1:]))
    return name, vector.reshape(-1).tolist()


def _converse(session: Session, parameters: Mapping[str, object], form: str) -> None:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.lexers import PygmentsLexer
    from pygments.lexers.sql import SqlLexer

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if statements.is_finished(buffer.text) or buffer.text.strip().lower() in ("exit", "quit"):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    history = user_state_path("cliphouse", ensure_exists=True) / "sql_history"
    prompt: PromptSession[str] = PromptSession(
        "cliphouse> ",
        multiline=True,
        prompt_continuation="       ... ",
        history=FileHistory(str(history)),
        lexer=PygmentsLexer(SqlLexer),
        key_bindings=keys,
    )
    click.echo("A semicolon ends a statement; Ctrl-C stops a query; exit or Ctrl-D leaves.")
    while True:
        try:
            text = prompt.prompt()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if text.strip().rstrip(";").lower() in ("exit", "quit"):
            return
        for statement in statements.split(text):
            started = time.perf_counter()
            try:
                _run(session, statement, parameters, form)
            except CliphouseError as error:  # the conversation goes on
                click.echo(f"error: {error}", err=True)
                break
            except KeyboardInterrupt:
                click.echo("stopped", err=True)
                break
            click.echo(f"{time.perf_counter() - started:.3f} s")
