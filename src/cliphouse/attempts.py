"""Attempts at what only one may do at a time, and how they keep out of each other's way on one database.

Each attempt has a token that nobody else has, in the names of tables of its own. An attempt whose process is gone is
dead. Of a process on another machine nobody can tell, so its attempt counts as dead when nothing was written to its
tables for a while; until then its work is not to be touched.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from cliphouse.engine import Engine
from cliphouse.errors import CliphouseError
from cliphouse.holder import is_gone
from cliphouse.schema import identifier
from cliphouse.types import Query

#: Seconds without a write after which an attempt on a server is given up for dead.
LEASE_SECONDS = 600

#: Of two who begin at the same moment one gives way, and the other waits for that: this long, looking this often.
_PATIENCE_SECONDS, _LOOK_SECONDS = 5.0, 0.05

#: What the name of an attempt's table has behind the prefix: perhaps a number, the token, which of its tables it is.
_NAME = re.compile(r"(?:\d+_)?([0-9a-f]{8})_\d+")

#: Tokens of the attempts of this process that are under way.
_ours: set[str] = set()
#: Tokens of its attempts that have ended, and whose tables may still be there.
_ended: set[str] = set()


@dataclass(frozen=True, slots=True)
class Attempt:
    """A table that is there: whose it is, and for how many seconds nothing was written to any of theirs."""

    table: str
    token: str
    holder: str
    idle_seconds: int


class Turn:
    """The right to be the only one at what `prefix` names; the tables of this attempt are `name(0)`, `name(1)`, ..."""

    def __init__(self, engine: Engine, prefix: str, busy: Callable[[Attempt], CliphouseError]) -> None:
        self._engine, self._prefix, self._busy = engine, prefix, busy
        self.token = secrets.token_hex(4)

    def name(self, number: int) -> str:
        """The name of one of this attempt's tables."""
        return f"{self._prefix}{self.token}_{number}"

    def take(self, create: Callable[[], object]) -> None:
        """Begin alone, or not at all; `create` makes this attempt's first table.

        Now that its table is there, whoever comes later sees this attempt. Another that is there began at the same
        moment. The greater token gives way, the lesser waits until it has.

        Raises:
            What `busy` makes of another attempt.
        """
        _ours.add(self.token)
        self._check_free()
        create()
        until = time.monotonic() + _PATIENCE_SECONDS
        while others := self.others():
            if others[0].token < self.token or time.monotonic() > until:
                raise self._busy(others[0])
            time.sleep(_LOOK_SECONDS)

    def leave(self) -> None:
        """Let others come; tables of this attempt that are still there are swept by the next one."""
        _ended.add(self.token)
        _ours.discard(self.token)

    def _check_free(self) -> None:
        for other in self.others():
            raise self._busy(other)

    def others(self) -> list[Attempt]:
        """Other attempts at the same, by token; those that are dead are swept."""
        sweep(self._engine, self._prefix)
        alive = [each for each in found(self._engine, self._prefix) if each.token != self.token]
        return sorted(alive, key=lambda each: each.token)


def sweep(engine: Engine, prefix: str) -> None:
    """Drop the tables of attempts that are dead."""
    for attempt in found(engine, prefix):
        if is_dead(engine, attempt):
            drop(engine, attempt.table)


def found(engine: Engine, prefix: str) -> list[Attempt]:
    """The tables of attempts whose names begin so."""
    sql = (
        "SELECT tables.name, any(tables.comment),\n"
        "max(toInt64(greatest(tables.metadata_modification_time, parts.modification_time))) AS newest,\n"
        "if(newest = 0, 0, toInt64(now()) - newest)\n"
        "FROM system.tables AS tables LEFT JOIN system.parts AS parts\n"
        "ON parts.database = tables.database AND parts.table = tables.name\n"
        "WHERE tables.database = currentDatabase() AND startsWith(tables.name, {prefix:String})\n"
        "GROUP BY tables.name ORDER BY tables.name"
    )
    attempts = []
    for name, whose, _, idle in engine.query(Query(sql=sql, parameters={"prefix": prefix})).rows:
        if match := _NAME.fullmatch(str(name).removeprefix(prefix)):
            attempts.append(Attempt(str(name), match[1], str(whose), int(idle)))
    idle_seconds = dict[str, int]()
    for each in attempts:
        idle_seconds[each.token] = min(each.idle_seconds, idle_seconds.get(each.token, each.idle_seconds))
    return [replace(each, idle_seconds=idle_seconds[each.token]) for each in attempts]


def is_dead(engine: Engine, attempt: Attempt) -> bool:
    """Whether nobody is at it any more."""
    if attempt.token in _ours:
        return False
    if engine.capabilities.embedded or attempt.token in _ended:
        return True
    return attempt.idle_seconds > LEASE_SECONDS or is_gone(attempt.holder)


def drop(engine: Engine, table: str) -> None:
    """Drop a table if it is there, at once."""
    engine.command(f"DROP TABLE IF EXISTS {identifier(table)} SYNC")
