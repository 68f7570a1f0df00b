"""The plots of a loading result: rows a second, and memory over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.loading_figures import median_of, median_seconds, middle, rates
from benchmarks.plot import OTHERS, OURS
from cliphouse.plots import INK, QUIET, RULE, bare, save

_COLOURS = {"cliphouse": OURS, "lancedb": OTHERS, "duckdb": "#8a9a2b", "tutorial": "#9b3d5c"}


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the rates to `path` and the memory beside it, with "-memory" in its name; the suffix is the format."""
    save(_rates(result), path)
    save(_memory(result), path.with_stem(f"{path.stem}-memory"))


def _rates(result: Mapping[str, Any]) -> Figure:
    """A bar for the median, a dot for each load."""
    shard, tutorial, labels = result["shard"], result["tutorial"], _labels(result)
    figure = Figure(figsize=(9, 1.6 + 0.55 * len(shard["loads"])), layout="constrained")
    figure.suptitle(result["parameters"]["title"], x=0.01, ha="left", color=INK, fontsize=12)
    whole, part = figure.subplots(1, 2, width_ratios=(3, 2))
    _bars(
        whole,
        [(labels[name], name, rates(loads, shard["rows"])) for name, loads in shard["loads"].items()],
        [shard["rows"] / median_seconds(loads) for loads in shard["loads"].values()],
    )
    whole.set_title(f"One shard of {shard['rows']:,} rows", loc="left", color=INK, fontsize=10.5)
    pipeline = tutorial["rows"] / tutorial["seconds"]
    ours = [tutorial["rows"] / load["seconds"] for load in tutorial["cliphouse"]]
    _bars(
        part,
        [(labels["cliphouse"], "cliphouse", ours), (labels["tutorial"], "tutorial", [pipeline])],
        [tutorial["rows"] / median_of(tutorial["cliphouse"], "seconds"), pipeline],
    )
    part.set_title(f"The tutorial's pipeline, {tutorial['rows']:,} rows", loc="left", color=INK, fontsize=10.5)
    for axes, how in ((whole, "; a dot is a load, the bar the median; more is better"), (part, "")):
        axes.set_xlabel(f"rows a second{how}", color=QUIET, fontsize=8.5, loc="left")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.locator_params(axis="x", nbins=5)
    return figure


def _bars(axes: Any, systems: Sequence[tuple[str, str, Sequence[float]]], medians: Sequence[float]) -> None:
    places = range(len(systems) - 1, -1, -1)  # the first one on top
    furthest = max(max(values) for _, _, values in systems)
    for place, (_, name, values), value in zip(places, systems, medians, strict=True):
        axes.barh(place, value, height=0.5, color=_COLOURS.get(name, QUIET))
        axes.scatter(values, [place] * len(values), s=12, color=INK, linewidths=0, zorder=3)
        axes.annotate(f"{value:,.0f}", (max(values), place), (6, 0), textcoords="offset points", va="center", color=INK)
    axes.set_xlim(0, furthest * 1.2)
    axes.set_ylim(-0.5, len(systems) - 0.5)
    axes.set_yticks(list(places), [label for label, _, _ in systems], color=INK)
    bare(axes)


def _memory(result: Mapping[str, Any]) -> Figure:
    """Above, each system's load of median duration; below, the long load, with a line where a shard was in."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    figure.suptitle("Memory over time", x=0.01, ha="left", color=INK, fontsize=12)
    above, below = figure.subplots(2, 1)
    labels, tutorial, many = _labels(result), result["tutorial"], result["ten"]
    for name, loads in result["shard"]["loads"].items():
        _line(above, middle(loads)["timeline"], labels[name], name)
    steps = tutorial["steps"]
    _line(
        above,
        _joined(steps["process"], steps["insert"]),
        f"{labels['tutorial']}, {tutorial['rows']:,} rows",
        "tutorial",
    )
    above.set_title(f"One shard of {result['shard']['rows']:,} rows", loc="left", color=INK, fontsize=10.5)
    timeline = many["load"]["timeline"]
    _line(below, timeline, "all", "cliphouse")
    below.plot(timeline["seconds"], _gigabytes(timeline["anon_mb"]), color=OURS, linewidth=1.1, alpha=0.5)
    for each in many["finished"]:
        below.axvline(each["seconds"], color="#cbd2d9", linewidth=0.9, zorder=0)
    below.set_title(
        f"{result['parameters']['shards']} shards by one cliphouse load", loc="left", color=INK, fontsize=10.5
    )
    for axes, how in (
        (above, "seconds from the start of the process; memory in GB, mapped files included"),
        (below, "seconds; memory in GB, below it what is not mapped from files; upright: a shard was in"),
    ):
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        bare(axes)
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        axes.set_xlabel(how, color=QUIET, fontsize=8.5, loc="left")
        axes.tick_params(axis="y", colors=QUIET)
    above.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _line(axes: Any, timeline: Mapping[str, Sequence[float]], label: str, name: str) -> None:
    colour = _COLOURS.get(name, QUIET)
    axes.plot(timeline["seconds"], _gigabytes(timeline["rss_mb"]), color=colour, linewidth=1.6, label=label)


def _joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list[float]]:
    """Two steps, one after the other."""
    later = [first["seconds"] + moment for moment in second["timeline"]["seconds"]]
    return {
        "seconds": [*first["timeline"]["seconds"], *later],
        "rss_mb": [*first["timeline"]["rss_mb"], *second["timeline"]["rss_mb"]],
    }


def _gigabytes(megabytes: Sequence[float]) -> list[float]:
    return [each / 1000 for each in megabytes]


def _labels(result: Mapping[str, Any]) -> dict[str, str]:
    return {each["name"]: each["label"] for each in result["systems"]}
