"""Merging a table to one part: each part has ranges of its own to read."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cliphouse.engine import Engine, Work
from cliphouse.errors import EngineError
from cliphouse.schema import identifier
from cliphouse.types import Query

_POLL_SECONDS = 0.2


def to_one_part(engine: Engine, table: str, say: Callable[[float], None] | None) -> None:
    """Merge all parts, unless there is one already; `say` is told how far it is, from 0 to 1.

    What `say` raises ends the merge, and comes through.
    """
    with engine.work() as work:
        _merge(engine, work, table, say)


def _merge(engine: Engine, work: Work, table: str, say: Callable[[float], None] | None) -> None:
    done = threading.Event()
    failures: list[BaseException] = []

    def watch() -> None:
        try:
            poll()
        except BaseException as error:  # noqa: BLE001  # raised below, when the merge has stopped
            failures.append(error)
            work.cancel()

    def poll() -> None:
        running = Query(
            sql="SELECT max(progress) FROM system.merges\nWHERE database = currentDatabase() AND table = {name:String}",
            parameters={"name": table},
        )
        while not done.wait(_POLL_SECONDS):
            share = engine.query(running).rows[0][0] or 0
            if say:
                say(share)

    watcher = threading.Thread(target=watch, daemon=True)
    if say:
        watcher.start()
    try:
        engine.command(f"OPTIMIZE TABLE {identifier(table)} FINAL SETTINGS optimize_skip_merged_partitions = 1")
    except EngineError:
        if not failures:
            raise
    finally:
        done.set()
        if say:
            watcher.join()
    if failures:
        raise failures[0]
    if say:
        say(1)
