"""Places for work on the engine: so many at once, so many waiting, each for so long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cliphouse.engine import Engine, Work
from cliphouse.errors import CliphouseError, EngineError

T = TypeVar("T")

#: A killed statement may have been about to start: it is killed again this often.
_KILL_SECONDS = 0.1


class Busy(CliphouseError):
    """All places are taken and enough requests wait; come again after `retry_after` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"all places are taken; come again in {retry_after} s")
        self.retry_after = retry_after


class TimedOut(CliphouseError):
    """The request took longer than it may; its statement was killed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the request took longer than {seconds:g} s and was stopped")
        self.seconds = seconds


class Pool:
    """Runs work on the engine in threads; work that takes too long, or whose client has gone, is killed."""

    def __init__(self, engine: Engine, *, workers: int, waiting: int, timeout: float) -> None:
        self._engine, self._timeout = engine, timeout
        self._most = workers + waiting
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="cliphouse-service")
        self.running = 0  # with those that wait

    async def run(self, work: Callable[[], T], *, timeout: float | None = None) -> T:
        """What `work` gives, called in a thread.

        Cancelling the task that waits here kills the statements of `work` too.

        Raises:
            Busy: there is no place for it.
            TimedOut: it took longer than `timeout`, by default the pool's.
        """
        if self.running >= self._most:
            raise Busy(1)
        seconds = timeout or self._timeout
        ours: list[Work] = []

        def joined() -> T:
            with self._engine.work() as group:
                ours.append(group)
                return work()

        self.running += 1
        future = self._threads.submit(joined)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave))
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), seconds)
        except TimeoutError:
            await self._kill(future, ours)
            raise TimedOut(seconds) from None
        except asyncio.CancelledError:
            await asyncio.shield(self._kill(future, ours))
            raise

    async def _kill(self, future: Future[T], ours: list[Work]) -> None:
        """Kill the statements of a piece of work until it has ended."""
        while not future.cancel() and not future.done():
            for group in ours:
                with contextlib.suppress(EngineError):
                    await asyncio.to_thread(group.cancel)
            await asyncio.sleep(_KILL_SECONDS)

    def _leave(self) -> None:
        self.running -= 1

    def close(self) -> None:
        """Take no more work and wait for what runs."""
        self._threads.shutdown(wait=True, cancel_futures=True)
