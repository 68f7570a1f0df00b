"""Sessions of ClickHouse's HTTP interface: connections that outlive a request, and a list of what runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from cliphouse.engine import Guest
from cliphouse.service.clickhouse_errors import refused

#: As ClickHouse has them: default_session_timeout and max_session_timeout.
_SECONDS, _MOST_SECONDS = 60, 3600
#: A connection costs memory; so many may wait for their next request.
_MOST_SESSIONS = 1000


@dataclass(slots=True)
class Place:
    """Where one request works: a session's connection, or one of its own that ends with it."""

    name: str | None = None
    guest: Guest | None = None
    seconds: int = _SECONDS
    busy: bool = False
    end: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class Sessions:
    """Sessions by user and name. For the thread of the event loop."""

    by_name: dict[tuple[str, str], Place] = field(default_factory=dict)

    def take(self, user: str, name: str | None, *, must_exist: bool, timeout: str | None) -> Place:
        """The place for a request, whose own it is until it is given back.

        Raises:
            EngineError: another request has it, or there is none and it `must_exist`, or `timeout` is no number.
        """
        seconds = _seconds(timeout)
        if name is None:
            return Place()
        place = self.by_name.get((user, name))
        if place is None:
            if must_exist:
                raise refused("SESSION_NOT_FOUND", "Session not found")
            if len(self.by_name) >= _MOST_SESSIONS:
                raise refused("TOO_MANY_SIMULTANEOUS_QUERIES", f"there are {_MOST_SESSIONS} sessions already")
            place = self.by_name[user, name] = Place(name)
        if place.busy:
            raise refused("SESSION_IS_LOCKED", f"Session {name!r} is locked by a concurrent client")
        if place.end is not None:
            place.end.cancel()
        place.busy, place.seconds = True, seconds
        return place

    def give_back(self, user: str, place: Place, *, close: bool = False) -> None:
        """A request has ended; a session goes on for its time, and is forgotten after that."""
        place.busy = False
        if place.name is None or close:
            self._forget(user, place)
        else:
            place.end = asyncio.get_running_loop().call_later(place.seconds, self._forget, user, place)

    def close(self) -> None:
        """Forget all."""
        for (user, _), place in list(self.by_name.items()):
            self._forget(user, place)

    def _forget(self, user: str, place: Place) -> None:
        if place.end is not None:
            place.end.cancel()
        if place.name is not None:
            self.by_name.pop((user, place.name), None)
        if place.guest is not None:
            place.guest.close()
            place.guest = None


def _seconds(timeout: str | None) -> int:
    if timeout is None:
        return _SECONDS
    if not timeout.isascii() or not timeout.isdigit():
        raise refused("INVALID_SESSION_TIMEOUT", f"Invalid session timeout: {timeout!r}")
    if int(timeout) > _MOST_SECONDS:
        raise refused("INVALID_SESSION_TIMEOUT", f"Session timeout {timeout!r} is larger than {_MOST_SECONDS}")
    return int(timeout)


@dataclass(slots=True)
class Running:
    """Statements that run now, by the mark of their guests: their query_id and user."""

    by_mark: dict[str, tuple[str, str]] = field(default_factory=dict)

    def of(self, user: str) -> dict[str, str]:
        """Marks and query_ids of one user's."""
        return {mark: query_id for mark, (query_id, owner) in self.by_mark.items() if owner == user}
