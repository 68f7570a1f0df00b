"""Plots, by matplotlib, which is imported when one is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cliphouse.errors import MissingExtra, UsageError
from cliphouse.evaluation import Evaluation, Point, QueryOrigin

INK, QUIET, RULE = "#1f2933", "#7b8794", "#e4e7eb"
_COLOURS = {"exact": INK, "hnsw": "#a0671b", "ivf": "#0b6e99"}
_ASKED: dict[QueryOrigin, str] = {"text": "captions", "image": "pictures", "own": "your queries"}
_SUFFIXES = (".svg", ".png", ".pdf")


def check(path: Path) -> None:
    """Make sure, before long work, that `recall_against_latency` can write to `path`.

    Raises:
        UsageError: it has no suffix of a picture.
        MissingExtra: matplotlib is not installed.
    """
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"a plot is written to a file ending in {', '.join(_SUFFIXES)}, not to {path}")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtra("plots need matplotlib: pip install 'cliphouse[plot]'") from None


def recall_against_latency(evaluation: Evaluation, path: Path) -> None:
    """Draw each index at all its efforts, and exact search, without filters; the suffix of `path` says in which format.

    Raises:
        UsageError, MissingExtra: see `check`; also where nothing was measured.
    """
    check(path)
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    points = [point for point in evaluation.points if point.filter is None and point.asked != "search"]
    if not points:
        raise UsageError("nothing was measured that could be drawn; evaluate with --truth auto")
    origins = list(dict.fromkeys(point.queries for point in points))
    figure = Figure(figsize=(5.2 * len(origins), 4.2), layout="constrained")
    panels = figure.subplots(1, len(origins), sharex=True, sharey=True, squeeze=False)[0]
    for axes, origin in zip(panels, origins, strict=True):
        of_origin = [point for point in points if point.queries == origin]
        for asked in dict.fromkeys(point.asked for point in of_origin):
            _curve(axes, [point for point in of_origin if point.asked == asked], _COLOURS[asked], asked)
        axes.set_xscale("log")
        axes.margins(x=0.12, y=0.08)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(LogLocator(subs=()))
        axes.set_xlabel("median milliseconds a query, one at a time, logarithmic", color=QUIET)
        bare(axes)
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        axes.set_title(f"{_ASKED[origin]} on {evaluation.column} embeddings", loc="left", color=INK, fontsize=10)
    panels[0].set_ylabel(f"recall@{evaluation.k}", color=QUIET)
    panels[0].legend(frameon=False, labelcolor=INK, loc="lower right")
    save(figure, path)


def _curve(axes: Any, points: list[Point], colour: str, label: str) -> None:
    along = sorted(points, key=lambda point: tuple(point.effort.values()))
    latencies, recalls = [point.p50_ms for point in along], [point.recall for point in along]
    axes.plot(latencies, recalls, "o-", color=colour, markersize=5, linewidth=1.4, label=label)
    for point in along:
        for value in point.effort.values():
            place = {"textcoords": "offset points", "xytext": (0, 6), "ha": "center", "fontsize": 7}
            axes.annotate(f"{value}", (point.p50_ms, point.recall), color=QUIET, **place)


def bare(axes: Any) -> None:
    """Leave of the frame what helps to read: the lower edge, and quiet lines that go up from it."""
    axes.tick_params(axis="x", colors=QUIET)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#cbd2d9")


def save(figure: Any, path: Path) -> None:
    """Write `figure`; fixed ids and no date, so that the same result is the same file."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "cliphouse"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
