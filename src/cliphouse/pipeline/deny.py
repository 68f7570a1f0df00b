"""What may never be shown or loaded: a list of urls and of hashes, for opt-outs and safety lists.

An entry is the exact text of a url, or an md5 or sha256. Lists do not always say of what a hash is, so it is compared
with that of the picture (the columns md5 and sha256) and with that of the url. Why: docs/decisions/0014.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection as Sized
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliphouse import catalog
from cliphouse.engine import Engine
from cliphouse.errors import UsageError
from cliphouse.pipeline import delete
from cliphouse.pipeline.delete import Selection
from cliphouse.pipeline.native import strings, varint
from cliphouse.pipeline.texts import as_bytes
from cliphouse.reports import DenyReport
from cliphouse.schema import create_denied, denied_name, identifier
from cliphouse.types import Progress, ProgressCallback, Query

#: Letters of each hash in hexadecimal.
HASHES: Mapping[str, int] = {"md5": 32, "sha256": 64}
_COLUMNS = ("url", "md5", "sha256", "hash")
_ENTRIES_AT_ONCE = 50_000
#: Of a longer hash the first 16 bytes are compared: no two things have them in common by chance.
_DIGEST_BYTES = 16
_NOTHING = bytes(_DIGEST_BYTES)

Entry = tuple[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Denied:
    """The list as the loader asks it: sorted digests as pairs of 64-bit numbers, shape (entries, 2)."""

    md5: NDArray[np.uint64]
    sha256: NDArray[np.uint64]

    def rows(self, metadata: Mapping[str, pa.Array], rows: int) -> NDArray[np.bool_]:
        """Which of a batch's rows to leave out; `metadata` maps table columns to arrays of `rows` values."""
        denied = np.zeros(rows, dtype=np.bool_)
        urls = as_bytes(metadata.get("url"))
        for name, listed in (("md5", self.md5), ("sha256", self.sha256)):
            if not len(listed):
                continue
            pictures = as_bytes(metadata.get(name))
            if urls:
                digests = [hashlib.new(name, url, usedforsecurity=False).digest() if url else _NOTHING for url in urls]
                denied |= _among(listed, digests)
            if pictures:
                denied |= _among(listed, [_unhex(value, HASHES[name]) for value in pictures])
        return denied


def current(engine: Engine, collection: str) -> Denied | None:
    """The collection's list as it is now, or None if nothing is on it. Takes 16 bytes of memory an entry."""
    found = counts(engine, collection)
    if not any(found.values()):
        return None
    table = identifier(denied_name(collection))
    return Denied(
        md5=_digests(engine, _listed_md5(table)) if found["url"] or found["md5"] else _none(),
        sha256=_digests(engine, _listed_sha256(table)) if found["sha256"] else _none(),
    )


def counts(engine: Engine, collection: str) -> dict[str, int]:
    """Entries on the list by kind."""
    if not catalog.exists(engine, denied_name(collection)):
        return {"url": 0, "md5": 0, "sha256": 0}
    sql = f"SELECT kind, count() FROM {identifier(denied_name(collection))} FINAL GROUP BY kind"
    found = {str(kind): int(entries) for kind, entries in engine.query(Query(sql=sql)).rows}
    return {kind: found.get(kind, 0) for kind in ("url", *HASHES)}


def enforce(engine: Engine, collection: str, shard: int | None = None) -> int:
    """Delete the rows that the list forbids, of all shards or of one; return how many. They do not come back."""
    info = catalog.find(engine, collection)
    if info is None or (condition := _condition(engine, collection, info.columns)) is None:
        return 0
    within = f"{delete.id_range(shard, shard)} AND " if shard is not None else ""
    chosen = [Selection(f"{within}{condition}")]
    return delete.remove(engine, collection, chosen) if delete.count(engine, collection, chosen) else 0


def deny(engine: Engine, collection: str, path: Path, progress: ProgressCallback | None) -> DenyReport:
    """Put the entries of a file on the list, and delete the rows they forbid.

    Raises:
        UsageError: the file cannot be read, or holds something that is neither a url nor a hash.
        EngineError: ClickHouse failed; the same call again finishes the work.
    """
    for _ in entries(path):  # all of it, before anything is done
        pass
    engine.command(create_denied(collection))
    before = sum(counts(engine, collection).values())
    read = _insert(engine, denied_name(collection), path, progress)
    changed = sum(counts(engine, collection).values()) - before
    return DenyReport(entries=read, changed=changed, rows=enforce(engine, collection))


