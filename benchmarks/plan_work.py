"""One measured point for the cost model, in a process of its own, because a process can open one database.

    python -m benchmarks.plan_work JOB.json
    python -m benchmarks.plan_work --resident JOB.json

The job names a `part`, the `rows` to take from the head of the shard in `data`, and a `place` for the database, which
is removed at the end. What was measured goes to standard output as JSON. Memory is that of one more process, which does
nothing but open the database and search.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks import laion_like, truth
from benchmarks.files import HERE
from benchmarks.systems import settle
from benchmarks.watch import memory
from cliphouse import Collection, Hits, IndexConfig, IvfConfig, SearchParams
from cliphouse.clusters import Assigner, unit_rows
from cliphouse.costs import met_centroids
from cliphouse.hardware import disk_speed, usable_cores
from cliphouse.measures import percentile, recall_at_k
from cliphouse.types import ROWS_PER_SHARD, IndexKind, Query, SearchPath
from cliphouse.vectors import round_to_bfloat16

Job = Mapping[str, Any]
_COLD_SEARCHES = 5


def cut(source: Path, directory: Path, rows: int) -> Path:
    """A shard of the first `rows` rows of the shard in `source`."""
    directory.mkdir(parents=True)
    for name in ("img_emb_0.npy", "text_emb_0.npy"):
        np.save(directory / name, np.load(source / name, mmap_mode="r")[:rows])
    pq.write_table(pq.read_table(source / "metadata_0.parquet").slice(0, rows), directory / "metadata_0.parquet")
    return directory


class Point:
    """A collection of the job's rows, and the queries to ask it."""

    def __init__(self, collection: Collection, job: Job, images: Any) -> None:
        self.collection, self.images, self._k = collection, images, job["k"]
        self._place = Path(job["place"])
        queries = laion_like.text_queries(job["warm_up"] + job["queries"], job["query_seed"])
        self._warm_up, self._queries = queries[: job["warm_up"]], queries[job["warm_up"] :]
        # An index is to find what an exact search finds: what storing costs is no miss of its own.
        self._exact = truth.nearest(images, self._queries, k=self._k, storing=round_to_bfloat16).distances

    def ask(self, path: SearchPath, effort: Mapping[str, int]) -> dict[str, float]:
        """Median latency and mean recall of the queries, by an index with this effort, or exactly."""
        options: dict[str, Any] = {"exact": True} if path == "exact" else {"kind": path, **effort}
        params = SearchParams(k=self._k, **options)
        for vector in self._warm_up:
            self.collection.search_with(vector, params=params)
        latencies, answers = [], []
        for vector in self._queries:
            start = time.perf_counter()
            answers.append(self.collection.search_with(vector, params=params))
            latencies.append(time.perf_counter() - start)
        return {"p50_seconds": percentile(latencies, 50), "recall": self._recall(answers, path), **effort}

    def first(self, *, cold: bool = False) -> dict[str, float]:
        """Median latency of first searches, which read no cache of the engine; `cold`: nor that of the system."""
        latencies = []
        for vector in self._queries[: _COLD_SEARCHES if cold else None]:
            if cold:
                forget(self._place)
            once = Collection(self.collection.engine, self.collection.name)
            once.info()
            start = time.perf_counter()
            once.search_with(vector, params=SearchParams(k=self._k, exact=True))
            latencies.append(time.perf_counter() - start)
        return {"p50_seconds": percentile(latencies, 50)}

    def _recall(self, answers: list[Hits], path: SearchPath) -> float:
        if other := {hits.plan.path for hits in answers} - {path}:
            raise RuntimeError(f"{path} was asked for, and {', '.join(other)} answered")
        recalls = []
        for query, hits, nearest in zip(self._queries, answers, self._exact, strict=True):
            rows = np.array([hit.id % ROWS_PER_SHARD for hit in hits], np.int64)
            recalls.append(
                recall_at_k(
                    truth.true_distances(self.images, query, rows, storing=round_to_bfloat16), nearest, k=self._k
                )
            )
        return sum(recalls) / len(recalls)


