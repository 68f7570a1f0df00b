"""What all requests of a service share."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from cliphouse.collection import Collection
from cliphouse.service.metrics import Metrics
from cliphouse.service.pool import Pool
from cliphouse.service.preparation import Preparation
from cliphouse.service.settings import Settings


@dataclass(slots=True)
class State:
    """The collection that is served by default, its encoder, the places to work on its engine, and the counters."""

    settings: Settings
    collection: Collection
    pool: Pool
    encoder: Preparation
    metrics: Metrics


def state_of(request: Request) -> State:
    """The state of the service that got this request; for FastAPI's `Depends`."""
    state: State = request.app.state.service
    return state
