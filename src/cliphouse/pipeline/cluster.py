"""Building the inverted lists of a collection: train clusters on a sample, assign every row, copy rows to their lists.

A build writes tables of its own and is noted as the one that serves only when it is whole, so the old lists answer
until then. One that is broken off goes on where it stopped. Lists that are there take in what has changed since.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cliphouse import catalog, clusters, ivf, notes, stream
from cliphouse.clusters import Assigner, Clusters, Summary
from cliphouse.engine import Engine
from cliphouse.errors import EngineError, StorageFull, UsageError
from cliphouse.ivf import Lists
from cliphouse.lists import (
    TableColumn,
    assigned_name,
    clusters_name,
    computed,
    copied,
    copy_rows,
    create_assigned,
    create_clusters,
    create_lists,
    lists_name,
)
from cliphouse.pipeline.native import header, varint
from cliphouse.schema import identifier
from cliphouse.types import CollectionInfo, IvfConfig, Progress, ProgressCallback, Query

#: Fewer rows are compared with each query in no time.
MIN_ROWS = 1_000
#: Rows that are copied in one statement; their assignments are joined in memory.
_SEGMENT_ROWS = 1_000_000
#: New lists are built, and clusters trained again, when the collection has grown by this factor.
_RETRAIN_GROWTH = 2.0
_POLL_SECONDS = 0.2
_TOPICS: tuple[notes.Topic, ...] = ("ready", "building", "tuned")


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
        StorageFull: the disk has no room for one more copy of the vectors.
        EngineError: ClickHouse failed; the same call again goes on.
    """
    known = notes.read(engine, info.name)
    serving = ivf.find(engine, info, known, column)
    total = sum(each.rows for each in ivf.facts(engine, info.name, ivf.with_embedding(column)).values())
    if total < MIN_ROWS:
        raise UsageError(
            f"{total:,} rows with {column} are too few for an ivf index, which wants {MIN_ROWS:,}; "
            "searching them exactly is as fast"
        )
    if serving and config.nlist not in (0, serving.build.nlist):
        raise UsageError(
            f"{column} has an ivf index with {serving.build.nlist} clusters; drop it first: "
            f"cliphouse index drop --kind ivf --column {column}"
        )
    started = time.perf_counter()
    if serving and _can_grow(engine, info, serving, total):
        job = _Job(engine, info, serving.build, column, progress)
        job.update(serving)
        finished = serving.build
    else:
        asked = config if config.nlist or serving is None else serving.build.config
        finished = _begin(engine, info, column, asked, known, total)
        job = _Job(engine, info, finished, column, progress)
        job.create(finished.nlist, total)
        notes.forget(engine, info.name, column, "ivf", "tuned")  # other clusters need another effort
    finished = replace(finished, seconds=finished.seconds + time.perf_counter() - started)
    notes.write(engine, info.name, column, "ivf", finished, "ready")
    notes.forget(engine, info.name, column, "ivf", "building")
    ivf.drop(engine, info.name, column, but=finished.token)


def drop(engine: Engine, info: CollectionInfo, column: str) -> str:
    """Drop the lists of `column`, finished or not; return the name of the index.

    Raises:
        UsageError: there are none.
    """
    known = notes.read(engine, info.name)
    noted = [topic for topic in _TOPICS if (column, "ivf", topic) in known]
    for topic in noted:
        notes.forget(engine, info.name, column, "ivf", topic)
    if not ivf.drop(engine, info.name, column) and not noted:
        raise UsageError(f"{column} of {info.name!r} has no ivf index")
    return ivf.index_name(column)


def _can_grow(engine: Engine, info: CollectionInfo, serving: Lists, total: int) -> bool:
    """Whether the lists can take in what has changed, so that nothing has to be trained and copied anew."""
    columns = ivf.columns_of(engine, info.name)
    return (
        total < _RETRAIN_GROWTH * serving.build.rows
        and {each.name for each in (*copied(columns, serving.column), *computed(columns, serving.column))}
        <= serving.columns
        and not ivf.was_changed(engine, info.name, serving.build)
    )


def _begin(
    engine: Engine, info: CollectionInfo, column: str, config: IvfConfig, known: notes.Notes, total: int
) -> notes.Build:
    """The build that was broken off, if it is the same one, or a new one."""
    before = notes.build_of(known, column, "ivf", "building")
    wanted = config.nlist or clusters.count_for(total)
    same = before is not None and before.asked_nlist == config.nlist and total < _RETRAIN_GROWTH * before.rows
    if before and same and not ivf.was_changed(engine, info.name, before):
        return before
    if wanted * 2 > total:
        raise UsageError(f"{total:,} rows are too few for {wanted:,} clusters; leave the number out")
    source, mutation = ivf.origin(engine, info.name)
    begun = notes.Build(
        token=uuid.uuid4().hex[:8],
        source=source,
        mutation=mutation,
        rows=total,
        nlist=wanted,
        asked_nlist=config.nlist,
    )
    notes.write(engine, info.name, column, "ivf", begun, "building")
    return begun


