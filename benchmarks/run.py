"""Carry out one run and write its result.

    python -m benchmarks.run [RUN] [--data DIR] [--out DIR] [--scratch DIR]

RUN is a name in benchmarks/runs or the path of a TOML file. All systems are measured in this one process, in rounds: in
each round every system answers a batch of queries, and the order of the systems shifts by one from round to round, so
that what else the machine does falls on all of them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import facts, laion_like, systems, truth
from benchmarks.files import HERE, read_parameters, say, write_result
from benchmarks.systems import System
from cliphouse import Collection, LoadReport
from cliphouse.measures import latency_summary, recall_at_k

PACKAGES = ("chdb", "chdb-core", "clickhouse-connect", "numpy", "pyarrow", "faiss-cpu")
SYSTEM_NAMES = ("cliphouse", "cliphouse_float32", "tutorial", "faiss")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to measure: one shard of `rows` rows drawn with `seed`, searched for `k` results.

    `queries` text embeddings, drawn with `query_seed`, are measured after `warm_up` others; what storage formats do to
    distances is measured, in NumPy, on `storage_queries` of them, for it takes more to tell formats apart. In each of
    `rounds` rounds a system answers the next `batch[system]` queries, beginning again when all were asked. `left_out`
    says what the run does not measure and why; the report repeats it.
    """

    name: str
    title: str
    rows: int
    seed: int
    dim: int
    k: int
    queries: int
    storage_queries: int
    query_seed: int
    warm_up: int
    rounds: int
    faiss_threads: int
    batch: Mapping[str, int]
    left_out: Sequence[str]

    def __post_init__(self) -> None:
        if set(self.batch) != set(SYSTEM_NAMES):
            raise ValueError(f"[batch] must name {', '.join(SYSTEM_NAMES)}, got {', '.join(self.batch)}")
        if self.query_seed == self.seed:
            raise ValueError("query_seed must differ from seed: queries are not rows of the shard")
        short = [name for name, size in self.batch.items() if size * self.rounds < self.queries]
        if short:
            raise ValueError(f"batch x rounds must reach all {self.queries} queries; it does not for {short}")


def execute(run: Run, data: Path, scratch: Path) -> dict[str, Any]:
    """The result of `run` over the shard in `data`; databases are made in `scratch` and removed."""
    started, load_before = time.perf_counter(), os.getloadavg()
    date, commit = datetime.now(UTC).isoformat(timespec="seconds"), facts.commit()  # others may commit meanwhile
    say(f"{run.name}: reading {data}")
    files = facts.data_files(data)
    source = np.load(data / "img_emb_0.npy", mmap_mode="r")
    if source.shape != (run.rows, run.dim):
        raise ValueError(f"{data} holds a shard of shape {source.shape}; the run wants {(run.rows, run.dim)}")
    drawn = laion_like.text_queries(run.warm_up + max(run.queries, run.storage_queries), run.query_seed)
    warm_up, drawn = drawn[: run.warm_up], drawn[run.warm_up :]
    queries, storage_queries = drawn[: run.queries], drawn[: run.storage_queries]
    say("finding the true neighbours")
    exact = truth.nearest(source, queries, k=run.k)
    say(f"measuring what rounding does to {len(storage_queries)} queries")
    effect = truth.storage_effect(source, storage_queries, truth.nearest(source, storage_queries, k=run.k))
    with (
        tempfile.TemporaryDirectory(dir=scratch, prefix="chdb-") as db,
        Collection.open(db, name="laion") as collection,
    ):
        wide = Collection(collection.engine, "laion_f32")
        loads = fill(collection, wide, data)
        measured = [
            systems.cliphouse_exact(collection, name="cliphouse", k=run.k),
            systems.cliphouse_exact(wide, name="cliphouse_float32", k=run.k),
            systems.tutorial(systems.make_tutorial_table(wide), data, k=run.k),
            systems.faiss_flat(source, k=run.k, threads=run.faiss_threads),
        ]
        latencies, answers = measure(measured, run, warm_up, queries)
        full_scans = systems.count_full_scans(collection, queries, k=run.k)
        capabilities = collection.engine.capabilities
    return {
        "run": run.name,
        "date": date,
        **commit,
        "machine": facts.machine(),
        "versions": facts.versions(capabilities.version, PACKAGES),
        "parameters": asdict(run),
        "data": files,
        "load": loads,
        "systems": [
            describe(system, latencies[system.name], recalls(answers[system.name], source, queries, exact), run.k)
            for system in measured
        ],
        "full_scans": {"queries": len(queries), "count": full_scans},
        "storage_effect": effect,
        "process": {
            "seconds": time.perf_counter() - started,
            "peak_memory_bytes": facts.peak_memory_bytes(),
            "uncompressed_cache_bytes": capabilities.uncompressed_cache_bytes,
            "load_average_before": load_before[0],
            "load_average_after": os.getloadavg()[0],
        },
    }


