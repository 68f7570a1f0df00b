"""The plot of an index result: recall against time, a curve a system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.index_figures import curve
from benchmarks.plot import OURS
from cliphouse.plots import INK, QUIET, RULE, bare, save

_COLOURS = {
    "cliphouse_ivf": OURS,
    "cliphouse_exact": OURS,
    "cliphouse_hnsw": "#7fb3cc",
    "tutorial_hnsw": "#b6bec7",
    "lancedb_hnsw": "#a0671b",
    "lancedb_rq": "#d9a860",
    "faiss_ivf": "#9b3d5c",
    "faiss_hnsw": "#d08aa3",
    "usearch": "#8a9a2b",
    "duckdb_exact": QUIET,
}
_TITLES = {"text": "Captions as queries", "image": "Pictures as queries"}
#: Where a curve is below this recall, nobody would use it, and it would take room from the rest.
_LOWEST_RECALL = 0.5


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the plot of `result` to `path`; its suffix says in which format."""
    run = result["parameters"]
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    figure.suptitle(run["title"], x=0.01, ha="left", color=INK, fontsize=12)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (kind, title) in zip(panels, _TITLES.items(), strict=True):
        for system in result["systems"]:
            _curve(axes, system, kind)
        axes.axvline(run["recall"], color="#cbd2d9", linewidth=0.9, zorder=0)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(title, loc="left", color=INK, fontsize=10.5)
        axes.set_xlabel(f"recall@{run['k']}; further right is better", color=QUIET, fontsize=8.5, loc="left")
        bare(axes)
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        axes.tick_params(axis="y", colors=QUIET)
    panels[0].set_ylabel("milliseconds a query, the median, logarithmic; lower is better", color=QUIET, fontsize=8.5)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    save(figure, path)


def _curve(axes: Any, system: Mapping[str, Any], kind: str) -> None:
    """Efforts from least to most; a system that knows one effort alone is a square."""
    points = [point for point in curve(system, kind) if point[0] >= _LOWEST_RECALL]
    recalls, milliseconds = [point[0] for point in points], [point[1] for point in points]
    exact = len(system["efforts"]) == 1
    axes.plot(
        recalls,
        milliseconds,
        color=_COLOURS.get(system["name"], QUIET),
        linewidth=2.4 if system["name"] == "cliphouse_ivf" else 1.4,
        marker="s" if exact else "o",
        markersize=7 if exact else 4,
        linestyle="none" if exact else "-",
        label=system["label"],
    )
