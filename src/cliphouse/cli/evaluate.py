"""`cliphouse evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cliphouse import plots
from cliphouse.cli.options import (
    database_options,
    device_option,
    encoder_option,
    format_option,
    open_collection,
    query_options,
    read_queries,
)
from cliphouse.cli.render import print_table, progress_bars
from cliphouse.errors import UsageError
from cliphouse.evaluation import DEFAULT_SAMPLE, Evaluation, EvaluationOptions, Point, TruthUse
from cliphouse.index import describe
from cliphouse.types import Modality
from cliphouse.units import size

_DEFAULTS = EvaluationOptions()


@click.command()
@query_options(DEFAULT_SAMPLE, _DEFAULTS.k, _DEFAULTS.seed)
@click.option(
    "--in",
    "column",
    type=click.Choice(["image", "text"]),
    default=_DEFAULTS.column,
    show_default=True,
    help="Which embedding is searched.",
)
@click.option(
    "--no-filters", is_flag=True, help="Leave out the filters that keep 50 %, 10 %, 1 % and 0.1 % of the rows."
)
@click.option("--where", metavar="SQL", help='Measure under this condition too, for example "width >= 1024".')
@click.option(
    "--seconds",
    default=_DEFAULTS.seconds,
    show_default=True,
    help="Time for a line of the table, and again for its clients.",
)
@click.option("--clients", default=_DEFAULTS.clients, show_default=True, help="Clients that ask at once, besides one.")
@click.option(
    "--truth",
    type=click.Choice(["auto", "stored", "only"]),
    default=_DEFAULTS.truth,
    show_default=True,
    help="auto computes true neighbours that are absent or stale; stored makes that an error; only stops after it.",
)
@format_option
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.json", help="Write all that was measured.")
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw recall against latency: .svg, .png or .pdf."
)
@encoder_option
@device_option
@database_options
def evaluate(
    queries: Path | None,
    sample: int | None,
    k: int,
    column: Modality,
    no_filters: bool,
    where: str | None,
    seconds: float,
    clients: int,
    seed: int,
    truth: TruthUse,
    form: str,
    out: Path | None,
    plot: Path | None,
    encoder: str | None,
    device: str | None,
    db: str,
    collection: str,
) -> None:
    """Measure recall and latency: of searches as they are, of exact search, and of each index at several efforts.

    Recall@k is the share of the k answers whose distance is no more than that of the k-th true neighbour, so that ties
    are right. True neighbours are computed once over all rows, and kept in the table NAME_truth beside the collection
    until its rows change. Captions and pictures are measured apart, because captions are much harder for an index.

    A line of the table stops after --seconds, and says how many of the queries it had; raise them for a large table.

    \b
    Examples:
      cliphouse evaluate
      cliphouse evaluate --sample 200 --no-filters --plot recall.svg --out recall.json
      cliphouse evaluate --queries searches.txt --where "width >= 1024"
      cliphouse evaluate --truth only && cliphouse evaluate --truth stored --format json
    """
    if plot:
        if truth == "only":
            raise UsageError("--truth only measures nothing that --plot could draw; leave one of them out")
        plots.check(plot)
    for path in (out, plot):
        if path and path.is_dir():
            raise UsageError(f"{path} is a directory; name a file in it to write to")
        if path and not path.parent.is_dir():
            raise UsageError(f"there is no directory {path.parent} to write {path.name} to; make it first")
    options = EvaluationOptions(
        queries=read_queries(queries) if queries else None,
        sample=sample,
        k=k,
        column=column,
        filters=not no_filters,
        where=where,
        seconds=seconds,
        clients=clients,
        seed=seed,
        truth=truth,
    )
    with open_collection(db, collection, encoder=encoder, device=device) as opened, progress_bars() as progress:
        evaluation = opened.evaluate(options, progress=progress)
    written = json.dumps(evaluation.as_dict(), indent=2)
    if out:
        out.write_text(f"{written}\n")
    if plot:
        plots.recall_against_latency(evaluation, plot)
    if form == "json":
        click.echo(written)
    else:
        _print(evaluation)


def _print(evaluation: Evaluation) -> None:
    if evaluation.points:
        many = max(max(point.queries_per_second) for point in evaluation.points)
        rates = ["/s", f"/s by {many}"] if many > 1 else ["/s"]
        times = ["p50 ms", "p90 ms", "p99 ms"]
        names = ["queries", "filter", "search", "answered by", f"recall@{evaluation.k}", *times, *rates]
        print_table([*names, "reads", "measured"], [_line(point) for point in evaluation.points])
        click.echo()
    for state in evaluation.indexes:
        built = "" if state.build_seconds is None else f", built in {state.build_seconds:,.1f} s"
        click.echo(
            f"{state.name} is {state.state}: {describe(state.config)}, {size(state.disk_bytes)} on disk, "
            f"{size(state.memory_bytes)} in memory{built}"
        )
    if evaluation.points:
        most = max(point.resident_bytes for point in evaluation.points)
        click.echo(f"memory: {size(most)} resident at most, the engine's caches included")
    truth = evaluation.truth
    done = f"{truth.computed:,} computed in {truth.seconds:.1f} s" if truth.computed else "all kept from before"
    click.echo(f"truth: neighbours of {truth.queries:,} queries among {evaluation.rows:,} rows, {done}")


def _line(point: Point) -> list[str]:
    effort = "".join(f" {name} {value}" for name, value in point.effort.items())
    answered = " ".join(
        path if count == point.measured else f"{path} {count / point.measured:.0%}"
        for path, count in sorted(point.answered.items())
    )
    return [
        point.queries,
        f"{100 * point.filter.share:.2g} %" if point.filter else "",
        f"{point.asked}{effort}",
        answered,
        f"{point.recall:.4f}",
        *(f"{value:,.1f}" for value in (point.p50_ms, point.p90_ms, point.p99_ms)),
        *(f"{rate:,.1f}" for _, rate in sorted(point.queries_per_second.items())),
        size(point.read_bytes),
        f"{point.measured:,}",
    ]
