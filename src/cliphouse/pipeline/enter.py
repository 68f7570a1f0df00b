"""One shard enters the collection: written aside, merged to one part, and joined in one step."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice

import numpy as np
from pyarrow import ArrowException

from cliphouse import index
from cliphouse.engine import Engine
from cliphouse.errors import EngineError, EngineUnavailable, ShardError, UsageError
from cliphouse.pipeline import delete, deny, ledger
from cliphouse.pipeline.dirt import Cleaner
from cliphouse.pipeline.ledger import Entry
from cliphouse.pipeline.native import Piece, block
from cliphouse.pipeline.prefetch import prefetched
from cliphouse.pipeline.rows import Batch, OpenShard
from cliphouse.pipeline.settling import Settling
from cliphouse.pipeline.staging import Staging
from cliphouse.schema import INSERT_COLUMNS, attach_parts, identifier, set_comment
from cliphouse.types import CollectionInfo, LoadOptions, Progress, ProgressCallback, Storage

#: A block of rows has about this much of vectors: read, rounded and sent as one.
_BLOCK_BYTES = 8 * 2**20
#: One insert carries about this much, so that a server answers well before anybody's patience ends.
_INSERT_BYTES = 256 * 2**20
#: More than this is not merged at once: a merge needs memory for each of its parts. A LAION shard is just below.
_SEGMENT_BYTES = 8 * _INSERT_BYTES
#: Seconds between attempts while a server cannot be reached: it may be starting again.
_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 60.0, 60.0)

_log = logging.getLogger(__name__)


class StoppedError(Exception):
    """Raised in a worker that was told to stop; what it was at is given up."""


class Entrance:
    """The way into one collection. Several threads may use it, each for a shard of its own."""

    def __init__(
        self, engine: Engine, info: CollectionInfo, options: LoadOptions, progress: ProgressCallback | None
    ) -> None:
        self._engine, self._info, self._options, self._progress = engine, info, options, progress
        self._columns = {name: info.columns[name] for name in INSERT_COLUMNS if name in info.columns}
        self._denied = deny.current(engine, info.name)
        self._needs_text = "text_embedding" in index.definitions(engine, info.name)
        self._stopped = threading.Event()
        self._comment = threading.Lock()
        self._merging = set[str]()
        self._expected: dict[int, int] = {}
        self._reached: dict[int, int] = {}

    def expect(self, shards: Iterable[OpenShard]) -> None:
        """These shards are to come in: progress over all of them is told too, if they are several."""
        self._expected = {shard.number: shard.rows for shard in shards}

    def stop(self) -> None:
        """Let every shard that is not yet in be given up at the next block, or in the middle of its merge."""
        self._stopped.set()
        for table in tuple(self._merging):  # a merge runs on when its query is killed
            with suppress(EngineError):
                self._engine.command(f"SYSTEM STOP MERGES {identifier(table)}")

    def bring_in(self, shard: OpenShard, label: str) -> tuple[Entry, int | None]:
        """Load one shard and record it; return its line in the ledger, and the rows it brought, None if it was in.

        The rows are written to a table of their own, merged there to one part, and join the collection in one atomic
        step. Before that step a failure leaves no trace. The ledger says `joining` from before the step until after
        it, so that a loader which dies in between is understood. A server that cannot be reached is waited for, and
        the shard is begun again.

        Raises:
            ShardError: a file turns out to be bad on the way, or another loader is at it.
            EngineError: ClickHouse failed.
        """
        for tries, pause in enumerate(_PAUSES):
            try:
                return self._attempt(shard, label, again=tries > 0)
            except EngineUnavailable as error:
                _log.warning("shard %d: %s; trying again in %g s", shard.number, error, pause)
                if self._stopped.wait(pause):
                    raise StoppedError from error
        return self._attempt(shard, label, again=True)

    def _attempt(self, shard: OpenShard, label: str, *, again: bool) -> tuple[Entry, int | None]:
        started = time.perf_counter()
        deleted = delete.deleted_of(self._engine, self._info.name, shard.number)
        cleaner = Cleaner(shard, self._options, self._info.storage, deleted=deleted, denied=self._denied)
        mark = shard.fingerprint()
        with Staging(self._engine, self._info.name, shard.number) as staging:
            # Now that no other is at it: one may have finished it, or this one before it lost the server's answer.
            if (found := Settling(self._engine, self._info.name, [shard.number]).entry(shard)) is not None:
                return found, found.rows if again else None
            try:
                self._fill(staging, shard, cleaner, mark, label)
            except ArrowException as error:
                raise ShardError(
                    f"{shard.where('metadata', 0).rpartition(' row ')[0]} has a column that is neither text nor "
                    f"numbers: {error}".splitlines()[0],
                    shard=shard.number,
                ) from error
            tally = cleaner.tally
            if tally.gaps:
                self._remember_gaps()
            entry = Entry(
                shard=shard.number,
                state="joining",
                rows=tally.rows,
                rows_read=tally.rows_read,
                has_text=shard.has_text,
                fingerprint=mark,
                checksums=shard.checksums(),
                left_out=tally.left_out,
                kept=tally.kept,
                source=shard.source,
                seconds=time.perf_counter() - started,
            )
            ledger.write(self._engine, self._info.name, entry)
            if tally.stored:
                self._engine.command(attach_parts(staging.whole, self._info.name))
            late = deny.enforce(self._engine, self._info.name, shard.number)
            entry = replace(entry, state="loaded", seconds=time.perf_counter() - started)
            ledger.write(self._engine, self._info.name, entry)
        return entry, tally.stored - late

    def _fill(self, staging: Staging, shard: OpenShard, cleaner: Cleaner, mark: str, label: str) -> None:
        """Fill the whole of a staging, as one part, or for a very large shard as one for each segment."""
        row_bytes = _row_bytes(shard, self._info.storage)
        read = shard.batches(max(1, _BLOCK_BYTES // row_bytes))
        cleaned = prefetched(cleaner.clean(rows) for rows in read)
        stream = (batch for batch in cleaned if len(batch.numbers))
        inserts = enumerate(_groups(stream, max(1, _INSERT_BYTES // row_bytes)))
        if shard.rows * row_bytes <= _SEGMENT_BYTES:
            self._gather(staging.whole, inserts, shard, mark, label)
            return
        segment = _SEGMENT_BYTES // _INSERT_BYTES
        while some := list(islice(inserts, 1)):
            with staging.table() as table:
                self._gather(table, chain(some, islice(inserts, segment - 1)), shard, mark, label)
                self._engine.command(attach_parts(table, staging.whole))

    def _gather(
        self, table: str, inserts: Iterable[tuple[int, Iterable[Batch]]], shard: OpenShard, mark: str, label: str
    ) -> None:
        """Fill an empty table, and merge it to one part."""
        for number, group in inserts:
            pieces = self._pieces(group, shard, label)
            self._engine.insert_native(table, tuple(self._columns), pieces, token=f"{mark[:16]}:{number}")
            self._engine.release_memory()  # what this insert took must not stay beside what comes next
        if self._progress:
            self._progress(Progress(label=f"{label}: merging", done=0, total=1, unit="parts"))
        self._merging.add(table)
        try:
            self._check_stop()
            self._engine.command(f"OPTIMIZE TABLE {identifier(table)} FINAL")
        finally:
            self._merging.discard(table)
        self._engine.release_memory()
        if self._progress:
            self._progress(Progress(label=f"{label}: merging", done=1, total=1, unit="parts"))
        self._check_stop()

    def _pieces(self, group: Iterable[Batch], shard: OpenShard, label: str) -> Iterator[Piece]:
        for batch in group:
            self._check_stop()
            self._check_text(batch, shard)
            yield from block(batch, shard=shard.number, storage=self._info.storage, columns=self._columns)
            self._tell(label, shard, int(batch.numbers[-1]) + 1)

    def _tell(self, label: str, shard: OpenShard, done: int) -> None:
        if self._progress is None:
            return
        self._progress(Progress(label=label, done=done, total=shard.rows))
        self._reached[shard.number] = done
        if len(self._expected) > 1:
            total = sum(self._expected.values())
            self._progress(Progress(label="all shards", done=sum(self._reached.copy().values()), total=total))

    def _check_text(self, batch: Batch, shard: OpenShard) -> None:
        if self._needs_text and batch.text is not None and batch.text.empty is not None:
            row = int(batch.numbers[np.argmax(batch.text.empty)])
            raise UsageError(
                f"{shard.where('text_embedding', row)} has no text embedding, and text_embedding has an index that "
                "needs one in every row; drop it first: cliphouse index drop --column text"
            )

    def _check_stop(self) -> None:
        if self._stopped.is_set():
            raise StoppedError

    def _remember_gaps(self) -> None:
        """Let searches know that there are rows without an image embedding, before there are."""
        with self._comment:
            if not self._info.gaps:
                self._info = replace(self._info, gaps=True)
                self._engine.command(set_comment(self._info))


def _groups(stream: Iterator[Batch], rows: int) -> Iterator[Iterator[Batch]]:
    """The batches in runs of about so many rows, without holding more than one."""
    ahead = next(stream, None)

    def group() -> Iterator[Batch]:
        nonlocal ahead
        count = 0
        while ahead is not None and count < rows:
            count += len(ahead.numbers)
            yield ahead
            ahead = next(stream, None)

    while ahead is not None:
        yield group()


def _row_bytes(shard: OpenShard, storage: Storage) -> int:
    """What the vectors of one row take in the table."""
    return shard.dim * (2 if storage == "bfloat16" else 4) * (2 if shard.has_text else 1)
