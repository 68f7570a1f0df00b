"""Places for work on the engine: so many at once, so many waiting, each for so long."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from cliphouse.engine import Engine, Work
from cliphouse.errors import Busy, EngineError, TimedOut
from cliphouse.service.metrics import Metrics

T = TypeVar("T")

#: A killed statement may have been about to start: work is ended again and again until it is done, first after this
#: long, then more and more seldom.
_KILL_SECONDS, _KILL_SELDOM_SECONDS = 0.05, 1.0
#: How much the newest piece of work counts for how long one takes.
_NEWEST = 0.1
_LONGEST_RETRY_SECONDS = 60


class Pool:
    """Runs work on the engine in threads; work that takes too long, or whose client has gone, is killed.

    For one event loop. A place is held until its work has really ended, which may be after the request was answered.
    """

    def __init__(self, engine: Engine, metrics: Metrics, *, workers: int, waiting: int, timeout: float) -> None:
        self._engine, self._metrics, self._timeout = engine, metrics, timeout
        self._workers, self._most = workers, workers + waiting
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="cliphouse-service")
        self._places: set[_Place[Any]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._usual_seconds = 0.0  # how long a piece of work takes
        self._closed = False

    @property
    def running(self) -> int:
        """Places where work runs."""
        return sum(place.began is not None for place in self._places)

    @property
    def waiting(self) -> int:
        """Pieces of work that wait for a place."""
        return len(self._places) - self.running

    async def run(self, work: Callable[[], T], *, timeout: float | None = None) -> T:
        """What `work` gives, called in a thread.

        Cancelling the task that waits here kills the statements of `work` too.

        Raises:
            Busy: there is no place for it.
            TimedOut: it took longer than `timeout`, by default the pool's.
        """
        seconds = timeout or self._timeout
        place = self._take(work)
        outcome = asyncio.wrap_future(place.future)
        outcome.add_done_callback(_seen)
        try:
            return await asyncio.wait_for(asyncio.shield(outcome), seconds)
        except TimeoutError:
            if place.future.done():
                raise  # the work's own
            self._end(place)
            self._metrics.timed_out.inc()
            raise TimedOut(seconds) from None
        except asyncio.CancelledError:
            self._end(place)
            self._metrics.cancelled.inc()
            raise

    async def stream(self, make: Callable[[], Iterable[T]], *, timeout: float | None = None) -> Stream[T]:
        """The items that `make` gives, both it and they made in a thread, which keeps its place until the end.

        The first is awaited here, so that what fails at once fails here. `timeout` is for each item: how long the
        engine may take for it, and how long whoever reads.

        Raises:
            Busy: there is no place for it.
            TimedOut: the first item took longer than `timeout`, by default the pool's.
        """
        stream: Stream[T] = Stream(make, timeout or self._timeout)
        place = self._take(stream.produce, release=stream.leave)
        stream.bind(lambda: self._end(place))
        try:
            await stream.begin()
        except TimedOut:
            self._metrics.timed_out.inc()
            raise
        except asyncio.CancelledError:
            self._metrics.cancelled.inc()
            raise
        return stream

    def _take(self, work: Callable[[], T], release: Callable[[], None] | None = None) -> _Place[T]:
        if self._closed or len(self._places) >= self._most:
            self._metrics.busy.inc()
            raise Busy(self._retry_seconds())
        place = _Place(self._engine, work, release)
        self._places.add(place)
        place.future = self._threads.submit(place.run)
        loop = asyncio.get_running_loop()
        place.future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave, place))
        return place

    def _leave(self, place: _Place[Any]) -> None:
        self._places.discard(place)
        place.left.set()
        if place.seconds is not None:
            usual = self._usual_seconds or place.seconds
            self._usual_seconds = usual + _NEWEST * (place.seconds - usual)

    def _retry_seconds(self) -> int:
        """When half of those who are here now should be through."""
        through = len(self._places) / self._workers * self._usual_seconds / 2
        return max(1, min(math.ceil(through), _LONGEST_RETRY_SECONDS))

    def _end(self, place: _Place[Any]) -> None:
        """Kill what a piece of work does, beside whatever the caller does next."""
        task = asyncio.get_running_loop().create_task(place.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Take no more work, kill what runs, and wait until it has ended."""
        self._closed = True
        for place in list(self._places):
            self._end(place)
        while self._ending:
            await asyncio.gather(*self._ending)
        await asyncio.to_thread(self._threads.shutdown, wait=True)


