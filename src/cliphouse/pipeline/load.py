"""Shards enter the collection, each whole or not at all, once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field

from cliphouse import attempts, catalog, index, ready
from cliphouse.encoders import LAION_ENCODER, known_dim
from cliphouse.engine import Engine, Work
from cliphouse.errors import CliphouseError, DimensionMismatch, EngineError, ShardBusy, ShardError, UsageError
from cliphouse.pipeline import ledger
from cliphouse.pipeline.enter import Entrance
from cliphouse.pipeline.ledger import Entry
from cliphouse.pipeline.read import open_shard
from cliphouse.pipeline.rows import OpenShard
from cliphouse.pipeline.settling import Settling
from cliphouse.reports import LoadReport
from cliphouse.schema import (
    NEEDED_COLUMNS,
    create_table,
    deleted_name,
    identifier,
    ledger_name,
    staging_prefix,
    truth_name,
)
from cliphouse.types import CollectionInfo, LoadOptions, MergedShard, ProgressCallback, Query, Shard, Storage

#: How often workers that are to stop are looked after.
_CANCEL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening some shards gave: those that can be read, and why others cannot."""

    shards: Sequence[OpenShard]
    broken: Mapping[int, tuple[str, CliphouseError]] = field(default_factory=dict)


def open_all(shards: Iterable[Shard | MergedShard], options: LoadOptions) -> Opened:
    """Open shards, which checks all that can be checked without reading their vectors.

    Raises:
        ShardError, DimensionMismatch: one is broken, and the options do not say to pass it over.
    """
    opened, broken = [], {}
    for shard in shards:
        try:
            opened.append(open_shard(shard, options.columns))
        except (ShardError, DimensionMismatch) as error:
            if options.on_bad_shard == "fail":
                raise
            broken[shard.number] = (shard.source, error)
    return Opened(opened, broken)


def describe_new(name: str, opened: Opened, encoder: str | None, dim: int | None, storage: Storage) -> CollectionInfo:
    """The collection that the first of these shards begins. Without an encoder's name, 512 dimensions are LAION's.

    Raises:
        DimensionMismatch: the encoder's vectors have another length than the shard's.
        ShardError: not one shard can be read.
    """
    if not opened.shards:
        raise next(error for _, error in opened.broken.values())
    shard = opened.shards[0]
    if encoder is None:
        encoder = LAION_ENCODER if known_dim(LAION_ENCODER) == shard.dim else ""
    dim = dim or known_dim(encoder)
    if dim is not None and dim != shard.dim:
        raise DimensionMismatch(what=shard.source, given=shard.dim, expected=dim, owner=f"the encoder {encoder}")
    return CollectionInfo(name=name, encoder=encoder, dim=shard.dim, storage=storage)


def load_new(
    engine: Engine, info: CollectionInfo, opened: Opened, options: LoadOptions, progress: ProgressCallback | None
) -> LoadReport:
    """Create the collection and load into it; if not one shard gets in, leave nothing behind."""
    _drop_orphans(engine, info.name)
    engine.command(create_table(info))
    info = catalog.find(engine, info.name) or info
    try:
        return load(engine, info, opened, options, progress)
    except ShardBusy:  # the collection is another loader's too
        raise
    except BaseException:
        if not any(entry.state != "quarantined" for entry in ledger.entries(engine, info.name).values()):
            _drop_if_empty(engine, info.name)
        raise


def load(
    engine: Engine, info: CollectionInfo, opened: Opened, options: LoadOptions, progress: ProgressCallback | None
) -> LoadReport:
    """Bring in the shards that the ledger does not have.

    Raises:
        DimensionMismatch: a shard's vectors are of another length than the collection's.
        ShardConflict, ShardBusy: a shard of this number came from other files, or is just coming.
        UsageError: rows without embeddings would meet an index over them.
        ShardError: a shard is bad, and the options do not say to pass it over; those that were finished stay.
    """
    return _Load(engine, info, options, progress).run(opened)


