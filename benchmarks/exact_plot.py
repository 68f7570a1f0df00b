"""The plot of a run of the kind "exact": queries a second, one at a time and at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.plot import OTHERS, OURS
from cliphouse.plots import INK, QUIET, bare, save


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the plot of `result` to `path`; its suffix says in which format."""
    systems, queries = result["systems"], result["parameters"]["queries"]
    figure = Figure(figsize=(8, 0.8 + 0.9 * len(systems)), layout="constrained")
    axes = figure.subplots()
    most = max(queries / system["batch_seconds"] for system in systems)
    for place, system in enumerate(reversed(systems)):
        colour = OURS if system["name"] == "cliphouse" else OTHERS
        for shift, rate, strength, what in (
            (0.2, 1000 / system["p50_ms"], 0.45, "one at a time"),
            (-0.2, queries / system["batch_seconds"], 1.0, f"{queries} at once"),
        ):
            if what != "one at a time" and not system["batch_measured"]:
                continue
            axes.barh(place + shift, rate, height=0.34, color=colour, alpha=strength)
            axes.text(rate + most * 0.01, place + shift, f"{rate:,.1f} {what}", va="center", color=INK, fontsize=9)
    axes.set_xlim(0, most * 1.25)
    axes.set_yticks(range(len(systems)), [system["label"] for system in reversed(systems)], color=INK)
    axes.set_xlabel("queries a second", color=QUIET)
    bare(axes)
    axes.set_title(result["parameters"]["title"], loc="left", color=INK, fontsize=11)
    save(figure, path)
