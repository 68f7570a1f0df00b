"""The ledger: what became of each shard, in a table beside the collection that outlives every crash.

A shard is `joining` from the moment before its rows join the table until after it; then it is `loaded`. A loader that
dies in between leaves `joining`, and the rows under the shard's ids tell the next one on which side of the step it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cliphouse.engine import Engine
from cliphouse.schema import LEDGER_COLUMNS, create_ledger, identifier, ledger_name
from cliphouse.types import ROWS_PER_SHARD, Query

State = Literal["joining", "loaded", "quarantined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One shard's line.

    `rows` were to join the table, of `rows_read` in the files: all but those that `left_out` counts by kind. `kept`
    counts bad rows that are in the table. Rows that somebody deleted, before or since, are in another table. A
    quarantined shard has a `reason`, and no rows.
    """

    shard: int
    state: State
    rows: int = 0
    rows_read: int = 0
    has_text: bool = False
    fingerprint: str = ""
    checksums: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    source: str = ""
    seconds: float = 0.0


_FIELDS = tuple(name for name in LEDGER_COLUMNS if name != "loaded_at")


def prepare(engine: Engine, collection: str) -> None:
    """Make the ledger, or give an older one the columns that it lacks."""
    engine.command(create_ledger(collection))
    missing = [f"ADD COLUMN IF NOT EXISTS {identifier(name)} {kind}" for name, kind in LEDGER_COLUMNS.items()]
    engine.command(f"ALTER TABLE {identifier(ledger_name(collection))} {', '.join(missing)}")


def entries(engine: Engine, collection: str) -> dict[int, Entry]:
    """The newest line of each shard; none if there is no ledger."""
    table = identifier(ledger_name(collection))
    present = engine.query(
        Query(
            sql="SELECT name FROM system.columns WHERE database = currentDatabase() AND table = {name:String}",
            parameters={"name": ledger_name(collection)},
        )
    ).rows
    names = [name for name in _FIELDS if (name,) in present]
    if not names:
        return {}
    rows = engine.query(Query(sql=f"SELECT {', '.join(names)} FROM {table} FINAL ORDER BY shard")).rows
    return {int(row[0]): Entry(**({"state": "loaded"} | dict(zip(names, row, strict=True)))) for row in rows}


def write(engine: Engine, collection: str, entry: Entry) -> None:
    """Write a shard's line; it is on disk when this returns."""
    values, parameters = [], dict[str, Any]()
    for name in _FIELDS:
        value, kind = getattr(entry, name), LEDGER_COLUMNS[name].partition(" DEFAULT")[0]
        if isinstance(value, Mapping):  # the driver and the engine quote maps differently
            item = kind.rpartition(", ")[2].rstrip(")")
            values.append(f"mapFromArrays({{{name}_keys:Array(String)}}, {{{name}_values:Array({item})}})")
            parameters |= {f"{name}_keys": list(value), f"{name}_values": list(value.values())}
        else:
            values.append(f"{{{name}:{kind.removeprefix('LowCardinality(').removesuffix(')')}}}")
            parameters[name] = value
    table = identifier(ledger_name(collection))
    engine.command(f"INSERT INTO {table} ({', '.join(_FIELDS)}) SELECT {', '.join(values)}", parameters)


def total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums of counts by kind."""
    sums = Counter[str]()
    for each in counts:
        sums.update(each)
    return dict(sums)


def rows_present(engine: Engine, collection: str, shard: int) -> int:
    """Rows in the table under a shard's ids."""
    first = shard * ROWS_PER_SHARD
    sql = f"SELECT count() FROM {identifier(collection)} WHERE id BETWEEN {first} AND {first + ROWS_PER_SHARD - 1}"
    return int(engine.query(Query(sql=sql)).rows[0][0])
