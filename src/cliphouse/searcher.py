"""The searches of one collection: what is looked for, in which column, and what was learned of the table so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cliphouse import catalog, many, queries, ready, search
from cliphouse.encoders.chosen import Chosen
from cliphouse.engine import Engine
from cliphouse.errors import EngineError, UnknownCollection, UnknownItem, UsageError
from cliphouse.hits import Hits, SearchPlan
from cliphouse.ready import NOTHING, Ready
from cliphouse.types import HIT_COLUMNS, CollectionInfo, Query, SearchParams
from cliphouse.vectors import query_vector

if TYPE_CHECKING:
    from PIL.Image import Image

    Target = str | Path | Image | ArrayLike | None

T = TypeVar("T")


class Searcher:
    """Searches one collection. Safe to use from several threads at once."""

    def __init__(self, engine: Engine, name: str, chosen: Chosen) -> None:
        self._engine, self._name, self._chosen = engine, name, chosen
        self._searches = 0
        # What the last look at the catalogue said: asking again for every search would take longer than many do.
        self._known: CollectionInfo | None = None
        self._fits_cache: dict[str, bool] = {}
        self._ready: Ready | None = None

    def info(self) -> CollectionInfo:
        """What the table says of itself now.

        Raises:
            UnknownCollection: there is no such table.
        """
        info = catalog.find(self._engine, self._name)
        if info is None:
            raise UnknownCollection(self._name, str(self._engine.location))
        self._known = info if info.dim else None
        return info

    def forget(self) -> None:
        """Look at the catalogue again before the next search: the table may be another one now."""
        self._known = None
        self._fits_cache = {}

    def run(self, query: Target, like: int | None, params: SearchParams) -> Hits:
        """The rows nearest to `query`, or to the row `like`."""
        return self._looking_again(lambda: self._run(query, like, params))

    def run_many(self, targets: Iterable[Target], params: SearchParams) -> list[Hits]:
        """The rows nearest to each target, in their order."""
        given = list(targets)
        return self._looking_again(lambda: self._run_many(given, params))

    def statement(self, query: Target, like: int | None, params: SearchParams) -> tuple[Query, SearchPlan]:
        """The statement that the next search would run, and why that one."""
        info = self.searchable(params)
        target = self._target(info, query, like, params)
        return search.statement(
            self._engine, info, self._look(info, params), target, params, keep=self._keeps(info, params)
        )

    def searchable(self, params: SearchParams) -> CollectionInfo:
        """What is known of the table, which has the columns that these parameters want.

        Raises:
            UnknownCollection: there is no such table.
            UsageError: it lacks a column.
        """
        info = self._known or self.info()
        wanted = (params.embedding_column, *HIT_COLUMNS, *params.columns)
        if not info.columns.keys() >= set(wanted):
            info = self.info()
        if unknown := [name for name in wanted if name not in info.columns]:
            raise UsageError(
                f"collection {self._name!r} has no column {', '.join(unknown)}; it has: {', '.join(info.columns)}"
            )
        return info

    def _run(self, query: Target, like: int | None, params: SearchParams) -> Hits:
        info = self.searchable(params)
        target = self._target(info, query, like, params)
        known = self._look(info, params)
        hits = search.run(self._engine, info, known, target, params, keep=self._keeps(info, params))
        self._searches += 1
        return hits

    def _look(self, info: CollectionInfo, params: SearchParams) -> Ready:
        """What can answer now; an exact search needs no index, and does not look."""
        if params.exact:
            return self._ready or NOTHING
        self._ready = ready.look(self._engine, info, params.embedding_column, self._ready)
        return self._ready

    def _run_many(self, targets: list[Target], params: SearchParams) -> list[Hits]:
        info = self.searchable(params)
        vectors = [self._target(info, target, None, params) for target in targets]
        if not vectors:
            return []
        known = self._look(info, params)
        found = many.run(self._engine, info, known, np.stack(vectors), params, keep=self._keeps(info, params))
        self._searches += 1
        return found

    def _looking_again(self, search: Callable[[], T]) -> T:
        """What `search` gives; if it fails by what is remembered of the table, by what the table says now."""
        remembered = self._known is not None
        try:
            return search()
        except EngineError:
            if not remembered:
                raise
            self.forget()  # the table may have been changed by somebody else
            return search()

    def _keeps(self, info: CollectionInfo, params: SearchParams) -> bool:
        """Whether an exact search should keep its column in the engine's cache: from the second one on, if it fits.

        A single search, as the shell makes, would fill the cache for nothing; a second one tells that more follow.
        """
        if self._searches == 0:
            return False
        column = params.embedding_column
        if column not in self._fits_cache:
            self._fits_cache[column] = search.fits_cache(self._engine, info, column)
        return self._fits_cache[column]

    def _target(
        self, info: CollectionInfo, query: Target, like: int | None, params: SearchParams
    ) -> NDArray[np.float32]:
        """The vector to look for: float32, shape (dim,)."""
        if (query is None) == (like is None):
            raise UsageError("give one thing to search for: a text, a picture, a vector, or the id of a row")
        owner = f"collection {self._name!r}"
        self._chosen.check(info)
        if like is not None:
            if not -(2**63) <= like < 2**63:
                raise UnknownItem(self._name, like)
            stored = self._engine.query(queries.embedding_of(info, params.embedding_column, like)).rows
            if not stored:
                raise UnknownItem(self._name, like)
            if not stored[0][0]:
                raise UsageError(f"row {like} has no {params.embedding_column}")
            return query_vector(stored[0][0], dim=info.dim, owner=owner)
        if isinstance(query, (str, Path)) or hasattr(query, "convert"):  # a PIL image, told without importing Pillow
            query = self._chosen.vector(info, cast("str | Path | Image", query))
        return query_vector(cast("ArrayLike", query), dim=info.dim, owner=owner)
