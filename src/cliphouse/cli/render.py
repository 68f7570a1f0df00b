"""Results for people (tables, progress) and for programs (JSON, CSV)."""

from __future__ import annotations

import csv
import json
import math
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from cliphouse.hits import Hit, Hits
from cliphouse.types import Progress, ProgressCallback
from cliphouse.units import size

#: Width of tables that go to a file or a pipe.
_PIPED_WIDTH = 160


@contextmanager
def progress_bars(*, several: bool = False) -> Iterator[ProgressCallback | None]:
    """A bar on standard error for the label at work, with the time that remains; nothing if that is not a terminal.

    With `several` there is one for each label that is not done yet, as for files that come at once.
    """
    if not sys.stderr.isatty():
        yield None
        return
    tasks: dict[str, TaskID] = {}
    lock = threading.Lock()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        _DoneColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def show(progress: Progress) -> None:
            label, total = progress.label, progress.total
            with lock:
                if label not in tasks:
                    for done in () if several else tasks.values():
                        bars.update(done, visible=False)
                    # What was there before it began has no part in the rate.
                    tasks[label] = bars.add_task(label, total=total, completed=progress.done, unit=progress.unit)
                bars.update(tasks[label], completed=progress.done, total=total)
                if several and progress.done >= total:
                    bars.remove_task(tasks.pop(label))

        yield show


class _DoneColumn(ProgressColumn):
    """How much of how much."""

    def render(self, task: Task) -> Text:
        done, total = task.completed, task.total or 0
        if task.fields["unit"] == "bytes":
            return Text(f"{size(done)} of {size(total)}", style="progress.download")
        return Text(f"{int(done)}/{int(total)}", style="progress.download")


class _RateColumn(ProgressColumn):
    """Units a second, of late."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text("")
        if task.fields["unit"] == "bytes":
            return Text(f"{size(speed)}/s")
        return Text(f"{speed:,.{0 if speed >= 10 else 1}f} {task.fields['unit']}/s")


def print_hits(hits: Hits, form: str) -> None:
    """Write the hits to standard output as `table`, `json`, `jsonl` or `csv`."""
    _print([(None, hit) for hit in hits], form)


def print_answers(answers: Sequence[Hits], form: str) -> None:
    """Write the hits of several queries, each with the number of its query, from 0, as the first column."""
    _print([(number, hit) for number, hits in enumerate(answers) for hit in hits], form)


def _print(hits: Sequence[tuple[int | None, Hit]], form: str) -> None:
    if form == "table":
        console().print(_hits_table(hits))
    elif form == "json":
        click.echo(json.dumps([_plain(*each) for each in hits], indent=2, ensure_ascii=False, default=str))
    elif form == "jsonl":
        for each in hits:
            click.echo(json.dumps(_plain(*each), ensure_ascii=False, default=str))
    else:
        rows = [_plain(*each) for each in hits]
        names = list(rows[0]) if rows else ["id", "distance", "url", "caption", "NSFW", "similarity"]
        writer = csv.DictWriter(sys.stdout, fieldnames=names)
        writer.writeheader()
        writer.writerows(rows)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a plain table to standard output."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for row in rows:
        table.add_row(*(printable(str(cell)) for cell in row))
    console().print(table)


def console() -> Console:
    """Standard output; wider than 80 columns where there is no terminal to measure."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, soft_wrap=False)


def printable(text: str) -> Text:
    """`text` without control characters: captions come from the web and must not drive the terminal."""
    return Text("".join(letter if letter.isprintable() else " " for letter in text))


def _hits_table(hits: Sequence[tuple[int | None, Hit]]) -> Table:
    extra = list(hits[0][1].more) if hits else []
    numbered = bool(hits) and hits[0][0] is not None
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (*(("query",) if numbered else ()), "id", "distance", "similarity", "NSFW"):
        table.add_column(name, justify="left" if name == "NSFW" else "right", no_wrap=True)
    for name in extra:
        table.add_column(name)
    table.add_column("caption", ratio=3)
    table.add_column("url", ratio=2, overflow="fold")
    for number, hit in hits:
        similarity = "" if hit.similarity is None else f"{hit.similarity:.3f}"
        cells = [str(hit.id), f"{hit.distance:.4f}", similarity, hit.NSFW, *(str(hit.more[name]) for name in extra)]
        first = [str(number)] if numbered else []
        table.add_row(*(printable(cell) for cell in (*first, *cells, hit.caption, hit.url)))
    return table


def _plain(number: int | None, hit: Hit) -> dict[str, Any]:
    values = ({} if number is None else {"query": number}) | hit.as_dict()
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}
