"""What the database says of a collection: columns, dimension, rows, disk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cliphouse.engine import Engine
from cliphouse.errors import UsageError
from cliphouse.schema import NEEDED_COLUMNS, check_name, from_comment, identifier
from cliphouse.types import CollectionInfo, Query


def find(engine: Engine, collection: str) -> CollectionInfo | None:
    """What the table remembers of itself, or None if there is no such table.

    The dimension of a table made by hand is that of its first row.
    """
    table = _rows(
        engine,
        "SELECT comment FROM system.tables WHERE database = currentDatabase() AND name = {name:String}",
        name=collection,
    )
    if not table:
        return None
    columns = _rows(
        engine,
        "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {name:String}\n"
        "ORDER BY position",
        name=collection,
    )
    info = from_comment(collection, str(table[0][0]), dict(columns))
    if info.dim or "image_embedding" not in info.columns:
        return info
    first = _rows(engine, f"SELECT length(image_embedding) FROM {identifier(collection)} LIMIT 1")
    return replace(info, dim=int(first[0][0])) if first else info


def names(engine: Engine) -> list[str]:
    """The collections of the database: tables with the columns of one, but for those that stand beside another."""
    sql = (
        "SELECT table FROM system.columns WHERE database = currentDatabase() AND name IN {needed:Array(String)}\n"
        "GROUP BY table HAVING count() = {number:UInt32} ORDER BY table"
    )
    rows = _rows(engine, sql, needed=list(NEEDED_COLUMNS), number=len(NEEDED_COLUMNS))
    return [str(table) for (table,) in rows if _may_be(str(table))]


def _may_be(table: str) -> bool:
    try:
        check_name(table)
    except UsageError:
        return False
    return True


def exists(engine: Engine, table: str) -> bool:
    """Whether there is a table of this name."""
    return bool(_rows(engine, f"EXISTS {identifier(table)}")[0][0])


def folder(engine: Engine, table: str) -> str:
    """The folder of a table's data: one that was dropped and made again has another."""
    found = _rows(
        engine,
        "SELECT data_paths FROM system.tables WHERE database = currentDatabase() AND name = {name:String}",
        name=table,
    )
    paths = found[0][0] if found else []
    return str(paths[0]).rstrip("/").rpartition("/")[2] if paths else ""


def count_rows(engine: Engine, collection: str) -> int:
    """Rows in the table."""
    return int(_rows(engine, f"SELECT count() FROM {identifier(collection)}")[0][0])


def total_bytes(engine: Engine, collection: str) -> int:
    """Bytes on disk of all that belongs to the table: columns, keys and indexes."""
    sql = (
        "SELECT sum(bytes_on_disk) FROM system.parts\n"
        "WHERE database = currentDatabase() AND table = {name:String} AND active"
    )
    return int(_rows(engine, sql, name=collection)[0][0] or 0)


def disk_bytes(engine: Engine, collection: str) -> dict[str, int]:
    """Bytes on disk by column."""
    sql = (
        "SELECT column, sum(column_bytes_on_disk) FROM system.parts_columns\n"
        "WHERE database = currentDatabase() AND table = {name:String} AND active GROUP BY column ORDER BY column"
    )
    return {str(column): int(size) for column, size in _rows(engine, sql, name=collection)}


def _rows(engine: Engine, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
    return engine.query(Query(sql=sql, parameters=parameters)).rows
