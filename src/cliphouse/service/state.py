"""What all requests of a service share."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from cliphouse.collection import Collection
from cliphouse.service.pool import Pool
from cliphouse.service.settings import Settings


@dataclass(slots=True)
class State:
    """The collection that is served by default, and the places to work on its engine."""

    settings: Settings
    collection: Collection
    pool: Pool


def state_of(request: Request) -> State:
    """The state of the service that got this request; for FastAPI's `Depends`."""
    state: State = request.app.state.service
    return state