def forget(directory: Path) -> None:
    """Have the system drop what it keeps of these files."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(job: Job) -> dict[str, Any]:
    """What the job asks for."""
    place = Path(job["place"])
    shutil.rmtree(place, ignore_errors=True)
    try:
        source = cut(Path(job["data"]), place / "shard", job["rows"])
        os.sync()
        with Collection.open(place / "db") as collection:
            start = time.perf_counter()
            collection.load(source)
            settle(collection.engine)
            os.sync()
            load_seconds = time.perf_counter() - start
            point = Point(collection, job, np.load(source / "img_emb_0.npy", mmap_mode="r"))
            told = _PARTS[job["part"]](point, job)
            known = {"part": job["part"], "rows": job["rows"], "engine": collection.engine.capabilities.version}
        if job["part"] != "machine":
            told["resident_bytes"] = _resident_bytes(job)
        return {**known, "load_seconds": load_seconds, **told}
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _exact(point: Point, _: Job) -> dict[str, Any]:
    status = point.collection.status()
    paged = point.first()
    return {
        "table_bytes": status.total_bytes,
        "column_bytes": status.disk_bytes["image_embedding"],
        "paged": paged,
        "cold": point.first(cold=True),
        "cached": point.ask("exact", {}),
    }


def _index(kind: IndexKind, point: Point, job: Job) -> dict[str, Any]:
    collection = point.collection
    config: Any = IndexConfig() if kind == "hnsw" else IvfConfig()
    before, start = _table_bytes(collection), time.perf_counter()
    collection.build_index("image", config)
    settle(collection.engine)
    os.sync()
    seconds = time.perf_counter() - start
    return {
        "build_seconds": seconds,
        "index_bytes": _table_bytes(collection) - before,
        "memory_bytes": sum(state.memory_bytes for state in collection.status().indexes),
        "efforts": [point.ask(kind, effort) for effort in job["efforts"]],
    }


def _machine(point: Point, job: Job) -> dict[str, Any]:
    """What the disk does, and seconds of a core for a multiplication or addition while rows are assigned to lists."""
    speeds = [disk_speed(Path(job["place"])) for _ in range(3)]
    write, read = (sorted(each)[1] for each in zip(*speeds, strict=True))
    vectors = unit_rows(point.images[:].astype(np.float32))
    count = len(vectors) // 16
    assigner = Assigner(vectors[:count])
    seconds = usable_cores() * min(_seconds(lambda: assigner.assign(vectors[count:])) for _ in range(3))
    met = met_centroids(count)
    return {
        "disk_write": write,
        "disk_read": read,
        "flop_seconds": seconds / (2 * vectors.shape[1] * met * (len(vectors) - count)),
    }


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _table_bytes(collection: Collection) -> int:
    """Of all tables, so that what an index keeps counts, wherever it is."""
    sql = "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase()"
    return int(collection.engine.query(Query(sql=sql)).rows[0][0])


def _resident_bytes(job: Job) -> int:
    """Memory of a process of its own that searches what the job has made, without mapped files."""
    path = Path(job["place"]) / "resident.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.plan_work", "--resident", str(path)]
    return int(subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=True).stdout)


def resident(job: Job) -> int:
    """What this process holds after the job's searches; exact ones are each the first, which fills no cache."""
    queries = laion_like.text_queries(job["warm_up"] + job["queries"], job["query_seed"])
    options: dict[str, Any] = {"exact": True}
    if job["part"] != "exact":
        options = {"kind": job["part"], **job["efforts"][-1]}
    with Collection.open(Path(job["place"]) / "db") as collection:
        for vector in queries:
            asked = Collection(collection.engine, collection.name) if job["part"] == "exact" else collection
            asked.search_with(vector, params=SearchParams(k=job["k"], **options))
        return memory(os.getpid())["RssAnon"]


_PARTS: Mapping[str, Callable[[Point, Job], dict[str, Any]]] = {
    "exact": _exact,
    "hnsw": lambda point, job: _index("hnsw", point, job),
    "ivf": lambda point, job: _index("ivf", point, job),
    "machine": _machine,
}


def main() -> None:
    job = json.loads(Path(sys.argv[-1]).read_text(encoding="utf-8"))
    print(json.dumps(resident(job) if sys.argv[1] == "--resident" else measure(job)))


if __name__ == "__main__":
    main()
