"""Search SQL as pure functions: a `Query` is a value, running it is another step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cliphouse.schema import CLUSTER_COLUMN, embedding_type, identifier
from cliphouse.types import HIT_COLUMNS, CollectionInfo, Query, SearchParams, Storage
from cliphouse.vectors import bfloat16_words, round_to_bfloat16

#: The engine's default bound on LIMIT for an index search (`max_limit_for_vector_search_queries`).
MAX_INDEX_K = 1_000
#: The column that `scan` adds to say how far its short list reached.
HORIZON = "horizon"
#: The candidate list of an HNSW search that nobody tuned; the engine's own default too.
EF_SEARCH = 256
#: Filtered index searches fetch this many times k before the filter is applied.
FILTER_MULTIPLIER = 8


def selected(params: SearchParams) -> tuple[str, ...]:
    """The columns a search returns besides its distance, in order, each once."""
    return tuple(dict.fromkeys((*HIT_COLUMNS, *params.columns)))


#: What a parameter may have at most: a server takes no field over 128 KiB (`http_max_field_value_size`). In whole
#: numbers of 32 bits in hex.
_FIELD_LENGTH = 8 * 15_000
#: Not the index, even where the statement could use one.
_NO_INDEX = "query_plan_try_use_vector_search = 0"
#: Keep what is read in the uncompressed cache: a later scan saves a copy and a checksum of every block. The two limits
#: would keep a large scan from flushing the cache of small queries; here the scan is the query.
CACHED = (
    "use_uncompressed_cache = 1",
    "merge_tree_max_rows_to_use_cache = 1000000000000",
    "merge_tree_max_bytes_to_use_cache = 1000000000000000",
)


#: A search of lists reads some ten thousand rows. By itself the engine would read so few in one thread, and in blocks
#: so large that most of the time goes to making room for them in memory.
_FEW_ROWS = (
    "max_block_size = 2048",
    "merge_tree_min_rows_for_concurrent_read = 16384",
    "merge_tree_min_bytes_for_concurrent_read = 1000000",
    # Straight from the page cache, checksums checked: reading would copy every byte once more.
    "local_filesystem_read_method = 'mmap'",
    "min_bytes_to_use_mmap_io = 1",
)


def exact(info: CollectionInfo, target: NDArray[np.float32], params: SearchParams, *, cached: bool = False) -> Query:
    """Every row's distance in full: the definition all other paths are measured against.

    With `cached`, the column is kept in the engine's uncompressed cache.
    """
    distance = _distance(params, "{target:Array(Float32)}")
    sql = (
        f"SELECT {column_list(selected(params))}, {distance} AS distance\n"
        f"FROM {identifier(info.name)}\n{where_clause(info, params)}"
        f"ORDER BY distance, id\n{_limit(params)}"
    )
    return Query(sql=with_settings(sql, _NO_INDEX, *(CACHED if cached else ())), parameters=_target(target))


def scan(info: CollectionInfo, target: NDArray[np.float32], params: SearchParams, *, cached: bool) -> Query:
    """The exact search of a BFloat16 column at twice the speed of `exact`.

    Both sides of a distance must have one type to reach the engine's SIMD kernel. So every row is compared with the
    target rounded to BFloat16, and a short list is ordered again by the target itself. The last column, `horizon`, is
    the rounded distance where the short list ends: `is_complete` tells from it whether a row could be missing.
    """
    columns = column_list(selected(params))
    sql = (
        f"SELECT {columns}, {_distance(params, '{target:Array(Float32)}')} AS distance, "
        f"max(rounded_distance) OVER () AS {HORIZON}\n"
        f"FROM\n(\n"
        f"    SELECT {columns}, {identifier(params.embedding_column)}, "
        f"{_distance(params, '{rounded_target:Array(BFloat16)}')} AS rounded_distance\n"
        f"    FROM {identifier(info.name)}\n{where_clause(info, params, indent='    ')}"
        f"    ORDER BY rounded_distance\n    LIMIT {shortlist(params.offset + params.k)}\n"
        f")\nORDER BY distance, id\n{_limit(params)}"
    )
    settings = (_NO_INDEX, "query_plan_max_limit_for_lazy_materialization = 0", *(CACHED if cached else ()))
    rounded = {"rounded_target": round_to_bfloat16(target).tolist()}
    return Query(sql=with_settings(sql, *settings), parameters=_target(target) | rounded)


def shortlist(k: int) -> int:
    """Rows that `scan` orders again for `k` results: enough that the proof nearly always succeeds at once."""
    return 2 * k + 26


def is_complete(distances: Sequence[float], horizon: float, k: int, error: float) -> bool:
    """Whether the result of `scan` provably is the exact one.

    No row outside the short list is nearer than `horizon` by the rounded target, so none is nearer than
    `horizon - error` by the target itself, where `error` bounds what rounding can move a distance.
    """
    return len(distances) < k or distances[k - 1] < horizon - error


def default_nprobe(nlist: int) -> int:
    """How many clusters' worth of rows a search reads that nobody tuned: a sixteenth, and some where there are few."""
    return max(16, nlist // 16)


def probes_for(nprobe: int, k: int, share: float) -> int:
    """`nprobe` is enough for the ten nearest of all rows; what is enough for `k` of those that pass a filter.

    The `k` nearest of a `share` of the rows lie about as far as the k / share nearest of all, and those lie in more
    clusters: by measurement, about as the fourth root (docs/decisions/0017-ivf.md). In steps, so that searches for
    about as many look into the same clusters. Eleven are asked for where ten are measured: see `trials.asked_k`.
    """
    steps = math.ceil(math.log(max(1.0, k / 11 / share), 4))
    return math.ceil(nprobe * 4 ** (steps / 4))


def spare(k: int) -> int:
    """Rows that an HNSW search for `k` asks for beyond k where some are deleted; 0 if the index cannot give more."""
    return min(shortlist(k), MAX_INDEX_K) - k if k < MAX_INDEX_K else 0


def by_index(info: CollectionInfo, target: NDArray[np.float32], params: SearchParams, *, spare: int = 0) -> Query:
    """The approximate search through the HNSW index, with distances computed again from the stored vectors.

    The index is used only for one sort key, so ties are put in order of id by the outer query. It knows nothing of
    deleted rows, and the engine hides them from each part's candidates, where nothing tells how many were lost. With
    `spare`, so many rows more are asked for with the deleted ones among them, which go only after the candidates of all
    parts are in order: if k rows remain, deleting has cost none.
    """
    distance = _distance(params, "{target:Array(Float32)}")
    reach = params.offset + params.k + spare
    settings = [
        f"hnsw_candidate_list_size_for_search = {max(params.ef_search or EF_SEARCH, reach)}",
        "vector_search_with_rescoring = 1",
    ]
    if params.where:
        settings.append(f"vector_search_index_fetch_multiplier = {FILTER_MULTIPLIER}")
    if spare:
        settings.append("apply_deleted_mask = 0")
    sql = (
        f"SELECT {'* EXCEPT (_row_exists)' if spare else '*'}\nFROM\n(\n"
        f"    SELECT {column_list(selected(params))}, {'_row_exists, ' if spare else ''}{distance} AS distance\n"
        f"    FROM {identifier(info.name)}\n{where_clause(info, params, indent='    ', skip_empty=False)}"
        f"    ORDER BY distance\n    LIMIT {reach}\n"
        f")\n{'WHERE _row_exists' + chr(10) if spare else ''}ORDER BY distance, id"
        + (f"\n{_limit(params)}" if spare or params.offset else "")
    )
    return Query(sql=with_settings(sql, *settings), parameters=_target(target))


def by_lists(
    info: CollectionInfo,
    target: NDArray[np.float32],
    params: SearchParams,
    *,
    lists: str,
    probes: NDArray[np.uint32],
    within: str | None,
    tail: str | None,
) -> Query:
    """The approximate search through inverted lists: rows of the clusters `probes`, and of `tail` in the collection.

    `within` and `tail` are conditions, None where there is nothing to leave out or to add. A filter is applied before
    the cut. Both sides of a distance must have one type to reach the engine's SIMD kernel, so rows are compared with
    the target as the column's type holds it, and a short list is ordered again by the target itself, as in `scan`.
    """
    vectors, columns = identifier(params.embedding_column), column_list(selected(params))
    reach = params.offset + params.k

    def nearest(table: str, limit: int, *conditions: str | None) -> str:
        given = [condition for condition in conditions if condition]
        if params.where:
            given.append(f"({params.where}\n)")
        rounded = _distance(params, _vector("rounded_target", info.storage))
        return (
            f"SELECT {columns}, {vectors}, {rounded} AS rounded_distance\n"
            f"FROM {identifier(table)}\nWHERE {' AND '.join(given)}\n"
            f"ORDER BY rounded_distance, id\nLIMIT {limit}\n"
        )

    # A hint: granules are chosen by it, and their rows that belong to other clusters are as good as any.
    numbers, clusters = _numbers("probes", probes)
    rows = nearest(lists, _near(reach), f"indexHint({identifier(CLUSTER_COLUMN)} IN {numbers})", within)
    if tail:
        newer = nearest(info.name, shortlist(reach), tail, f"notEmpty({vectors})")
        rows = f"SELECT * FROM\n(\n{rows})\nUNION ALL\nSELECT * FROM\n(\n{newer})\n"
    sql = f"SELECT {columns}, {_distance(params, _vector('target', 'float32'))} AS distance\nFROM\n(\n{rows})\n"
    sql += "ORDER BY distance, id\n"
    if tail:
        sql += "LIMIT 1 BY id\n"  # a row that is being taken into the lists may be found in both places
    given = target.astype("<f4")
    rounded = bfloat16_words(round_to_bfloat16(target)).astype("<u2") if info.storage == "bfloat16" else given
    parameters = clusters | {
        "target": given.tobytes().hex(),
        "rounded_target": rounded.tobytes().hex(),
    }
    return Query(sql=with_settings(sql + _limit(params), _NO_INDEX, *_FEW_ROWS), parameters=parameters)


def _near(k: int) -> int:
    """Rows that `by_lists` orders again for `k` results: rounding moves few, and by little (see `shortlist`)."""
    return k + k // 16 + 6


def _numbers(name: str, values: NDArray[np.uint32]) -> tuple[str, dict[str, str]]:
    """An array of numbers as an expression, and its parameters: their bytes in hex, each short enough for a server."""
    text = values.astype("<u4").tobytes().hex()
    pieces = [text[start : start + _FIELD_LENGTH] for start in range(0, len(text), _FIELD_LENGTH)] or [""]
    parameters = {name if not number else f"{name}_{number}": piece for number, piece in enumerate(pieces)}
    arrays = [f"reinterpret(unhex({{{each}:String}}), 'Array(UInt32)')" for each in parameters]
    return arrays[0] if len(arrays) == 1 else f"arrayConcat({', '.join(arrays)})", parameters


def _vector(name: str, storage: Storage) -> str:
    """A parameter that is a vector's bytes in hex: the engine takes a millisecond to read 512 numbers as text."""
    return f"reinterpret(unhex({{{name}:String}}), '{embedding_type(storage)}')"


def embedding_of(info: CollectionInfo, column: str, item: int) -> Query:
    """The stored vector of one row."""
    sql = f"SELECT {identifier(column)} FROM {identifier(info.name)} WHERE id = {{item:Int64}} LIMIT 1"
    return Query(sql=sql, parameters={"item": item})


def explain(query: Query) -> Query:
    """The engine's own account of how it would run `query`."""
    return Query(sql=f"EXPLAIN indexes = 1\n{query.sql}", parameters=query.parameters)


def _target(target: NDArray[np.float32]) -> dict[str, list[float]]:
    return {"target": target.tolist()}


def _distance(params: SearchParams, reference: str) -> str:
    return f"cosineDistance({identifier(params.embedding_column)}, {reference})"


def where_clause(info: CollectionInfo, params: SearchParams, *, indent: str = "", skip_empty: bool = True) -> str:
    """The WHERE clause. Rows without an embedding have an empty array, which has no distance to anything."""
    conditions = []
    if skip_empty and (params.column == "text" or info.gaps):
        conditions.append(f"notEmpty({identifier(params.embedding_column)})")
    if params.where:
        conditions.append(f"({params.where}\n{indent})")  # the line break ends a trailing comment
    return f"{indent}WHERE {' AND '.join(conditions)}\n" if conditions else ""


def _limit(params: SearchParams) -> str:
    return f"LIMIT {params.k}" + (f" OFFSET {params.offset}" if params.offset else "")


def column_list(columns: Sequence[str]) -> str:
    """The columns of a SELECT."""
    return ", ".join(identifier(column) for column in columns)


def with_settings(sql: str, *settings: str) -> str:
    """The statement with settings of its own."""
    return f"{sql}\nSETTINGS {', '.join(settings)}"
