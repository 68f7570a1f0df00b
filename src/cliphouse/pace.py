"""How fast bytes may come, how long to try, and when to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Fruitless attempts, one after the other, before a source is given up.
ATTEMPTS = 5
#: Seconds of rest after the first of them; then twice, three times, four times that.
PAUSE = 1.0
#: A source that wants to be left alone for longer is given up at once.
LONGEST_REST = 120.0


class Stopped(Exception):
    """Somebody has said that the work is to end."""


class Busy(Exception):
    """It may go better later: after `after` seconds, if the other side says so."""

    def __init__(self, reason: str, after: float = 0) -> None:
        super().__init__(reason)
        self.after = after


class Bucket:
    """A budget of `rate` units a second. It holds no clock: it is told the time, and says how long to wait.

    Where everybody waits as told, `t` seconds after the first helping all have taken `rate * t` at most, besides the
    last helping of each.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._paid_until = 0.0

    def take(self, count: float, now: float) -> float:
        """Take `count` units at the time `now`; the seconds to wait before the next helping."""
        self._paid_until = max(self._paid_until, now) + count / self._rate
        return self._paid_until - now


class Pace:
    """The pace of several threads together: `limit` bytes a second, or as fast as they come; `stop` ends all."""

    def __init__(self, limit: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._bucket = Bucket(limit) if limit else None
        self._clock = clock
        #: All bytes that came.
        self.total = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def helping(self, most: int) -> int:
        """How many bytes to take at once: `most`, or less where those would take longer than a quarter second."""
        return most if self._limit is None else max(1, min(most, int(self._limit / 4)))

    def took(self, count: int) -> None:
        """Say that `count` bytes came, and wait until more may come.

        Raises:
            Stopped: the work is to end.
        """
        with self._lock:
            self.total += count
            wait = self._bucket.take(count, self._clock()) if self._bucket else 0.0
        self.rest(wait)

    def rest(self, seconds: float) -> None:
        """Wait.

        Raises:
            Stopped: the work is to end.
        """
        if self._stop.wait(seconds) if seconds > 0 else self._stop.is_set():
            raise Stopped

    def stop(self) -> None:
        """End all waiting, now and later."""
        self._stop.set()


def persist(
    pace: Pace, attempt: Callable[[], bool], came: Callable[[], int] = lambda: 0, attempts: int = ATTEMPTS
) -> None:
    """Call `attempt` until it returns True, with rests between; `came` counts what it has brought so far.

    Raises:
        Busy: the last reason, after `attempts` calls in a row that brought nothing, or where the other side asks for a
            rest longer than LONGEST_REST.
        Stopped: the work is to end.
    """
    left = attempts
    while True:
        had, after = came(), 0.0
        try:
            if attempt():
                return
            busy = Busy("the connection was cut")
        except Busy as error:
            busy, after = error, error.after
        left = attempts if came() > had else left - 1
        if not left or after > LONGEST_REST:
            raise busy
        pace.rest(max(after, PAUSE * (attempts - left)))
