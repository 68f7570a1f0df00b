"""`cliphouse load`, or another command, in a process of its own, that may die where it is told to.

The processes are forked from one that has imported everything and started nothing, so that each costs a fraction of a
second. They run the real command on the real engine; death is SIGKILL, of the process by itself.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from cliphouse.collection import Collection
from cliphouse.engine import Engine
from cliphouse.types import LoadOptions

#: Seconds after which what should end has hung. A machine that does much else, or is a guest of one, can stand still
#: for a minute and more.
PATIENCE = 300.0

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["pytest", "cliphouse.cli.main", "tests.crash.loader"])


@dataclass(frozen=True, slots=True)
class Death:
    """When a command dies: before its statement of this number, from 1, or so many seconds after that has begun."""

    statement: int
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """One process that runs a command."""

    process: BaseProcess
    output: Path

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has just ended."""
        with suppress(ProcessLookupError):
            os.kill(int(self.process.pid or 0), number)

    def end(self, patience: float = PATIENCE) -> tuple[int, str]:
        """Its exit code, negative for a signal, and what it printed; it is killed if it does not end."""
        self.process.join(patience)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"the command did not end in {patience} s: {self.output.read_text()}")
        return int(self.process.exitcode), self.output.read_text()


def start(
    shards: Path,
    db: object,
    *,
    workers: int = 1,
    death: Death | None = None,
    trace: Path | None = None,
    more: tuple = (),
) -> Run:
    """Begin to load; the process tells in `trace` each statement and the seconds it took."""
    arguments = ("load", str(shards), "--db", str(db), *map(str, more))
    return command(shards.parent, arguments, workers=workers, death=death, trace=trace)


def command(
    place: Path,
    arguments: tuple[str, ...],
    *,
    workers: int = 1,
    death: Death | None = None,
    trace: Path | None = None,
) -> Run:
    """Begin a command line; what it prints goes to a file in `place`."""
    output = place / f"output-{time.monotonic_ns()}"
    process = _PROCESSES.Process(target=_main, args=(arguments, workers, death, trace, output), daemon=True)
    process.start()
    return Run(process, output)


def run(shards: Path, db: object, **options: Any) -> tuple[int, str]:
    """Load; the exit code and what was printed."""
    return start(shards, db, **options).end()


def _main(arguments: tuple[str, ...], workers: int, death: Death | None, trace: Path | None, output: Path) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from cliphouse.cli.main import main

    if workers > 1:
        Collection.load = functools.partialmethod(Collection.load, options=LoadOptions(workers=workers))
    if death or trace:
        steps = _Steps(death, trace)
        Engine.command = steps.counted(Engine.command)
        Engine.insert_native = steps.counted(Engine.insert_native)
    sys.argv = ["cliphouse", *arguments]
    try:
        main()
    except SystemExit as end:  # and nothing of multiprocessing's after it
        os._exit(int(end.code or 0))


class _Steps:
    """Counts the statements that change something."""

    def __init__(self, death: Death | None, trace: Path | None) -> None:
        self._death, self._trace = death, trace
        self._count = 0
        self._lock = threading.Lock()

    def counted(self, call: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(call)
        def counting(engine: Engine, sql: str, *arguments: Any, **options: Any) -> None:
            with self._lock:
                self._count += 1
                if self._death and self._count == self._death.statement:
                    self._die(self._death.after)
            began = time.perf_counter()
            call(engine, sql, *arguments, **options)
            if self._trace:
                with self._lock, self._trace.open("a") as file:
                    print(json.dumps([sql, time.perf_counter() - began]), file=file)

        return counting

    @staticmethod
    def _die(seconds: float) -> None:
        if not seconds:
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
