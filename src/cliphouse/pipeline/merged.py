"""A shard that is one parquet file with embeddings in list columns, here, in object storage or on the web."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliphouse import storage
from cliphouse.addresses import is_url
from cliphouse.errors import DimensionMismatch, ShardError, SourceUnavailable, UsageError
from cliphouse.pipeline.npy import check_rows, file_sum
from cliphouse.pipeline.rows import Rows, check_once, sources
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
#: The usual length of lists is looked for in the first rows of row groups here and there, over the whole file.
_SAMPLE_ROWS = 1024
_SAMPLE_GROUPS = 8
#: How many lists of a column have its length (True), or another (False).
_Lengths = Counter[tuple[str, bool]]


class ParquetShard:
    """One parquet file. A row whose embedding is no list of `dim` numbers comes as a row of NaN in its place.

    A text embedding that is null or an empty list is none, as an export has it of a picture without a caption.
    """

    ours = False  # an export tells of itself in a folder of npy files alone

    def __init__(self, shard: MergedShard, facts: _Facts, columns: Mapping[str, str]) -> None:
        self.shard = shard
        self.number, self.source = shard.number, shard.source
        self.rows, self.dim, self.has_text = facts.rows, facts.dim, facts.text is not None
        self._facts, self._sources = facts, columns
        self._columns = sorted({facts.image, *columns.values()} | ({facts.text} if facts.text else set()))
        self._piece = max(1, _PIECE_NUMBERS // self.dim)

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
        if is_url(self.shard.location):
            return {"etag": self._facts.etag} if self._facts.etag else {}
        return {"merged": file_sum(Path(self.shard.location))}

    def batches(self, rows: int) -> Iterator[Rows]:
        """All rows in order, decoded a piece at a time, whatever the row groups."""
        with self._parquet() as parquet:
            feed = _Feed(parquet.iter_batches(batch_size=min(rows, self._piece), columns=self._columns))
            lengths: _Lengths = Counter()
            for start in range(0, self.rows, rows):
                numbers = np.arange(start, min(start + rows, self.rows))
                yield self._rows(numbers, feed.give(len(numbers)), lengths)
            self._check_lengths(lengths)

    def take(self, numbers: NDArray[np.int64]) -> Rows:
        """These rows; of the row groups that hold them, what lies before the last one is decoded, and dropped."""
        with self._parquet() as parquet:
            return self._rows(numbers, self._taken(parquet, numbers), Counter())

    def _taken(self, parquet: pq.ParquetFile, numbers: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
        end = 0
        for group in range(parquet.metadata.num_row_groups):
            at, end = end, end + parquet.metadata.row_group(group).num_rows
            wanted = numbers[(numbers >= at) & (numbers < end)]
            if not len(wanted):
                continue
            for record in parquet.iter_batches(batch_size=self._piece, row_groups=[group], columns=self._columns):
                here = wanted[(wanted >= at) & (wanted < at + record.num_rows)] - at
                if len(here):
                    yield record.take(pa.array(here))
                at += record.num_rows
                if at > wanted[-1]:
                    break

    def _check_lengths(self, lengths: _Lengths) -> None:
        """Some lists of another length are dirt; if they are most, it is the dimension that is wrong."""
        for column in {name for name, _ in lengths}:
            fit, other = lengths[column, True], lengths[column, False]
            if other > fit:
                raise ShardError(
                    f"the column {column} of {self.source} has lists of {self.dim} numbers in {fit} rows, and of "
                    f"another length in {other}; write the file again with lists of one length, or leave it out",
                    shard=self.number,
                )

    def _rows(self, numbers: NDArray[np.int64], records: Iterable[pa.RecordBatch], lengths: _Lengths) -> Rows:
        """The rows of these numbers, put together from `records`; counts in `lengths` how many lists fit."""
        rows, facts = len(numbers), self._facts
        image = np.empty((rows, self.dim), facts.dtype(facts.image))
        text = np.empty((rows, self.dim), facts.dtype(facts.text)) if facts.text else None
        textless = np.zeros(rows, np.bool_)
        metadata: dict[str, list[pa.Array]] = {column: [] for column in self._sources}
        filled = 0
        for record in records:
            here = slice(filled, filled + record.num_rows)
            for name, out in ((facts.image, image), (facts.text, text)):
                if name is not None and out is not None:
                    fit, other = _copy(record.column(name), out[here])
                    lengths.update({(name, True): fit, (name, False): other})
            if facts.text:
                textless[here] = _places(record.column(facts.text))[1] == 0
            for column, source in self._sources.items():
                metadata[column].append(_plain(record.column(source)))
            filled += record.num_rows
        if filled != rows:
            raise ShardError(
                f"{self.source} gave {filled} of {rows} rows that its footer promises; download it again",
                shard=self.number,
            )
        joined = {name: pa.concat_arrays(parts) for name, parts in metadata.items() if parts}
        return Rows(numbers, image, text, joined, textless)

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

    def __init__(self, shard: MergedShard, file: Any, given: Mapping[str, str]) -> None:
        self.etag = file.etag if isinstance(file, storage.RemoteFile) else ""
        with _parquet(file) as parquet:
            self.schema, self.rows = parquet.schema_arrow, parquet.metadata.num_rows
            image, text = (_find(column, self.schema, given, shard) for column in EMBEDDING_COLUMNS)
            if image is None:
                raise _no_embeddings(self.schema, shard)
            dim = _length(parquet, image)
            text_dim = _length(parquet, text, expected=dim) if text else None
        if dim is None or not MIN_DIM <= dim <= MAX_DIM:
            found = "no embedding" if dim is None else f"embeddings of {dim} numbers"
            raise ShardError(
                f"the column {image} of {shard.source} holds {found} in {self.rows} rows (from {MIN_DIM} to {MAX_DIM} "
                "are wanted); leave the file out, or name another column with --map image_embedding=COLUMN",
                shard=shard.number,
            )
        self.image, self.dim = image, dim
        if text is not None and text_dim not in (None, dim):
            raise DimensionMismatch(
                what=f"{text} in {shard.source}", given=text_dim or 0, expected=dim, owner=f"its column {image}"
            )
        self.text = text if text_dim else None  # a column without one embedding is as good as none

    def dtype(self, column: str) -> np.dtype[np.floating]:
        """Of the numbers in these lists."""
        found: np.dtype[np.floating] = np.dtype(_lists(self.schema.field(column).type).value_type.to_pandas_dtype())
        return found


def open_merged(shard: MergedShard, columns: Mapping[str, str]) -> ParquetShard:
    """Check what can be checked from the footer and a few rows; `columns` names columns other than the usual.

    Raises:
        UsageError: a named column is not there, or the address is none.
        DimensionMismatch: image and text embeddings differ in length.
        MissingColumn: nothing describes the pictures.
        ShardError: it is no parquet file, holds no embeddings, or cannot be read.
    """
    with _open(shard) as file:
        facts = _Facts(shard, file, columns)
    check_rows(facts.rows, shard.number)
    return ParquetShard(shard, facts, sources(facts.schema.names, columns, path=shard.source, shard=shard.number))


class _Feed:
    """Pieces of a table, given out again in other pieces."""

    def __init__(self, pieces: Iterator[pa.RecordBatch]) -> None:
        self._pieces, self._rest = pieces, None

    def give(self, rows: int) -> Iterator[pa.RecordBatch]:
        """The next `rows` rows, or as many as there are."""
        while rows > 0:
            record = self._rest if self._rest is not None else next(self._pieces, None)
            if record is None:
                return
            self._rest = record.slice(rows) if record.num_rows > rows else None
            yield record.slice(0, rows)
            rows -= record.num_rows


@contextmanager
def _open(shard: MergedShard) -> Iterator[Any]:
    """The file, for reading at any place; what goes wrong with it inside is an error of the shard."""
    location = shard.location
    try:
        with storage.RemoteFile(location) if is_url(location) else pa.OSFile(location) as file:
            yield file
    except SourceUnavailable as error:
        raise ShardError(str(error), shard=shard.number) from error
    except (OSError, pa.ArrowException) as error:
        line = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise ShardError(
            f"cannot read {shard.source} as a parquet file: {line}; download it again", shard=shard.number
        ) from error


def _parquet(file: Any) -> pq.ParquetFile:
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)


def _find(column: str, schema: pa.Schema, given: Mapping[str, str], shard: MergedShard) -> str | None:
    """The column of the file that holds these embeddings, by the name given or a known one."""
    if (name := given.get(column)) is None:
        return _usual(column, schema, shard)
    if name not in schema.names:
        raise UsageError(
            f"{shard.source} has no column {name!r} to fill {column} from; it has: {', '.join(schema.names)}"
        )
    check_once(schema.names, name, path=shard.source, shard=shard.number)
    if not _lists(schema.field(name).type):
        raise ShardError(
            f"the column {name} of {shard.source} is of type {schema.field(name).type}; embeddings are lists of "
            f"float16, float32 or float64; name another with --map {column}=COLUMN",
            shard=shard.number,
        )
    return name


def _usual(column: str, schema: pa.Schema, shard: MergedShard) -> str | None:
    """The column of the same name, or the one column whose name is known for it."""
    fits = [field.name for field in schema if field.name.lower() in NAMES[column] and _lists(field.type)]
    for name in fits:
        check_once(schema.names, name, path=shard.source, shard=shard.number)
    if len(fits) > 1 and column not in fits:
        raise ShardError(
            f"{shard.source} has several columns that could fill {column}: {', '.join(fits)}; "
            f"name one with --map {column}={fits[0]}",
            shard=shard.number,
        )
    return column if column in fits else next(iter(fits), None)


def _no_embeddings(schema: pa.Schema, shard: MergedShard) -> ShardError:
    texts = NAMES["text_embedding"]
    lists = [field.name for field in schema if _lists(field.type) and field.name.lower() not in texts]
    integers = [field.name for field in schema if pa.types.is_integer(getattr(field.type, "value_type", pa.null()))]
    if lists:
        advice = f"name one with --map image_embedding={lists[0]}"
    elif integers:
        advice = f"the integers in {', '.join(integers)} are no embeddings; write them as floats, or leave the file out"
    else:
        advice = "leave the file out"
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    return ShardError(
        f"{shard.source} has no list of floats by a name that embeddings usually have; it has: {columns}; {advice}",
        shard=shard.number,
    )


def _lists(kind: pa.DataType) -> Any:
    """The list type of a column of vectors; None if it is none."""
    if isinstance(kind, pa.BaseExtensionType):  # Arrow's tensors
        kind = kind.storage_type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return kind if lists and pa.types.is_floating(kind.value_type) else None


def _length(parquet: pq.ParquetFile, column: str, expected: int | None = None) -> int | None:
    """The length that most lists have, by a sample, or `expected` if one has that; None if none has any."""
    fixed = pa.types.is_fixed_size_list(_lists(parquet.schema_arrow.field(column).type))
    lengths = np.empty(0, np.int64) if fixed else _sample(parquet, column)
    if not len(lengths):
        batches = parquet.iter_batches(batch_size=_SAMPLE_ROWS, columns=[column])
        lengths = next((found for record in batches if len(found := _present(record))), lengths)
    values, counts = np.unique(lengths, return_counts=True)
    if not len(values):
        return None
    return expected if expected in values else int(values[np.argmax(counts)])


def _sample(parquet: pq.ParquetFile, column: str) -> NDArray[np.int64]:
    """Lengths of lists from row groups spread over the file; a large group counts as several."""
    facts = parquet.metadata
    ends = np.cumsum([facts.row_group(group).num_rows for group in range(facts.num_row_groups)])
    rows = np.linspace(0, facts.num_rows - 1, min(_SAMPLE_GROUPS, facts.num_rows)).astype(np.int64)
    found = [np.empty(0, np.int64)]
    for group, weight in zip(*np.unique(np.searchsorted(ends, rows, "right"), return_counts=True), strict=True):
        record = next(parquet.iter_batches(batch_size=_SAMPLE_ROWS, row_groups=[int(group)], columns=[column]))
        found.append(np.repeat(_present(record), weight))
    return np.concatenate(found)


def _present(record: pa.RecordBatch) -> NDArray[np.int64]:
    """The lengths of the lists in its one column that hold any number."""
    _, lengths = _places(record.column(0))
    return lengths[lengths > 0]


def _copy(column: pa.Array, out: NDArray[np.floating]) -> tuple[int, int]:
    """Put the lists into `out`, shape (rows, dim); one that is null or of another length becomes NaN.

    Tells how many have that length, and how many another; those that are null or empty have none.
    """
    starts, lengths = _places(column)
    values = column.storage.values if isinstance(column, pa.ExtensionArray) else column.values
    rows, dim = out.shape
    whole = lengths == dim
    if whole.all():
        first = int(starts[0]) if rows else 0
        out[:] = _numbers(values.slice(first, rows * dim)).reshape(rows, dim)
        return rows, 0
    out[:] = np.nan
    out[whole] = _numbers(values)[starts[whole, None] + np.arange(dim)]
    return int(whole.sum()), int(((lengths > 0) & ~whole).sum())


def _numbers(values: pa.Array) -> NDArray[np.floating]:
    """The values as they lie in memory; if there are nulls among them, a copy with NaN."""
    numbers: NDArray[np.floating] = values.to_numpy(zero_copy_only=False)
    return numbers


def _places(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each list begins among all values, and its length, 0 where it is null."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_fixed_size_list(column.type):
        size = column.type.list_size
        starts = (column.offset + np.arange(len(column))) * size
        lengths = np.full(len(column), size)
    else:
        offsets = column.offsets.to_numpy().astype(np.int64)
        starts, lengths = offsets[:-1], np.diff(offsets)
    if column.null_count:
        lengths[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return starts, lengths


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