def fill(collection: Collection, wide: Collection, data: Path) -> dict[str, Any]:
    """Load both collections; what each load took."""
    say("loading, stored as bfloat16")
    narrow_report = systems.load_collection(collection, data, "bfloat16")
    say("loading, stored as float32, and copying to the tutorial's table")
    wide_report = systems.load_collection(wide, data, "float32")

    def facts_of(report: LoadReport) -> dict[str, Any]:
        return {"rows": report.rows, "seconds": report.seconds, "rows_per_second": report.rows / report.seconds}

    return {
        "cliphouse": facts_of(narrow_report) | {"disk_bytes": dict(collection.status().disk_bytes)},
        "cliphouse_float32": facts_of(wide_report) | {"disk_bytes": dict(wide.status().disk_bytes)},
    }


def measure(
    measured: Sequence[System], run: Run, warm_up: NDArray[np.float32], queries: NDArray[np.float32]
) -> tuple[dict[str, list[float]], dict[str, dict[int, list[int]]]]:
    """For each system: all latencies in ms in the order they were taken, and the rows found for each query."""
    for system in measured:
        say(f"warming up {system.label}")
        for vector in warm_up:
            system.search(vector)
    latencies: dict[str, list[float]] = {system.name: [] for system in measured}
    answers: dict[str, dict[int, Any]] = {system.name: {} for system in measured}
    for number in range(run.rounds):
        say(f"round {number + 1} of {run.rounds}")
        shift = number % len(measured)
        for system in (*measured[shift:], *measured[:shift]):
            size = run.batch[system.name]
            for query in (index % len(queries) for index in range(number * size, (number + 1) * size)):
                start = time.perf_counter()
                answer = system.search(queries[query])
                latencies[system.name].append((time.perf_counter() - start) * 1000)
                answers[system.name][query] = answer
    found = {
        system.name: {query: system.rows(answer) for query, answer in answers[system.name].items()}
        for system in measured
    }
    return latencies, found


def recalls(
    found: Mapping[int, list[int]], source: NDArray[np.floating], queries: NDArray[np.float32], exact: truth.Neighbours
) -> list[float]:
    """recall@k of each query that was asked."""
    values = []
    for query, rows in found.items():
        if len(set(rows)) < len(rows):
            raise RuntimeError(f"query {query}: a row was found twice: {rows}")
        distances = truth.true_distances(source, queries[query], np.array(rows, np.int64))
        values.append(recall_at_k(distances, exact.distances[query], k=exact.rows.shape[1]))
    return values


def describe(system: System, latencies_ms: list[float], recall: list[float], k: int) -> dict[str, Any]:
    """One system's part of the result."""
    facts_only = {name: getattr(system, name) for name in ("name", "label", "note", "statement", "place")}
    return {
        **facts_only,
        "vector_bytes": system.vector_bytes,
        "total_bytes": system.total_bytes,
        **latency_summary(latencies_ms),
        f"recall_at_{k}": sum(recall) / len(recall),
        "distinct_queries": len(recall),
        "measured_queries": len(latencies_ms),
        "latencies_ms": [round(each, 4) for each in latencies_ms],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Carry out one run and write its result.")
    parser.add_argument("run", nargs="?", default="exact-1m", help="a name in benchmarks/runs, or a TOML file")
    parser.add_argument("--data", type=Path, help="a directory with shard 0; drawn and kept if not given")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where the result goes")
    parser.add_argument("--scratch", type=Path, default=laion_like.DATA, help="where databases are made and removed")
    options = parser.parse_args()
    run = Run(**read_parameters(options.run))
    data = options.data or laion_like.cached(run.rows, run.seed)
    say(f"wrote {write_result(execute(run, data, options.scratch), options.out)}")


if __name__ == "__main__":
    main()