@dataclass(slots=True)
class _Outcome:
    """What came of one shard: its line in the ledger, or why it was passed over; `fresh` if it came in now.

    Then `stored` rows of it are in the table.
    """

    entry: Entry | None = None
    error: CliphouseError | None = None
    fresh: bool = False
    stored: int = 0


class _Load:
    """One run of the loader."""

    def __init__(
        self, engine: Engine, info: CollectionInfo, options: LoadOptions, progress: ProgressCallback | None
    ) -> None:
        self._engine, self._info, self._options, self._progress = engine, info, options, progress
        self._entrance = Entrance(engine, info, options, progress)

    def run(self, opened: Opened) -> LoadReport:
        """Load, and report."""
        started = time.perf_counter()
        check_columns(self._info)
        self._check_indexes(opened.shards)
        ledger.prepare(self._engine, self._info.name)
        attempts.sweep(self._engine, staging_prefix(self._info.name))
        outcomes = {number: _Outcome(error=error) for number, (_, error) in opened.broken.items()}
        for number, (source, error) in opened.broken.items():
            self._quarantine(number, source, error)
        todo = []
        settle = Settling(self._engine, self._info.name, [shard.number for shard in opened.shards])
        for shard in opened.shards:
            try:
                self._check_dim(shard)
                entry = settle.entry(shard)
            except (ShardError, DimensionMismatch) as error:
                outcomes[shard.number] = self._passed_over(shard, error)
                continue
            if entry is None:
                todo.append(shard)
            else:
                outcomes[shard.number] = _Outcome(entry)
        outcomes |= self._bring_in_all(todo)
        return self._report(outcomes, time.perf_counter() - started)

    def _bring_in_all(self, todo: Sequence[OpenShard]) -> dict[int, _Outcome]:
        """Load these shards, some at a time, until all are in or one fails."""
        with self._engine.work() as work:
            return self._bring_in_by(work, todo)

    def _bring_in_by(self, work: Work, todo: Sequence[OpenShard]) -> dict[int, _Outcome]:
        outcomes: dict[int, _Outcome] = {}
        self._entrance.expect(todo)
        pool = ThreadPoolExecutor(self._options.workers, "cliphouse-load", work.join)
        running: dict[Future[_Outcome], OpenShard] = {}
        try:
            for position, shard in enumerate(todo, 1):
                label = f"shard {shard.number} ({position} of {len(todo)})"
                running[pool.submit(self._one, shard, label)] = shard
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    outcomes[running.pop(future).number] = future.result()
        except BaseException:
            self._entrance.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            _cancel(work, running)
            raise
        finally:
            pool.shutdown(wait=True)
        return outcomes

    def _one(self, shard: OpenShard, label: str) -> _Outcome:
        try:
            entry, stored = self._entrance.bring_in(shard, label)
        except ShardError as error:
            return self._passed_over(shard, error)
        return _Outcome(entry, fresh=stored is not None, stored=stored or 0)

    # -- what cannot come in -------------------------------------------------------------------------------------------

    def _passed_over(self, shard: OpenShard, error: CliphouseError) -> _Outcome:
        """A shard that cannot come in: listed, if the options say so."""
        if self._options.on_bad_shard == "fail":
            raise error
        if not isinstance(error, ShardBusy):  # nothing is wrong with that one
            self._quarantine(shard.number, shard.source, error)
        return _Outcome(error=error)

    def _quarantine(self, number: int, source: str, error: CliphouseError) -> None:
        known = ledger.entries(self._engine, self._info.name).get(number)
        if known is None or known.state == "quarantined":  # else its line tells of rows that are in the table
            line = Entry(shard=number, state="quarantined", source=source, reason=str(error))
            ledger.write(self._engine, self._info.name, line)

    # -- what must fit -------------------------------------------------------------------------------------------------

    def _check_dim(self, shard: OpenShard) -> None:
        if self._info.dim not in (0, shard.dim):
            raise DimensionMismatch(
                what=shard.source,
                given=shard.dim,
                expected=self._info.dim,
                owner=f"collection {self._info.name!r}",
            )

    def _check_indexes(self, shards: Iterable[OpenShard]) -> None:
        """Rows without an embedding cannot enter an index over it: merging them in would fail for ever."""
        indexed = index.definitions(self._engine, self._info.name)
        lacking = [shard.number for shard in shards if not shard.has_text]
        if lacking and "text_embedding" in indexed:
            raise UsageError(
                f"shard {lacking[0]} has no text embeddings, and text_embedding has an index that needs one in every "
                "row; drop it first: cliphouse index drop --column text"
            )
        if indexed and self._options.policy("vector") == "keep":
            raise UsageError(
                f"--on-bad-row keep stores rows without an embedding, and {next(iter(indexed))} has an index that "
                "needs one in every row; use --on-bad-row skip, or drop the index first: cliphouse index drop"
            )

    def _report(self, outcomes: Mapping[int, _Outcome], seconds: float) -> LoadReport:
        fresh = {number: each.entry for number, each in sorted(outcomes.items()) if each.fresh and each.entry}
        return LoadReport(
            rows=sum(each.stored for each in outcomes.values()),
            rows_read=sum(entry.rows_read for entry in fresh.values()),
            loaded=tuple(fresh),
            skipped=tuple(sorted(number for number, each in outcomes.items() if each.entry and not each.fresh)),
            quarantined={number: str(each.error) for number, each in sorted(outcomes.items()) if each.error},
            left_out=ledger.total(entry.left_out for entry in fresh.values()),
            kept=ledger.total(entry.kept for entry in fresh.values()),
            seconds=seconds,
            without_text=tuple(number for number, entry in fresh.items() if entry.rows and not entry.has_text),
            stale_indexes=tuple(
                state.name for state in ready.states(self._engine, self._info) if state.state != "ready"
            ),
        )


