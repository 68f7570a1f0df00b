"""The table beside the files it was loaded from: every row counted, some compared."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cliphouse.engine import Engine, arrow_table
from cliphouse.errors import ShardError
from cliphouse.pipeline import ledger
from cliphouse.pipeline.delete import deleted_of, id_range
from cliphouse.pipeline.dirt import Cleaner
from cliphouse.pipeline.native import floats, integers
from cliphouse.pipeline.read import open_shard
from cliphouse.pipeline.rows import Batch, OpenShard, Vectors
from cliphouse.pipeline.texts import as_bytes
from cliphouse.reports import Difference, ShardCheck, VerifyReport
from cliphouse.schema import EMBEDDING_COLUMNS, METADATA_COLUMNS, identifier
from cliphouse.types import (
    ROWS_PER_SHARD,
    CollectionInfo,
    LoadOptions,
    MergedShard,
    Progress,
    ProgressCallback,
    Query,
    Shard,
)

#: Differences that a report names; it counts them all.
NAMED = 20
#: Rows compared at once: their vectors are in memory twice.
_ROWS_AT_ONCE = 2_000
_BATCH_ROWS = 65_536


def verify(
    engine: Engine,
    info: CollectionInfo,
    planned: Sequence[Shard | MergedShard],
    *,
    columns: Mapping[str, str] | None = None,
    sample: int,
    seed: int = 0,
    checksums: bool = False,
    progress: ProgressCallback | None = None,
) -> VerifyReport:
    """Compare the table with shards on disk: rows by shard, ids, and `sample` random rows of each shard in full.

    Rows that were deleted or left out on purpose are no difference. The same `seed` takes the same rows. With
    `checksums` the files are read in full, and their sums compared with those that the ledger has.

    Raises:
        EngineError: ClickHouse failed.
    """
    started = time.perf_counter()
    verifier = _Verifier(engine, info, columns)
    checks = []
    for position, shard in enumerate(planned, 1):
        label = f"shard {shard.number} ({position} of {len(planned)})"
        checks.append(verifier.check(shard, sample, seed, label, progress, checksums=checksums))
    verifier.check_strays()
    return VerifyReport(
        shards=tuple(checks),
        differences=tuple(verifier.differences),
        different=verifier.different,
        seconds=time.perf_counter() - started,
    )


class _Verifier:
    """One comparison: what the ledger says, and the differences so far."""

    def __init__(self, engine: Engine, info: CollectionInfo, columns: Mapping[str, str] | None) -> None:
        self._engine, self._info, self._columns = engine, info, columns
        self._table = identifier(info.name)
        self._metadata = [name for name in METADATA_COLUMNS if name in info.columns and name != "similarity"]
        self._ledger = {
            number: entry for number, entry in ledger.entries(engine, info.name).items() if entry.state != "quarantined"
        }
        self.differences: list[Difference] = []
        self.different = 0

    def add(self, found: Iterable[Difference]) -> None:
        """Count differences, and keep the first."""
        for each in found:
            self.different += 1
            if len(self.differences) < NAMED:
                self.differences.append(each)

    def check(
        self,
        shard: Shard | MergedShard,
        sample: int,
        seed: int,
        label: str,
        progress: ProgressCallback | None,
        *,
        checksums: bool,
    ) -> ShardCheck:
        """Compare one shard."""
        before, number = self.different, shard.number
        recorded = self._ledger.get(number)
        deleted = deleted_of(self._engine, self._info.name, number)
        rows, distinct, beyond, sampled = 0, 0, 0, 0
        try:
            opened: OpenShard | None = open_shard(shard, self._columns)
        except ShardError as error:
            opened = None
            self.add([Difference(number, "the files", f"cannot be read: {error}", "")])
        files = opened.rows if opened else 0
        rows, distinct, beyond = self._count(number, files)
        left_out = max(0, files - recorded.rows) if recorded else 0
        if opened:
            if recorded is None:
                self.add([Difference(number, "the ledger", f"{files} rows", "does not know the shard")])
            elif recorded.fingerprint != opened.fingerprint():
                self.add([Difference(number, "the files", "are others than those that were loaded", "")])
            expected = (recorded.rows if recorded else files) - len(deleted)
            if distinct != expected:
                what = f"{files} in the files, {left_out} left out, {len(deleted)} deleted: {expected}"
                self.add([Difference(number, "rows", what, f"{distinct}")])
            if recorded and checksums:
                self._compare_sums(number, recorded.checksums, opened.checksums())
            if beyond:
                self.add([Difference(number, "ids", f"end at row {files - 1}", f"{beyond} rows lie beyond")])
            rows_taken = _sample(files, sample, seed, number)
            sampled = len(rows_taken)
            for start in range(0, sampled, _ROWS_AT_ONCE):
                chunk = rows_taken[start : start + _ROWS_AT_ONCE]
                try:
                    self._compare(opened, chunk, deleted, may_lack=left_out > 0 or recorded is None)
                except (ShardError, pa.ArrowException) as error:
                    self.add([Difference(number, "the files", f"cannot be read: {error}".splitlines()[0], "")])
                    break
                if progress:
                    progress(Progress(label=label, done=start + len(chunk), total=sampled))
        if rows != distinct:
            self.add(
                [Difference(number, "ids", "each once", f"{rows - distinct} rows repeat one: {self._twice(number)}")]
            )
        return ShardCheck(
            shard=number,
            files=files,
            ledger=recorded.rows if recorded else None,
            table=rows,
            deleted=len(deleted),
            left_out=left_out,
            sampled=sampled,
            differences=self.different - before,
        )

    def check_strays(self) -> None:
        """Look for rows whose ids belong to no shard of the ledger."""
        sql = f"SELECT intDiv(id, {ROWS_PER_SHARD}) AS number, count() FROM {self._table} WHERE id >= 0 GROUP BY number"
        found = sorted((int(number), int(rows)) for number, rows in self._rows(sql))
        self.add(
            Difference(number, "the ledger", "", f"{rows} rows of a shard that the ledger does not know")
            for number, rows in found
            if number not in self._ledger
        )
        if below := int(self._rows(f"SELECT count() FROM {self._table} WHERE id < 0")[0][0]):
            self.add([Difference(None, "ids", "are never negative", f"{below} rows with negative ids")])

    def _compare(
        self, opened: OpenShard, rows: NDArray[np.int64], deleted: NDArray[np.int64], *, may_lack: bool
    ) -> None:
        number, first = opened.number, opened.number * ROWS_PER_SHARD
        vectors = ", ".join(f"{identifier(column)}::Array(Float32) AS {column}_" for column in EMBEDDING_COLUMNS)
        columns = [*self._metadata, *(["similarity"] if "similarity" in self._info.columns else [])]
        sql = (
            f"SELECT id, {', '.join(map(identifier, columns))}, {vectors}\n"
            f"FROM {self._table} WHERE id IN {{ids:Array(Int64)}} ORDER BY id LIMIT 1 BY id"
        )
        stored = arrow_table(self._engine, sql, {"ids": (rows + first).tolist()}).combine_chunks()
        taken = np.asarray(stored.column("id").to_numpy() if stored.num_rows else [], np.int64) - first
        still = np.intersect1d(taken, deleted)
        self.add(Difference(number, f"row {row}", "was deleted", "is there") for row in still)
        if not may_lack:
            lacking = np.setdiff1d(rows, np.union1d(taken, deleted))
            self.add(Difference(number, f"row {row}", "is there", "is missing") for row in lacking)
        if not len(taken):
            return
        # What the loader would store of them, whatever its policies were.
        expected = Cleaner(opened, LoadOptions(on_bad_row="keep"), self._info.storage).clean(opened.take(taken))
        for column in self._metadata:
            for row, file, table in zip(taken, *_values(column, expected, stored.column(column)), strict=True):
                if file != table:
                    self.add([Difference(number, f"row {row}: {column}", _shown(file), _shown(table))])
        if "similarity" in stored.column_names:
            options = LoadOptions(on_bad_row="keep", similarity="recompute")
            again = Cleaner(opened, options, self._info.storage).clean(opened.take(taken))
            self._compare_similarities(number, taken, (expected, again), stored.column("similarity"))
        for column, wanted in zip(EMBEDDING_COLUMNS, (expected.image, expected.text), strict=True):
            self._compare_vectors(number, column, wanted, taken, stored.column(f"{column}_").combine_chunks())

    def _compare_vectors(
        self, number: int, column: str, expected: Vectors | None, rows: NDArray[np.int64], stored: pa.Array
    ) -> None:
        lengths = stored.value_lengths().to_numpy(zero_copy_only=False)
        wanted = np.zeros(len(rows), np.int64)
        if expected is not None:
            wanted[:] = expected.stored.shape[1]
            if expected.empty is not None:
                wanted[expected.empty] = 0
        for place in np.flatnonzero(lengths != wanted):
            what = f"row {rows[place]}: {column}"
            self.add([Difference(number, what, f"{wanted[place]} dimensions", f"{lengths[place]}")])
        whole = (lengths == wanted) & (wanted > 0)
        if expected is None or not whole.any():
            return
        files = expected.stored[whole]
        if files.dtype == np.uint16:
            files = (files.astype(np.uint32) << np.uint32(16)).view(np.float32)
        table = stored.filter(pa.array(whole)).flatten().to_numpy(zero_copy_only=False).reshape(files.shape)
        for place in np.flatnonzero((files != table).any(axis=1)):
            at = int(np.argmax(files[place] != table[place]))
            found = f"{files[place, at]:.6g} at {at}", f"{table[place, at]:.6g}"
            self.add([Difference(number, f"row {rows[whole][place]}: {column}", *found)])

    def _compare_similarities(
        self, number: int, rows: NDArray[np.int64], allowed: Sequence[Batch], stored: pa.ChunkedArray
    ) -> None:
        """Each must be what the files say, or what the vectors do: the loader may have been told to compute it."""
        table = np.asarray(stored.to_numpy(), np.float32)
        files = [np.frombuffer(floats(batch.metadata.get("similarity"), len(rows)), "<f4") for batch in allowed]
        right = [np.isclose(each, table, rtol=0, atol=1e-5, equal_nan=True) for each in files]
        for place in np.flatnonzero(~np.logical_or.reduce(right)):
            found = f"{files[0][place]:.6g}", f"{table[place]:.6g}"
            self.add([Difference(number, f"row {rows[place]}: similarity", *found)])

    def _compare_sums(self, number: int, recorded: Mapping[str, str], found: Mapping[str, str]) -> None:
        for kind in sorted(recorded.keys() & found.keys()):
            if recorded[kind] != found[kind]:
                self.add([Difference(number, f"the {kind} file's checksum", found[kind], recorded[kind])])

    def _count(self, number: int, files: int) -> tuple[int, int, int]:
        """Rows under the shard's ids, different ids among them, and rows that its files do not have."""
        last = number * ROWS_PER_SHARD + files - 1
        sql = f"SELECT count(), uniqExact(id), countIf(id > {last}) FROM {self._table} WHERE {id_range(number, number)}"
        rows, distinct, beyond = self._rows(sql)[0]
        return int(rows), int(distinct), int(beyond)

    def _twice(self, number: int) -> str:
        sql = (
            f"SELECT id FROM {self._table} WHERE {id_range(number, number)}\n"
            "GROUP BY id HAVING count() > 1 ORDER BY id LIMIT 3"
        )
        return ", ".join(str(row[0]) for row in self._rows(sql))

    def _rows(self, sql: str) -> list[tuple[int | str, ...]]:
        return self._engine.query(Query(sql=sql)).rows


def _sample(rows: int, wanted: int, seed: int, number: int) -> NDArray[np.int64]:
    """Rows to compare, in order: all, or as many as wanted."""
    if wanted >= rows:
        return np.arange(rows, dtype=np.int64)
    return np.sort(np.random.default_rng([seed, number]).choice(rows, wanted, replace=False)).astype(np.int64)


def _values(column: str, expected: Batch, stored: pa.ChunkedArray) -> tuple[list[object], list[object]]:
    """A column as the files have it and as the table does."""
    rows, values = len(expected.numbers), expected.metadata.get(column)
    if METADATA_COLUMNS[column][0] == "Int32":
        return np.frombuffer(integers(values, rows), "<i4").tolist(), stored.to_pylist()
    return [*(as_bytes(values) or [b""] * rows)], [*as_bytes(stored)]


def _shown(value: object) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return repr(text if len(text) <= 60 else text[:59] + "…")
