"""Many searches at once: one pass over the rows for all of them, or one search after the other on all cores."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliphouse import queries, queries_many, search
from cliphouse.engine import Engine, Result
from cliphouse.errors import EngineError
from cliphouse.hits import Hits, SearchPlan
from cliphouse.nearest import Nearest
from cliphouse.ready import Ready
from cliphouse.types import CollectionInfo, SearchParams

#: From so many queries on, a pass is faster than a scan for each: about as many as it takes scans' time to read the
#: column out of the engine. A server's column travels first.
_ENOUGH_EMBEDDED, _ENOUGH_SERVER = 8, 64
#: An index answers a query in some milliseconds, however many rows there are. A pass takes as long for each of many
#: queries at a million rows of CLIP ViT-B/32; so up to there it is no slower, and exact.
_PASS_NUMBERS, _PASS_QUERIES = 1_000_448 * 512, 50
#: What the rows found may take in memory: 16 bytes each, and as much again until they are put in order.
_FOUND_BYTES = 2**28
#: Queries in one matrix product: at 128 numkong takes half as long again for each.
_GROUP = 112


def run(
    engine: Engine,
    info: CollectionInfo,
    ready: Ready,
    targets: NDArray[np.float32],
    params: SearchParams,
    *,
    keep: bool,
) -> list[Hits]:
    """The rows nearest to each of `targets`, float32 of shape (queries, dim); the same as `search.run` of each.

    Raises:
        InvalidFilter: the `where` condition is not one expression, or fails alone.
        EngineError: ClickHouse failed.
    """
    if not len(targets):
        return []
    _, chosen = search.statement(engine, info, ready, targets[0], params, keep=keep)
    if not _is_pass(engine, info, len(targets), params, chosen):
        return _each(engine, info, ready, targets, params, keep=keep)
    reason = chosen.reason if chosen.path == "exact" else "so few rows that one pass takes no longer than the index"
    plan = SearchPlan(path="exact", reason=f"{reason}; one pass for {len(targets)} queries")
    reach = params.offset + params.k
    step = max(1, _FOUND_BYTES // (32 * reach))
    answers: list[Hits] = []
    try:
        for start in range(0, len(targets), step):
            found = _pass(engine, info, targets[start : start + step], params, keep=keep)
            answers += _hits(engine, info, found, params, plan, keep=keep)
    except EngineError:
        if params.where:  # one search tells whether it is the condition that fails
            search.run(engine, info, ready, targets[0], replace(params, exact=True, kind=None), keep=keep)
        raise
    except _AmbiguousIds:
        return _each(engine, info, ready, targets, replace(params, exact=True, kind=None), keep=keep)
    return answers


class _AmbiguousIds(Exception):
    """Several rows have one id, so that rows cannot be told by it."""


def _is_pass(engine: Engine, info: CollectionInfo, count: int, params: SearchParams, chosen: SearchPlan) -> bool:
    if chosen.path == "exact":
        return count >= (_ENOUGH_EMBEDDED if engine.capabilities.embedded else _ENOUGH_SERVER)
    asked_for = params.kind or params.ef_search or params.nprobe
    if asked_for or count < _PASS_QUERIES or not engine.capabilities.embedded:
        return False
    rows = engine.query(queries_many.count(info)).rows[0][0]
    return int(rows) * info.dim <= _PASS_NUMBERS


def _each(
    engine: Engine,
    info: CollectionInfo,
    ready: Ready,
    targets: NDArray[np.float32],
    params: SearchParams,
    *,
    keep: bool,
) -> list[Hits]:
    """One search for each, on all cores; a scan takes all of them for itself."""
    with engine.work() as work, ThreadPoolExecutor(_cores(), "cliphouse-search", work.join) as pool:
        futures = [pool.submit(search.run, engine, info, ready, target, params, keep=keep) for target in targets]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            work.cancel()
            raise


def _pass(
    engine: Engine, info: CollectionInfo, targets: NDArray[np.float32], params: SearchParams, *, keep: bool
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Ids and distances of the rows nearest to each target, after those passed over by the offset."""
    groups = np.array_split(targets, -(-len(targets) // _GROUP))
    nearest = [Nearest(group, params.offset + params.k, info.storage) for group in groups]
    turn, stopped = threading.Lock(), threading.Event()
    with engine.blocks(queries_many.stream(info, params, cached=keep), info.dim) as blocks:

        def work() -> None:
            while not stopped.is_set():
                with turn:
                    block = next(blocks, None)
                if block is None:
                    return
                for each in nearest:
                    each.add(block.ids, block.vectors)

        with ThreadPoolExecutor(_cores(), thread_name_prefix="cliphouse-pass") as pool:
            futures = [pool.submit(work) for _ in range(_cores())]
            try:
                for future in futures:
                    future.result()
            finally:
                stopped.set()
    found = [best for each in nearest for best in each.best()]
    return [(ids[params.offset :], distances[params.offset :]) for ids, distances in found]


def _hits(
    engine: Engine,
    info: CollectionInfo,
    found: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]],
    params: SearchParams,
    plan: SearchPlan,
    *,
    keep: bool,
) -> list[Hits]:
    """The rows that were found, with their columns."""
    wanted = np.unique(np.concatenate([ids for ids, _ in found]))
    columns = queries.selected(params)
    rows: dict[int, tuple[Any, ...]] = {}
    for start in range(0, len(wanted), queries_many.IDS_AT_A_TIME):
        part = wanted[start : start + queries_many.IDS_AT_A_TIME].tolist()
        answer = engine.query(queries_many.rows(info, params, part, cached=keep)).rows
        if len(answer) > len(part):
            raise _AmbiguousIds
        rows.update((row[0], row) for row in answer)
    return [
        search.hits(
            Result(
                (*columns, "distance"),
                # A row may have been deleted since it was found.
                [(*rows[id_], float(d)) for id_, d in zip(ids.tolist(), distances, strict=True) if id_ in rows],
            ),
            plan,
            params,
        )
        for ids, distances in found
    ]


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
