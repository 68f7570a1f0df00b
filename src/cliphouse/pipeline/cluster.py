"""Building the inverted lists of a collection: train clusters on a sample, assign every row, copy rows to their lists.

A build writes tables of its own and is noted as the one that serves only when it is whole, so the old lists answer
until then. One that is broken off goes on where it stopped. Lists that are there take in what has changed since.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cliphouse import attempts, catalog, clusters, facts, ivf, notes, stream
from cliphouse.clusters import Assigner, Clusters, Summary
from cliphouse.engine import Engine
from cliphouse.errors import EngineError, UsageError
from cliphouse.ivf import Lists
from cliphouse.lists import (
    TableColumn,
    assigned_name,
    clusters_name,
    copy_rows,
    create_assigned,
    create_clusters,
    create_lists,
    definitions,
    lists_name,
)
from cliphouse.pipeline.claim import Claim
from cliphouse.pipeline.compact import to_one_part
from cliphouse.pipeline.native import header, varint
from cliphouse.pipeline.room import check_room
from cliphouse.schema import identifier
from cliphouse.types import CollectionInfo, IvfConfig, Progress, ProgressCallback

#: Fewer rows are compared with each query in no time.
MIN_ROWS = 1_000
#: Rows that are copied in one statement; their assignments are joined in memory.
_SEGMENT_ROWS = 1_000_000
#: New lists are built, and clusters trained again, when the collection has grown by this factor.
_RETRAIN_GROWTH = 2.0
_TOPICS: tuple[notes.Topic, ...] = ("ready", "building", "tuned", "facts")


@dataclass(frozen=True, slots=True)
class _Segment:
    """A run of ids with about `rows` rows of the collection."""

    first: int
    last: int
    rows: int

    @property
    def ids(self) -> str:
        return ivf.between(self.first, self.last)

    def pieces(self) -> Iterator[_Segment]:
        """The same as runs that can each be held in memory."""
        count = -(-self.rows // _SEGMENT_ROWS)
        bounds = np.linspace(self.first, self.last + 1, count + 1).astype(np.int64).tolist()
        for first, end in pairwise(bounds):
            yield _Segment(first, end - 1, self.rows // count)


def build(
    engine: Engine, info: CollectionInfo, column: str, config: IvfConfig, progress: ProgressCallback | None = None
) -> None:
    """Build the lists of `column`, or take what has changed since into those that are there.

    Raises:
        UsageError: there are too few rows, or the lists have another number of clusters than asked for.
        IndexBusy: another builder is at them.
        NotEnoughSpace: the disk has no room for one more copy of the vectors.
        EngineError: ClickHouse failed; the same call again goes on.
    """
    with Claim(engine, info.name, column) as claim:
        _build(engine, info, column, config, claim, progress)


def _build(
    engine: Engine,
    info: CollectionInfo,
    column: str,
    config: IvfConfig,
    claim: Claim,
    progress: ProgressCallback | None,
) -> None:
    known = notes.read(engine, info.name)
    serving = ivf.find(engine, info, known, column)
    total = sum(rows for rows, _, _ in ivf.ends(engine, info.name, ivf.with_embedding(column)).values())
    if serving and config.nlist not in (0, serving.build.nlist):
        raise UsageError(
            f"{column} has an ivf index with {serving.build.nlist} clusters; drop it first: "
            f"cliphouse index drop --kind ivf --column {column}"
        )
    started = time.perf_counter()
    if serving and _can_grow(engine, info, serving, total):
        job = _Job(engine, info, serving.build, column, claim, progress)
        job.update(serving)
        finished = serving.build
    else:
        if total < MIN_ROWS:
            raise UsageError(
                f"{total:,} rows with {column} are too few for an ivf index, which wants {MIN_ROWS:,}; "
                "searching them exactly is as fast"
            )
        asked = config if config.nlist or serving is None else serving.build.config
        finished = _begin(engine, info, column, asked, known, total)
        job = _Job(engine, info, finished, column, claim, progress)
        job.create(finished.nlist, total)
    claim.check()
    finished = replace(finished, seconds=finished.seconds + time.perf_counter() - started)
    notes.write(engine, info.name, column, "ivf", finished, "ready")
    ivf.remember(engine, info.name, [column])
    notes.forget(engine, info.name, column, "ivf", "building")
    ivf.drop(engine, info.name, column, but=[finished.token])


def drop(engine: Engine, info: CollectionInfo, column: str) -> str:
    """Drop the lists of `column`, finished or not; return the name of the index.

    Raises:
        IndexBusy: they are being built.
        UsageError: there are none.
    """
    with Claim(engine, info.name, column):
        known = notes.read(engine, info.name)
        noted = [topic for topic in _TOPICS if (column, "ivf", topic) in known]
        for topic in noted:
            notes.forget(engine, info.name, column, "ivf", topic)
        dropped = ivf.drop(engine, info.name, column)
    if not dropped and not noted:
        raise UsageError(f"{column} of {info.name!r} has no ivf index")
    return ivf.index_name(column)


def _can_grow(engine: Engine, info: CollectionInfo, serving: Lists, total: int) -> bool:
    """Whether the lists can take in what has changed, so that nothing has to be trained and copied anew."""
    wanted = definitions(ivf.columns_of(engine, info.name), serving.column)
    return (
        total < _RETRAIN_GROWTH * serving.build.rows
        and wanted <= definitions(ivf.columns_of(engine, serving.table), serving.column)
        and not ivf.was_changed(engine, info.name, serving.build)
    )


def _begin(
    engine: Engine, info: CollectionInfo, column: str, config: IvfConfig, known: notes.Notes, total: int
) -> notes.Build:
    """The build that was broken off, if it is the same one, or a new one, with empty tables.

    Raises:
        UsageError: there are too few rows for so many clusters.
        NotEnoughSpace: there is no room for it; nothing is left of a new one.
    """
    before = notes.build_of(known, column, "ivf", "building")
    wanted = config.nlist or clusters.count_for(total)
    same = before is not None and before.asked_nlist == config.nlist and total < _RETRAIN_GROWTH * before.rows
    columns = ivf.columns_of(engine, info.name)
    if before and same and not ivf.was_changed(engine, info.name, before):
        lists = lists_name(info.name, column, before.token)
        if definitions(columns, column) == definitions(ivf.columns_of(engine, lists), column):
            check_room(engine, info, column, lists, total)
            return before
    if wanted * 2 > total:
        raise UsageError(f"{total:,} rows are too few for {wanted:,} clusters; leave the number out")
    serving = notes.build_of(known, column, "ivf", "ready")
    kept = [serving.token] if serving else []
    if before:
        notes.forget(engine, info.name, column, "ivf", "building")
    ivf.drop(engine, info.name, column, but=kept)
    source, mutation = ivf.origin(engine, info.name)
    begun = notes.Build(
        token=uuid.uuid4().hex[:8],
        source=source,
        mutation=mutation,
        rows=total,
        nlist=wanted,
        asked_nlist=config.nlist,
    )
    lists = lists_name(info.name, column, begun.token)
    try:
        engine.command(create_lists(lists, column, columns))
        engine.command(create_clusters(clusters_name(lists)))
        check_room(engine, info, column, lists, total)
    except BaseException:
        ivf.drop(engine, info.name, column, but=kept)
        raise
    notes.write(engine, info.name, column, "ivf", begun, "building")
    return begun


class _Job:
    """One build, or one update, of the lists in `lists`."""

    def __init__(
        self,
        engine: Engine,
        info: CollectionInfo,
        build: notes.Build,
        column: str,
        claim: Claim,
        progress: ProgressCallback | None,
    ) -> None:
        self._engine, self._info, self._column, self._claim, self._progress = engine, info, column, claim, progress
        self._lists = lists_name(info.name, column, build.token)
        self._columns: Sequence[TableColumn] = ivf.columns_of(engine, info.name)

    def create(self, nlist: int, total: int) -> None:
        """Build from nothing, or from where an earlier attempt was broken off."""
        stored = ivf.read_clusters(self._engine, self._lists, self._info.dim)
        if stored.sizes.any():
            return  # only the note was missing
        trained = stored.centroids
        if not len(stored):
            trained = clusters.train(self._sample(nlist, total), nlist, on_round=self._on_round)
            self._store(Clusters(trained, np.zeros(nlist, np.float32), np.zeros(nlist, np.int64)))
        summary = Summary(nlist, self._info.dim)
        self._copy(self._segments(), Assigner(trained), summary)
        self._merge(total)
        self._store(summary.clusters())

    def update(self, serving: Lists) -> None:
        """Take in the rows that came, and let go of those that went."""
        summary = Summary.of(serving.clusters)
        known = notes.read(self._engine, self._info.name)
        for condition in ivf.gone(self._engine, self._info.name, self._lists, known):
            self._forget(condition)
        wrong = ivf.covered_now(self._engine, self._info.name, serving)
        if wrong.tail is not None:
            self._copy(self._segments(wrong.tail), Assigner(serving.clusters.centroids), summary)
        self._merge(wrong.total)
        # An update that was broken off, or a deletion, has changed the lists and said nothing to the clusters.
        held = ivf.sizes(self._engine, self._lists, len(serving.clusters))
        if (held != serving.clusters.sizes).any():
            self._store(summary.clusters().resized(held))

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _sample(self, nlist: int, total: int) -> NDArray[np.float32]:
        """Unit vectors of rows taken evenly from the whole collection, by a hash of their ids."""
        wanted = min(total, clusters.sample_for(nlist))
        # A little more, for a share of hashes is a share of rows only roughly, and room for yet more.
        aimed = wanted if wanted == total else min(total, int(1.02 * wanted))
        share = "true" if aimed == total else f"cityHash64(id, 7) % {2**32} < {2**32 * aimed // total}"
        sample = np.empty((aimed + 6 * math.isqrt(aimed), self._info.dim), np.float32)
        taken = 0

        def take(block: stream.Block) -> None:
            nonlocal taken
            fitting = block.vectors[: len(sample) - taken]
            sample[taken : taken + len(fitting)] = clusters.unit_rows(fitting)
            taken += len(fitting)
            self._say("sampling", taken, wanted)

        stream.vectors(self._engine, self._info, self._column, take, where=share)
        return sample[:taken]

    def _segments(self, tail: str | None = None) -> list[_Segment]:
        """All rows, or those of `tail`, as runs of ids that are each copied in one go."""
        condition = ivf.with_embedding(self._column) + (f" AND {tail}" if tail else "")
        runs: list[_Segment] = []
        for rows, first, last in ivf.ends(self._engine, self._info.name, condition).values():
            # Between two shards of a tail may be one that is held already.
            before = runs[-1] if runs and not tail else None
            if before and before.rows + rows <= _SEGMENT_ROWS:
                runs[-1] = _Segment(before.first, last, before.rows + rows)
            else:
                runs.append(_Segment(first, last, rows))
        return [piece for run in runs for piece in run.pieces()]

    def _copy(self, segments: Sequence[_Segment], assigner: Assigner, summary: Summary) -> None:
        total, done = sum(each.rows for each in segments), 0
        is_begun = catalog.count_rows(self._engine, self._lists) > 0
        for segment in segments:
            ids, numbers = self._assign(segment, assigner, summary, done, total)
            done += segment.rows
            if is_begun:
                if self._is_copied(segment):
                    continue
                # What an attempt that was killed had copied of it may be any part.
                self._forget(segment.ids)
            with self._assigned(ids, numbers) as assigned:
                self._claim.check()
                self._engine.command(
                    copy_rows(self._info.name, self._lists, self._column, self._columns, segment.ids, assigned)
                )

    def _assign(
        self, segment: _Segment, assigner: Assigner, summary: Summary, done: int, total: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        ids: list[NDArray[np.int64]] = []
        numbers: list[NDArray[np.int64]] = []

        def take(block: stream.Block) -> None:
            nonlocal done
            vectors = clusters.unit_rows(block.vectors)
            assigned = assigner.assign(vectors)
            summary.add(vectors, assigned)
            ids.append(block.ids)
            numbers.append(assigned)
            done += len(block.ids)
            self._say(f"{ivf.index_name(self._column)}: assigning", done, total)

        stream.vectors(self._engine, self._info, self._column, take, where=segment.ids)
        if not ids:
            return np.empty(0, np.int64), np.empty(0, np.uint32)
        return np.concatenate(ids), np.concatenate(numbers).astype(np.uint32)

    def _forget(self, condition: str) -> None:
        self._claim.check()
        self._engine.command(
            f"DELETE FROM {identifier(self._lists)} WHERE {condition} SETTINGS lightweight_deletes_sync = 2"
        )

    def _is_copied(self, segment: _Segment) -> bool:
        listed = ivf.columns_of(self._engine, self._lists)
        content = facts.content_of(self._columns, listed, self._column)
        copies = facts.of_rows(self._engine, self._lists, content, segment.ids)
        condition = f"{ivf.with_embedding(self._column)} AND {segment.ids}"
        return bool(copies) and copies == facts.of_rows(self._engine, self._info.name, content, condition)

    @contextmanager
    def _assigned(self, ids: NDArray[np.int64], numbers: NDArray[np.uint32]) -> Iterator[str]:
        """The assignments as a table, by its name, for as long as rows are copied."""
        table = assigned_name(self._lists, self._claim.token)
        block = [
            varint(2) + varint(len(ids)),
            header("id", "Int64") + ids.astype("<i8").tobytes(),
            header("cluster", "UInt32") + numbers.astype("<u4").tobytes(),
        ]
        with self._table(table, create_assigned(table)):
            self._engine.insert_native(table, ("id", "cluster"), block)
            yield table

    @contextmanager
    def _table(self, name: str, create: str) -> Iterator[None]:
        """A table of this attempt alone; where dropping it fails, the end of a build does it."""
        self._engine.command(create)
        try:
            yield
        finally:
            with suppress(EngineError):
                attempts.drop(self._engine, name)

    # -- clusters -----------------------------------------------------------------------------------------------------

    def _store(self, given: Clusters) -> None:
        """Replace the stored clusters."""
        table = clusters_name(self._lists)
        count, dim = given.centroids.shape
        ends = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(dim)).tobytes()
        block = [
            varint(4) + varint(count),
            header("cluster", "UInt32") + np.arange(count, dtype="<u4").tobytes(),
            header("centroid", "Array(Float32)") + ends + given.centroids.astype("<f4").tobytes(),
            header("radius", "Float32") + given.radii.astype("<f4").tobytes(),
            header("rows", "UInt64") + given.sizes.astype("<u8").tobytes(),
        ]
        staged = f"{table}_{self._claim.token}"
        with self._table(staged, create_clusters(staged)):
            self._engine.insert_native(staged, ("cluster", "centroid", "radius", "rows"), block)
            self._claim.check()
            self._engine.command(f"EXCHANGE TABLES {identifier(table)} AND {identifier(staged)}")

    # -- the end ------------------------------------------------------------------------------------------------------

    def _merge(self, total: int) -> None:
        def say(share: float) -> None:
            self._say(f"{ivf.index_name(self._column)}: merging", int(share * total), total)

        to_one_part(self._engine, self._lists, say if self._progress else None)

    def _on_round(self, done: int, total: int) -> None:
        self._say(f"{ivf.index_name(self._column)}: training", done, total, unit="rounds")

    def _say(self, label: str, done: int, total: int, unit: str = "rows") -> None:
        if self._progress:
            self._progress(Progress(label=label, done=min(done, total), total=max(total, 1), unit=unit))
