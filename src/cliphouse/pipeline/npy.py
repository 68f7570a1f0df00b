"""A shard of two npy files and a parquet file, as LAION and clip-retrieval write them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from cliphouse.errors import DimensionMismatch, RowCountMismatch, ShardError, TruncatedShard
from cliphouse.pipeline import npy_header
from cliphouse.pipeline.plan import is_ours
from cliphouse.pipeline.rows import Rows, sources
from cliphouse.types import MAX_DIM, MIN_DIM, ROWS_PER_SHARD, Shard

_FINGERPRINT_BYTES = 64 * 2**10
_READ_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class NpyFile:
    """What the header of an npy file says: where its array begins, and how it lies there."""

    path: Path
    offset: int
    rows: int
    dim: int
    dtype: np.dtype[np.floating]
    fortran: bool

    def map(self) -> NDArray[np.floating]:
        """The whole array, mapped: for rows here and there. All of it would count as memory in use."""
        if self.rows == 0:  # nothing to map
            return np.empty((0, self.dim), self.dtype)
        return np.memmap(self.path, self.dtype, "r", self.offset, (self.rows, self.dim), "F" if self.fortran else "C")


class NpyShard:
    """The three files (or two: text embeddings may be missing) of one shard, which agree with each other."""

    def __init__(
        self, shard: Shard, image: NpyFile, text: NpyFile | None, sources_of_columns: Mapping[str, str]
    ) -> None:
        self.shard = shard
        self.number, self.rows, self.dim = shard.number, image.rows, image.dim
        self.has_text, self.ours = text is not None, is_ours(shard)
        self._image, self._text, self._sources = image, text, sources_of_columns
        self._sums: dict[str, str] = {}

    @property
    def source(self) -> str:
        """The file of the image embeddings."""
        return str(self.shard.image_embeddings)

    def where(self, column: str, row: int) -> str:
        """The file of that column, and the row in it."""
        by_column = {"image_embedding": self.shard.image_embeddings, "text_embedding": self.shard.text_embeddings}
        return f"{by_column.get(column, self.shard.metadata)} row {row}"

    def fingerprint(self) -> str:
        """Sizes, and both ends of each file: reads at most 128 KiB a file."""
        digest = hashlib.sha256()
        for path in (self.shard.image_embeddings, self.shard.text_embeddings, self.shard.metadata):
            if path is None:
                digest.update(b"none")
                continue
            size = path.stat().st_size
            digest.update(f"{size};".encode())
            with path.open("rb") as file:
                digest.update(file.read(_FINGERPRINT_BYTES))
                file.seek(max(0, size - _FINGERPRINT_BYTES))
                digest.update(file.read())
        return digest.hexdigest()

    def checksums(self) -> dict[str, str]:
        """The XXH3 sums of the files, those that were not streamed just now read for it."""
        files = {
            "image": self.shard.image_embeddings,
            "text": self.shard.text_embeddings,
            "metadata": self.shard.metadata,
        }
        return {
            kind: self._sums[kind] if kind in self._sums else file_sum(path)
            for kind, path in files.items()
            if path is not None
        }

    def batches(self, rows: int) -> Iterator[Rows]:
        """All rows in order, row i of the vectors beside row i of the metadata."""
        columns = sorted(set(self._sources.values()))
        start = 0
        with _open_parquet(self.shard) as parquet, _Stream(self._image) as image, _Stream(self._text) as text:
            try:
                for record in parquet.iter_batches(batch_size=rows, columns=columns):
                    yield Rows(
                        numbers=np.arange(start, start + record.num_rows),
                        image=image.read(record.num_rows),
                        text=text.read(record.num_rows) if self.has_text else None,
                        metadata=self._metadata(record),
                    )
                    start += record.num_rows
            except (OSError, pa.ArrowException) as error:
                raise self._unreadable(error) from error
            if start != self.rows:
                raise self._unreadable(ValueError(f"it gave {start} of {self.rows} rows"))
            self._sums |= {kind: stream.sum() for kind, stream in (("image", image), ("text", text)) if stream.whole}

    def take(self, numbers: NDArray[np.int64]) -> Rows:
        """These rows; of the metadata, only the row groups that hold them are read."""
        with _open_parquet(self.shard) as parquet:
            try:
                record = take_rows(parquet, numbers, sorted(set(self._sources.values())))
            except (OSError, pa.ArrowException) as error:
                raise self._unreadable(error) from error
        return Rows(
            numbers=numbers,
            image=self._image.map()[numbers],
            text=self._text.map()[numbers] if self._text else None,
            metadata=self._metadata(record),
        )

    def _metadata(self, record: pa.RecordBatch) -> dict[str, pa.Array]:
        return {column: record.column(source) for column, source in self._sources.items()}

    def _unreadable(self, error: Exception) -> ShardError:
        return ShardError(f"cannot read {self.shard.metadata}: {_line(error)}; download it again", shard=self.number)


def open_npy(shard: Shard, columns: Mapping[str, str]) -> NpyShard:
    """Check what can be checked without reading the vectors; `columns` names metadata columns other than the usual.

    Raises:
        TruncatedShard: a file is shorter than its header says.
        RowCountMismatch: the files hold different numbers of rows.
        DimensionMismatch: image and text embeddings differ in length.
        MissingColumn: nothing in the metadata describes the pictures.
        ShardError: a file is not what its name says.
    """
    image = _open_vectors(shard.image_embeddings, shard.number)
    text = _open_vectors(shard.text_embeddings, shard.number) if shard.text_embeddings else None
    with _open_parquet(shard) as parquet:
        counts = {shard.image_embeddings: image.rows, shard.metadata: parquet.metadata.num_rows}
        names = parquet.schema_arrow.names
    if text is not None:
        counts[text.path] = text.rows
    if len(set(counts.values())) > 1:
        raise RowCountMismatch(counts, shard=shard.number)
    if text is not None and text.dim != image.dim:
        raise DimensionMismatch(what=str(text.path), given=text.dim, expected=image.dim, owner=str(image.path))
    check_rows(image.rows, shard.number)
    return NpyShard(shard, image, text, sources(names, columns, path=str(shard.metadata), shard=shard.number))


def check_rows(rows: int, shard: int) -> None:
    """Ids have room for so many rows a shard and no more.

    Raises:
        ShardError: there are more.
    """
    if rows > ROWS_PER_SHARD:
        raise ShardError(f"{rows} rows are more than a shard may have ({ROWS_PER_SHARD})", shard=shard)


def _open_vectors(path: Path, shard: int) -> NpyFile:
    """What the header of `path` says, in agreement with the file's length.

    Raises:
        TruncatedShard: the file is shorter.
        ShardError: it holds no vectors.
    """
    try:
        header = npy_header.read_header(path)
    except (OSError, ValueError) as error:
        raise ShardError(f"{path} is not an npy file: {_line(error)}; download it again", shard=shard) from error
    if (found := path.stat().st_size) < header.file_bytes:
        raise TruncatedShard(path, expected_bytes=header.file_bytes, found_bytes=found, shard=shard)
    shape, dtype = header.shape, header.dtype
    if dtype.kind != "f":
        raise ShardError(f"{path} holds {dtype}; embeddings are float16 or float32", shard=shard)
    if len(shape) != 2 or not MIN_DIM <= shape[1] <= MAX_DIM:
        raise ShardError(
            f"{path} has shape {shape}; embeddings are (rows, dim) with dim from {MIN_DIM} to {MAX_DIM}", shard=shard
        )
    return NpyFile(path, header.offset, shape[0], shape[1], dtype, header.fortran_order)


def take_rows(parquet: pq.ParquetFile, numbers: NDArray[np.int64], columns: list[str]) -> pa.RecordBatch:
    """The rows of these numbers, ascending, from the row groups that hold them."""
    sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.metadata.num_row_groups)]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    groups = np.searchsorted(starts, numbers, side="right") - 1
    pieces = []
    for group in np.unique(groups):
        table = _takeable(parquet.read_row_group(int(group), columns=columns))
        pieces.append(table.take(pa.array(numbers[groups == group] - starts[group])))
    if not pieces:
        return parquet.schema_arrow.empty_table().select(columns).to_batches(1)[0]
    return pa.concat_tables(pieces).combine_chunks().to_batches()[0]


def _takeable(table: pa.Table) -> pa.Table:
    """The table with views of strings as strings: Arrow picks no rows of views."""
    kinds = [pa.large_binary() if "view" in str(field.type) else field.type for field in table.schema]
    return table.cast(pa.schema(list(zip(table.column_names, kinds, strict=True))))


def file_sum(path: Path) -> str:
    """The XXH3 sum of a file, in hexadecimal: 64 bits, against accidents, not against forgery."""
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


class _Stream:
    """An npy file's rows, read one after the other into memory of their own, and summed up on the way."""

    def __init__(self, npy: NpyFile | None) -> None:
        self._npy = npy
        self._row = 0
        self._digest = xxhash.xxh3_64()
        self._file: Any = None

    def __enter__(self) -> _Stream:
        if self._npy is not None:
            self._file = self._npy.path.open("rb", buffering=0)
            self._digest.update(self._file.read(self._npy.offset))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def whole(self) -> bool:
        """Whether all rows passed by in the order of the file."""
        return self._npy is not None and self._row == self._npy.rows and not self._npy.fortran

    def sum(self) -> str:
        """The sum of the file, with what follows the rows."""
        while piece := self._file.read(_READ_BYTES):
            self._digest.update(piece)
        return self._digest.hexdigest()

    def read(self, rows: int) -> NDArray[np.floating]:
        """The next rows."""
        assert self._npy is not None  # noqa: S101  # a shard without text embeddings asks for none
        start, self._row = self._row, self._row + rows
        if self._npy.fortran:  # a row is spread over the whole file
            return np.ascontiguousarray(self._npy.map()[start : self._row])
        block = np.empty((rows, self._npy.dim), self._npy.dtype)
        view = block.view(np.uint8).reshape(-1).data
        filled = 0
        while filled < len(view):
            if not (count := self._file.readinto(view[filled:])):
                raise OSError(f"{self._npy.path} became shorter while it was read")
            filled += count
        self._digest.update(view)
        return block


def _open_parquet(shard: Shard) -> pq.ParquetFile:
    if not shard.metadata.exists():
        raise ShardError(f"{shard.image_embeddings} has no {shard.metadata.name}; download it", shard=shard.number)
    try:
        return pq.ParquetFile(shard.metadata)
    except (OSError, pa.ArrowException) as error:
        raise ShardError(
            f"{shard.metadata} is not a whole parquet file: {_line(error)}; download it again", shard=shard.number
        ) from error


def _line(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0]
