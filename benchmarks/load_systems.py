"""The systems whose loading is measured; each loads, and is asked what it holds, in processes of its own.

    python -m benchmarks.load_systems load SYSTEM SHARD_DIRECTORY DATABASE
    python -m benchmarks.load_systems check SYSTEM SHARD_DIRECTORY DATABASE SHARDS
    python -m benchmarks.load_systems floor SHARD_DIRECTORY FILE BYTES

`check` prints one line of JSON: the rows by the system's own count, how far a sample of its vectors is from the files,
and more that only the system knows. cliphouse is loaded by its own command. Nothing is imported before it is needed,
because imports are measured too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

#: The columns of the metadata that every system stores: those that cliphouse has a column for.
METADATA = (
    "url", "caption", "NSFW", "similarity", "LICENSE", "width", "height", "original_width", "original_height", "key",
    "image_path",
)  # fmt: skip
_VECTORS = {"image_embedding": "img_emb_0.npy", "text_embedding": "text_emb_0.npy"}
_WANTED = ("id", "caption", *_VECTORS)
#: Rows of each shard whose captions and vectors are compared with the files.
_SAMPLE_ROWS = 50
_LANCE_BATCH_ROWS = 10_000
#: DuckDB stores rows in groups of this size; of the sizes tried, batches of one group each went in fastest.
_DUCK_BATCH_ROWS = 122_880
_CHUNK = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a database says of itself: its version, its rows, and the rows that were asked for.

    `sample` has the columns id, caption and both vectors. `facts` is for the result: what else the system tells.
    """

    version: str
    rows: int
    sample: Mapping[str, Sequence[Any]]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One way to load a shard.

    `load(shard, database)` is run in a process of its own; None stands for cliphouse's own command. `look(database,
    ids)` asks for the rows of these ids. `tolerance` is how far a stored number may be from its source, as a share.
    """

    name: str
    label: str
    note: str
    tolerance: float
    load: Callable[[Path, Path], None] | None
    look: Callable[[Path, Sequence[int]], Held]

    def command(self, shard: Path, database: Path) -> list[str]:
        """What is run, and timed, to load the files in `shard` into a new `database`."""
        if self.load is None:
            return [sys.executable, "-m", "cliphouse", "load", str(shard), "--db", str(database)]
        return own_command("load", self.name, shard, database)


def own_command(*arguments: object) -> list[str]:
    """A command line of this module."""
    return [sys.executable, "-m", "benchmarks.load_systems", *map(str, arguments)]


def load_lancedb(shard: Path, database: Path) -> None:
    """An empty table, then one `add` of a reader of record batches, with a writer for each core."""
    lancedb: Any = import_module("lancedb")
    reader = _reader(shard, "float16", _LANCE_BATCH_ROWS)
    table = lancedb.connect(str(database)).create_table("laion", schema=reader.schema)
    table.add(reader, write_parallelism=os.cpu_count())


def load_duckdb(shard: Path, database: Path) -> None:
    """An empty table, then one INSERT from a reader of record batches; closing writes all to the file."""
    duckdb: Any = import_module("duckdb")
    reader = _reader(shard, "float32", _DUCK_BATCH_ROWS)
    database.mkdir()
    with duckdb.connect(str(database / "laion.duckdb")) as connection:
        connection.register("empty", reader.schema.empty_table())
        connection.register("reader", reader)
        connection.execute("CREATE TABLE laion AS FROM empty")
        connection.execute("INSERT INTO laion FROM reader")


def load_tutorial(csv_files: Path, database: Path) -> None:
    """The tutorial's table and its INSERT, as printed, in the embedded engine."""
    from benchmarks.tutorial_steps import INSERT, create_table

    chdb: Any = import_module("chdb.session")
    session = chdb.Session(str(database))
    session.query(create_table())
    session.query(INSERT.format(path_to_csv_files=csv_files))
    session.close()


def write_floor(shard: Path, file: Path, size: int) -> None:
    """Read the shard's files, write `size` bytes to `file`, and wait until they are on the disk."""
    with file.open("wb", buffering=0) as out:
        for source in shard_files(shard):
            with source.open("rb", buffering=0) as opened:
                while chunk := opened.read(_CHUNK):
                    size -= out.write(chunk[:size])
        while size:
            size -= out.write(os.urandom(min(_CHUNK, size)))
        os.fsync(out.fileno())


def look_at_cliphouse(database: Path, ids: Sequence[int]) -> Held:
    from cliphouse import Collection

    columns = "id, caption, CAST(image_embedding, 'Array(Float32)') AS image_embedding, "
    columns += "CAST(text_embedding, 'Array(Float32)') AS text_embedding"
    with Collection.open(database, create=False) as collection:
        status = collection.status()
        counted = collection.sql("SELECT count() AS rows FROM laion")["rows"][0].as_py()
        sample = collection.sql(f"SELECT {columns} FROM laion WHERE id IN ({_listed(ids)})")
        ledger = collection.sql(
            "SELECT shard, rows, toFloat64(loaded_at) AS at FROM laion_shards FINAL ORDER BY at, shard"
        )
    return Held(
        version=status.engine_version,
        rows=counted,
        sample=sample.to_pydict(),
        facts={"storage": status.storage, "table_bytes": status.total_bytes, "shards": ledger.to_pylist()},
    )


def look_at_tutorial(database: Path, ids: Sequence[int]) -> Held:
    chdb: Any = import_module("chdb.session")
    session = chdb.Session(str(database))

    def rows(sql: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in str(session.query(sql, "JSONEachRow")).splitlines()]

    found = rows(f"SELECT {', '.join(_WANTED)} FROM laion WHERE id IN ({_listed(ids)})")
    parts = "SELECT toInt64(sum(bytes_on_disk)) AS bytes FROM system.parts WHERE active AND table = 'laion'"
    (counted,) = rows(f"SELECT toInt32(count()) AS rows, version() AS version, ({parts}) AS bytes FROM laion")
    session.close()
    return Held(
        version=counted["version"],
        rows=counted["rows"],
        sample={column: [row[column] for row in found] for column in _WANTED},
        facts={"table_bytes": int(counted["bytes"])},
    )


def look_at_lancedb(database: Path, ids: Sequence[int]) -> Held:
    lancedb: Any = import_module("lancedb")
    table = lancedb.connect(str(database)).open_table("laion")
    found = table.search().where(f"id IN ({_listed(ids)})").select(list(_WANTED)).limit(len(ids)).to_arrow()
    return Held(version=lancedb.__version__, rows=table.count_rows(), sample=found.to_pydict(), facts={})


def look_at_duckdb(database: Path, ids: Sequence[int]) -> Held:
    duckdb: Any = import_module("duckdb")
    with duckdb.connect(str(database / "laion.duckdb"), read_only=True) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM laion").fetchone()
        found = connection.execute(f"SELECT {', '.join(_WANTED)} FROM laion WHERE id IN ({_listed(ids)})").fetchall()
    columns = dict(zip(_WANTED, zip(*found, strict=True), strict=True))
    return Held(version=duckdb.__version__, rows=rows, sample=columns, facts={})


CLIPHOUSE = System(
    name="cliphouse",
    label="cliphouse",
    note="`cliphouse load DIR --db PATH`, default options; vectors as bfloat16, rounded, uncompressed",
    tolerance=2**-7,  # one unit in the last of 8 bits; rounding needs half of one
    load=None,
    look=look_at_cliphouse,
)
LANCEDB = System(
    name="lancedb",
    label="LanceDB",
    note="one `Table.add` of Arrow batches to an empty table, with a writer a core; vectors as float16",
    tolerance=0,
    load=load_lancedb,
    look=look_at_lancedb,
)
DUCKDB = System(
    name="duckdb",
    label="DuckDB",
    note="one INSERT of Arrow batches of a row group each; vectors as FLOAT[512], because it has no 16-bit type",
    tolerance=0,
    load=load_duckdb,
    look=look_at_duckdb,
)
TUTORIAL = System(
    name="tutorial",
    label="tutorial",
    note="ClickHouse's tutorial: process.py to CSV, INSERT ... FROM INFILE in the embedded engine; Array(Float32), LZ4",
    tolerance=2**-22,  # the engine's quick reading of decimals may miss the last bit
    load=load_tutorial,
    look=look_at_tutorial,
)
#: Those that load the whole shard, in the order of the first round.
PEERS = (CLIPHOUSE, LANCEDB, DUCKDB)
_BY_NAME = {system.name: system for system in (*PEERS, TUTORIAL)}


def shard_files(directory: Path, number: int = 0) -> list[Path]:
    """The three files of one shard."""
    return [directory / name.format(number) for name in ("img_emb_{}.npy", "text_emb_{}.npy", "metadata_{}.parquet")]


def under_numbers(shard: Path, directory: Path, shards: int) -> Path:
    """`directory`, made here, in which links show the shard's files under so many numbers."""
    directory.mkdir()
    for number in range(shards):
        for source, target in zip(shard_files(shard), shard_files(directory, number), strict=True):
            target.symlink_to(source.resolve())
    return directory


def check(system: System, shard: Path, database: Path, shards: int) -> dict[str, Any]:
    """Compare what `system` holds with the files; all `shards` of them came from those of shard 0.

    Raises:
        RuntimeError: rows are missing or too many, or a caption or a vector is not that of its row.
    """
    import numpy as np
    import pyarrow.parquet as pq

    from cliphouse.types import ROWS_PER_SHARD

    sources = {column: np.load(shard / file, mmap_mode="r") for column, file in _VECTORS.items()}
    captions = pq.read_table(shard / "metadata_0.parquet", columns=["caption"])["caption"]
    rows = len(captions)
    numbers = sorted(set(np.linspace(0, rows - 1, _SAMPLE_ROWS, dtype=int).tolist()))
    held = system.look(database, [shard * ROWS_PER_SHARD + row for shard in range(shards) for row in numbers])
    if held.rows != rows * shards:
        raise RuntimeError(f"{system.label} holds {held.rows} rows of {rows * shards}")
    places = [identity % ROWS_PER_SHARD for identity in held.sample["id"]]
    if sorted(places) != sorted(numbers * shards):
        raise RuntimeError(f"{system.label} has other rows than those asked for: {sorted(held.sample['id'])}")
    if [str(captions[place]) for place in places] != list(held.sample["caption"]):
        raise RuntimeError(f"{system.label} has a caption in a row it does not belong to")
    worst = 0.0
    for column, source in sources.items():
        wanted = source[places].astype(np.float64)
        apart = np.abs(np.array(held.sample[column], np.float64) - wanted)
        if not (apart <= system.tolerance * np.abs(wanted)).all():
            raise RuntimeError(f"{system.label} holds an {column} that is not that of its row")
        worst = max(worst, float(apart.max()))
    return {"version": held.version, "rows": held.rows, "largest_difference": worst, **held.facts}


def _reader(shard: Path, dtype: str, batch_rows: int) -> Any:
    """The rows of a shard as Arrow batches, with an `id`; vectors are fixed-size lists of `dtype`, read as they go."""
    import pyarrow as pa

    element = {"float16": pa.float16(), "float32": pa.float32()}[dtype]
    batches = _batches(shard, dtype, element, batch_rows)
    first = next(batches)

    def all_of_them() -> Iterator[Any]:
        yield first
        yield from batches

    return pa.RecordBatchReader.from_batches(first.schema, all_of_them())


def _batches(shard: Path, dtype: str, element: Any, batch_rows: int) -> Iterator[Any]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    sources = {column: np.load(shard / file, mmap_mode="r") for column, file in _VECTORS.items()}
    start = 0
    for batch in pq.ParquetFile(shard / "metadata_0.parquet").iter_batches(batch_rows, columns=list(METADATA)):
        stop = start + batch.num_rows
        columns = {"id": pa.array(np.arange(start, stop)), **dict(zip(batch.schema.names, batch.columns, strict=True))}
        for column, source in sources.items():
            values = np.ascontiguousarray(source[start:stop], dtype)  # float16 stays where it is, in the mapped file
            flat = pa.Array.from_buffers(element, values.size, [None, pa.py_buffer(values)])
            columns[column] = pa.FixedSizeListArray.from_arrays(flat, source.shape[1])
        yield pa.RecordBatch.from_pydict(columns)
        start = stop


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))


def main() -> None:
    action, *rest = sys.argv[1:]
    if action == "floor":
        shard, file, size = rest
        write_floor(Path(shard), Path(file), int(size))
        return
    name, shard, database, *more = rest
    system = _BY_NAME[name]
    if action == "check":
        print(json.dumps(check(system, Path(shard), Path(database), int(more[0]))))
    elif system.load:
        system.load(Path(shard), Path(database))


if __name__ == "__main__":
    main()