def check_columns(info: CollectionInfo) -> None:
    """A table made by hand must have the columns that searching needs; a collection about to be made has none to check.

    Raises:
        UsageError: it has not.
    """
    lacking = [column for column in NEEDED_COLUMNS if info.columns and column not in info.columns]
    if lacking:
        raise UsageError(
            f"table {info.name!r} was not made by cliphouse and lacks the columns {', '.join(lacking)}; "
            "load into another --collection"
        )


def _cancel(work: Work, running: Iterable[Future[_Outcome]]) -> None:
    """Break off what the workers have begun, and again until they have ended: one may just begin a merge."""
    at_work = [future for future in running if not future.done()]
    with suppress(EngineError):  # a server that is away does nothing for us
        while at_work:
            work.cancel()
            at_work = list(wait(at_work, timeout=_CANCEL_SECONDS).not_done)


def _drop_orphans(engine: Engine, collection: str) -> None:
    """Drop what stands beside a table that was dropped by hand.

    One answer says that there is no table and what is beside it. Asked one after the other, another loader could make
    its table and its ledger in between, and lose the ledger.
    """
    names = [collection, ledger_name(collection), deleted_name(collection), truth_name(collection)]
    sql = "SELECT name FROM system.tables WHERE database = currentDatabase() AND name IN {names:Array(String)}"
    found = {str(row[0]) for row in engine.query(Query(sql=sql, parameters={"names": names})).rows}
    if collection not in found:
        for table in found:
            attempts.drop(engine, table)


def _drop_if_empty(engine: Engine, collection: str) -> None:
    """Drop a collection that has no rows; another loader may be about to bring some, or just have brought them."""
    if attempts.found(engine, staging_prefix(collection)):
        return
    try:
        engine.command(f"DROP TABLE IF EMPTY {identifier(collection)} SYNC")
    except EngineError as error:
        if error.name != "TABLE_NOT_EMPTY":
            raise
        return
    attempts.drop(engine, ledger_name(collection))