def allow_again(engine: Engine, collection: str, path: Path, progress: ProgressCallback | None) -> DenyReport:
    """Take the entries of a file off the list. Rows that were deleted for them stay deleted.

    Raises:
        UsageError: the file cannot be read, or holds something that is neither a url nor a hash.
    """
    for _ in entries(path):
        pass
    engine.command(create_denied(collection))
    before = sum(counts(engine, collection).values())
    leaving = f"{denied_name(collection)}_leaving"
    engine.command(f"DROP TABLE IF EXISTS {identifier(leaving)} SYNC")
    engine.command(f"CREATE TABLE {identifier(leaving)} AS {identifier(denied_name(collection))}")
    try:
        read = _insert(engine, leaving, path, progress)
        these = Selection(f"(kind, value) IN (SELECT kind, value FROM {identifier(leaving)})")
        delete.forget(engine, denied_name(collection), these)
    finally:
        engine.command(f"DROP TABLE IF EXISTS {identifier(leaving)} SYNC")
    return DenyReport(entries=read, changed=before - sum(counts(engine, collection).values()), rows=0)


def entries(path: Path) -> Iterator[list[Entry]]:
    """The entries of a file in lists, as (kind, value): its lines, or the columns url, md5, sha256 and hash of a table.

    A hash is 32 or 64 hexadecimal letters. Blank lines, and lines that begin with #, are left out.

    Raises:
        UsageError: the file cannot be read, or holds something that is neither a url nor a hash.
    """
    try:
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:
                names = _columns(path, file.schema_arrow.names)
                for batch in file.iter_batches(_ENTRIES_AT_ONCE, columns=names):
                    yield _of_table(path, batch)
        elif ".csv" in (suffixes := [suffix.lower() for suffix in path.suffixes[-2:]]) or ".tsv" in suffixes:
            parse = pyarrow.csv.ParseOptions(delimiter="\t" if ".tsv" in suffixes else ",", newlines_in_values=True)
            with pa.input_stream(path) as stream, pyarrow.csv.open_csv(stream, parse_options=parse) as reader:
                names = _columns(path, reader.schema.names)
            # As text: a type that suits the beginning of a sparse column does not suit the rest.
            convert = pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), include_columns=names, null_values=[]
            )
            with (
                pa.input_stream(path) as stream,
                pyarrow.csv.open_csv(stream, parse_options=parse, convert_options=convert) as reader,
            ):
                for batch in reader:
                    yield _of_table(path, batch)
        else:
            yield from _of_lines(path)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise UsageError(f"cannot read the list {path}: {reason}") from error


def _columns(path: Path, names: list[str]) -> list[str]:
    wanted = [name for name in names if name.lower() in _COLUMNS]
    if not wanted:
        raise UsageError(f"{path} has none of the columns {', '.join(_COLUMNS)}; it has: {', '.join(names)}")
    return wanted


def _of_table(path: Path, batch: pa.RecordBatch) -> list[Entry]:
    found: list[Entry] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = name.lower()
        texts = (value.decode("utf-8", "replace").strip() for value in as_bytes(column))
        found += [("url", text) if kind == "url" else _hash(path, text, kind) for text in texts if text]
    return found


def _of_lines(path: Path) -> Iterator[list[Entry]]:
    found: list[Entry] = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            found.append(("url", text) if "://" in text else _hash(path, text, "hash", f" line {number}"))
            if len(found) == _ENTRIES_AT_ONCE:
                yield found
                found = []
    yield found


def _hash(path: Path, text: str, kind: str, place: str = "") -> Entry:
    for name, letters in HASHES.items():
        if kind in (name, "hash") and len(text) == letters and re.fullmatch("[0-9a-fA-F]+", text):
            return name, text.lower()
    wanted = "a url, an md5 or a sha256" if kind == "hash" else f"an {kind}"
    raise UsageError(f"{path}{place} has {text[:80]!r}, which is not {wanted}; nothing was changed")


