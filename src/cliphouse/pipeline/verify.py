"""The table beside the files it was loaded from: every row counted, some compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliphouse import catalog
from cliphouse.engine import Engine, arrow_table
from cliphouse.errors import ShardError
from cliphouse.pipeline.delete import id_range
from cliphouse.pipeline.read import OpenShard, fingerprint, open_shard
from cliphouse.pipeline.texts import as_bytes
from cliphouse.reports import Difference, ShardCheck, VerifyReport
from cliphouse.schema import EMBEDDING_COLUMNS, deleted_name, identifier, ledger_name
from cliphouse.types import ROWS_PER_SHARD, CollectionInfo, Progress, ProgressCallback, Query, Shard
from cliphouse.vectors import round_to_bfloat16

#: Differences that a report names; it counts them all.
NAMED = 20
#: Rows compared at once: their vectors are in memory twice.
_ROWS_AT_ONCE = 2_000
_BATCH_ROWS = 65_536
_COMPARED = ("url", "caption")

Extra: TypeAlias = Callable[[Shard], Iterable[Difference]]


@dataclass(frozen=True, slots=True)
class _Recorded:
    rows: int
    fingerprint: str


def verify(
    engine: Engine,
    info: CollectionInfo,
    planned: Sequence[Shard],
    *,
    sample: int,
    seed: int = 0,
    extra: Extra | None = None,
    progress: ProgressCallback | None = None,
) -> VerifyReport:
    """Compare the table with shards on disk: rows by shard, ids, and `sample` random rows of each shard in full.

    Rows that were deleted or left out on purpose are no difference. The same `seed` takes the same rows. `extra` may
    find more differences in each shard.

    Raises:
        EngineError: ClickHouse failed.
    """
    started = time.perf_counter()
    verifier = _Verifier(engine, info)
    checks = []
    for position, shard in enumerate(planned, 1):
        label = f"shard {shard.number} ({position} of {len(planned)})"
        checks.append(verifier.check(shard, sample, seed, label, progress))
        verifier.add(extra(shard) if extra else ())
    verifier.check_strays()
    return VerifyReport(
        shards=tuple(checks),
        differences=tuple(verifier.differences),
        different=verifier.different,
        seconds=time.perf_counter() - started,
    )


class _Verifier:
    """One comparison: what the ledger says, and the differences so far."""

    def __init__(self, engine: Engine, info: CollectionInfo) -> None:
        self._engine, self._info = engine, info
        self._table = identifier(info.name)
        self._ledger = self._read_ledger()
        self._remembers = catalog.exists(engine, deleted_name(info.name))
        self.differences: list[Difference] = []
        self.different = 0

    def add(self, found: Iterable[Difference]) -> None:
        """Count differences, and keep the first."""
        for each in found:
            self.different += 1
            if len(self.differences) < NAMED:
                self.differences.append(each)

    def check(self, shard: Shard, sample: int, seed: int, label: str, progress: ProgressCallback | None) -> ShardCheck:
        """Compare one shard."""
        before, number = self.different, shard.number
        recorded = self._ledger.get(number)
        deleted = self._deleted(id_range(number, number))
        rows, distinct, beyond, sampled = 0, 0, 0, 0
        try:
            opened: OpenShard | None = open_shard(shard)
        except ShardError as error:
            opened = None
            self.add([Difference(number, "the files", f"cannot be read: {error}", "")])
        files = opened.rows if opened else 0
        rows, distinct, beyond = self._count(number, files)
        left_out = max(0, files - recorded.rows) if recorded else 0
        if opened:
            if recorded is None:
                self.add([Difference(number, "the ledger", f"{files} rows", "does not know the shard")])
            elif recorded.fingerprint != fingerprint(shard):
                self.add([Difference(number, "the files", "are others than those that were loaded", "")])
            expected = (recorded.rows if recorded else files) - len(deleted)
            if distinct != expected:
                what = f"{files} in the files, {left_out} left out, {len(deleted)} deleted: {expected}"
                self.add([Difference(number, "rows", what, f"{distinct}")])
            if beyond:
                self.add([Difference(number, "ids", f"end at row {files - 1}", f"{beyond} rows lie beyond")])
            rows_taken = _sample(files, sample, seed, number)
            sampled = len(rows_taken)
            for start in range(0, sampled, _ROWS_AT_ONCE):
                chunk = rows_taken[start : start + _ROWS_AT_ONCE]
                self._compare(opened, chunk, deleted, may_lack=left_out > 0 or recorded is None)
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

    def _compare(self, opened: OpenShard, rows: NDArray[np.int64], deleted: set[int], *, may_lack: bool) -> None:
        number = opened.shard.number
        ids = rows + number * ROWS_PER_SHARD
        vectors = ", ".join(f"{identifier(column)}::Array(Float32) AS {column}_" for column in EMBEDDING_COLUMNS)
        sql = (
            f"SELECT id, {', '.join(identifier(name) for name in _COMPARED)}, {vectors}\n"
            f"FROM {self._table} WHERE id IN {{ids:Array(Int64)}} ORDER BY id LIMIT 1 BY id"
        )
        stored = arrow_table(self._engine, sql, {"ids": ids.tolist()}).combine_chunks()
        present = np.asarray(stored.column("id").to_numpy() if stored.num_rows else [], dtype=np.int64)
        still = [int(each) for each in present if int(each) in deleted]
        self.add(Difference(number, f"row {each % ROWS_PER_SHARD}", "was deleted", "is there") for each in still)
        if not may_lack:
            lacking = [int(each) for each in np.setdiff1d(ids, present) if int(each) not in deleted]
            self.add(Difference(number, f"row {each % ROWS_PER_SHARD}", "is there", "is missing") for each in lacking)
        if not len(present):
            return
        taken = present - number * ROWS_PER_SHARD
        for column, values in _texts(opened, taken).items():
            for row, file, table in zip(taken, values, as_bytes(stored.column(column)), strict=True):
                if file != table:
                    self.add([Difference(number, f"row {row}: {column}", _shown(file), _shown(table))])
        for column, source in zip(EMBEDDING_COLUMNS, (opened.image, opened.text), strict=True):
            self._compare_vectors(number, column, source, taken, stored.column(f"{column}_").combine_chunks())

    def _compare_vectors(
        self, number: int, column: str, source: NDArray[np.floating] | None, rows: NDArray[np.int64], stored: pa.Array
    ) -> None:
        lengths = stored.value_lengths().to_numpy(zero_copy_only=False)
        dim = 0 if source is None else source.shape[1]
        for row, length in zip(rows[lengths != dim], lengths[lengths != dim], strict=True):
            self.add([Difference(number, f"row {row}: {column}", f"{dim} dimensions", f"{length}")])
        if source is None or not (whole := lengths == dim).any():
            return
        with np.errstate(over="ignore", invalid="ignore"):
            expected = np.asarray(source[rows[whole]], dtype=np.float32)
            if self._info.storage == "bfloat16":
                expected = round_to_bfloat16(expected)
        table = stored.filter(pa.array(whole)).flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
        wrong = ~((expected == table) | (np.isnan(expected) & np.isnan(table))).all(axis=1)
        for place in np.flatnonzero(wrong):
            at = int(np.argmax(expected[place] != table[place]))
            values = f"{expected[place, at]:.6g} at {at}", f"{table[place, at]:.6g}"
            self.add([Difference(number, f"row {rows[whole][place]}: {column}", *values)])

    def _read_ledger(self) -> dict[int, _Recorded]:
        ledger = ledger_name(self._info.name)
        if not catalog.exists(self._engine, ledger):
            return {}
        found = self._rows(f"SELECT shard, rows, fingerprint FROM {identifier(ledger)} FINAL")
        return {int(shard): _Recorded(int(rows), str(mark)) for shard, rows, mark in found}

    def _deleted(self, condition: str) -> set[int]:
        if not self._remembers:
            return set()
        sql = f"SELECT DISTINCT id FROM {identifier(deleted_name(self._info.name))} WHERE {condition}"
        return {int(row[0]) for row in self._rows(sql)}

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


def _texts(opened: OpenShard, rows: NDArray[np.int64]) -> dict[str, list[bytes]]:
    """Values of the compared columns in some rows of the files, in order; other row groups are not read."""
    found: dict[str, list[bytes]] = {column: [] for column in _COMPARED if column in opened.sources}
    columns = [opened.sources[column] for column in found]
    with pq.ParquetFile(opened.shard.metadata) as parquet:
        first = 0
        for group in range(parquet.metadata.num_row_groups):
            last = first + parquet.metadata.row_group(group).num_rows
            if ((rows >= first) & (rows < last)).any():
                for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                    inside = rows[(rows >= first) & (rows < first + batch.num_rows)] - first
                    for column, values in found.items():
                        chosen = batch.column(opened.sources[column]).take(pa.array(inside))
                        values += as_bytes(chosen) or [b""] * len(inside)
                    first += batch.num_rows
            first = last
    return {column: found.get(column) or [b""] * len(rows) for column in _COMPARED}


def _shown(value: bytes) -> str:
    text = value.decode("utf-8", "replace")
    return repr(text if len(text) <= 60 else text[:59] + "…")
