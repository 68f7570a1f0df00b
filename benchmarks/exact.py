"""Measure exact search of one query and of many at once, beside what the machine's memory gives.

    python -m benchmarks.exact [RUN] [--data DIR] [--out DIR] [--scratch DIR]

In each round every system answers its queries one at a time and then all at once; the order of the systems shifts by
one from round to round. After the last, an array larger than any cache is read and copied.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks import facts, laion_like, systems, truth
from benchmarks.files import HERE, read_parameters, say, write_result
from cliphouse import Collection
from cliphouse.measures import latency_summary, recall_at_k

PACKAGES = ("chdb", "chdb-core", "clickhouse-connect", "numkong", "numpy", "faiss-cpu", "duckdb")
#: Far more than any cache.
_MEMORY_BYTES = 2**30
#: Rows that faiss and DuckDB take at a time.
_BLOCK_ROWS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to measure: one shard of `rows` rows drawn with `seed`, searched for `k` results.

    `queries` text embeddings, drawn with `query_seed`, are asked one at a time and all at once, after `warm_up` others,
    in each of `rounds` rounds; of DuckDB, which is slow, `duckdb_queries` one at a time. faiss, DuckDB and the reading
    of memory have `threads`; cliphouse takes all cores. `left_out` is repeated by the report.
    """

    name: str
    kind: Literal["exact"]
    title: str
    rows: int
    seed: int
    dim: int
    k: int
    queries: int
    query_seed: int
    warm_up: int
    rounds: int
    threads: int
    duckdb_queries: int
    left_out: Sequence[str]

    def __post_init__(self) -> None:
        if self.kind != "exact":
            raise ValueError(f"this measures runs of the kind 'exact', not {self.kind!r}")
        if self.query_seed == self.seed:
            raise ValueError("query_seed must differ from seed: queries are not rows of the shard")


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One way to search: `one` and `many` are what the clock runs over; both answer with row numbers.

    Without `many`, all at once is one after the other. `singles` queries are asked one at a time. `scanned_bytes` is
    what a single query reads.
    """

    name: str
    label: str
    note: str
    one: Callable[[NDArray[np.float32]], list[int]]
    many: Callable[[NDArray[np.float32]], list[list[int]]] | None
    singles: int
    scanned_bytes: int


def cliphouse_system(collection: Collection, run: Run) -> System:
    info = collection.info()
    return System(
        name="cliphouse",
        label=f"cliphouse exact, {info.storage}",
        note="`Collection.search` and `Collection.search_many`, with the metadata of every row found",
        one=lambda vector: [hit.id for hit in collection.search(vector, k=run.k, exact=True)],
        many=lambda vectors: [
            [hit.id for hit in hits] for hits in collection.search_many(vectors, k=run.k, exact=True)
        ],
        singles=run.queries,
        scanned_bytes=run.rows * run.dim * 2,
    )


def faiss_system(source: NDArray[np.floating], run: Run) -> System:
    faiss: Any = import_module("faiss")
    faiss.omp_set_num_threads(run.threads)
    index = faiss.IndexFlatIP(run.dim)
    for start in range(0, run.rows, _BLOCK_ROWS):
        index.add(unit(source[start : start + _BLOCK_ROWS].astype(np.float32)))

    def many(vectors: NDArray[np.float32]) -> list[list[int]]:
        found: list[list[int]] = index.search(unit(vectors), run.k)[1].tolist()
        return found

    return System(
        name="faiss",
        label="faiss IndexFlatIP",
        note=f"float32 in memory, {run.threads} threads, row numbers only",
        one=lambda vector: many(vector[None])[0],
        many=many,
        singles=run.queries,
        scanned_bytes=run.rows * run.dim * 4,
    )


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def duckdb_system(source: NDArray[np.floating], run: Run, place: Path) -> tuple[System, Any]:
    """DuckDB on a table of fixed-size float arrays, and its connection, to be closed."""
    import pyarrow as pa

    duckdb: Any = import_module("duckdb")
    connection = duckdb.connect(str(place / "vectors.duckdb"), config={"threads": run.threads})
    connection.execute(f"CREATE TABLE vectors (id BIGINT, embedding FLOAT[{run.dim}])")
    for start in range(0, run.rows, _BLOCK_ROWS):
        block = source[start : start + _BLOCK_ROWS].astype(np.float32)
        rows = pa.table(
            {
                "id": np.arange(start, start + len(block)),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), run.dim),
            }
        )
        connection.register("rows", rows)
        connection.execute("INSERT INTO vectors SELECT * FROM rows")
    statement = f"SELECT id FROM vectors ORDER BY array_cosine_distance(embedding, ?::FLOAT[{run.dim}]) LIMIT {run.k}"
    system = System(
        name="duckdb",
        label="DuckDB",
        note=f"FLOAT[{run.dim}] in a table on disk, `array_cosine_distance`, {run.threads} threads",
        one=lambda vector: [int(row[0]) for row in connection.execute(statement, [vector.tolist()]).fetchall()],
        many=None,
        singles=run.duckdb_queries,
        scanned_bytes=run.rows * run.dim * 4,
    )
    return system, connection


def memory_bandwidth(threads: int) -> dict[str, float]:
    """Gigabytes a second that `threads` threads read, and that they copy (bytes read and bytes written), at best."""
    data = np.ones(_MEMORY_BYTES // 8, np.float64)
    copy = np.empty_like(data)
    parts = list(zip(np.array_split(data, threads), np.array_split(copy, threads), strict=True))
    best = {"read": np.inf, "copy": np.inf}
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            for name, work in (
                ("read", lambda part: part[0].max()),
                ("copy", lambda part: np.copyto(part[1], part[0])),
            ):
                started = time.perf_counter()
                list(pool.map(work, parts))
                best[name] = min(best[name], time.perf_counter() - started)
    return {
        "read_bytes_per_second": _MEMORY_BYTES / best["read"],
        "copy_bytes_per_second": 2 * _MEMORY_BYTES / best["copy"],
    }


def execute(run: Run, data: Path, scratch: Path) -> dict[str, Any]:
    """The result of `run` over the shard in `data`; databases are made in `scratch` and removed."""
    started, load_before = time.perf_counter(), os.getloadavg()
    date, commit = datetime.now(UTC).isoformat(timespec="seconds"), facts.commit()
    say(f"{run.name}: reading {data}")
    files = facts.data_files(data)
    source = np.load(data / "img_emb_0.npy", mmap_mode="r")
    if source.shape != (run.rows, run.dim):
        raise ValueError(f"{data} holds a shard of shape {source.shape}; the run wants {(run.rows, run.dim)}")
    drawn = laion_like.text_queries(run.warm_up + run.queries, run.query_seed)
    warm_up, queries = drawn[: run.warm_up], drawn[run.warm_up :]
    say("finding the true neighbours")
    exact = truth.nearest(source, queries, k=run.k)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch, prefix="exact-")))
        collection = stack.enter_context(Collection.open(place / "chdb", name="laion"))
        say("loading cliphouse, faiss and DuckDB")
        systems.load_collection(collection, data, "bfloat16")
        duckdb, connection = duckdb_system(source, run, place)
        stack.callback(connection.close)
        measured = [cliphouse_system(collection, run), faiss_system(source, run), duckdb]
        taken = {system.name: measure_first(system, warm_up) for system in measured}
        for number in range(run.rounds):
            say(f"round {number + 1} of {run.rounds}")
            shift = number % len(measured)
            for system in (*measured[shift:], *measured[:shift]):
                taken[system.name].ask(system, queries)
        bandwidth = {str(threads): memory_bandwidth(threads) for threads in (1, run.threads)}
        version = collection.engine.capabilities.version
    return {
        "run": run.name,
        "kind": run.kind,
        "date": date,
        **commit,
        "machine": facts.machine(),
        "versions": facts.versions(version, PACKAGES),
        "parameters": asdict(run),
        "data": files,
        "memory": bandwidth,
        "systems": [describe(system, taken[system.name], source, queries, exact, run) for system in measured],
        "process": {
            "seconds": time.perf_counter() - started,
            "peak_memory_bytes": facts.peak_memory_bytes(),
            "load_average_before": load_before[0],
            "load_average_after": os.getloadavg()[0],
        },
    }


class Taken:
    """What one system took and answered."""

    def __init__(self) -> None:
        self.single_ms: list[float] = []
        self.batch_seconds: list[float] = []
        self.single_rows: list[list[int]] = []
        self.batch_rows: list[list[int]] = []

    def ask(self, system: System, queries: NDArray[np.float32]) -> None:
        """One round: the queries of `system` one at a time, then all of them at once."""
        self.single_rows = []
        for query in queries[: system.singles]:
            started = time.perf_counter()
            self.single_rows.append(system.one(query))
            self.single_ms.append((time.perf_counter() - started) * 1000)
        if system.many is None:
            return
        started = time.perf_counter()
        self.batch_rows = system.many(queries)
        self.batch_seconds.append(time.perf_counter() - started)


def measure_first(system: System, warm_up: NDArray[np.float32]) -> Taken:
    """Ask what is not measured."""
    say(f"warming up {system.label}")
    for query in warm_up:
        system.one(query)
    if system.many is not None:
        system.many(np.tile(warm_up, (4, 1)))
    return Taken()


def describe(
    system: System,
    taken: Taken,
    source: NDArray[np.floating],
    queries: NDArray[np.float32],
    exact: truth.Neighbours,
    run: Run,
) -> dict[str, Any]:
    """One system's part of the result."""
    summary = latency_summary(taken.single_ms)
    # All at once, where a system has no such thing, is one after the other.
    batch = sorted(taken.batch_seconds)[len(taken.batch_seconds) // 2] if taken.batch_seconds else None
    seconds = batch if batch is not None else run.queries * summary["p50_ms"] / 1000

    def recall(found: Sequence[list[int]]) -> float:
        values = [
            recall_at_k(truth.true_distances(source, query, np.array(rows, np.int64)), exact.distances[number], k=run.k)
            for number, (query, rows) in enumerate(zip(queries, found, strict=False))
        ]
        return sum(values) / len(values)

    return {
        **{name: getattr(system, name) for name in ("name", "label", "note", "scanned_bytes")},
        **summary,
        "scan_bytes_per_second": system.scanned_bytes / (summary["p50_ms"] / 1000),
        "batch_measured": batch is not None,
        "batch_seconds": seconds,
        "batch_gain": run.queries * summary["p50_ms"] / 1000 / seconds,
        f"recall_at_{run.k}": recall(taken.single_rows),
        f"batch_recall_at_{run.k}": recall(taken.batch_rows or taken.single_rows),
        "same_answers": sum(map(list.__eq__, taken.single_rows, taken.batch_rows)),
        "latencies_ms": [round(each, 4) for each in taken.single_ms],
        "batches_seconds": [round(each, 4) for each in taken.batch_seconds],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure exact search of one query and of many at once.")
    parser.add_argument("run", nargs="?", default="many-1m", help="a name in benchmarks/runs, or a TOML file")
    parser.add_argument("--data", type=Path, help="a directory with shard 0; drawn and kept if not given")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where the result goes")
    parser.add_argument("--scratch", type=Path, default=laion_like.DATA, help="where databases are made and removed")
    options = parser.parse_args()
    run = Run(**read_parameters(options.run))
    data = options.data or laion_like.cached(run.rows, run.seed)
    say(f"wrote {write_result(execute(run, data, options.scratch), options.out)}")


if __name__ == "__main__":
    main()