class _Job:
    """One build, or one update, of the lists in `lists`."""

    def __init__(
        self, engine: Engine, info: CollectionInfo, build: notes.Build, column: str, progress: ProgressCallback | None
    ) -> None:
        self._engine, self._info, self._column, self._progress = engine, info, column, progress
        self._lists = lists_name(info.name, column, build.token)
        self._columns: Sequence[TableColumn] = ivf.columns_of(engine, info.name)

    def create(self, nlist: int, total: int) -> None:
        """Build from nothing, or from where an earlier attempt was broken off."""
        self._check_room(total)
        self._engine.command(create_lists(self._lists, self._column, self._columns))
        self._engine.command(create_clusters(clusters_name(self._lists)))
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
        present = ivf.with_embedding(self._column)
        for condition in ivf.gone(self._engine, self._info.name, self._lists, present):
            self._forget(condition)
        wrong = ivf.coverage(self._engine, self._info, self._column, serving.build)
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
        parts: list[NDArray[np.float32]] = []
        taken = 0

        def take(block: stream.Block) -> None:
            nonlocal taken
            parts.append(clusters.unit_rows(block.vectors))
            taken += len(block.ids)
            self._say("sampling", taken, wanted)

        # A little more, for a share of hashes is a share of rows only roughly.
        share = (
            "true" if wanted == total else f"cityHash64(id, 7) % {2**32} < {int(2**32 * min(1, 1.02 * wanted / total))}"
        )
        stream.vectors(self._engine, self._info, self._column, take, where=share)
        return np.concatenate(parts)

    def _segments(self, tail: str | None = None) -> list[_Segment]:
        """All rows, or those of `tail`, as runs of ids that are each copied in one go."""
        condition = ivf.with_embedding(self._column) + (f" AND {tail}" if tail else "")
        runs: list[_Segment] = []
        for each in ivf.facts(self._engine, self._info.name, condition).values():
            # Between two shards of a tail may be one that is held already.
            before = runs[-1] if runs and not tail else None
            if before and before.rows + each.rows <= _SEGMENT_ROWS:
                runs[-1] = _Segment(before.first, each.last, before.rows + each.rows)
            else:
                runs.append(_Segment(each.first, each.last, each.rows))
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
            with self._assigned(ids, numbers):
                self._engine.command(copy_rows(self._info.name, self._lists, self._column, self._columns, segment.ids))

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
        self._engine.command(
            f"DELETE FROM {identifier(self._lists)} WHERE {condition} SETTINGS lightweight_deletes_sync = 2"
        )

    def _is_copied(self, segment: _Segment) -> bool:
        condition = f"{ivf.with_embedding(self._column)} AND {segment.ids}"
        mine = ivf.facts(self._engine, self._info.name, condition)
        return ivf.facts(self._engine, self._lists, segment.ids) == mine

    @contextmanager
    def _assigned(self, ids: NDArray[np.int64], numbers: NDArray[np.uint32]) -> Iterator[None]:
        """The assignments as a table, for as long as rows are copied."""
        table = assigned_name(self._lists)
        self._engine.command(f"DROP TABLE IF EXISTS {identifier(table)} SYNC")
        self._engine.command(create_assigned(self._lists))
        block = [
            varint(2) + varint(len(ids)),
            header("id", "Int64") + ids.astype("<i8").tobytes(),
            header("cluster", "UInt32") + numbers.astype("<u4").tobytes(),
        ]
        self._engine.insert_native(table, ("id", "cluster"), block)
        yield
        self._engine.command(f"DROP TABLE IF EXISTS {identifier(table)} SYNC")

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
        staged = f"{table}_new"
        self._engine.command(f"DROP TABLE IF EXISTS {identifier(staged)} SYNC")
        self._engine.command(create_clusters(staged))
        self._engine.insert_native(staged, ("cluster", "centroid", "radius", "rows"), block)
        self._engine.command(f"EXCHANGE TABLES {identifier(table)} AND {identifier(staged)}")
        self._engine.command(f"DROP TABLE IF EXISTS {identifier(staged)} SYNC")

    # -- the end ------------------------------------------------------------------------------------------------------

    def _merge(self, total: int) -> None:
        """Merge the lists to one part: each part has ranges of its own to read for every cluster."""
        done = threading.Event()
        failures: list[BaseException] = []

        def watch() -> None:
            try:
                poll()
            except BaseException as error:  # noqa: BLE001  # raised below, when the merge has stopped
                failures.append(error)
                self._engine.cancel()

        def poll() -> None:
            running = Query(
                sql="SELECT max(progress) FROM system.merges\n"
                "WHERE database = currentDatabase() AND table = {name:String}",
                parameters={"name": self._lists},
            )
            while not done.wait(_POLL_SECONDS):
                share = self._engine.query(running).rows[0][0] or 0
                self._say(f"{ivf.index_name(self._column)}: merging", int(share * total), total)

        watcher = threading.Thread(target=watch, daemon=True)
        if self._progress:
            watcher.start()
        try:
            # Lists that are one part already are left as they are.
            self._engine.command(
                f"OPTIMIZE TABLE {identifier(self._lists)} FINAL SETTINGS optimize_skip_merged_partitions = 1"
            )
        except EngineError:
            if not failures:
                raise
        finally:
            done.set()
            if self._progress:
                watcher.join()
        if failures:
            raise failures[0]
        self._say(f"{ivf.index_name(self._column)}: merging", total, total)

    def _check_room(self, total: int) -> None:
        """Room for the copy, and for the merge that writes it once more."""
        needed = 2 * total * self._info.dim * (2 if self._info.storage == "bfloat16" else 4)
        sql = "SELECT path, unreserved_space FROM system.disks WHERE name = 'default'"
        found = self._engine.query(Query(sql=sql)).rows
        if found and int(found[0][1]) < needed:
            raise StorageFull(str(found[0][0]))

    def _on_round(self, done: int, total: int) -> None:
        self._say(f"{ivf.index_name(self._column)}: training", done, total, unit="rounds")

    def _say(self, label: str, done: int, total: int, unit: str = "rows") -> None:
        if self._progress:
            self._progress(Progress(label=label, done=min(done, total), total=max(total, 1), unit=unit))
