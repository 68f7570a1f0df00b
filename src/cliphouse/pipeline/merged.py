"""A shard that is one parquet file with embeddings in list columns, here, in object storage or on the web."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliphouse import storage
from cliphouse.errors import DimensionMismatch, ShardError, SourceUnavailable, UsageError
from cliphouse.pipeline.npy import check_rows, file_sum
from cliphouse.pipeline.rows import Rows, sources
from cliphouse.schema import EMBEDDING_COLUMNS
from cliphouse.types import MAX_DIM, MIN_DIM, MergedShard

#: What exports call their embeddings, compared without case, best first: `vector` is ClickHouse's LAION-5B, `img_emb`
#: and `image_emb` are Lance's on Hugging Face, `emb` and `embedding(s)` those of data sets with one kind alone.
NAMES: Mapping[str, tuple[str, ...]] = {
    "image_embedding": (
        *("image_embedding", "image_embeddings", "image_emb", "img_emb", "img_embedding", "clip_image_embedding"),
        *("clip_embedding", "clip_embeddings", "vector", "embedding", "embeddings", "emb"),
    ),
    "text_embedding": (
        *("text_embedding", "text_embeddings", "text_emb", "txt_emb", "clip_text_embedding"),
        *("caption_embedding", "caption_emb", "text_vector"),
    ),
}
#: Numbers of one column decoded at a time. Decoding takes some five times their own bytes, for the levels that tell
#: where each list begins, whatever the size of the row group; see docs/decisions/0015.
_PIECE_NUMBERS = 2**21
#: So much of each column chunk is read at a time. Without it pyarrow holds whole chunks.
_BUFFER_BYTES = 2**20
_FINGERPRINT_BYTES = 64 * 2**10
_SAMPLE_ROWS = 1024


class ParquetShard:
    """One parquet file. A row whose embedding is no list of `dim` numbers comes as a row of NaN in its place."""

    def __init__(self, shard: MergedShard, facts: _Facts, columns: Mapping[str, str]) -> None:
        self.shard = shard
        self.number, self.rows, self.dim = shard.number, facts.rows, facts.dim
        self.has_text = facts.text is not None
        self._facts, self._sources = facts, columns
        self._columns = sorted({facts.image, *columns.values()} | ({facts.text} if facts.text else set()))
        self._piece = max(1, _PIECE_NUMBERS // self.dim)

    @property
    def source(self) -> str:
        """The path or address, without a query."""
        return storage.shown(self.shard.location) if storage.is_url(self.shard.location) else self.shard.location

    def where(self, column: str, row: int) -> str:  # noqa: ARG002  # one file holds all columns
        """The file, and the row in it."""
        return f"{self.source} row {row}"

    def fingerprint(self) -> str:
        """Size and both ends, where the footer is: the same for a file and for its copy in another place."""
        digest = hashlib.sha256()
        with self._file() as file:
            size = file.seek(0, io.SEEK_END)
            digest.update(f"{size};".encode())
            for start in (0, max(0, size - _FINGERPRINT_BYTES)):
                file.seek(start)
                digest.update(file.read(_FINGERPRINT_BYTES))
        return digest.hexdigest()

    def checksums(self) -> dict[str, str]:
        """The XXH3 sum of a file that is here; of another what its server says of it, if anything."""
        if storage.is_url(self.shard.location):
            return {"etag": self._facts.etag} if self._facts.etag else {}
        return {"merged": file_sum(Path(self.shard.location))}

    def batches(self, rows: int) -> Iterator[Rows]:
        """All rows in order, in pieces small enough to decode in little memory."""
        start = 0
        with self._parquet() as parquet:
            pieces = parquet.iter_batches(batch_size=min(rows, self._piece), columns=self._columns)
            for record in pieces if self.rows else ():
                yield self._rows(np.arange(start, start + record.num_rows), record)
                start += record.num_rows
        if start != self.rows:
            raise ShardError(f"{self.source} gave {start} of {self.rows} rows; download it again", shard=self.number)

    def take(self, numbers: NDArray[np.int64]) -> Rows:
        """These rows; of the row groups that hold them, what lies before the last one is decoded, and dropped."""
        with self._parquet() as parquet:
            found = list(self._taken(parquet, numbers))
            nothing = parquet.schema_arrow.empty_table().select(self._columns).to_batches(1)[0]
        parts = [self._rows(each, record) for each, record in found] or [self._rows(numbers, nothing)]
        return Rows(
            numbers=numbers,
            image=np.concatenate([part.image for part in parts]),
            text=np.concatenate([part.text for part in parts if part.text is not None]) if self.has_text else None,
            metadata={
                column: pa.chunked_array([part.metadata[column] for part in parts]).combine_chunks()
                for column in self._sources
            },
        )

    def _taken(
        self, parquet: pq.ParquetFile, numbers: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], pa.RecordBatch]]:
        begin = 0
        for group in range(parquet.metadata.num_row_groups):
            at, begin = begin, begin + parquet.metadata.row_group(group).num_rows
            wanted = numbers[(numbers >= at) & (numbers < begin)]
            if not len(wanted):
                continue
            for record in parquet.iter_batches(batch_size=self._piece, row_groups=[group], columns=self._columns):
                here = wanted[(wanted >= at) & (wanted < at + record.num_rows)]
                if len(here):
                    yield here, record.take(pa.array(here - at))
                at += record.num_rows
                if at > wanted[-1]:
                    break

    def _rows(self, numbers: NDArray[np.int64], record: pa.RecordBatch) -> Rows:
        return Rows(
            numbers=numbers,
            image=_vectors(record.column(self._facts.image), self.dim),
            text=_vectors(record.column(self._facts.text), self.dim) if self._facts.text else None,
            metadata={column: _plain(record.column(source)) for column, source in self._sources.items()},
        )

    @contextmanager
    def _file(self) -> Iterator[Any]:
        """The file, if it is still the one that was opened first."""
        with _open(self.shard) as file:
            if isinstance(file, storage.RemoteFile) and file.etag != self._facts.etag:
                raise ShardError(f"{self.source} was changed meanwhile; run the command again", shard=self.number)
            yield file

    @contextmanager
    def _parquet(self) -> Iterator[pq.ParquetFile]:
        with self._file() as file, _parquet(file) as parquet:
            yield parquet


class _Facts:
    """What a file says of itself, and its embeddings' dimension, which only rows can tell if their lists may differ."""

    def __init__(self, shard: MergedShard, file: Any, given: Mapping[str, str], shown: str) -> None:
        self.etag = file.etag if isinstance(file, storage.RemoteFile) else ""
        with _parquet(file) as parquet:
            schema, self.rows = parquet.schema_arrow, parquet.metadata.num_rows
            image = _find("image_embedding", schema, given, shard, shown)
            self.text = _find("text_embedding", schema, given, shard, shown)
            if image is None:
                raise ShardError(_no_embeddings(shown, schema), shard=shard.number)
            dim = _dim(parquet, image)
            if dim is None:
                raise ShardError(
                    f"{shown} has no row with an embedding in {image}; leave it out, or name another column with "
                    "--map image_embedding=COLUMN",
                    shard=shard.number,
                )
            if not MIN_DIM <= dim <= MAX_DIM:
                raise ShardError(
                    f"{image} in {shown} has {dim} dimensions; embeddings have from {MIN_DIM} to {MAX_DIM}",
                    shard=shard.number,
                )
            text_dim = _dim(parquet, self.text) if self.text else None
        self.image, self.dim, self.names = image, dim, schema.names
        if text_dim is None:  # a column without one embedding is as good as none
            self.text = None
        elif text_dim != dim:
            raise DimensionMismatch(
                what=f"{self.text} in {shown}", given=text_dim, expected=dim, owner=f"its column {image}"
            )


