"""Rows over REST: one by its id, and how many there are of which kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi import Path as PathParameter

from cliphouse.collection import Collection
from cliphouse.errors import UnknownItem
from cliphouse.schema import EMBEDDING_COLUMNS, identifier, is_identifier
from cliphouse.service import filters, pictures
from cliphouse.service.contract import (
    MAX_ID,
    CountRequest,
    CountResponse,
    FacetsRequest,
    FacetsResponse,
    FacetValue,
    ItemResponse,
)
from cliphouse.service.selecting import blaming, condition_of
from cliphouse.service.state import State, state_of
from cliphouse.service.values import plain
from cliphouse.types import CollectionInfo
from cliphouse.types import Query as Statement

router = APIRouter(tags=["items"])

#: The steps of sizes in pixels and of similarity, as parts of one.
_PIXELS, _PARTS = 256, 20


@router.get("/items/{id}", operation_id="item")
async def item(
    id: Annotated[int, PathParameter(ge=0, le=MAX_ID, examples=[1200000345])],  # noqa: A002
    state: Annotated[State, Depends(state_of)],
    vectors: Annotated[bool, Query(description="With its embeddings")] = False,
    collection: Annotated[str | None, Query(max_length=200)] = None,
) -> ItemResponse:
    """One row with all its columns."""

    def work() -> ItemResponse:
        chosen = state.collection_of(collection)
        found = rows_of(chosen, chosen.info(), [id], vectors=vectors)
        if not found:
            raise UnknownItem(chosen.name, id)
        return ItemResponse(item=plain(found[0]), picture=pictures.link(state, chosen, found[0]))

    return await state.pool.run(work)


def rows_of(
    collection: Collection,
    info: CollectionInfo,
    ids: Sequence[int],
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    vectors: bool = False,
) -> list[dict[str, Any]]:
    """The rows of these ids that pass, in the order of the ids; all columns by default, embeddings only `vectors`."""
    if columns is None:
        columns = [name for name in info.columns if is_identifier(name) and (vectors or name not in EMBEDDING_COLUMNS)]
    sql = (
        f"SELECT {', '.join(map(identifier, columns))} FROM {identifier(info.name)}\n"
        "WHERE id IN {ids:Array(Int64)}" + (f" AND ({where})" if where else "")
    )
    found = blaming(where, lambda: collection.engine.query(Statement(sql=sql, parameters={"ids": list(ids)})))
    by_id = {row["id"]: row for row in (dict(zip(columns, values, strict=True)) for values in found.rows)}
    return [by_id[each] for each in ids if each in by_id]


@router.post("/count", operation_id="count")
async def count(request: CountRequest, state: Annotated[State, Depends(state_of)]) -> CountResponse:
    """How many rows pass the filters and the expression."""

    def work() -> CountResponse:
        collection = state.collection_of(request.collection)
        info = collection.info()
        where = condition_of(collection, info, request)
        sql = f"SELECT count() FROM {identifier(info.name)}{_where(where)}"
        rows = blaming(where, lambda: collection.engine.query(Statement(sql=sql))).rows
        return CountResponse(rows=int(rows[0][0]))

    return await state.pool.run(work)


@router.post("/facets", operation_id="facets")
async def facets(request: FacetsRequest, state: Annotated[State, Depends(state_of)]) -> FacetsResponse:
    """How many of the rows that pass have which value: the most frequent, or for numbers the steps with most rows.

    Hosts are in small letters. Steps are 256 pixels of width and height and 0.05 of similarity, in their order.
    """

    def work() -> FacetsResponse:
        collection = state.collection_of(request.collection)
        info = collection.info()
        where = condition_of(collection, info, request)
        values: dict[filters.Subject, str] = {name: value for name in request.fields if (value := _value(name, info))}
        sql = facets_statement(info.name, where, values, request.limit)
        rows = blaming(where, lambda: collection.engine.query(Statement(sql=sql))).rows
        found: dict[str, list[FacetValue]] = {name: [] for name in values}
        total = 0
        for name, value, number in sorted(rows, key=lambda row: -row[2]):
            if name:
                found[name].append(FacetValue(value=_typed(name, value), rows=int(number)))
            else:
                total = int(number)
        for name in {"width", "height", "similarity"} & found.keys():
            found[name].sort(key=lambda step: (step.value is None, step.value))
        return FacetsResponse(rows=total, facets=found)

    return await state.pool.run(work)


def facets_statement(table: str, where: str | None, values: Mapping[filters.Subject, str], limit: int) -> str:
    """One statement that counts all rows that pass, and those of each value; `values` are expressions by name."""
    # Nothing is given a name: the condition must mean columns, whatever these are called.
    rows = f"{identifier(table)}{_where(where)}"
    parts = [f"SELECT '', CAST(NULL, 'Nullable(String)'), count()\nFROM {rows}"]
    for name, value in values.items():
        parts.append(
            f"SELECT * FROM\n(\nSELECT '{name}', toNullable({value}), count()\n"
            f"FROM {rows}\nGROUP BY 2 ORDER BY 3 DESC, 2 LIMIT {limit}\n)"
        )
    return "\nUNION ALL\n".join(parts)


def _value(subject: filters.Subject, info: CollectionInfo) -> str | None:
    """What is counted, as a text, or None if the collection has no column for it."""
    column = filters.column_of(subject, info.columns)
    if column is None:
        return None
    quoted = identifier(column)
    match subject:
        case "domain":
            return filters.host(column)
        case "width" | "height":
            return f"toString(intDiv({quoted}, {_PIXELS}) * {_PIXELS})"
        case "similarity":
            return f"if(isFinite({quoted}), toString(toInt64(floor({quoted} * {_PARTS}))), NULL)"
    return f"toString({quoted})"


def _typed(name: str, value: str | None) -> str | float | None:
    if value is None or name in ("nsfw", "licence", "domain"):
        return value
    return int(value) / _PARTS if name == "similarity" else float(value)


def _where(where: str | None) -> str:
    return f"\nWHERE {where}" if where else ""
