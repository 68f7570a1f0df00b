"""Files that hold many pictures: webdataset tars, and parquet files with a column of pictures."""

from __future__ import annotations

import gzip
import tarfile
import tempfile
import zlib
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from cliphouse.encoders.decode import suffixes
from cliphouse.pipeline.captions import (
    JSON,
    TABLE_SUFFIXES,
    TEXT,
    Description,
    Table,
    Unusable,
    combine,
    describe,
    is_failure,
    read_json,
    read_text,
)
from cliphouse.pipeline.items import Found, Known, Missing, as_text, failed, item_of, unmatched

_GZIP = b"\x1f\x8b\x08"
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
#: No picture that may be decoded is larger than this in a file; a tar member is read whole.
_MAX_FILE_BYTES = 2**30
#: Rows of a parquet file that are in memory at once: a picture each.
_PARQUET_ROWS = 64
#: What a damaged archive raises.
_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error)


def companion(path: Path) -> Path | None:
    """The table that belongs to a folder or a tar: img2dataset writes 00000.parquet beside 00000 or 00000.tar."""
    tables = (path.with_name(tar_stem(path.name) + suffix) for suffix in TABLE_SUFFIXES)
    return next((table for table in tables if table.is_file() and not picture_column(table)), None)


# -- webdataset tars --------------------------------------------------------------------------------------------------


def from_tar(path: Path, done: Container[str]) -> Iterator[Found]:
    """The pictures of a tar with the texts of the same name in it, and what the table beside it adds.

    The headers are read first: a name is joined only where it fits one picture of the whole tar.
    """
    place = as_text(path)
    members: dict[str, tarfile.TarInfo] = {}
    try:
        with _plain(path) as (file, cut), tarfile.open(fileobj=file) as tar:
            damage = ""
            try:
                members.update((member.name, member) for member in tar if member.isfile() and not _hidden(member.name))
            except _DAMAGE as error:  # what lies before the damage is good
                damage = _line(error)
            pictures = [name for name in members if Path(name).suffix.lower() in suffixes()]
            beside = companion(path)
            table = Table(beside, path.parent, pictures) if beside else None
            if table:
                yield from failed(table)
            for name in pictures:
                identity = f"{place}/{as_text(name)}"
                yield Known(identity) if identity in done else _from_member(tar, members, name, identity, table)
            yield from unmatched([table] if table else ())
            if cut or damage:
                yield Missing(place, f"broken archive: {cut or damage}")
    except _DAMAGE as error:
        yield Missing(place, f"broken archive: {_line(error)}")


@contextmanager
def _plain(path: Path) -> Iterator[tuple[IO[bytes], str]]:
    """A tar in which one can go back, and what is wrong with it: one that is compressed is unpacked to a file once.

    Each step back in a compressed file would begin it again.
    """
    with path.open("rb") as file:
        packed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        if not packed:
            yield file, ""
            return
        with tempfile.TemporaryFile(prefix="cliphouse-") as unpacked:
            damage = ""
            try:
                with gzip.open(file) as content:
                    while block := content.read1(2**20):  # `read` would drop the last whole part
                        unpacked.write(block)
            except _DAMAGE as error:  # what lies before the damage is good
                damage = _line(error)
                if unpacked.tell() == 0:
                    raise
            unpacked.seek(0)
            yield unpacked, damage


def _from_member(
    tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], name: str, identity: str, table: Table | None
) -> Found:
    def content(wanted: str) -> bytes | None:
        file = tar.extractfile(members[wanted]) if wanted in members else None
        return None if file is None else file.read(_MAX_FILE_BYTES)

    stem = name.removesuffix(Path(name).suffix)
    if members[name].size > _MAX_FILE_BYTES:
        return Missing(identity, f"too large: a file of {members[name].size:,} bytes")
    try:
        data, text, more = content(name) or b"", content(stem + TEXT), content(stem + JSON)
        found = combine(
            Description() if text is None else read_text(text, stem + TEXT),
            Description() if more is None else read_json(more, stem + JSON),
        )
        if table:
            found = table.complete(found, name)
    except _DAMAGE as error:
        return Missing(identity, f"broken archive: {_line(error)}")
    except Unusable as doubt:
        return Missing(identity, str(doubt))
    return item_of(identity, name, data, found)


# -- parquet files that hold pictures ---------------------------------------------------------------------------------


def from_parquet(path: Path, done: Container[str]) -> Iterator[Found]:
    """The rows of a file with a column of pictures, told apart by their key."""
    place = as_text(path)
    column = picture_column(path)
    if column is None:
        yield Missing(place, "no column of pictures: img2dataset's is jpg, png or webp, and others' is image")
        return
    seen: set[str] = set()
    number = 0
    try:
        # Without buffers ahead: a row group can be the whole file.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as parquet:
            for batch in parquet.iter_batches(batch_size=_PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield _from_row(row, column, place, number, seen, done)
    except (OSError, pa.ArrowException) as error:
        yield Missing(place, f"broken parquet file: {str(error).splitlines()[0]}")


def _from_row(row: dict[str, Any], column: str, place: str, number: int, seen: set[str], done: Container[str]) -> Found:
    held = row.pop(column)
    inside = held if isinstance(held, dict) else {"bytes": held}
    key = as_text(str(row.get("key") or inside.get("path") or f"row {number}"))
    if key in seen and row.get("key"):
        return Missing(f"{place}/{key} (row {number})", "not unique: an earlier row has its key")
    if key in seen:  # a file without keys: nothing but its place is sure to tell a row from others
        key = f"{key} (row {number})"
    seen.add(key)
    identity = f"{place}/{key}"
    if identity in done:
        return Known(identity)
    if inside.get("bytes") is None and not is_failure(row.get("status")):
        return Missing(identity, "no picture in its row")
    return item_of(identity, key, inside.get("bytes") or b"", describe(row))


def picture_column(path: Path) -> str | None:
    """The column of a parquet file that holds pictures: bytes named as a picture's ending, or Hugging Face's struct."""
    if path.suffix.lower() != ".parquet":
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return _picture_column(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _picture_column(path: Path, _changed: int, _size: int) -> str | None:
    """As above, for a file as it was at that time: it may be another one in a long process."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException):
        return None
    for each in schema:
        named = f".{each.name.lower()}" in suffixes() or each.name.lower() in ("image", "picture", "img", "bytes")
        kind = each.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if named and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            return str(each.name)
    return None


# -- small things -----------------------------------------------------------------------------------------------------


def count_in(path: Path) -> int:
    """Pictures in a tar or a parquet file, about: from the table beside a tar, or its headers."""
    try:
        if not is_tar(path.name):
            return int(pq.read_metadata(path).num_rows)
        table = companion(path)
        if table and table.suffix == ".parquet":
            return int(pq.read_metadata(table).num_rows)
        with tarfile.open(path) as tar:
            return sum(Path(member.name).suffix.lower() in suffixes() for member in tar)
    except (*_DAMAGE, pa.ArrowException):
        return 0


def is_tar(name: str) -> bool:
    """Whether a file of this name is taken for a tar."""
    return name.lower().endswith(TAR_SUFFIXES)


def tar_stem(name: str) -> str:
    """`name` without the ending of a tar, if it has one."""
    return next((name[: -len(suffix)] for suffix in TAR_SUFFIXES if name.lower().endswith(suffix)), name)


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _hidden(name: str) -> bool:
    return any(part.startswith(".") and part != "." for part in Path(name).parts)
