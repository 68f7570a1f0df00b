"""Staging tables: where one attempt gathers a shard, and how attempts keep out of each other's way.

Each attempt has a table of its own, whose name ends in a token that nobody else has. An attempt whose process is gone
is swept away. On a server nobody can tell that for sure, so there an attempt counts as dead when nothing was written to
its table for a while; until then its shard is busy.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cliphouse.engine import Engine
from cliphouse.errors import ShardBusy
from cliphouse.schema import create_staging, identifier, staging_name, staging_prefix
from cliphouse.types import Query

#: Seconds without a write after which an attempt on a server is given up for dead.
LEASE_SECONDS = 600

#: Tokens of the attempts of this process.
_ours: set[str] = set()


@dataclass(frozen=True, slots=True)
class Attempt:
    """A staging table that is there: whose it is, and for how many seconds nothing was written to it."""

    shard: int
    table: str
    token: str
    holder: str
    idle_seconds: int


class Staging:
    """The tables of one attempt at one shard: `whole`, which is to join the collection, and others on the way to it."""

    def __init__(self, engine: Engine, collection: str, shard: int) -> None:
        self._engine, self._collection, self._shard = engine, collection, shard
        self._token = secrets.token_hex(4)
        self._holder = f"{socket.gethostname()}, process {os.getpid()}"
        self._count = 0
        self.whole = ""

    def __enter__(self) -> Staging:
        """Make the whole.

        Raises:
            ShardBusy: another loader is at this shard.
        """
        _ours.add(self._token)
        try:
            _make_way(self._engine, self._collection, self._shard, self._token)
            self.whole = self._create()
            # Again, for one who began at the same moment: of two that see each other, the lesser token goes on.
            _make_way(self._engine, self._collection, self._shard, self._token)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.whole:
                drop(self._engine, self.whole)
        finally:
            _ours.discard(self._token)

    @contextmanager
    def table(self) -> Iterator[str]:
        """One more empty table, by its name; it is dropped afterwards, whatever happens."""
        name = self._create()
        try:
            yield name
        finally:
            drop(self._engine, name)

    def _create(self) -> str:
        name = staging_name(self._collection, self._shard, f"{self._token}_{self._count}")
        self._count += 1
        self._engine.command(create_staging(self._collection, name, self._holder))
        return name


def sweep(engine: Engine, collection: str) -> None:
    """Drop the staging tables of attempts that are dead."""
    for attempt in attempts(engine, collection):
        if _is_dead(engine, attempt):
            drop(engine, attempt.table)


def attempts(engine: Engine, collection: str) -> list[Attempt]:
    """The collection's staging tables."""
    prefix = staging_prefix(collection)
    sql = (
        "SELECT tables.name, any(tables.comment), toInt64(now()) - max(toInt64(greatest(\n"
        "    tables.metadata_modification_time, parts.modification_time)))\n"
        "FROM system.tables AS tables LEFT JOIN system.parts AS parts\n"
        "ON parts.database = tables.database AND parts.table = tables.name\n"
        "WHERE tables.database = currentDatabase() AND startsWith(tables.name, {prefix:String})\n"
        "GROUP BY tables.name ORDER BY tables.name"
    )
    found = []
    for name, holder, idle in engine.query(Query(sql=sql, parameters={"prefix": prefix})).rows:
        number, token, *_ = (*str(name).removeprefix(prefix).split("_"), "")
        if number.isdecimal():
            found.append(Attempt(int(number), str(name), token, str(holder), int(idle)))
    return found


def drop(engine: Engine, table: str) -> None:
    """Drop a table if it is there, at once."""
    engine.command(f"DROP TABLE IF EXISTS {identifier(table)} SYNC")


def _make_way(engine: Engine, collection: str, shard: int, token: str) -> None:
    here = [each for each in attempts(engine, collection) if each.shard == shard]
    begun = any(each.token == token for each in here)
    for other in (each for each in here if each.token != token):
        if _is_dead(engine, other):
            drop(engine, other.table)
        elif not begun or other.token < token:
            raise ShardBusy(other.holder, idle_seconds=other.idle_seconds, lease_seconds=LEASE_SECONDS, shard=shard)


def _is_dead(engine: Engine, attempt: Attempt) -> bool:
    if attempt.token in _ours:
        return False
    return engine.capabilities.embedded or attempt.idle_seconds > LEASE_SECONDS
