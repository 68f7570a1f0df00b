"""Rows back into files: one parquet file with everything, or shards in the LAION layout that `load` takes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliphouse.engine import Engine, arrow_table
from cliphouse.errors import UsageError
from cliphouse.hits import Hits
from cliphouse.pipeline.delete import Selection, by_condition, by_shards, id_range
from cliphouse.pipeline.folder import replacing
from cliphouse.pipeline.plan import MARK, discover, encoder_of
from cliphouse.reports import ExportReport
from cliphouse.schema import EMBEDDING_COLUMNS, identifier
from cliphouse.types import ROWS_PER_SHARD, CollectionInfo, Progress, ProgressCallback, Query, shard_ranges

Form = Literal["parquet", "npy"]
Dtype = Literal["float32", "float16"]

#: Vectors of one page, as float32, take about this much memory.
_PAGE_BYTES = 32 * 2**20
#: Rows of an npy shard, as LAION's have.
_SHARD_ROWS = 1_000_000
_IDS_AT_ONCE = 2_000
#: Computed from `id`, which says the same.
_COMPUTED = ("shard", "row")
#: Names in LAION's metadata where they are not the table's.
_LAION_NAMES = {"license": "LICENSE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which rows to export: the results of a search, those of a condition, of shards, or of a condition in shards."""

    hits: Hits | None = None
    where: str | None = None
    shards: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.hits is None and self.where is None and self.shards is None:
            raise UsageError("say which rows to export: results of a search, a condition (for all: true), or shards")
        if self.hits is not None and (self.where is not None or self.shards is not None):
            raise UsageError("results of a search are exported as they are; filter in the search")


