"""Measurements beside what the cost model says of the same rows. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.index_figures import latency_at, named, p50_at, process_bytes
from cliphouse.cost_model import Hardware, Model
from cliphouse.costs import Wanted, plan

#: The recall at which latencies of indexes are compared, of text queries.
RECALL = 0.95
_INDEXES = ("hnsw", "ivf")
#: By how much of a measurement the model may be off.
WITHIN = 0.25


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity of so many rows, in seconds or bytes: as measured, and as the model says."""

    what: str
    rows: int
    measured: float
    predicted: float

    @property
    def off(self) -> float:
        """By how much of the measurement the model is off: 0.1 is a tenth too much."""
        return self.predicted / self.measured - 1


def medians(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One point for each part and number of rows, whose figures are the medians over its rounds."""
    rounds: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for each in points:
        rounds.setdefault((each["part"], each["rows"]), []).append(each)
    return [_median(each) for each in rounds.values()]


def _median(values: Sequence[Any]) -> Any:
    """The median of each number, in values that have all the same shape; of the rest, the first."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: _median([each[key] for each in values]) for key in first if key != "stamp"}
    if isinstance(first, list):
        return [_median(each) for each in zip(*values, strict=True)]
    if isinstance(first, int | float) and not isinstance(first, bool):
        middle = statistics.median(values)
        return int(middle) if isinstance(first, int) else middle
    return first


def of_points(points: Iterable[Mapping[str, Any]], dim: int, model: Model, hardware: Hardware) -> list[Figure]:
    """The points of a fit, or others measured in the same way."""
    measured = [(what, point["rows"], value) for point in points for what, value in _of_point(point) if value]
    return _figures(measured, dim, model, hardware)


def of_indexes(result: Mapping[str, Any], model: Model, hardware: Hardware) -> list[Figure]:
    """A run of the kind "indexes", on as many cores and with as much memory as it had."""
    run = result["parameters"]
    machine = {name: result["machine"][name] for name in ("cores", "memory_bytes")}
    here = Hardware(disk_read=hardware.disk_read, disk_write=hardware.disk_write, **machine)
    rows, systems = run["rows"] * run["shards"], {name: named(result, f"cliphouse_{name}") for name in _INDEXES}
    exact = named(result, "cliphouse_exact")
    loads = [system["build"]["load_seconds"] for system in (exact, *systems.values()) if system]
    measured = [("load", statistics.median(loads))] if loads else []
    if latency := p50_at(exact, "text", 0.0):
        measured.append(("exact latency", latency / 1000))
    for kind, system in systems.items():
        if system:
            measured.append((f"{kind} build", system["build"]["build_seconds"]))
            measured.append((f"{kind} disk", system["build"]["index_bytes"]))
            measured.append((f"{kind} memory", process_bytes(system)))
        if latency := p50_at(system, "text", RECALL):
            measured.append((f"{kind} latency", latency / 1000))
    return _figures([(what, rows, value) for what, value in measured], run["dim"], model, here)


def _of_point(point: Mapping[str, Any]) -> Iterable[tuple[str, float | None]]:
    part = point["part"]
    if "resident_bytes" in point:
        yield f"{part} memory", point["resident_bytes"]
    if part in ("exact", "load"):
        yield "load", point["load_seconds"]
    if part == "exact":
        yield "table disk", point["table_bytes"]
        yield "exact latency", point["cached"]["p50_seconds"]
    if part in _INDEXES:
        yield f"{part} build", point["build_seconds"]
        yield f"{part} disk", point["index_bytes"]
        yield f"{part} latency", latency_at([(one["recall"], one["p50_seconds"]) for one in point["efforts"]], RECALL)


def _figures(measured: Iterable[tuple[str, int, float]], dim: int, model: Model, hardware: Hardware) -> list[Figure]:
    figures = [
        Figure(what, rows, value, _predicted(what, rows, dim, model, hardware)) for what, rows, value in measured
    ]
    return sorted(figures, key=lambda figure: (figure.what, figure.rows))


def _predicted(what: str, rows: int, dim: int, model: Model, hardware: Hardware) -> float:
    found = plan(Wanted(rows=rows, dim=dim, recall=RECALL), hardware, model)
    kind, _, quantity = what.partition(" ")
    if what in ("load", "table disk"):
        return found.load_seconds if what == "load" else found.table_bytes
    cost = next(each for each in found.costs if each.kind == kind)
    return {
        "build": cost.build_seconds,
        "disk": cost.disk_bytes - found.table_bytes,
        "latency": cost.latency_seconds,
        "memory": cost.memory_bytes,
    }[quantity]


def worst(figures: Sequence[Figure]) -> float:
    """By how much the model is off where it is off most."""
    return max(abs(figure.off) for figure in figures)
