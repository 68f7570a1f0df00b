"""The SQL of many searches in one pass, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from cliphouse.queries import CACHED, column_list, selected, where_clause, with_settings
from cliphouse.schema import identifier
from cliphouse.types import CollectionInfo, Query, SearchParams

#: Ids in one statement, which may travel in a URL.
IDS_AT_A_TIME = 4_000


def stream(info: CollectionInfo, params: SearchParams, *, cached: bool) -> str:
    """Ids and embeddings of all rows that may be found, in whatever order they are read; with `cached`, see `exact`."""
    sql = (
        f"SELECT toInt64(id), {identifier(params.embedding_column)}\n"
        f"FROM {identifier(info.name)}\n{where_clause(info, params)}".rstrip()
    )
    # One thread reads while others multiply; with more, blocks would wait in memory for their turn.
    return with_settings(sql, "max_threads = 1", *(CACHED if cached else ()))


def rows(info: CollectionInfo, params: SearchParams, ids: Sequence[int], *, cached: bool) -> Query:
    """What a search returns of these rows, but for the distance; of an id that is there twice, twice."""
    sql = f"SELECT {column_list(selected(params))}\nFROM {identifier(info.name)}\nPREWHERE id IN {{ids:Array(Int64)}}"
    return Query(sql=with_settings(sql, *CACHED) if cached else sql, parameters={"ids": list(ids)})


def count(info: CollectionInfo) -> Query:
    """How many rows there are."""
    return Query(sql=f"SELECT count() FROM {identifier(info.name)}")
