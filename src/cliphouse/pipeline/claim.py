"""Who is building an index: of several builders, in one process or in many, one at a time is at an index."""

from __future__ import annotations

import threading
from contextlib import suppress

from cliphouse import attempts, catalog, ivf
from cliphouse.attempts import Attempt, Turn
from cliphouse.engine import Engine
from cliphouse.errors import EngineError, IndexBusy
from cliphouse.holder import holder, in_words
from cliphouse.lists import building_prefix, create_building
from cliphouse.schema import identifier

#: How often a builder on a server says that it is alive: training and merging write nothing for long.
_BEAT_SECONDS = 60.0


class Claim:
    """The right to change the lists of a column, for as long as a `with` lasts."""

    def __init__(self, engine: Engine, collection: str, column: str) -> None:
        self._engine, self._index = engine, f"{ivf.index_name(column)} of {collection!r}"
        self._turn = Turn(engine, building_prefix(collection, column), self._busy)
        self._table = self._turn.name(0)
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="cliphouse-claim", daemon=True)

    @property
    def token(self) -> str:
        """What tells this attempt from others, for the names of its tables."""
        return self._turn.token

    def __enter__(self) -> Claim:
        """Begin alone.

        Raises:
            IndexBusy: another builder is at it.
        """
        try:
            self._turn.take(self._create)
            if not self._engine.capabilities.embedded:  # there, who lives is known
                self._beats.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._beats.is_alive():
            self._beats.join()
        with suppress(EngineError):  # the next builder does it
            attempts.drop(self._engine, self._table)
        self._turn.leave()

    def check(self) -> None:
        """Make sure that nobody has given this attempt up for dead; to be called before whatever another would miss.

        Raises:
            IndexBusy: somebody has.
        """
        if not catalog.exists(self._engine, self._table):
            others = self._turn.others()
            raise self._busy(others[0] if others else Attempt("", "", "another builder", 0))

    def _create(self) -> None:
        self._engine.command(create_building(self._table, holder()))
        self._say_alive()

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_SECONDS):
            with suppress(EngineError):  # the build itself will fail too, or `check`
                self._say_alive()

    def _say_alive(self) -> None:
        self._engine.command(f"INSERT INTO {identifier(self._table)} SELECT now()")

    def _busy(self, other: Attempt) -> IndexBusy:
        return IndexBusy(
            self._index,
            in_words(other.holder),
            idle_seconds=other.idle_seconds,
            lease_seconds=attempts.LEASE_SECONDS,
        )
