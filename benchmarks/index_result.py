"""The result of an index run, put together of what its processes told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import facts
from benchmarks.index_figures import judged, measured
from benchmarks.index_peers import SYSTEMS
from benchmarks.index_run import Run
from benchmarks.index_work import KINDS
from benchmarks.report import newest_results
from cliphouse.measures import latency_summary, percentile

PACKAGES = ("numpy", "pyarrow")  # besides those of the systems
Outcome = Mapping[str, Any]


def assemble(
    run: Run,
    outcomes: Mapping[str, Outcome],
    *,
    data: Mapping[str, Any],
    shares: Mapping[str, float],
    mixed: Iterable[str] = (),
    smaller: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The result of `run`, of the outcomes of all its systems.

    `shares` is the share of the rows that each filter lets through, `mixed` what was measured in another way than the
    rest, and `smaller` the result of a run of fewer rows.
    """
    engines = [outcomes[f"{name}-build"]["told"]["version"] for name in run.systems if SYSTEMS[name].ours]
    packages = dict.fromkeys((*PACKAGES, *(package for name in run.systems for package in SYSTEMS[name].packages)))
    took = {
        (outcome["system"], outcome["phase"]): _seconds(outcome) for outcome in outcomes.values()
    }  # a shared one once
    result: dict[str, Any] = {
        "run": run.name,
        "kind": run.kind,
        "date": now(),
        **facts.commit(),
        "machine": facts.machine(),
        "versions": facts.versions(engines[0] if engines else "not in this run", tuple(packages)),
        "parameters": asdict(run),
        "data": dict(data),
        "filters": {name: {"where": run.where(name), "share": share} for name, share in shares.items()},
        "systems": [describe(run, name, outcomes) for name in run.systems],
        "mixed": sorted(mixed),
        "process": {
            "seconds": sum(took.values()),
            "load_average_before": max(outcome["load_average_before"] for outcome in outcomes.values()),
            "load_average_after": max(outcome["load_average_after"] for outcome in outcomes.values()),
        },
    }
    result["targets"] = judged(run.targets, measured(result, smaller))
    if smaller:
        result["grown_from"] = {name: smaller[name] for name in ("run", "commit", "date")}
    return result


def describe(run: Run, name: str, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """One system's part of the result: what its processes told, all rounds together."""
    system, built = SYSTEMS[name], outcomes[f"{name}-build"]
    rounds = [outcomes[f"{name}-search-{number}"] for number in range(run.rounds)]
    efforts = []
    for number, effort in enumerate(run.efforts[name]):
        told = [each["told"]["efforts"][number] for each in rounds]
        filters = {each: summed([one["filters"][each] for one in told]) for each in told[0]["filters"]}
        kinds = {kind: summed([one[kind] for one in told]) for kind in KINDS}
        efforts.append({"effort": dict(effort), **kinds, "filters": filters})
    circumstances = ("phase", "commit", "dirty", "started", "ended", "load_average_before", "load_average_after")
    return {
        "name": name,
        "label": system.label,
        "note": system.note,
        "options": run.options.get(name, {}),
        "build": built["told"],
        "efforts": efforts,
        "memory": [each["told"]["memory"] for each in rounds],
        "measured": [{each: outcome[each] for each in circumstances} for outcome in (built, *rounds)],
    }


def summed(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same queries of several rounds as one: percentiles of all latencies, and the median of each round."""
    latencies = [latency for each in rounds for latency in each["latencies_ms"]]
    paths: dict[str, int] = {}
    for each in rounds:
        for path, count in each["paths"].items():
            paths[path] = paths.get(path, 0) + count
    return {
        "recall": sum(each["recall"] for each in rounds) / len(rounds),
        **latency_summary(latencies),
        "round_p50_ms": [percentile(each["latencies_ms"], 50) for each in rounds],
        "calls": len(latencies),
        "paths": paths,
    }


def smaller_result(run: Run, directories: Iterable[Path]) -> Mapping[str, Any] | None:
    """The newest result of the run of fewer rows, in the first directory that has one."""
    for directory in directories:
        for _, result in newest_results(directory):
            if run.grown_from and result["run"] == run.grown_from:
                return result
    return None


def now() -> str:
    """The time, to the second, as results have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _seconds(outcome: Outcome) -> float:
    started, ended = (datetime.fromisoformat(outcome[name]) for name in ("started", "ended"))
    return (ended - started).total_seconds()