def open_merged(shard: MergedShard, columns: Mapping[str, str]) -> ParquetShard:
    """Check what can be checked from the footer and a few rows; `columns` names columns other than the usual.

    Raises:
        UsageError: a named column is not there, or the address is none.
        DimensionMismatch: image and text embeddings differ in length.
        MissingColumn: nothing describes the pictures.
        ShardError: it is no parquet file, holds no embeddings, or cannot be read.
    """
    with _open(shard) as file:
        shown = storage.shown(shard.location) if storage.is_url(shard.location) else shard.location
        facts = _Facts(shard, file, columns, shown)
    check_rows(facts.rows, shard.number)
    return ParquetShard(shard, facts, sources(facts.names, columns, path=shown, shard=shard.number))


@contextmanager
def _open(shard: MergedShard) -> Iterator[Any]:
    """The file, for reading at any place; what goes wrong with it inside is an error of the shard."""
    location = shard.location
    try:
        with storage.RemoteFile(location) if storage.is_url(location) else pa.OSFile(location) as file:
            yield file
    except SourceUnavailable as error:
        raise ShardError(str(error), shard=shard.number) from error
    except (OSError, pa.ArrowException) as error:
        shown = storage.shown(location) if storage.is_url(location) else location
        line = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise ShardError(
            f"{shown} is not a whole parquet file: {line}; download it again", shard=shard.number
        ) from error


