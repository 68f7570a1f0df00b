"""Build or search one system, in a process that does nothing else.

    python -m benchmarks.index_work JOB.json

Prints one line of JSON when it is done. The job says all; `indexes.Bench` writes it down.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import truth
from benchmarks.index_peers import SYSTEMS
from benchmarks.index_systems import Effort, Opened, Source
from benchmarks.watch import memory
from cliphouse.measures import recall_at_k

#: What is looked for in the image embeddings: captions, and pictures.
KINDS = ("text", "image")
_DIGITS = 4  # of milliseconds


def build(job: Mapping[str, Any]) -> dict[str, Any]:
    """Fill the place of one system."""
    place = Path(job["place"])
    place.mkdir(parents=True)
    return asdict(SYSTEMS[job["system"]].build(source_of(job), place, job["options"]))


def search(job: Mapping[str, Any]) -> dict[str, Any]:
    """Ask one system all queries with each effort, and then with each filter.

    Memory is taken after searches in a few rows, and again when all efforts were made: what is between is the index.
    Pages of files count apart, which the system takes back when it needs them.
    """
    system, source, k = SYSTEMS[job["system"]], source_of(job), job["k"]
    with np.load(job["inputs"]) as file:
        inputs = dict(file)
    efforts: Sequence[Effort] = job["efforts"]
    shift = job["round"] % len(efforts)
    order = [*range(shift, len(efforts)), *range(shift)]
    with system.open(Path(job["place"]), source, k) as opened:
        for vector in inputs["warm_up"]:
            opened.small(vector)
        before = memory(os.getpid())
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that of the searches
        for number in order:
            for vector in inputs["warm_up"]:
                opened.search(vector, efforts[number], None)
        answers = {
            number: {kind: ask(opened, inputs[kind], efforts[number], None) for kind in KINDS} for number in order
        }
        after = memory(os.getpid())
        filtered = {
            (number, name): ask(opened, inputs["text"][: job["filter_queries"]], efforts[number], each["where"])
            for number in order
            for name, each in job["filters"].items()
        }
    found = []
    for number, effort in enumerate(efforts):
        kinds = {
            kind: judged(answers[number][kind], source, inputs[kind], inputs[f"{kind}_truth"], k) for kind in KINDS
        }
        filters = {
            name: judged(filtered[number, name], source, inputs["text"], inputs[f"{name}_truth"], k, inputs[name])
            for name in job["filters"]
        }
        found.append({"effort": effort, **kinds, "filters": filters})
    return {
        "efforts": found,
        "memory": {
            "process_bytes": after["RssAnon"],
            "engine_bytes": before["RssAnon"],
            "mapped_bytes": after["RssFile"],
            "peak_bytes": after["VmHWM"],
        },
    }


def ask(opened: Opened, queries: NDArray[np.float32], effort: Effort, where: str | None) -> dict[str, Any]:
    """The milliseconds of each query, the rows it found, and what answered how often."""
    latencies, rows, paths = [], [], Counter[str]()
    for vector in queries:
        start = time.perf_counter()
        answer = opened.search(vector, effort, where)
        latencies.append(round((time.perf_counter() - start) * 1000, _DIGITS))
        rows.append(opened.rows(answer))
        paths[opened.path(answer)] += 1
    return {"latencies_ms": latencies, "rows": rows, "paths": paths}


def judged(
    asked: Mapping[str, Any],
    source: Source,
    queries: NDArray[np.float32],
    exact: NDArray[np.float64],
    k: int,
    allowed: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """What was asked, with its recall instead of its rows; `allowed` are the rows that a filter lets through.

    Raises:
        RuntimeError: a row was found twice, or one that the filter does not let through.
    """
    recalls = []
    for number, (query, rows) in enumerate(zip(queries, asked["rows"], strict=False)):
        if len(set(rows)) < len(rows):
            raise RuntimeError(f"query {number}: a row was found twice: {rows}")
        if allowed is not None and not allowed[rows].all():
            raise RuntimeError(f"query {number}: a row does not pass the filter: {rows}")
        distances = np.empty(0)
        if rows:
            distances = truth.true_distances(source.take(rows), query, np.arange(len(rows)))
        recalls.append(recall_at_k(distances, exact[number], k=k))
    return {
        "recall": sum(recalls) / len(recalls),
        "latencies_ms": asked["latencies_ms"],
        "paths": {path: count for path, count in asked["paths"].items() if path},
    }


def source_of(job: Mapping[str, Any]) -> Source:
    """The shards that the job is about."""
    told = job["source"]
    return Source(
        directory=Path(told["directory"]), rows=told["rows"], shards=told["shards"], small=Path(told["small"])
    )


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps({"build": build, "search": search}[job["phase"]](job)))


if __name__ == "__main__":
    main()
