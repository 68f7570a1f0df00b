"""One connection of the driver, how it is told from others, and which of them work together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client

from cliphouse.errors import EngineError


@dataclass(slots=True, eq=False)
class Connection:
    """A driver's client, and the mark its queries carry so that they can be found and killed.

    `lost` is set from an interrupt until its query has ended: waiting for the connection could take for ever.
    """

    client: Client
    mark: str
    stateful: bool = False
    lost: bool = False

    def close(self) -> None:
        """Close the client, unless that could hang."""
        if not self.lost:
            self.client.close()


class Work:
    """Statements of some threads, which can be broken off without those of others; `kill` takes the marks of theirs."""

    def __init__(self, kill: Callable[[Sequence[str]], None]) -> None:
        self._kill = kill
        self._marks: set[str] = set()
        self._over = False

    def join(self) -> None:
        """Whatever this thread asks from now on belongs to the work. For threads that end with it."""
        _here.work = self

    def cancel(self) -> None:
        """Kill the reads, inserts and merges that run at this moment; each raises `EngineError` where it was called.

        Statements about tables run on. They are short, and half a DROP would leave something behind.
        """
        if marks := sorted(self._marks):
            self._kill(marks)

    def end(self) -> None:
        """`cancel`, and let no further statement of the work begin: each raises `EngineError` as a killed one does.

        One that had just been let through when this was called may begin after it: call it until the work is done.
        """
        self._over = True
        self.cancel()

    @contextmanager
    def joined(self) -> Iterator[Work]:
        """The work, to which this thread belongs until the end of the block."""
        before = getattr(_here, "work", None)
        self.join()
        try:
            yield self
        finally:
            _here.work = before

    @contextmanager
    def runs(self, mark: str) -> Iterator[None]:
        """While statements that carry this mark may run.

        Raises:
            EngineError: the work was ended.
        """
        self._marks.add(mark)
        try:
            if self._over:
                raise EngineError("the work was broken off", code=394, name="QUERY_WAS_CANCELLED")
            yield
        finally:
            self._marks.discard(mark)


#: The work that each thread belongs to.
_here = threading.local()


def current() -> Work | None:
    """The work that this thread belongs to."""
    work: Work | None = getattr(_here, "work", None)
    return work
