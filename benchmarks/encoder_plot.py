"""The plot of an encoder result: four questions, one row a system in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import OTHERS, OURS
from cliphouse.plots import INK, QUIET, bare, save

_VARIANT = "#7fb3cc"
_STAGES = (("python", "Python"), ("import", "imports"), ("open", "opening"), ("first", "first answer"))
_FADES = (0.25, 0.45, 0.7, 1.0)


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the plot of `result` to `path`; its suffix says in which format."""
    run, systems = result["parameters"], list(reversed(result["systems"]))  # the first one on top
    figure = Figure(figsize=(10, 1.8 + 1.05 * len(systems)), layout="constrained")
    figure.suptitle(run["title"], x=0.01, ha="left", color=INK, fontsize=12)
    panels = figure.subplots(2, 2)
    _latencies(panels[0, 0], systems, "text", "One text, in milliseconds")
    _latencies(panels[0, 1], systems, "picture", "One picture from its JPEG file, in milliseconds")
    _rates(panels[1, 0], systems, f"Pictures a second from JPEG files, in batches of {run['batch']}")
    _starts(panels[1, 1], systems, "From nothing to the first answer to a text, in seconds")
    for number, axes in enumerate(panels.flat):
        labels = [system["label"] for system in systems] if number % 2 == 0 else [""] * len(systems)
        axes.set_yticks(range(len(systems)), labels, color=INK)
        axes.set_ylim(-0.5, len(systems) - 0.3)
        axes.set_xlim(left=0)
        bare(axes)
    save(figure, path)


def _latencies(axes: Any, systems: Sequence[Mapping[str, Any]], task: str, title: str) -> None:
    """Every call is a dot but the slowest 1 %, which would leave no room for the others; the line is the median."""
    jitter, furthest = np.random.default_rng(0), 0.0
    for place, system in enumerate(systems):
        measured = system["tasks"][task]
        latencies = np.array(measured["latencies_ms"])
        shown = latencies[latencies <= measured["p99_ms"]]
        furthest = max(furthest, shown.max())
        heights = place + jitter.uniform(-0.16, 0.16, len(shown))
        axes.scatter(shown, heights, s=8, color=_colour(system), alpha=0.4, linewidths=0)
        axes.plot([measured["p50_ms"]] * 2, [place - 0.24, place + 0.24], color=INK, linewidth=1.8)
        axes.text(measured["p50_ms"], place + 0.27, _figure(measured["p50_ms"]), ha="center", va="bottom", color=INK)
    axes.set_xlim(0, furthest * 1.05)
    _title(axes, title, "all calls but the slowest 1 %, and the median; less is better")


def _rates(axes: Any, systems: Sequence[Mapping[str, Any]], title: str) -> None:
    """A bar from file to vector, and a mark for the tower alone."""
    for place, system in enumerate(systems):
        rate, tower = (system["tasks"][task]["items_per_second"] for task in ("pictures", "tower"))
        axes.barh(place, rate, height=0.46, color=_colour(system))
        axes.plot([tower] * 2, [place - 0.3, place + 0.3], color=INK, linewidth=1.8)
        axes.annotate(
            _figure(rate), (max(rate, tower), place), (5, 0), textcoords="offset points", va="center", color=INK
        )
    axes.set_xlim(0, axes.get_xlim()[1] * 1.08)
    _title(axes, title, "the line is the tower alone, with prepared pictures; more is better")


def _starts(axes: Any, systems: Sequence[Mapping[str, Any]], title: str) -> None:
    """A bar for each stage, one after the other."""
    for place, system in enumerate(systems):
        end = 0.0
        for (stage, _), fade in zip(_STAGES, _FADES, strict=True):
            seconds = system["cold"]["stages_s"][stage]
            axes.barh(place, seconds, left=end, height=0.46, color=_colour(system), alpha=fade, linewidth=0)
            end += seconds
        total = f"{system['cold']['median_s']:.2f}"
        axes.annotate(total, (end, place), (5, 0), textcoords="offset points", va="center", color=INK)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.08)
    _title(axes, title, f"from light to dark: {', '.join(label for _, label in _STAGES)}; less is better")


def _title(axes: Any, title: str, how: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=10.5)
    axes.set_xlabel(how, color=QUIET, fontsize=8.5, loc="left")


def _colour(system: Mapping[str, Any]) -> str:
    return {"cliphouse": OURS, "cliphouse_int8": _VARIANT}.get(system["name"], OTHERS)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
