"""The peers: LanceDB and DuckDB, which store metadata as cliphouse does, and the libraries faiss and usearch.

Each is filled from one shard, because runs over several shards are about cliphouse. A row's id is its number.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.index_systems import OURS, Built, Effort, Opened, Options, Source, System, Vector
from benchmarks.load_systems import load_duckdb, load_lancedb
from benchmarks.watch import disk_bytes

_FOUND = ("id", "url", "caption")
_WHOLE, _SMALL = "whole", "small"  # the databases of a peer
_FILE, _MEAN = "index", "mean.npy"  # the files of a library
_BLOCK_ROWS = 50_000
_COLUMN = "image_embedding"


# -- LanceDB -----------------------------------------------------------------------------------------------------------


def _build_lancedb(kind: Literal["HnswSq", "IvfRq"], source: Source, place: Path, options: Options) -> Built:
    lancedb, index = import_module("lancedb"), import_module("lancedb.index")
    load_lancedb(source.small, place / _SMALL)
    start = time.perf_counter()
    load_lancedb(_only(source), place / _WHOLE)
    os.sync()
    load_seconds, before = time.perf_counter() - start, disk_bytes(place)
    table = lancedb.connect(str(place / _WHOLE)).open_table("laion")
    start = time.perf_counter()
    table.create_index(_COLUMN, config=getattr(index, kind)(distance_type="cosine", **options))
    os.sync()
    build_seconds = time.perf_counter() - start
    index_bytes = disk_bytes(place) - before
    return Built(
        load_seconds=load_seconds,
        build_seconds=build_seconds,
        vector_bytes=source.total * source.images(0).shape[1] * 2,
        index_bytes=index_bytes,
        beside_bytes=index_bytes,
        version=version("lancedb"),
    )


@contextmanager
def _open_lancedb(place: Path, _: Source, k: int) -> Iterator[Opened]:
    lancedb = import_module("lancedb")
    table, small = (lancedb.connect(str(place / name)).open_table("laion") for name in (_WHOLE, _SMALL))

    def search(vector: Vector, effort: Effort, _: str | None = None) -> Any:
        query = table.search(vector, vector_column_name=_COLUMN).distance_type("cosine")
        if "nprobes" in effort:
            query = query.nprobes(effort["nprobes"])
        if "ef" in effort:
            query = query.ef(effort["ef"])
        return query.refine_factor(effort["refine"]).select([*_FOUND, "_distance"]).limit(k).to_list()

    yield Opened(
        small=lambda vector: small.search(vector, vector_column_name=_COLUMN).limit(k).to_list(),
        search=search,
        rows=lambda found: [row["id"] for row in found],
    )


# -- DuckDB ------------------------------------------------------------------------------------------------------------


def _build_duckdb(source: Source, place: Path, _: Options) -> Built:
    load_duckdb(source.small, place / _SMALL)
    start = time.perf_counter()
    load_duckdb(_only(source), place / _WHOLE)
    os.sync()
    return Built(
        load_seconds=time.perf_counter() - start,
        build_seconds=0.0,
        vector_bytes=source.total * source.images(0).shape[1] * 4,
        index_bytes=0,
        beside_bytes=0,
        version=version("duckdb"),
    )


@contextmanager
def _open_duckdb(place: Path, source: Source, k: int) -> Iterator[Opened]:
    duckdb = import_module("duckdb")
    distance = f"array_cosine_distance({_COLUMN}, ?::FLOAT[{source.images(0).shape[1]}])"
    statement = f"SELECT {', '.join(_FOUND)}, {distance} AS distance FROM laion ORDER BY distance LIMIT {k}"
    with (
        duckdb.connect(str(place / _WHOLE / "laion.duckdb"), read_only=True) as connection,
        duckdb.connect(str(place / _SMALL / "laion.duckdb"), read_only=True) as small,
    ):
        yield Opened(
            small=lambda vector: small.execute(statement, [vector.tolist()]).fetchall(),
            search=lambda vector, *_: connection.execute(statement, [vector.tolist()]).fetchall(),
            rows=lambda found: [row[0] for row in found],
        )


# -- faiss and usearch -------------------------------------------------------------------------------------------------


def _build_faiss_ivf(source: Source, place: Path, options: Options) -> Built:
    """Flat lists over vectors less their mean: for unit vectors the order by L2 is then still that by cosine."""
    faiss = import_module("faiss")
    start = time.perf_counter()
    vectors = _unit_vectors(source)
    mean = vectors.mean(axis=0)
    vectors -= mean
    load_seconds, start = time.perf_counter() - start, time.perf_counter()
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(vectors.shape[1]), vectors.shape[1], options["lists"])
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(place / _FILE))
    os.sync()
    build_seconds = time.perf_counter() - start
    np.save(place / _MEAN, mean)
    return _built_library("faiss-cpu", place, load_seconds, build_seconds, vectors.nbytes)


def _build_faiss_hnsw(source: Source, place: Path, options: Options) -> Built:
    faiss = import_module("faiss")
    start = time.perf_counter()
    vectors = _unit_vectors(source)
    load_seconds, start = time.perf_counter() - start, time.perf_counter()
    index = faiss.IndexHNSWFlat(vectors.shape[1], options["m"])
    index.hnsw.efConstruction = options["ef_construction"]
    index.add(vectors)
    faiss.write_index(index, str(place / _FILE))
    os.sync()
    return _built_library("faiss-cpu", place, load_seconds, time.perf_counter() - start, vectors.nbytes)


@contextmanager
def _open_faiss(place: Path, source: Source, k: int) -> Iterator[Opened]:
    faiss = import_module("faiss")
    few = _unit(np.load(source.small / "img_emb_0.npy").astype(np.float32))
    small = faiss.IndexFlatL2(few.shape[1])
    small.add(few)

    @cache
    def loaded() -> tuple[Any, Any]:
        index, mean = faiss.read_index(str(place / _FILE)), place / _MEAN
        if not mean.exists():
            return index, np.float32(0)
        index.parallel_mode = 1  # all cores work on the lists of one query; without it one does
        return index, np.load(mean)

    def search(vector: Vector, effort: Effort, _: str | None = None) -> Any:
        index, mean = loaded()
        if "nprobe" in effort:
            index.nprobe = effort["nprobe"]
        else:
            index.hnsw.efSearch = effort["ef"]
        return index.search((_unit(vector) - mean)[None, :], k)[1][0]

    yield Opened(small=lambda vector: small.search(vector[None, :], k), search=search, rows=_numbers)


def _build_usearch(source: Source, place: Path, options: Options) -> Built:
    usearch = import_module("usearch.index")
    start = time.perf_counter()
    vectors = _unit_vectors(source)
    load_seconds, start = time.perf_counter() - start, time.perf_counter()
    index = usearch.Index(ndim=vectors.shape[1], metric="cos", dtype="bf16", **options)
    index.add(np.arange(len(vectors)), vectors)
    index.save(str(place / _FILE))
    os.sync()
    seconds = time.perf_counter() - start
    return _built_library("usearch", place, load_seconds, seconds, vectors.nbytes // 2)


@contextmanager
def _open_usearch(place: Path, source: Source, k: int) -> Iterator[Opened]:
    usearch = import_module("usearch.index")
    few = np.load(source.small / "img_emb_0.npy").astype(np.float32)
    small = usearch.Index(ndim=few.shape[1], metric="cos", dtype="bf16")
    small.add(np.arange(len(few)), few)

    @cache
    def loaded() -> Any:
        return usearch.Index.restore(str(place / _FILE))

    def search(vector: Vector, effort: Effort, _: str | None = None) -> Any:
        index = loaded()
        index.expansion_search = effort["ef"]
        return index.search(vector, k).keys

    yield Opened(small=lambda vector: small.search(vector, k), search=search, rows=_numbers)


def _built_library(package: str, place: Path, load_seconds: float, build_seconds: float, vector_bytes: int) -> Built:
    """The vectors of a library are in its index, and nowhere else."""
    index_bytes = disk_bytes(place)
    return Built(
        load_seconds=load_seconds,
        build_seconds=build_seconds,
        vector_bytes=vector_bytes,
        index_bytes=index_bytes,
        beside_bytes=index_bytes - vector_bytes,
        version=version(package),
    )


def _unit_vectors(source: Source) -> NDArray[np.float32]:
    """All image embeddings in memory, of unit length."""
    rows = np.empty((source.total, source.images(0).shape[1]), np.float32)
    for shard in range(source.shards):
        images = source.images(shard)
        for start in range(0, source.rows, _BLOCK_ROWS):
            block = images[start : start + _BLOCK_ROWS].astype(np.float32)
            first = shard * source.rows + start
            rows[first : first + len(block)] = _unit(block)
    return rows


def _unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _numbers(found: Any) -> list[int]:
    """Of an array of row numbers, in which -1 stands for nothing found."""
    return [int(number) for number in found if number >= 0]


def _only(source: Source) -> Path:
    """The directory of the one shard.

    Raises:
        ValueError: there are several.
    """
    if source.shards != 1:
        raise ValueError(f"the peers are filled from one shard, and this run has {source.shards}")
    return source.directory


PEERS = (
    System(
        name="lancedb_hnsw",
        label="LanceDB IVF_HNSW_SQ",
        note="the table with all metadata; graph over 8-bit codes, results refined with the vectors, which are float16",
        packages=("lancedb",),
        build=partial(_build_lancedb, "HnswSq"),
        open=_open_lancedb,
    ),
    System(
        name="lancedb_rq",
        label="LanceDB IVF_RQ",
        note="the same table; lists of RaBitQ codes of a bit a dimension, results refined with the vectors",
        packages=("lancedb",),
        build=partial(_build_lancedb, "IvfRq"),
        open=_open_lancedb,
    ),
    System(
        name="faiss_ivf",
        label="faiss IVF flat",
        note="float32 in memory, less their mean; all cores on one query; it answers with row numbers: no metadata",
        packages=("faiss-cpu",),
        build=_build_faiss_ivf,
        open=_open_faiss,
    ),
    System(
        name="faiss_hnsw",
        label="faiss HNSW",
        note="float32 in memory; it answers with row numbers: no metadata",
        packages=("faiss-cpu",),
        build=_build_faiss_hnsw,
        open=_open_faiss,
    ),
    System(
        name="usearch",
        label="usearch",
        note="bf16 in memory; it answers with row numbers: no metadata",
        packages=("usearch",),
        build=_build_usearch,
        open=_open_usearch,
    ),
    System(
        name="duckdb_exact",
        label="DuckDB exact",
        note="`ORDER BY array_cosine_distance(...) LIMIT k` over FLOAT[512], with all metadata: every row",
        packages=("duckdb",),
        build=_build_duckdb,
        open=_open_duckdb,
    ),
)
SYSTEMS: Mapping[str, System] = {system.name: system for system in (*OURS, *PEERS)}