def export(
    engine: Engine,
    info: CollectionInfo,
    out: Path | BinaryIO,
    wanted: Wanted,
    *,
    form: Form = "parquet",
    dtype: Dtype = "float32",
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> ExportReport:
    """Write rows to a parquet file (or a stream), or to a directory of shards in the LAION layout.

    A parquet file has all columns, embeddings as lists of float32, in order of id, or of a search with its `distance`.
    Of `npy` shards each shard that is named keeps its number; other rows are numbered from 0, those with a text
    embedding apart from those without. float32 holds every stored vector exactly; float16 rounds bfloat16's small
    values and cannot hold its large ones. Memory is some pages of rows, whatever their number.

    Raises:
        UsageError: the output is there already and not to be replaced, or has no place for such rows.
        InvalidFilter: the condition is not valid.
        StorageError: it cannot be written; nothing half written is left.
        EngineError: ClickHouse failed.
    """
    started = time.perf_counter()
    pages = _Pages(engine, info, wanted, progress)
    if form == "parquet":
        if dtype != "float32":
            raise UsageError("a parquet file holds float32; --dtype is for --format npy")
        report = _to_parquet(pages, out, force=force)
    elif isinstance(out, Path):
        report = _to_shards(pages, out, np.dtype(dtype), force=force)
    else:
        raise UsageError("shards are several files and cannot be streamed; name a directory")
    files, rows = report
    return ExportReport(
        rows=rows,
        files=tuple(files),
        total_bytes=sum(path.stat().st_size for path in files),
        seconds=time.perf_counter() - started,
    )


class _Pages:
    """The rows wanted, a page at a time."""

    def __init__(self, engine: Engine, info: CollectionInfo, wanted: Wanted, progress: ProgressCallback | None) -> None:
        self.info, self.wanted = info, wanted
        self._engine, self._progress = engine, progress
        lacking = {"id", "image_embedding"} - info.columns.keys()
        if lacking:
            raise UsageError(f"table {info.name!r} has no column {', '.join(sorted(lacking))} to export")
        self.columns = [name for name in info.columns if name not in _COMPUTED]
        self._condition = by_condition(engine, info, wanted.where)[0] if wanted.where is not None else Selection("true")
        self._size = max(1, _PAGE_BYTES // (8 * max(info.dim, 1)))
        self._done = 0
        #: Those of the wanted shards that have such rows.
        self.shards: list[int] = []
        if wanted.hits is not None:
            self._total = len(wanted.hits)
        elif wanted.shards is None:
            self._total = sum(rows for _, rows in self._counts(Selection("true")))
        else:
            found = [each for some in by_shards(wanted.shards) for each in self._counts(some)]
            self.shards, self._total = [number for number, _ in found], sum(rows for _, rows in found)
        if wanted.shards is not None and not self._total:
            raise UsageError(f"no such rows in shards {shard_ranges(wanted.shards) or 'of an empty list'}")

    def all(self) -> Iterator[pa.Table]:
        """Every page, in the order of the search or of ids."""
        if self.wanted.hits is not None:
            yield from self._of_hits(self.wanted.hits)
        elif self.wanted.shards is not None:
            for number in self.shards:
                yield from self.of_shard(number)
        else:
            yield from self._in_order("true")

    def of_shard(self, number: int) -> Iterator[pa.Table]:
        """The pages of one shard."""
        yield from self._in_order(id_range(number, number))

    def empty(self) -> pa.Table:
        """A page without rows, for its columns."""
        page = self._ask(f"{self._select()} WHERE false", {})
        return _with_distance(page, {}) if self.wanted.hits is not None else page

    def _in_order(self, condition: str) -> Iterator[pa.Table]:
        after = -(2**63)
        while True:
            within = f"{condition} AND id > {after} AND {self._condition.condition}"
            page = self._ask(f"{self._select()}\nWHERE {within}\nORDER BY id LIMIT {self._size}", {})
            if page.num_rows:
                yield self._counted(page)
            if page.num_rows < self._size:
                return
            after = page.column("id")[-1].as_py()

    def _of_hits(self, hits: Hits) -> Iterator[pa.Table]:
        step = min(self._size, _IDS_AT_ONCE)
        for start in range(0, len(hits), step):
            distances = {hit.id: hit.distance for hit in hits[start : start + step]}
            page = self._ask(f"{self._select()} WHERE id IN {{ids:Array(Int64)}}", {"ids": list(distances)})
            place = {each: at for at, each in enumerate(page.column("id").to_pylist())}
            order = [place[each] for each in distances if each in place]  # one may have been deleted since
            yield self._counted(_with_distance(page.take(pa.array(order, pa.int64())), distances))

    def _select(self) -> str:
        """Vectors come under another name, so that a condition still means the table's own."""
        names = [
            f"{identifier(name)}::Array(Float32) AS float32_{name}" if name in EMBEDDING_COLUMNS else identifier(name)
            for name in self.columns
        ]
        return f"SELECT {', '.join(names)}\nFROM {identifier(self.info.name)}"

    def _ask(self, sql: str, parameters: dict[str, Any]) -> pa.Table:
        return arrow_table(self._engine, sql, parameters).rename_columns(self.columns)

    def _counts(self, within: Selection) -> list[tuple[int, int]]:
        """How many rows are wanted of each shard that has any."""
        sql = (
            f"SELECT intDiv(id, {ROWS_PER_SHARD}) AS number, count() FROM {identifier(self.info.name)}\n"
            f"WHERE {within.condition} AND {self._condition.condition} GROUP BY number ORDER BY number"
        )
        return [
            (int(number), int(rows))
            for number, rows in self._engine.query(Query(sql=sql, parameters=within.parameters)).rows
        ]

    def _counted(self, page: pa.Table) -> pa.Table:
        self._done += page.num_rows
        if self._progress:
            self._progress(Progress(label="exporting", done=self._done, total=max(self._total, self._done)))
        return page


def _with_distance(page: pa.Table, distances: dict[int, float]) -> pa.Table:
    column = pa.array([distances[each] for each in page.column("id").to_pylist()], pa.float32())
    return page.add_column(1, "distance", column)


def _to_parquet(pages: _Pages, out: Path | BinaryIO, *, force: bool) -> tuple[list[Path], int]:
    if not isinstance(out, Path):
        return [], _write_parquet(pages, out)
    if out.suffix.lower() != ".parquet":
        raise UsageError(f"{out} does not end in .parquet; name a file, - for a stream, or write shards: --format npy")
    if out.exists() and not force:
        raise UsageError(f"{out} is there already; name another file, or replace it with --force")
    with replacing(out) as file:
        rows = _write_parquet(pages, file)
    return [out], rows


def _write_parquet(pages: _Pages, file: IO[bytes]) -> int:
    rows = 0
    empty = pages.empty()
    with pq.ParquetWriter(file, empty.schema, compression="zstd") as writer:
        for page in pages.all():
            writer.write_table(page.cast(empty.schema))
            rows += page.num_rows
    return rows


def _to_shards(pages: _Pages, out: Path, dtype: np.dtype[Any], *, force: bool) -> tuple[list[Path], int]:
    _check_directory(out, pages.info.encoder, force=force)
    files: list[Path] = []
    rows = 0
    if pages.wanted.shards is not None:
        for number in pages.shards:
            with _Shards(out, pages.info.dim, dtype, number) as shards:
                for page in pages.of_shard(number):
                    shards.write(page)
            files += shards.files
            rows += shards.rows
    else:
        with _Shards(out, pages.info.dim, dtype, None) as shards:
            for page in pages.all():
                shards.write(page)
        files, rows = shards.files, shards.rows
    if rows and pages.info.encoder:
        facts = {"cliphouse": 1, "encoder": pages.info.encoder, "dim": pages.info.dim, "source": pages.info.name}
        with replacing(out / MARK) as file:
            file.write(json.dumps(facts, indent=2).encode() + b"\n")
        files.append(out / MARK)
    return files, rows


def _check_directory(out: Path, encoder: str, *, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; name a directory for the shards")
    if not out.exists():
        return
    there = discover(out)["image"]
    if there and not force:
        raise UsageError(
            f"{out} has shards {shard_ranges(there)} already; name another directory, or replace those of the same "
            "numbers with --force"
        )
    if (made_by := encoder_of(out)) and made_by != encoder:
        raise UsageError(f"{out} holds embeddings of {made_by}, not of {encoder or 'an unnamed encoder'}")


class _Abandoned(Exception):
    """A shard is not to be finished."""


class _Shards:
    """Rows on their way into shards: at most two are open, of rows with a text embedding and of rows without.

    With a `number` all rows go into the shard of this number; else shards are numbered from 0 as they are begun.
    """

    def __init__(self, out: Path, dim: int, dtype: np.dtype[Any], number: int | None) -> None:
        self._out, self._dim, self._dtype, self._number = out, dim, dtype, number
        self._open: dict[bool, _Shard] = {}
        self._next = 0 if number is None else number
        self.files: list[Path] = []
        self.rows = 0

    def __enter__(self) -> _Shards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for shard in self._open.values():
                    self._finish(shard)
        finally:
            for shard in self._open.values():
                shard.abandon()

    def write(self, page: pa.Table) -> None:
        """Add rows.

        Raises:
            UsageError: they belong in one shard, and some of them alone have a text embedding.
        """
        image = _matrix(page.column("image_embedding"), self._dim)
        texts = page.column("text_embedding") if "text_embedding" in page.column_names else None
        lengths = np.zeros(len(page)) if texts is None else np.asarray(pc.list_value_length(texts))
        for with_text in (True, False):
            rows = np.flatnonzero((lengths > 0) == with_text)
            while len(rows):
                shard = self._shard(with_text)
                some, rows = rows[: _SHARD_ROWS - shard.rows], rows[_SHARD_ROWS - shard.rows :]
                text = _matrix(texts.take(pa.array(some)), self._dim) if with_text and texts is not None else None
                shard.write(image[some], text, page.take(pa.array(some)))
                if shard.rows == _SHARD_ROWS and self._number is None:
                    self._finish(self._open.pop(with_text))

    def _shard(self, with_text: bool) -> _Shard:
        if with_text not in self._open:
            if self._open and self._number is not None:
                raise UsageError(
                    f"shard {self._number} has rows with and without a text embedding, which an npy shard cannot hold; "
                    "export it as parquet, or its rows by --where"
                )
            self._open[with_text] = _Shard(self._out, self._next, self._dim, self._dtype, with_text)
            self._next += 1
        return self._open[with_text]

    def _finish(self, shard: _Shard) -> None:
        self.files += shard.finish()
        self.rows += shard.rows


class _Shard:
    """The files of one shard while they are written. The image embeddings come into place last: they tell of it."""

    def __init__(self, out: Path, number: int, dim: int, dtype: np.dtype[Any], with_text: bool) -> None:
        self.rows = 0
        self._dim, self._dtype = dim, dtype
        self._paths = [out / f"img_emb_{number}.npy", out / f"metadata_{number}.parquet"]
        if with_text:
            self._paths.append(out / f"text_emb_{number}.npy")
        with ExitStack() as stack:
            files = [stack.enter_context(replacing(path)) for path in self._paths]
            self._stack = stack.pop_all()
        self._vectors = [files[0], *files[2:]]
        self._metadata = files[1]
        self._writer: pq.ParquetWriter | None = None
        self._stale = None if with_text else out / f"text_emb_{number}.npy"
        for file in self._vectors:
            self._write_header(file)

    def write(self, image: NDArray[np.float32], text: NDArray[np.float32] | None, page: pa.Table) -> None:
        with np.errstate(over="ignore"):
            for file, rows in zip(self._vectors, (image, text), strict=False):
                if rows is not None:
                    file.write(np.ascontiguousarray(rows, dtype=self._dtype).data)
        names = [name for name in page.column_names if name not in ("id", *EMBEDDING_COLUMNS)]
        metadata = page.select(names).rename_columns([_LAION_NAMES.get(name, name) for name in names])
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._metadata, metadata.schema, compression="zstd")
        self._writer.write_table(metadata)
        self.rows += len(page)

    def finish(self) -> list[Path]:
        """Bring the files into place; return them."""
        with self._stack:
            if self._writer is not None:
                self._writer.close()
            for file in self._vectors:
                file.seek(0)
                self._write_header(file)
        if self._stale is not None:
            self._stale.unlink(missing_ok=True)
        return self._paths

    def abandon(self) -> None:
        """Leave nothing half written behind; does nothing to a shard that is finished."""
        with suppress(_Abandoned), self._stack:
            raise _Abandoned

    def _write_header(self, file: IO[bytes]) -> None:
        """The header for the rows so far: NumPy leaves room in it for any number of them."""
        shape = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, {**shape, "shape": (self.rows, self._dim)})


def _matrix(column: pa.ChunkedArray, dim: int) -> NDArray[np.float32]:
    """Lists of one length as float32 of shape (rows, dim)."""
    values: NDArray[np.float32] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if values.size != len(column) * dim:
        raise UsageError(f"not every embedding has {dim} dimensions; export the rows as parquet")
    return values.astype(np.float32, copy=False).reshape(-1, dim)
