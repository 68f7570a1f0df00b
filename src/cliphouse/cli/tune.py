"""`cliphouse tune`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from cliphouse.cli.options import (
    column_option,
    database_options,
    device_option,
    encoder_option,
    format_option,
    open_collection,
    query_options,
    read_queries,
)
from cliphouse.cli.render import print_table, progress_bars
from cliphouse.evaluation import DEFAULT_TUNING_SAMPLE, IndexTuning, Tuning, TuningOptions
from cliphouse.types import EFFORT_NAMES, Modality

_DEFAULTS = TuningOptions()


@click.command()
@column_option
@click.option(
    "--recall", default=_DEFAULTS.recall, show_default=True, help="The recall that searches are to have by themselves."
)
@query_options(DEFAULT_TUNING_SAMPLE, _DEFAULTS.k, _DEFAULTS.seed)
@format_option
@encoder_option
@device_option
@database_options
def tune(
    column: Modality,
    recall: float,
    queries: Path | None,
    sample: int | None,
    k: int,
    seed: int,
    form: str,
    encoder: str | None,
    device: str | None,
    db: str,
    collection: str,
) -> None:
    """Find how hard each index must look to reach a recall, and have searches look that hard.

    Each index that is ready is searched with more and more effort (ef_search of hnsw, nprobe of ivf), until captions
    and pictures both find the wanted share of their true neighbours. One half of the queries chooses the effort, and
    the other half says what it reaches. What was measured is kept with the index: searches take the effort for --recall
    by themselves, and that for another recall when asked for one. An index that was dropped, or built anew, must be
    tuned again.

    Ctrl-C keeps what was found for indexes that were finished, and the true neighbours. How searches do afterwards, by
    other queries than these, is measured by `cliphouse evaluate`.

    \b
    Examples:
      cliphouse tune
      cliphouse tune --recall 0.98 --column text
      cliphouse tune --queries searches.txt --sample 200
      cliphouse search "a red car" --recall 0.99
    """
    options = TuningOptions(
        recall=recall,
        queries=read_queries(queries) if queries else None,
        sample=sample,
        k=k,
        column=column,
        seed=seed,
    )
    with open_collection(db, collection, encoder=encoder, device=device) as opened, progress_bars() as progress:
        tuning = opened.tune(options, progress=progress)
    if form == "json":
        click.echo(json.dumps(dataclasses.asdict(tuning), indent=2))
    else:
        _print(tuning)


def _print(tuning: Tuning) -> None:
    measured = [each for each in tuning.indexes if each.points]
    if measured:
        origins = list(measured[0].points[0].recalls)
        print_table(
            ["index", "effort", *(f"recall@{tuning.k} {origin}" for origin in origins), "p50 ms"],
            [
                (
                    each.name,
                    f"{EFFORT_NAMES[each.kind]} {point.effort}",
                    *(f"{point.recalls[origin]:.4f}" for origin in origins),
                    f"{point.p50_ms:,.1f}",
                )
                for each in measured
                for point in each.points
            ],
        )
        click.echo()
    for each in tuning.indexes:
        click.echo(_outcome(each, tuning.recall))


def _outcome(tuned: IndexTuning, recall: float) -> str:
    """What searches do now."""
    if tuned.unable:
        return f"{tuned.name} was left as it was, for it does not answer: {tuned.unable}"
    effort = f"{EFFORT_NAMES[tuned.kind]} {tuned.effort}"
    other = f"; other queries than chose it find {tuned.confirmed.recall:.4f}" if tuned.confirmed else ""
    if tuned.reached:
        return f"{tuned.name}: searches take {effort}, for a recall of {recall:g}{other}"
    return (
        f"{tuned.name} does not reach a recall of {recall:g}: searches take {effort}, for "
        f"{tuned.points[-1].recall:.4f}; those with --recall {recall:g} are exact"
    )