def _seen(outcome: asyncio.Future[Any]) -> None:
    """Look at what came of work that nobody may wait for any more, or asyncio would complain that nobody did."""
    if not outcome.cancelled():
        outcome.exception()


class _Place(Generic[T]):
    """One piece of work in the pool."""

    future: Future[T]

    def __init__(self, engine: Engine, work: Callable[[], T], release: Callable[[], None] | None) -> None:
        self._engine, self._work, self._release = engine, work, release
        self._group: Work | None = None
        self.left = asyncio.Event()
        self.began: float | None = None
        self.seconds: float | None = None

    def run(self) -> T:
        """Do the work, in the thread that this is called in."""
        self.began = time.monotonic()
        try:
            with self._engine.work() as self._group:
                return self._work()
        finally:
            self.seconds = time.monotonic() - self.began

    async def end(self) -> None:
        """Kill its statements until it has ended; if it has not begun it never will."""
        pause = _KILL_SECONDS
        while not self.left.is_set():
            self.future.cancel()
            if self._release:
                self._release()
            if self._group is not None:
                with contextlib.suppress(EngineError):
                    await asyncio.to_thread(self._group.end)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.left.wait(), pause)
            pause = min(2 * pause, _KILL_SELDOM_SECONDS)


class _Left(Exception):
    """Nobody reads the stream any more."""


class Stream(Generic[T]):
    """Items that come from a thread as fast as they are read: an asynchronous iterator, to be closed."""

    #: Items that may lie ready.
    _AHEAD = 2

    def __init__(self, make: Callable[[], Iterable[T]], timeout: float) -> None:
        self._make, self._timeout = make, timeout
        self._loop = asyncio.get_running_loop()
        # An item is in a list of one; an empty list is the end.
        self._items: asyncio.Queue[list[T] | BaseException] = asyncio.Queue(self._AHEAD)
        self._first: list[T] | BaseException | None = None
        self._left = threading.Event()
        self._over = False
        self._end: Callable[[], None] | None = None

    def bind(self, end: Callable[[], None]) -> None:
        """Say what kills the work."""
        self._end = end

    def produce(self) -> None:
        """Make the items and hand them over; for the thread."""
        try:
            for item in self._make():
                self._hand([item])
            self._hand([])
        except _Left:
            return
        except BaseException as error:  # noqa: BLE001  # raised where the items are read
            with contextlib.suppress(_Left):
                self._hand(error)

    def _hand(self, item: list[T] | BaseException) -> None:
        if self._left.is_set():
            raise _Left
        handed = asyncio.run_coroutine_threadsafe(self._items.put(item), self._loop)
        try:
            handed.result(self._timeout)
        except TimeoutError:
            handed.cancel()
            self._left.set()  # whoever reads has let go of it, or is too slow
            raise _Left from None

    async def begin(self) -> None:
        """Wait for the first item."""
        self._first = await self._next()
        if isinstance(self._first, BaseException):
            raise self._first

    async def _next(self) -> list[T] | BaseException:
        if self._left.is_set():
            raise TimedOut(self._timeout)
        try:
            return await asyncio.wait_for(self._items.get(), self._timeout)
        except TimeoutError:
            self.close()
            raise TimedOut(self._timeout) from None
        except asyncio.CancelledError:
            self.close()
            raise

    def __aiter__(self) -> Stream[T]:
        return self

    async def __anext__(self) -> T:
        if self._over:
            raise StopAsyncIteration
        found, self._first = self._first, None
        if found is None:
            found = await self._next()
        if isinstance(found, BaseException):
            raise found
        if not found:
            self._over = True
            raise StopAsyncIteration
        return found[0]

    def leave(self) -> None:
        """Let the thread know that nobody reads any more."""
        self._left.set()
        while not self._items.empty():  # one that waits to hand something over goes on, and sees that
            self._items.get_nowait()

    def close(self) -> None:
        """Break off what is still to come, and kill what makes it."""
        self.leave()
        if self._end:
            self._end()
