"""What all requests of a service share."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import Request

from cliphouse import catalog
from cliphouse.collection import Collection
from cliphouse.errors import UnknownCollection
from cliphouse.service.encoding import Encoding
from cliphouse.service.metrics import Metrics
from cliphouse.service.pool import Pool
from cliphouse.service.preparation import Preparation
from cliphouse.service.settings import Settings

#: Collections other than the served one of which it is remembered what searches learned.
_COLLECTIONS_KEPT = 16


@dataclass(slots=True)
class State:
    """The collection that is served by default, what encodes, the places to work on its engine, and the counters."""

    settings: Settings
    collection: Collection
    pool: Pool
    encoder: Preparation
    metrics: Metrics
    encoding: Encoding = field(init=False)
    _others: dict[str, Collection] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.encoding = Encoding(lambda name: self.collection_of(name).encoder(), self.settings, self.metrics)

    def collection_of(self, name: str | None) -> Collection:
        """The collection of this name in the same database, by default the one that is served.

        Raises:
            UnknownCollection: the database has none.
        """
        if name is None or name == self.collection.name:
            return self.collection
        if name not in self._others:
            # Any other table that somebody keeps there is not for the service to read.
            if name not in (known := catalog.names(self.collection.engine)):
                raise UnknownCollection(name, "this database", known=known)
            while len(self._others) >= _COLLECTIONS_KEPT:
                self._others.pop(next(iter(self._others)), None)
            self._others[name] = Collection(self.collection.engine, name)
        return self._others[name]


def state_of(request: Request) -> State:
    """The state of the service that got this request; for FastAPI's `Depends`."""
    state: State = request.app.state.service
    return state
