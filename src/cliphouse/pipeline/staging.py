"""Staging tables: where one attempt gathers a shard, so that of several loaders one at a time brings it in.

An attempt that was given up wrongly cannot do harm: its rows join from a table that is no longer there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cliphouse import attempts
from cliphouse.attempts import Attempt, Turn, drop
from cliphouse.engine import Engine
from cliphouse.errors import EngineError, ShardBusy
from cliphouse.holder import holder, in_words
from cliphouse.schema import create_staging, staging_prefix


class Staging:
    """The tables of one attempt at one shard: `whole`, which is to join the collection, and others on the way to it."""

    def __init__(self, engine: Engine, collection: str, shard: int) -> None:
        self._engine, self._collection, self._shard = engine, collection, shard
        self._turn = Turn(engine, f"{staging_prefix(collection)}{shard}_", self._busy)
        self._count = 0
        self.whole = self._turn.name(0)

    def __enter__(self) -> Staging:
        """Make the whole.

        Raises:
            ShardBusy: another loader is at this shard.
        """
        try:
            self._turn.take(self._create)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._count:
            self._leave(self.whole)
        self._turn.leave()

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
        name = self._turn.name(self._count)
        self._count += 1
        self._engine.command(create_staging(self._collection, name, holder()))
        return name

    def _busy(self, other: Attempt) -> ShardBusy:
        return ShardBusy(
            in_words(other.holder),
            idle_seconds=other.idle_seconds,
            lease_seconds=attempts.LEASE_SECONDS,
            shard=self._shard,
        )
