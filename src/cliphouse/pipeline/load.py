"""A shard enters the collection whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from pyarrow import ArrowException

from cliphouse import index
from cliphouse.encoders import LAION_ENCODER, known_dim
from cliphouse.engine import Engine
from cliphouse.errors import DimensionMismatch, ShardConflict, ShardError, UsageError
from cliphouse.pipeline import delete, deny
from cliphouse.pipeline.native import block
from cliphouse.pipeline.plan import pending
from cliphouse.pipeline.read import Batch, OpenShard, batches, fingerprint
from cliphouse.reports import LoadReport
from cliphouse.schema import (
    INSERT_COLUMNS,
    create_ledger,
    create_staging,
    create_table,
    deleted_name,
    identifier,
    ledger_name,
    staging_name,
)
from cliphouse.types import ROWS_PER_SHARD, CollectionInfo, Progress, ProgressCallback, Query, Storage

#: One insert carries about this much: its vectors make one large part, and the driver spools it to a file.
_INSERT_BYTES = 512 * 2**20


def describe_new(name: str, shard: OpenShard, encoder: str | None, dim: int | None, storage: Storage) -> CollectionInfo:
    """The collection that `shard` begins. Without the name of an encoder, 512 dimensions are taken for LAION's.

    Raises:
        DimensionMismatch: the encoder's vectors have another length than the shard's.
    """
    if encoder is None:
        encoder = LAION_ENCODER if known_dim(LAION_ENCODER) == shard.dim else ""
    dim = dim or known_dim(encoder)
    if dim is not None and dim != shard.dim:
        raise DimensionMismatch(
            what=str(shard.shard.image_embeddings), given=shard.dim, expected=dim, owner=f"the encoder {encoder}"
        )
    return CollectionInfo(name=name, encoder=encoder, dim=shard.dim, storage=storage)


def load_new(
    engine: Engine, info: CollectionInfo, opened: Sequence[OpenShard], progress: ProgressCallback | None
) -> LoadReport:
    """Create the collection and load into it; if not one shard gets in, leave nothing behind."""
    _check_dims(info, opened)
    for table in (ledger_name(info.name), deleted_name(info.name)):
        _drop(engine, table)  # of a table that was dropped by hand
    engine.command(create_table(info))
    try:
        return load(engine, info, opened, progress)
    except BaseException:
        if not ledger(engine, info.name):
            for table in (info.name, ledger_name(info.name)):
                _drop(engine, table)
        raise


def load(
    engine: Engine, info: CollectionInfo, opened: Sequence[OpenShard], progress: ProgressCallback | None
) -> LoadReport:
    """Bring in the shards that the ledger does not have.

    Raises:
        DimensionMismatch: a shard's vectors are of another length than the collection's.
        ShardConflict: a shard of this number came from other files.
        UsageError: rows without text embeddings would meet an index over them.
        ShardError: a file is bad; the shards before it are in.
    """
    started = time.perf_counter()
    _check_dims(info, opened)
    check_columns(info)
    _check_text_index(engine, info, opened)
    engine.command(create_ledger(info.name))
    recorded = ledger(engine, info.name)
    done = set()
    for each in opened:
        number = each.shard.number
        gone = each.rows and not rows_present(engine, info.name, number)
        if number not in recorded or (gone and delete.deleted_rows(engine, info.name, number) < each.rows):
            continue  # new, or loaded once and truncated since
        if fingerprint(each.shard) != recorded[number]:
            raise ShardConflict(
                f"it is loaded already, from other files than {each.shard.image_embeddings}; "
                "give these another number, or load them into another --collection",
                shard=number,
            )
        done.add(number)
    for number in done & _stagings(engine, info.name):
        _drop(engine, staging_name(info.name, number))  # of a loader that died after its last step but one
    by_number = {each.shard.number: each for each in opened}
    todo = [shard.number for shard in pending([each.shard for each in opened], done)]
    rows = 0
    for position, number in enumerate(todo, 1):
        rows += _load_shard(engine, info, by_number[number], f"shard {number} ({position} of {len(todo)})", progress)
    return LoadReport(
        rows=rows,
        loaded=tuple(todo),
        skipped=tuple(number for number in by_number if number not in todo),
        seconds=time.perf_counter() - started,
        stale_indexes=tuple(state.name for state in index.states(engine, info.name) if state.state != "ready"),
    )


def ledger(engine: Engine, collection: str) -> dict[int, str]:
    """The loaded shards' numbers, with the fingerprint of the files each came from; empty if there is no ledger."""
    table = identifier(ledger_name(collection))
    if not engine.query(Query(sql=f"EXISTS {table}")).rows[0][0]:
        return {}
    return dict(engine.query(Query(sql=f"SELECT shard, fingerprint FROM {table} FINAL ORDER BY shard")).rows)


def _check_dims(info: CollectionInfo, opened: Iterable[OpenShard]) -> None:
    for each in opened:
        if info.dim not in (0, each.dim):
            raise DimensionMismatch(
                what=str(each.shard.image_embeddings),
                given=each.dim,
                expected=info.dim,
                owner=f"collection {info.name!r}",
            )


def check_columns(info: CollectionInfo) -> None:
    """A table made by hand may lack columns that a shard fills; a collection about to be made has none to check."""
    lacking = [column for column in INSERT_COLUMNS if info.columns and column not in info.columns]
    if lacking:
        raise UsageError(
            f"table {info.name!r} was not made by cliphouse and lacks the columns {', '.join(lacking)}; "
            "load into another --collection"
        )