def _parquet(file: Any) -> pq.ParquetFile:
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)


def _find(
    column: str, schema: pa.Schema, given: Mapping[str, str], shard: MergedShard, shown: str
) -> str | None:
    """The column of the file that holds these embeddings."""
    if column in given:
        name = given[column]
        if name not in schema.names:
            raise UsageError(f"{shown} has no column {name!r} to fill {column} from; it has: {', '.join(schema.names)}")
        if not _holds_vectors(schema.field(name).type):
            raise ShardError(
                f"{name} in {shown} is {schema.field(name).type}; embeddings are lists of float16, float32 or float64",
                shard=shard.number,
            )
        return name
    by_lower = {field.name.lower(): field.name for field in schema if _holds_vectors(field.type)}
    return next((by_lower[name] for name in NAMES[column] if name in by_lower), None)


def _no_embeddings(shown: str, schema: pa.Schema) -> str:
    candidates = [field.name for field in schema if _holds_vectors(field.type)]
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    return (
        f"{shown} has no column of embeddings by a known name, as lists of floats; it has: {columns or 'no columns'}; "
        f"name one with --map {EMBEDDING_COLUMNS[0]}={candidates[0] if candidates else 'COLUMN'}"
    )


def _storage_type(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _holds_vectors(kind: pa.DataType) -> bool:
    kind = _storage_type(kind)
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and pa.types.is_floating(kind.value_type)


def _dim(parquet: pq.ParquetFile, column: str) -> int | None:
    """The length that most lists have among the first rows with any; None if there are none."""
    kind = _storage_type(parquet.schema_arrow.field(column).type)
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    if parquet.metadata.num_rows == 0:
        return None
    for record in parquet.iter_batches(batch_size=_SAMPLE_ROWS, columns=[column]):
        _, lengths = _places(record.column(column))
        if (lengths > 0).any():
            values, counts = np.unique(lengths[lengths > 0], return_counts=True)
            return int(values[np.argmax(counts)])
    return None


def _vectors(column: pa.Array, dim: int) -> NDArray[np.floating]:
    """Shape (rows, dim), without a copy if all lists are whole; else those that are not are NaN."""
    starts, lengths = _places(column)
    values = column.storage.values if isinstance(column, pa.ExtensionArray) else column.values
    numbers: NDArray[np.floating] = values.to_numpy(zero_copy_only=False)  # null as NaN
    whole = lengths == dim
    if whole.all():
        first = int(starts[0]) if len(starts) else 0
        return numbers[first : first + dim * len(column)].reshape(len(column), dim)
    result = np.full((len(column), dim), np.nan, numbers.dtype)
    result[whole] = numbers[starts[whole, None] + np.arange(dim)]
    return result


def _places(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each list begins among the values, and its length, 0 where it is null."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_fixed_size_list(column.type):
        size = column.type.list_size
        starts = (column.offset + np.arange(len(column))) * size
        lengths = np.full(len(column), size)
    else:
        offsets = column.offsets.to_numpy()
        starts, lengths = offsets[:-1].astype(np.int64), np.diff(offsets).astype(np.int64)
    if column.null_count:
        lengths[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return starts, lengths


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
