"""Whether a file of a shard is whole, by what its own header or footer says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cliphouse.pipeline.mirrors import Kind
from cliphouse.pipeline.npy_header import read_header


class NotWhole(Exception):
    """A file that is cut off, or is something else than its name says."""


def rows_in(path: Path, kind: Kind) -> int:
    """The rows of a whole file. Its length is compared with the npy header or the parquet footer; data are not read.

    Raises:
        NotWhole: it is not.
        OSError: it cannot be opened.
    """
    return _parquet_rows(path) if kind == "metadata" else _npy_rows(path)


def promised(path: Path) -> int | None:
    """The length that the npy file `path` says it has; None where it does not say."""
    try:
        return read_header(path).file_bytes
    except (ValueError, OSError):
        return None


def odd_ones(rows: Mapping[Kind, int]) -> tuple[Kind, ...]:
    """Which of a shard's files must be wrong: those outvoted by two others, all where there is no majority."""
    count, votes = Counter(rows.values()).most_common(1)[0]
    return tuple(kind for kind, found in rows.items() if found != count or 2 * votes <= len(rows))


def _npy_rows(path: Path) -> int:
    try:
        header = read_header(path)
    except ValueError as error:
        raise NotWhole(f"it is not an npy file, it begins with {_beginning(path)}") from error
    if (found := path.stat().st_size) != header.file_bytes:
        raise NotWhole(f"its header promises {header.file_bytes:,} bytes, it has {found:,}")
    if len(header.shape) != 2:
        raise NotWhole(f"its shape is {header.shape}, embeddings are (rows, dim)")
    return header.shape[0]


def _parquet_rows(path: Path) -> int:
    try:
        with pq.ParquetFile(path) as file:
            footer = file.metadata
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise NotWhole(f"it is not a whole parquet file, it begins with {_beginning(path)}") from error
    columns = (
        footer.row_group(group).column(column)
        for group in range(footer.num_row_groups)
        for column in range(footer.num_columns)
    )
    end = max((_offset(chunk) + chunk.total_compressed_size for chunk in columns), default=0)
    if (room := path.stat().st_size - footer.serialized_size - 8) < end:
        raise NotWhole(f"its footer places data up to byte {end:,}, there are {room:,}")
    return int(footer.num_rows)


def _offset(chunk: pq.ColumnChunkMetaData) -> int:
    first = chunk.dictionary_page_offset if chunk.has_dictionary_page else None
    return int(chunk.data_page_offset if first is None else min(first, chunk.data_page_offset))


def _beginning(path: Path) -> str:
    with path.open("rb") as file:
        return repr(file.read(12))