def _check_text_index(engine: Engine, info: CollectionInfo, opened: Iterable[OpenShard]) -> None:
    """Rows without a text embedding cannot enter a text index: merging them in would fail for ever."""
    lacking = [each.shard.number for each in opened if each.text is None]
    if lacking and "text_embedding" in index.definitions(engine, info.name):
        raise UsageError(
            f"shard {lacking[0]} has no text embeddings, and text_embedding has an index that needs one in every row; "
            "drop it first: cliphouse index drop --column text"
        )


def _load_shard(
    engine: Engine, info: CollectionInfo, opened: OpenShard, label: str, progress: ProgressCallback | None
) -> int:
    """Bring one shard in and record it in the ledger; return its rows.

    The rows are written to a table of their own, merged there to one part, and join the collection in one atomic step.
    Before that step a failure leaves no trace in the collection. After it the ledger entry follows and then the staging
    table goes; a loader that dies in between is recognised by that table, whose comment names the files.

    Raises:
        ShardError: a file turns out to be bad on the way.
        ShardConflict: the collection holds other rows under this shard's ids.
    """
    number, staging = opened.shard.number, staging_name(info.name, opened.shard.number)
    mark = fingerprint(opened.shard)
    present = rows_present(engine, info.name, number)
    if present == 0 and opened.rows:
        _write(engine, info, opened, create_staging(info.name, number, mark), label, progress)
        engine.command(f"ALTER TABLE {identifier(info.name)} ATTACH PARTITION tuple() FROM {identifier(staging)}")
    elif present and not (
        present + delete.deleted_rows(engine, info.name, number) == opened.rows and _comment(engine, staging) == mark
    ):
        raise ShardConflict(
            f"the collection holds {present} rows under its ids that the ledger does not know; "
            f"delete them first: cliphouse delete --shard {number}",
            shard=number,
        )
    deny.enforce(engine, info.name, number)
    _record(engine, info.name, opened, mark)
    _drop(engine, staging)
    return opened.rows


def _write(
    engine: Engine,
    info: CollectionInfo,
    opened: OpenShard,
    create: str,
    label: str,
    progress: ProgressCallback | None,
) -> None:
    """Fill the shard's staging table, as one part; if that fails, remove it."""
    staging = staging_name(info.name, opened.shard.number)
    _drop(engine, staging)  # left behind by a killed loader
    engine.command(create)
    try:
        for group in _groups(batches(opened), opened):
            engine.insert_native(staging, INSERT_COLUMNS, _blocks(group, opened, info, label, progress))
        delete.enforce(engine, info.name, opened.shard.number, staging)
        engine.command(f"OPTIMIZE TABLE {identifier(staging)} FINAL")
    except BaseException:
        _drop(engine, staging)
        raise


def _groups(stream: Iterator[Batch], opened: OpenShard) -> Iterator[Iterator[Batch]]:
    """The batches in runs of about _INSERT_BYTES, without holding more than one batch."""
    row_bytes = opened.dim * 2 * (1 if opened.text is None else 2) + 256
    rows_per_group = max(1, _INSERT_BYTES // row_bytes)
    ahead = next(stream, None)

    def group(first: Batch) -> Iterator[Batch]:
        nonlocal ahead
        limit = first.start + rows_per_group
        while ahead is not None and ahead.start < limit:
            yield ahead
            ahead = next(stream, None)

    while ahead is not None:
        yield group(ahead)


def _blocks(
    group: Iterator[Batch], opened: OpenShard, info: CollectionInfo, label: str, progress: ProgressCallback | None
) -> Iterator[bytes]:
    for batch in group:
        try:
            yield from block(batch, shard=opened.shard.number, storage=info.storage)
        except ArrowException as error:
            raise ShardError(
                f"{opened.shard.metadata} has a column that is neither text nor numbers: {error}".splitlines()[0],
                shard=opened.shard.number,
            ) from error
        if progress:
            progress(Progress(label=label, done=batch.start + len(batch.image), total=opened.rows))


def rows_present(engine: Engine, collection: str, number: int) -> int:
    """Rows in the table under a shard's ids."""
    first = number * ROWS_PER_SHARD
    sql = f"SELECT count() FROM {identifier(collection)} WHERE id BETWEEN {first} AND {first + ROWS_PER_SHARD - 1}"
    return int(engine.query(Query(sql=sql)).rows[0][0])


def _comment(engine: Engine, table: str) -> str | None:
    sql = "SELECT comment FROM system.tables WHERE database = currentDatabase() AND name = {name:String}"
    rows = engine.query(Query(sql=sql, parameters={"name": table})).rows
    return str(rows[0][0]) if rows else None


def _stagings(engine: Engine, collection: str) -> set[int]:
    """The shards that have a staging table."""
    sql = "SELECT name FROM system.tables WHERE database = currentDatabase() AND startsWith(name, {prefix:String})"
    prefix = staging_name(collection, 0).removesuffix("0")
    endings = (
        str(row[0]).removeprefix(prefix) for row in engine.query(Query(sql=sql, parameters={"prefix": prefix})).rows
    )
    return {int(ending) for ending in endings if ending.isdecimal()}


def _drop(engine: Engine, table: str) -> None:
    engine.command(f"DROP TABLE IF EXISTS {identifier(table)} SYNC")


def _record(engine: Engine, collection: str, opened: OpenShard, mark: str) -> None:
    sql = (
        f"INSERT INTO {identifier(ledger_name(collection))} (shard, rows, has_text, fingerprint, source) "
        "SELECT {shard:Int32}, {rows:UInt64}, {has_text:Bool}, {fingerprint:String}, {source:String}"
    )
    shard = opened.shard
    engine.command(
        sql,
        {
            "shard": shard.number,
            "rows": opened.rows,
            "has_text": opened.text is not None,
            "fingerprint": mark,
            "source": str(shard.image_embeddings),
        },
    )
