"""What it takes to measure an index: the source, what was built, what is open; and cliphouse with each of its indexes.

Peers are in `index_peers`. Nothing is imported before it is needed, because the memory of the process is measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cliphouse import Collection, Hits
    from cliphouse.types import SearchPath

#: How hard to look: the parameters of one search by name. An exact search has none.
Effort = Mapping[str, int]
Vector = NDArray[np.float32]
Options = Mapping[str, Any]

_SMALL = "small"  # the collection of a few rows beside the one that is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Shards 0 to `shards` - 1 in `directory`, of `rows` rows each. A row's number counts through all of them.

    `small` is a directory with one shard of a few rows, to see what a system takes that searches next to nothing.
    """

    directory: Path
    rows: int
    shards: int
    small: Path

    @property
    def total(self) -> int:
        return self.rows * self.shards

    def images(self, shard: int) -> NDArray[np.float16]:
        """The image embeddings of one shard as they are in its file, which is mapped."""
        mapped: NDArray[np.float16] = np.load(self.directory / f"img_emb_{shard}.npy", mmap_mode="r")
        return mapped

    def take(self, numbers: Sequence[int]) -> NDArray[np.float16]:
        """The image embeddings of the rows with these numbers, in their order."""
        shards = [self.images(shard) for shard in range(self.shards)]
        return np.stack([shards[number // self.rows][number % self.rows] for number in numbers])


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What was built, and the seconds for the rows to enter and then for the index, until it is on the disk.

    `vector_bytes` is one copy of the image embeddings as the system stores them and `index_bytes` what the index takes
    on disk. `beside_bytes` is what is on disk because of the index and is not the first copy of the vectors.
    """

    load_seconds: float
    build_seconds: float
    vector_bytes: int
    index_bytes: int
    beside_bytes: int
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A system at work: the clock runs over `search(vector, effort, where)`, and `rows` reads the answer afterwards.

    `small` searches the few rows. `path` is what gave an answer, in the system's own words.
    """

    small: Callable[[Vector], object]
    search: Callable[[Vector, Effort, str | None], Any]
    rows: Callable[[Any], list[int]]
    path: Callable[[Any], str] = field(default=lambda _: "")


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One way to index and search. `build(source, place, options)` fills an empty directory; `open(place, source, k)`
    reads it in another process.

    `filters`: searches with a condition are measured too. `ours`: what it does follows from the sources of cliphouse.
    `packages` are those that do the work. One that `shares` what another system built builds nothing itself.
    """

    name: str
    label: str
    note: str
    packages: Sequence[str]
    build: Callable[[Source, Path, Options], Built]
    open: Callable[[Path, Source, int], AbstractContextManager[Opened]]
    filters: bool = False
    ours: bool = False
    shares: str = ""


def _build(kind: SearchPath, source: Source, place: Path, options: Options) -> Built:
    from benchmarks.systems import settle
    from cliphouse import Collection

    with Collection.open(place) as collection:
        Collection(collection.engine, _SMALL).load(source.small)
        start = time.perf_counter()
        collection.load(source.directory, shards=range(source.shards))
        settle(collection.engine)
        os.sync()
        load_seconds = time.perf_counter() - start
        before, start = _bytes_on_disk(collection), time.perf_counter()
        if kind != "exact":
            collection.build_index("image", _config(kind, options))
            settle(collection.engine)
            os.sync()
        build_seconds = time.perf_counter() - start
        index_bytes, status = _bytes_on_disk(collection) - before, collection.status()
    if status.rows != source.total:
        raise RuntimeError(f"cliphouse holds {status.rows} rows of {source.total}")
    return Built(
        load_seconds=load_seconds,
        build_seconds=0.0 if kind == "exact" else build_seconds,
        vector_bytes=status.disk_bytes["image_embedding"],
        index_bytes=0 if kind == "exact" else index_bytes,
        beside_bytes=0 if kind == "exact" else index_bytes,
        version=status.engine_version,
    )


def _config(kind: SearchPath, options: Options) -> Any:
    from cliphouse.types import IndexConfig, IvfConfig

    return IndexConfig(**options) if kind == "hnsw" else IvfConfig(**options)


def _bytes_on_disk(collection: Collection) -> int:
    """Of all parts of all tables, so that what an index keeps counts, wherever it is."""
    from cliphouse import Query

    sql = "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase()"
    return int(collection.engine.query(Query(sql=sql)).rows[0][0])


@contextmanager
def _open(kind: SearchPath, place: Path, source: Source, k: int) -> Iterator[Opened]:
    from cliphouse import Collection, SearchParams

    def search(vector: Vector, effort: Effort, where: str | None) -> Hits:
        options: dict[str, Any] = {"exact": True} if kind == "exact" else {"kind": kind, **effort}
        return collection.search_with(vector, params=SearchParams(k=k, where=where, **options))

    with Collection.open(place, create=False) as collection:
        small = Collection(collection.engine, _SMALL)
        yield Opened(
            small=lambda vector: small.search(vector, k=k, exact=True),
            search=search,
            rows=lambda hits: [_row_number(hit.id, source) for hit in hits],
            path=lambda hits: str(hits.plan.path),
        )


@contextmanager
def _open_tutorial(place: Path, source: Source, k: int) -> Iterator[Opened]:
    """The tutorial's statement, which rescores nothing, on the collection with the tutorial's index."""
    from cliphouse import Collection, Query

    def search(vector: Vector, effort: Effort, _: str | None = None) -> Sequence[tuple[Any, ...]]:
        sql = (
            "SELECT id, url, caption FROM laion ORDER BY cosineDistance(image_embedding, {target:Array(Float32)})\n"
            f"LIMIT {k} SETTINGS vector_search_with_rescoring = 0, "
            f"hnsw_candidate_list_size_for_search = {effort['ef_search']}"
        )
        return collection.engine.query(Query(sql=sql, parameters={"target": vector.tolist()})).rows

    with Collection.open(place, create=False) as collection:
        small = Collection(collection.engine, _SMALL)
        yield Opened(
            small=lambda vector: small.search(vector, k=k, exact=True),
            search=search,
            rows=lambda found: [_row_number(row[0], source) for row in found],
        )


def _row_number(identity: int, source: Source) -> int:
    from cliphouse.types import ROWS_PER_SHARD

    return identity // ROWS_PER_SHARD * source.rows + identity % ROWS_PER_SHARD


def _cliphouse(kind: SearchPath, label: str, note: str) -> System:
    return System(
        name=f"cliphouse_{kind}",
        label=label,
        note=note,
        packages=("chdb", "chdb-core", "clickhouse-connect"),
        build=partial(_build, kind),
        open=partial(_open, kind),
        filters=True,
        ours=True,
    )


_HNSW = _cliphouse(
    "hnsw",
    "cliphouse hnsw",
    "the tutorial's index, `Collection.build_index(config=IndexConfig())`: bf16, M 64, ef_construction 256",
)
OURS = (
    _cliphouse("exact", "cliphouse exact", "`Collection.search(vector, exact=True)`, vectors as bfloat16: every row"),
    _cliphouse(
        "ivf", "cliphouse ivf", "`Collection.build_index(config=IvfConfig())`: inverted lists in tables, on disk"
    ),
    _HNSW,
    replace(
        _HNSW,
        name="tutorial_hnsw",
        label="ClickHouse HNSW",
        note="the same index and engine, asked with the tutorial's statement: distances of the index, nothing rescored",
        open=_open_tutorial,
        filters=False,
        shares=_HNSW.name,
    ),
)
