"""Which rows a request is about: its filters and its expression as one condition on a collection."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cliphouse.collection import Collection
from cliphouse.errors import EngineError, InvalidFilter
from cliphouse.service import filters, vet
from cliphouse.service.contract import Selection
from cliphouse.types import CollectionInfo

T = TypeVar("T")

#: What the engine says when it is not the statement that is wrong.
_NOT_THE_STATEMENT = frozenset(
    {
        "CANNOT_ALLOCATE_MEMORY",
        "MEMORY_LIMIT_EXCEEDED",
        "NETWORK_ERROR",
        "QUERY_WAS_CANCELLED",
        "QUERY_WAS_CANCELLED_BY_CLIENT",
        "SOCKET_TIMEOUT",
        "TIMEOUT_EXCEEDED",
        "TOO_MANY_SIMULTANEOUS_QUERIES",
        "UNKNOWN_TABLE",
    }
)


def condition_of(collection: Collection, info: CollectionInfo, request: Selection) -> str | None:
    """The rows that are meant as a condition, None for all.

    Raises:
        InvalidFilter: a filter is on a column that is not there, or the expression is not one, or not allowed.
    """
    parts = [filters.condition(request.filters, info.columns)]
    if request.where is not None:
        parts.append(vet.check_expression(collection.engine, info, request.where))
    return " AND ".join(f"({part})" for part in parts if part) or None


def blaming(where: str | None, ask: Callable[[], T]) -> T:
    """What `ask` gives; if the engine cannot work out the condition, the request is told so.

    Raises:
        InvalidFilter: the condition is wrong for a row, one whose text is not the number it is cast to say.
        EngineError: something else failed.
    """
    try:
        return ask()
    except EngineError as error:
        if where is None or error.code is None or error.name in _NOT_THE_STATEMENT:
            raise
        raise InvalidFilter(where if len(where) <= 200 else f"{where[:200]}…", str(error)) from error
