"""What is computed from an index result: time at equal recall, and what was asked for. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

Result = Mapping[str, Any]
SystemResult = Mapping[str, Any]

#: What a result is asked, by the name of the target in the run's file: in words, and whether more is better.
TARGETS: Mapping[str, tuple[str, bool]] = {
    "build_ratio": ("build of the HNSW, over that of ivf", True),
    "resident_bytes": ("memory of ivf beyond the engine", False),
    "extra_disk": ("disk of ivf beyond one more copy of the vectors, as a share of it", False),
    "exact_ratio": ("exact search over ivf, p50 of text queries at the recall asked", True),
    "hnsw_ratio": ("ivf over the HNSW, asked in the quicker way, p50 of text queries at the recall asked", False),
    "growth": ("exact search over ivf as above, here over that in the run of fewer rows", True),
}


def latency_at(curve: Iterable[tuple[float, float]], recall: float) -> float | None:
    """The milliseconds at which `curve`, points of (recall, milliseconds), reaches `recall`; None if it never does.

    Points that another one beats in both count for nothing. Between two that are left, the logarithm of the time is
    taken to grow evenly with that of the share that is missed: what a curve does, so that one with fewer points gains
    nothing and loses nothing. A curve that begins above `recall` takes the milliseconds of its first point: less effort
    was not tried.
    """
    front: list[tuple[float, float]] = []
    for found, milliseconds in sorted(curve, key=lambda point: (point[1], -point[0])):
        if not front or found > front[-1][0]:
            front.append((found, milliseconds))
    if not front or front[-1][0] < recall:
        return None
    if front[0][0] >= recall:
        return front[0][1]
    for (low, quick), (high, slow) in pairwise(front):
        if low < recall <= high:
            along = _effort(low, recall) / _effort(low, high)
            return float(quick * (slow / quick) ** along)
    raise AssertionError("the front rises from below the recall to it")


def _effort(low: float, high: float) -> float:
    """How far it is from one recall to another; one that misses less than a thousandth misses that."""
    return math.log((1.001 - low) / (1.001 - high))


def curve(system: SystemResult, kind: str) -> list[tuple[float, float]]:
    """(recall, median milliseconds) of each effort, for the queries of one kind."""
    return [(effort[kind]["recall"], effort[kind]["p50_ms"]) for effort in system["efforts"]]


def p50_at(system: SystemResult | None, kind: str, recall: float) -> float | None:
    """`latency_at` of a system, of which there may be none."""
    return latency_at(curve(system, kind), recall) if system else None


def named(result: Result, name: str) -> SystemResult | None:
    """The system of that name."""
    return next((system for system in result["systems"] if system["name"] == name), None)


def resident_bytes(system: SystemResult) -> float:
    """What the process held after its searches, beyond what it held when it had searched next to nothing.

    Of neither, the pages of files that were mapped.
    """
    return float(median(each["process_bytes"] - each["engine_bytes"] for each in system["memory"]))


def process_bytes(system: SystemResult) -> float:
    """What the process held after its searches, without the pages of files that were mapped."""
    return float(median(each["process_bytes"] for each in system["memory"]))


def mapped_bytes(system: SystemResult) -> float:
    """The pages of mapped files that the process had touched after its searches."""
    return float(median(each["mapped_bytes"] for each in system["memory"]))


def extra_disk(system: SystemResult) -> float:
    """Disk of an index beyond one more copy of the vectors, as a share of that copy."""
    built = system["build"]
    return float((built["index_bytes"] - built["vector_bytes"]) / built["vector_bytes"])


def exact_ratio(result: Result) -> float | None:
    """How many times as long an exact search takes as one of the ivf index that reaches the recall asked."""
    recall = result["parameters"]["recall"]
    exact, ivf = (p50_at(named(result, f"cliphouse_{name}"), "text", recall) for name in ("exact", "ivf"))
    return exact / ivf if exact and ivf else None


def measured(result: Result, smaller: Result | None = None) -> dict[str, float | None]:
    """What each target in TARGETS comes to; None where it was not measured, or the recall was not reached."""
    recall = result["parameters"]["recall"]
    ivf, hnsw = named(result, "cliphouse_ivf"), named(result, "cliphouse_hnsw")
    ours = p50_at(ivf, "text", recall)
    both = [p50_at(each, "text", recall) for each in (hnsw, named(result, "tutorial_hnsw"))]
    theirs = min((each for each in both if each), default=None)
    ratio, ratio_before = exact_ratio(result), exact_ratio(smaller) if smaller else None
    return {
        "build_ratio": hnsw["build"]["build_seconds"] / ivf["build"]["build_seconds"] if hnsw and ivf else None,
        "resident_bytes": resident_bytes(ivf) if ivf else None,
        "extra_disk": extra_disk(ivf) if ivf else None,
        "exact_ratio": ratio,
        "hnsw_ratio": ours / theirs if ours and theirs else None,
        "growth": ratio / ratio_before if ratio and ratio_before else None,
    }


def judged(asked: Mapping[str, float], found: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Each target that is asked, what was measured, and whether it is met; `met` is None where it was not measured."""
    judgements = []
    for name, bound in asked.items():
        value, more = found[name], TARGETS[name][1]
        met = None if value is None else value >= bound if more else value <= bound
        judgements.append({"name": name, "asked": bound, "measured": value, "met": met})
    return judgements


#: What systems are compared by; less is better in each. None where it was not reached.
MEASURES: Sequence[tuple[str, Callable[[SystemResult, float], float | None]]] = (
    ("text query", lambda system, recall: p50_at(system, "text", recall)),
    ("image query", lambda system, recall: p50_at(system, "image", recall)),
    ("build", lambda system, _: system["build"]["build_seconds"]),
    ("memory", lambda system, _: process_bytes(system)),
    ("disk", lambda system, _: system["build"]["beside_bytes"]),
)