def _insert(engine: Engine, table: str, path: Path, progress: ProgressCallback | None) -> int:
    read = 0

    def blocks() -> Iterator[bytes]:
        nonlocal read
        for some in entries(path):
            if some:
                yield _block(some, path.name)
            read += len(some)
            if progress:
                progress(Progress(label=path.name, done=read, total=read, unit="entries"))

    engine.insert_native(table, ("kind", "value", "source"), blocks())
    return read


def _block(some: list[Entry], source: str) -> bytes:
    """Entries as a block of ClickHouse's Native format; see `pipeline.native`."""
    rows = len(some)
    columns = {
        "kind": [kind for kind, _ in some],
        "value": [value for _, value in some],
        "source": [source] * rows,
    }
    body = b"".join(
        varint(len(name)) + name.encode() + varint(len("String")) + b"String" + strings(pa.array(values), rows)
        for name, values in columns.items()
    )
    return varint(len(columns)) + varint(rows) + body


def _listed_md5(table: str) -> str:
    return (
        f"SELECT MD5(value) AS digest FROM {table} WHERE kind = 'url' "
        f"UNION ALL SELECT toFixedString(unhex(value), 16) AS digest FROM {table} WHERE kind = 'md5'"
    )


def _listed_sha256(table: str) -> str:
    return f"SELECT toFixedString(substring(unhex(value), 1, 16), 16) AS digest FROM {table} WHERE kind = 'sha256'"


def _condition(engine: Engine, collection: str, columns: Sized[str]) -> str | None:
    """The rows that the list forbids, as SQL; None if it forbids none."""
    found, table = counts(engine, collection), identifier(denied_name(collection))
    conditions = []
    if found["url"] or found["md5"]:
        if "url" in columns:
            conditions.append(f"notEmpty(url) AND MD5(url) IN ({_listed_md5(table)})")
        if "md5" in columns and found["md5"]:
            picture = "toFixedString(if(length(md5) = 32, unhex(md5), ''), 16)"
            conditions.append(f"length(md5) = 32 AND {picture} IN ({_listed_md5(table)})")
    if found["sha256"]:
        if "url" in columns:
            url = "toFixedString(substring(SHA256(url), 1, 16), 16)"
            conditions.append(f"notEmpty(url) AND {url} IN ({_listed_sha256(table)})")
        if "sha256" in columns:
            picture = "toFixedString(substring(if(length(sha256) = 64, unhex(sha256), ''), 1, 16), 16)"
            conditions.append(f"length(sha256) = 64 AND {picture} IN ({_listed_sha256(table)})")
    return "(" + " OR ".join(f"({condition})" for condition in conditions) + ")" if conditions else None


def _digests(engine: Engine, listed: str) -> NDArray[np.uint64]:
    answer = bytearray()
    with engine.session() as session:
        session.run(
            f"SELECT DISTINCT digest FROM ({listed}) ORDER BY digest",
            answer.extend,
            parameters={},
            format="RowBinary",
        )
    return _pairs(bytes(answer))


def _pairs(digests: bytes) -> NDArray[np.uint64]:
    """Digests of 16 bytes as pairs of numbers that sort as the bytes do."""
    return np.frombuffer(digests, dtype=">u8").reshape(-1, 2).astype(np.uint64)


def _none() -> NDArray[np.uint64]:
    return np.empty((0, 2), dtype=np.uint64)


def _among(listed: NDArray[np.uint64], digests: list[bytes]) -> NDArray[np.bool_]:
    """Which of the digests are listed; `listed` is sorted."""
    wanted = _pairs(b"".join(digest[:_DIGEST_BYTES] for digest in digests))
    place = np.searchsorted(listed[:, 0], wanted[:, 0])
    found = np.zeros(len(wanted), dtype=np.bool_)
    while True:
        at = np.minimum(place, len(listed) - 1)
        alike = (place < len(listed)) & (listed[at, 0] == wanted[:, 0])
        found |= alike & (listed[at, 1] == wanted[:, 1])
        if not (alike & ~found).any():
            return found
        place = place + 1


def _unhex(value: bytes, letters: int) -> bytes:
    """The hash that the letters spell, or one that nothing has."""
    try:
        return bytes.fromhex(value.decode("ascii")) if len(value) == letters else _NOTHING
    except ValueError:
        return _NOTHING
