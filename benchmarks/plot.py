"""The plot of a search result: every measured latency, one row a system, on one logarithmic axis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from cliphouse.plots import INK, QUIET, bare, save

OURS, OTHERS = "#0b6e99", "#a0671b"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the plot of `result` to `path`; its suffix says in which format."""
    systems = result["systems"]
    figure = Figure(figsize=(8, 0.8 + 0.75 * len(systems)), layout="constrained")
    axes = figure.subplots()
    jitter = np.random.default_rng(0)
    for place, system in enumerate(reversed(systems)):
        latencies = np.array(system["latencies_ms"])
        colour = OURS if system["name"].startswith("cliphouse") else OTHERS
        heights = place + jitter.uniform(-0.16, 0.16, len(latencies))
        axes.scatter(latencies, heights, s=9, color=colour, alpha=0.35, linewidths=0)
        axes.plot([system["p50_ms"]] * 2, [place - 0.24, place + 0.24], color=INK, linewidth=1.8)
        axes.text(system["p50_ms"], place + 0.29, f"{system['p50_ms']:,.0f} ms", ha="center", va="bottom", color=INK)
    lowest = min(min(system["latencies_ms"]) for system in systems)
    highest = max(max(system["latencies_ms"]) for system in systems)
    axes.set_xscale("log")
    axes.set_xlim(lowest / 1.4, highest * 1.4)
    axes.set_ylim(-0.5, len(systems) - 0.3)
    axes.set_yticks(range(len(systems)), [system["label"] for system in reversed(systems)], color=INK)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(LogLocator(subs=()))
    axes.set_xlabel("milliseconds a query, logarithmic; a dot is a query, the line is the median", color=QUIET)
    bare(axes)
    axes.set_title(result["parameters"]["title"], loc="left", color=INK, fontsize=11)
    save(figure, path)
