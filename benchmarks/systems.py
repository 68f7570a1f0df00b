"""The systems that are measured, and how each is filled and asked.

All tables live in one chDB directory, because a process can open only one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.tutorial_steps import create_table
from cliphouse import Collection, LoadReport, Query, SearchParams, search
from cliphouse.collection import DEFAULT_STORAGE
from cliphouse.engine import Engine, Result
from cliphouse.ready import NOTHING
from cliphouse.types import Storage

_TUTORIAL_COLUMNS = "id, url, caption, NSFW, similarity, image_embedding, text_embedding"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One way to search: `search` is what the clock runs over, `rows` reads its answer afterwards.

    `vector_bytes` is the size of what is scanned, the image embeddings, and `total_bytes` of all that is kept, in
    `place`. `statement` is the SQL, or "" where there is none.
    """

    name: str
    label: str
    note: str
    search: Callable[[NDArray[np.float32]], Any]
    rows: Callable[[Any], list[int]]
    statement: str
    place: str
    vector_bytes: int
    total_bytes: int


def load_collection(collection: Collection, data: Path, storage: Storage) -> LoadReport:
    """Fill `collection` from the shards in `data`, and wait until the engine is at rest."""
    report = collection.load(data, storage=storage)
    settle(collection.engine)
    return report


def make_tutorial_table(source: Collection) -> Collection:
    """The tutorial's table, with the rows of `source`, merged to one part; readable as a collection."""
    engine = source.engine
    engine.command(create_table("tutorial"))
    engine.command(f"INSERT INTO tutorial SELECT {_TUTORIAL_COLUMNS} FROM {source.name}")
    engine.command("OPTIMIZE TABLE tutorial FINAL")
    settle(engine)
    return Collection(engine, "tutorial")


def settle(engine: Engine) -> None:
    """Wait until no merge runs, so that none is timed along with a query."""
    while engine.query(Query(sql="SELECT count() FROM system.merges")).rows[0][0]:
        time.sleep(0.2)


def cliphouse_exact(collection: Collection, *, name: str, k: int) -> System:
    """`Collection.search(vector, exact=True)`, as users call it."""
    sizes = collection.status().disk_bytes
    info, params = collection.info(), SearchParams(k=k, exact=True)
    statement, _ = search.statement(collection.engine, info, NOTHING, np.ones(info.dim, np.float32), params, keep=True)
    return System(
        name=name,
        label=f"cliphouse exact, {info.storage}",
        note="the public API on " + ("the default storage" if info.storage == DEFAULT_STORAGE else "vectors in full"),
        search=lambda vector: collection.search(vector, k=k, exact=True),
        rows=lambda hits: [hit.id for hit in hits],
        statement=statement.sql,
        place="disk",
        vector_bytes=sizes["image_embedding"],
        total_bytes=sum(sizes.values()),
    )


def tutorial(table: Collection, data: Path, *, k: int) -> System:
    """The tutorial's statement on the tutorial's table, through the same engine and driver, with default settings."""
    sizes = table.status().disk_bytes
    sql = (
        "SELECT url, caption FROM tutorial "
        f"ORDER BY cosineDistance(image_embedding, {{target:Array(Float32)}}) LIMIT {k}"
    )
    metadata = pq.read_table(data / "metadata_0.parquet", columns=["url", "caption"])
    return System(
        name="tutorial",
        label="tutorial table",
        note="the LAION tutorial's CREATE TABLE and statement: Array(Float32), default codec (LZ4), one part",
        search=lambda vector: table.engine.query(Query(sql=sql, parameters={"target": vector.tolist()})),
        rows=lambda result: _rows_of(result, metadata),
        statement=sql,
        place="disk",
        vector_bytes=sizes["image_embedding"],
        total_bytes=sum(sizes.values()),
    )


def faiss_flat(source: NDArray[np.floating], *, k: int, threads: int) -> System:
    """The unit vectors in float32 in an IndexFlatIP: a scan in memory that knows row numbers and no metadata."""
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(source.shape[1])
    for start in range(0, len(source), 50_000):
        index.add(_unit(source[start : start + 50_000].astype(np.float32)))
    vector_bytes = source.shape[0] * source.shape[1] * 4
    return System(
        name="faiss",
        label="faiss IndexFlatIP",
        note=f"float32, {threads} threads, no metadata: it answers with row numbers only",
        search=lambda vector: index.search(_unit(vector)[None, :], k)[1],
        rows=lambda numbers: [int(number) for number in numbers[0]],
        statement="",
        place="memory",
        vector_bytes=vector_bytes,
        total_bytes=vector_bytes,
    )


def count_full_scans(collection: Collection, vectors: NDArray[np.float32], *, k: int) -> int:
    """How many of the queries `Collection.search` answered with a second scan, in full precision, outside the clock."""
    return sum(collection.search(vector, k=k, exact=True).plan.rescanned for vector in vectors)


def _rows_of(result: Result, metadata: pa.Table) -> list[int]:
    """The row numbers behind urls and captions, which together are unique in LAION."""
    wanted = pa.array([url for url, _ in result.rows])
    places = np.flatnonzero(pc.is_in(metadata["url"], value_set=wanted).to_numpy())
    named = zip(*(metadata.take(places)[name].to_pylist() for name in ("url", "caption")), strict=True)
    numbers = dict(zip(named, places.tolist(), strict=True))
    return [numbers[url, caption] for url, caption in result.rows]


def _unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
