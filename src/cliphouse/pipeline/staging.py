"""Staging tables: where one attempt gathers a shard, and how attempts keep out of each other's way.

The names of an attempt's tables hold a token that nobody else has. An attempt whose process is gone is swept away. Of
a process on another machine nobody can tell, so its attempt counts as dead when nothing was written to its tables for a
while; until then its shard is busy. One that was given up wrongly cannot do harm: its rows join from a table that is no
longer there.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from cliphouse.engine import Engine
from cliphouse.errors import EngineError, ShardBusy
from cliphouse.pipeline.holder import holder, in_words, is_gone
from cliphouse.schema import create_staging, identifier, staging_name, staging_prefix
from cliphouse.types import Query

#: Seconds without a write after which an attempt on a server is given up for dead.
LEASE_SECONDS = 600

#: Of two who begin at the same moment one gives way, and the other waits for that: this long, looking this often.
_PATIENCE_SECONDS, _LOOK_SECONDS = 5.0, 0.05

#: What the name of an attempt's table has behind the prefix: shard, token, and which of its tables it is.
_ATTEMPT = re.compile(r"(\d+)_([0-9a-f]{8})_\d+")

#: Tokens of the attempts of this process that are under way.
_ours: set[str] = set()
#: Tokens of its attempts that have ended, and whose tables may still be there.
_ended: set[str] = set()


@dataclass(frozen=True, slots=True)
class Attempt:
    """A staging table that is there: whose it is, and for how many seconds nothing was written to any of theirs."""

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
        self._count = 0
        self.whole = ""

    def __enter__(self) -> Staging:
        """Make the whole.

        Raises:
            ShardBusy: another loader is at this shard.
        """
        _ours.add(self._token)
        try:
            self._check_free()
            self.whole = self._create()
            self._contend()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.whole:
            self._leave(self.whole)
        _ended.add(self._token)
        _ours.discard(self._token)

    def _check_free(self) -> None:
        for other in self._others():
            raise _busy(other)

    def _contend(self) -> None:
        """Go on alone, or not at all: now that its table is there, whoever comes later sees this attempt.

        Another that is there began at the same moment. The greater token gives way, the lesser waits until it has.
        """
        until = time.monotonic() + _PATIENCE_SECONDS
        while others := self._others():
            if others[0].token < self._token or time.monotonic() > until:
                raise _busy(others[0])
            time.sleep(_LOOK_SECONDS)

    def _others(self) -> list[Attempt]:
        """Other attempts at the shard, by token; those that are dead are dropped."""
        here = [each for each in attempts(self._engine, self._collection) if each.shard == self._shard]
        alive = []
        for other in (each for each in here if each.token != self._token):
            if _is_dead(self._engine, other):
                drop(self._engine, other.table)
            else:
                alive.append(other)
        return sorted(alive, key=lambda each: each.token)

    @contextmanager
    def table(self) -> Iterator[str]:
        """One more empty table, by its name; it is dropped afterwards, whatever happens."""
        name = self._create()
        try:
            yield name
        finally:
            self._leave(name)

    def _leave(self, table: str) -> None:
        """Drop a table. Where that fails, the next load does it: the shard's fate does not depend on it."""
        with suppress(EngineError):
            drop(self._engine, table)

    def _create(self) -> str:
        name = staging_name(self._collection, self._shard, f"{self._token}_{self._count}")
        self._count += 1
        self._engine.command(create_staging(self._collection, name, holder()))
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
        "SELECT tables.name, any(tables.comment),\n"
        "max(toInt64(greatest(tables.metadata_modification_time, parts.modification_time))) AS newest,\n"
        "if(newest = 0, 0, toInt64(now()) - newest)\n"
        "FROM system.tables AS tables LEFT JOIN system.parts AS parts\n"
        "ON parts.database = tables.database AND parts.table = tables.name\n"
        "WHERE tables.database = currentDatabase() AND startsWith(tables.name, {prefix:String})\n"
        "GROUP BY tables.name ORDER BY tables.name"
    )
    found = []
    for name, whose, _, idle in engine.query(Query(sql=sql, parameters={"prefix": prefix})).rows:
        if match := _ATTEMPT.fullmatch(str(name).removeprefix(prefix)):
            found.append(Attempt(int(match[1]), str(name), match[2], str(whose), int(idle)))
    idle_seconds = dict[str, int]()
    for each in found:
        idle_seconds[each.token] = min(each.idle_seconds, idle_seconds.get(each.token, each.idle_seconds))
    return [replace(each, idle_seconds=idle_seconds[each.token]) for each in found]


def drop(engine: Engine, table: str) -> None:
    """Drop a table if it is there, at once."""
    engine.command(f"DROP TABLE IF EXISTS {identifier(table)} SYNC")


def _busy(other: Attempt) -> ShardBusy:
    return ShardBusy(
        in_words(other.holder), idle_seconds=other.idle_seconds, lease_seconds=LEASE_SECONDS, shard=other.shard
    )


def _is_dead(engine: Engine, attempt: Attempt) -> bool:
    if attempt.token in _ours:
        return False
    if engine.capabilities.embedded or attempt.token in _ended:
        return True
    return attempt.idle_seconds > LEASE_SECONDS or is_gone(attempt.holder)
