"""One shard's files as aligned batches of rows: checked before anything is written, streamed, never held whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliphouse.errors import (
    DimensionMismatch,
    InvalidEmbedding,
    MissingColumn,
    RowCountMismatch,
    ShardError,
    TruncatedShard,
)
from cliphouse.schema import DESCRIBING_COLUMNS, METADATA_COLUMNS
from cliphouse.types import MAX_DIM, MIN_DIM, ROWS_PER_SHARD, Shard
from cliphouse.vectors import MAX_LENGTH, MIN_LENGTH

#: A batch's float32 vectors, image and text together, take about this much memory.
_BATCH_BYTES = 64 * 2**20
_FINGERPRINT_BYTES = 64 * 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenShard:
    """A shard whose files agree: `rows` rows of `dim` dimensions; vectors are memory-mapped, not read."""

    shard: Shard
    rows: int
    dim: int
    image: NDArray[np.floating]
    text: NDArray[np.floating] | None
    #: Parquet column that fills each table column.
    sources: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows of a shard, the first being `start`; vectors are float32 of shape (rows, dim)."""

    start: int
    image: NDArray[np.float32]
    text: NDArray[np.float32] | None
    metadata: Mapping[str, pa.Array]


def open_shard(shard: Shard) -> OpenShard:
    """Check what can be checked without reading the vectors.

    Raises:
        TruncatedShard: a file is shorter than its header says.
        RowCountMismatch: the files hold different numbers of rows.
        DimensionMismatch: image and text embeddings differ in length.
        MissingColumn: nothing in the metadata describes the pictures.
        ShardError: a file is not what its name says.
    """
    image = _open_npy(shard.image_embeddings, shard.number)
    text = _open_npy(shard.text_embeddings, shard.number) if shard.text_embeddings else None
    parquet = _open_parquet(shard)
    with parquet:
        counts = {shard.image_embeddings: image.shape[0], shard.metadata: parquet.metadata.num_rows}
        if text is not None and shard.text_embeddings is not None:
            counts[shard.text_embeddings] = text.shape[0]
        names = parquet.schema_arrow.names
    if len(set(counts.values())) > 1:
        raise RowCountMismatch(counts, shard=shard.number)
    if text is not None and text.shape[1] != image.shape[1]:
        raise DimensionMismatch(
            what=str(shard.text_embeddings),
            given=text.shape[1],
            expected=image.shape[1],
            owner=str(shard.image_embeddings),
        )
    if image.shape[0] > ROWS_PER_SHARD:
        raise ShardError(f"{image.shape[0]} rows are more than a shard may have ({ROWS_PER_SHARD})", shard=shard.number)
    sources = _sources(names)
    if not set(DESCRIBING_COLUMNS) & sources.keys():
        raise MissingColumn(shard.metadata, DESCRIBING_COLUMNS, names, shard=shard.number)
    return OpenShard(shard=shard, rows=image.shape[0], dim=image.shape[1], image=image, text=text, sources=sources)


def batches(opened: OpenShard) -> Iterator[Batch]:
    """The shard's rows in order, row i of the vectors beside row i of the metadata.

    Raises:
        InvalidEmbedding: a vector is NaN, infinite, all zero, or too long or short to compute with.
        ShardError: a file cannot be read after all.
    """
    shard = opened.shard
    size = max(1, _BATCH_BYTES // (opened.dim * 4 * (1 if opened.text is None else 2)))
    start = 0
    with _open_parquet(shard) as parquet:
        try:
            for record in parquet.iter_batches(batch_size=size, columns=sorted(set(opened.sources.values()))):
                stop = start + record.num_rows
                yield Batch(
                    start=start,
                    image=_vectors(opened.image, start, stop, shard.image_embeddings, shard.number),
                    text=None
                    if opened.text is None or shard.text_embeddings is None
                    else _vectors(opened.text, start, stop, shard.text_embeddings, shard.number),
                    metadata={column: record.column(source) for column, source in opened.sources.items()},
                )
                start = stop
        except (OSError, pa.ArrowException) as error:
            raise ShardError(
                f"cannot read {shard.metadata}: {_line(error)}; download it again", shard=shard.number
            ) from error


def fingerprint(shard: Shard) -> str:
    """A short name for the shard's contents: sizes, and both ends of each file. Reads at most 128 KiB a file."""
    digest = hashlib.sha256()
    for path in (shard.image_embeddings, shard.text_embeddings, shard.metadata):
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


def _open_npy(path: Path, shard: int) -> NDArray[np.floating]:
    """The array in `path`, memory-mapped: float16 or float32 (or float64), two-dimensional."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
            expected = file.tell() + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    except (OSError, ValueError) as error:
        raise ShardError(f"{path} is not an npy file: {_line(error)}; download it again", shard=shard) from error
    if (found := path.stat().st_size) < expected:
        raise TruncatedShard(path, expected_bytes=expected, found_bytes=found, shard=shard)
    if dtype.kind != "f":
        raise ShardError(f"{path} holds {dtype}; embeddings are float16 or float32", shard=shard)
    if len(shape) != 2 or not MIN_DIM <= shape[1] <= MAX_DIM:
        raise ShardError(
            f"{path} has shape {shape}; embeddings are (rows, dim) with dim from {MIN_DIM} to {MAX_DIM}", shard=shard
        )
    if shape[0] == 0:  # an empty file cannot be mapped
        return np.empty(shape, dtype=dtype)
    array: NDArray[np.floating] = np.load(path, mmap_mode="r")
    return array


def _open_parquet(shard: Shard) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(shard.metadata)
    except (OSError, pa.ArrowException) as error:
        raise ShardError(
            f"{shard.metadata} is not a whole parquet file: {_line(error)}; download it again", shard=shard.number
        ) from error


def _sources(names: list[str]) -> dict[str, str]:
    by_lower = {name.lower(): name for name in reversed(names)}
    return {
        column: by_lower[alias]
        for column, (_, aliases) in METADATA_COLUMNS.items()
        for alias in aliases[::-1]
        if alias in by_lower
    }


def _vectors(array: NDArray[np.floating], start: int, stop: int, path: Path, shard: int) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # becomes infinite, and is named below
        rows = np.asarray(array[start:stop], dtype=np.float32)
    if not np.isfinite(rows).all():
        bad = int(np.argmax(~np.isfinite(rows).all(axis=1)))
        raise InvalidEmbedding(path, start + bad, "holds NaN or infinite values", shard=shard)
    if not (present := rows.any(axis=1)).all():
        raise InvalidEmbedding(path, start + int(np.argmin(present)), "is all zeros", shard=shard)
    largest = np.abs(rows).max(axis=1)
    if not (usable := (largest > MIN_LENGTH) & (largest < MAX_LENGTH)).all():
        reason = f"has values of about {largest[np.argmin(usable)]:.0e}, which no distance can be computed with"
        raise InvalidEmbedding(path, start + int(np.argmin(usable)), reason, shard=shard)
    return rows


def _line(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0]
