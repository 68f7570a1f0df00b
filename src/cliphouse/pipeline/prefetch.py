"""One step of a stream ahead, in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class _End:
    """What the thread puts last: the failure, if there was one."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.failure = failure


def prefetched(items: Iterable[T]) -> Iterator[T]:
    """The items in their order, while a thread makes the next one.

    What making them raises comes out here. If the consumer stops early, the thread ends before its next item.
    """
    ready: queue.Queue[T | _End] = queue.Queue()
    wanted = threading.Semaphore(1)  # not a queue's bound: that would let one wait while the next is being made
    stopped = threading.Event()

    def work() -> None:
        end = _End()
        try:
            for item in items:
                ready.put(item)
                del item
                wanted.acquire()
                if stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001  # handed to the consumer as it is
            end = _End(error)
        ready.put(end)

    thread = threading.Thread(target=work, name="cliphouse-prefetch", daemon=True)
    wanted.acquire()
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                if item.failure is not None:
                    raise item.failure
                return
            wanted.release()
            yield item
            del item
    finally:
        stopped.set()
        wanted.release()
        thread.join()
