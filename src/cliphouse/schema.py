"""DDL as pure functions: the table, its vector indexes, the ledger, and what a collection remembers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cliphouse.errors import UsageError
from cliphouse.types import ROWS_PER_SHARD, CollectionInfo, IndexConfig, Quantization, Storage, literal

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")

#: Column, ClickHouse type and the metadata columns that fill it, best first, compared without case. The order puts
#: the tutorial's seven columns first and in its order, so that its INSERT fits this table too.
METADATA_COLUMNS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "url": ("String", ("url",)),
    "caption": ("String", ("caption", "text")),
    "NSFW": ("LowCardinality(String)", ("nsfw",)),
    "similarity": ("Nullable(Float32)", ("similarity",)),
    "license": ("LowCardinality(String)", ("license",)),
    "width": ("Int32", ("width",)),
    "height": ("Int32", ("height",)),
    "original_width": ("Int32", ("original_width",)),
    "original_height": ("Int32", ("original_height",)),
    "key": ("String", ("key",)),
    "image_path": ("String", ("image_path",)),
    "md5": ("String", ("md5",)),
    "sha256": ("String", ("sha256",)),
}
#: A picture without any of these could not be shown or read about.
DESCRIBING_COLUMNS = ("url", "caption", "image_path")
EMBEDDING_COLUMNS = ("image_embedding", "text_embedding")
#: The column that an inverted-list index adds to its copy of the rows, called as no column of a collection would be.
CLUSTER_COLUMN = "ivf_cluster"
#: What a shard fills, in this order, as far as the table has it.
INSERT_COLUMNS = ("id", *METADATA_COLUMNS, *EMBEDDING_COLUMNS)
#: The tutorial's seven, which searching and loading need.
NEEDED_COLUMNS = ("id", "url", "caption", "NSFW", "similarity", *EMBEDDING_COLUMNS)

#: A file a column in small parts too: a scan reads its column alone, and each column's size is known.
_WIDE = "min_bytes_for_wide_part = 0"
#: Parts that together exceed this are not merged in the background. A LAION shard is a part of 2 GB: merging shards
#: would write every byte again, and again, and an exact search has to read them all anyway. Small parts still merge.
MERGE_LIMIT_BYTES = 2**30
#: How often the engine looks for old files to remove. By itself it slows down to minutes, for which a purge would wait.
_TIDY = "cleanup_delay_period = 1, cleanup_delay_period_random_add = 0, max_cleanup_delay_period = 10"
_ELEMENT: Mapping[Storage, str] = {"bfloat16": "BFloat16", "float32": "Float32"}


def is_identifier(name: str) -> bool:
    """Whether `name` is a plain identifier: letters, digits, underscore."""
    return _IDENTIFIER.fullmatch(name) is not None


def identifier(name: str) -> str:
    """`name` quoted for SQL.

    Raises:
        UsageError: it is not a plain identifier (letters, digits, underscore).
    """
    if not is_identifier(name):
        raise UsageError(f"{name!r} is not a valid name; use letters, digits and underscores")
    return f"`{name}`"


#: What the tables beside a collection end in: no collection may be called so.
_BESIDE = re.compile(
    r"_(shards|deleted|denied|truth|indexes)|_(loading_\d+|building_(image|text)_|(image|text)_ivf_).*"
)
#: Room for what is put behind the name of a collection.
_LONGEST_NAME = 90


def check_name(collection: str) -> None:
    """A collection's name must be an identifier, and none that another collection's tables have.

    Raises:
        UsageError: it is not.
    """
    identifier(collection)
    if len(collection) > _LONGEST_NAME:
        raise UsageError(f"the name {collection[:20]}... is too long; use at most {_LONGEST_NAME} letters")
    if match := re.search(rf"({_BESIDE.pattern})$", collection):
        raise UsageError(
            f"{collection!r} cannot be a collection: names that end in {match[0]} are those of the tables beside one; "
            "choose another name"
        )


def embedding_type(storage: Storage) -> str:
    """The column type of an embedding."""
    return f"Array({_ELEMENT[storage]})"


def create_table(info: CollectionInfo) -> str:
    """The collection's table.

    Embeddings are stored with CODEC(NONE): float noise does not compress, and LZ4 costs most of an exact search.
    `shard` and `row` are computed from `id` and take no space.
    """
    embedding = embedding_type(info.storage)
    lines = ["`id` Int64"]
    for column, (kind, _) in METADATA_COLUMNS.items():
        codec = " CODEC(ZSTD(1))" if kind == "String" else ""
        lines.append(f"{identifier(column)} {kind}{codec}")
        if column == "similarity":
            lines += [f"{identifier(vector)} {embedding} CODEC(NONE)" for vector in EMBEDDING_COLUMNS]
    lines.append(f"`shard` Int32 ALIAS intDiv(id, {ROWS_PER_SHARD})")
    lines.append(f"`row` Int32 ALIAS id % {ROWS_PER_SHARD}")
    columns = ",\n    ".join(lines)
    return (
        f"CREATE TABLE IF NOT EXISTS {identifier(info.name)}\n(\n    {columns}\n)\n"
        f"ENGINE = MergeTree\nORDER BY id\nSETTINGS {_WIDE}, {_TIDY}, {merge_limit(MERGE_LIMIT_BYTES)}\n"
        f"COMMENT {literal(to_comment(info))}"
    )


def merge_limit(limit_bytes: int) -> str:
    """The table setting that keeps background merges away from parts which together are larger."""
    return f"max_bytes_to_merge_at_max_space_in_pool = {limit_bytes}"


def to_comment(info: CollectionInfo) -> str:
    """What the collection remembers, as the table's comment: created, renamed and copied with the table itself."""
    facts = {"encoder": info.encoder, "dim": info.dim, "distance": info.distance, "storage": info.storage}
    return json.dumps({"cliphouse": 1} | facts | ({"gaps": True} if info.gaps else {}))


def set_comment(info: CollectionInfo) -> str:
    """Let the table remember `info`."""
    return f"ALTER TABLE {identifier(info.name)} MODIFY COMMENT {literal(to_comment(info))}"


def from_comment(name: str, comment: str, columns: Mapping[str, str]) -> CollectionInfo:
    """The collection that a table's comment and columns describe.

    A table made by hand, by the tutorial's CREATE TABLE say, has no such comment: its encoder is unnamed and its
    dimension 0, to be found in the data.
    """
    try:
        facts = json.loads(comment)
        known = isinstance(facts, dict) and facts.get("cliphouse") == 1
    except ValueError:
        known = False
    storage: Storage = "bfloat16" if "BFloat16" in columns.get("image_embedding", "") else "float32"
    if not known:
        return CollectionInfo(name=name, encoder="", dim=0, storage=storage, columns=columns)
    return CollectionInfo(
        name=name,
        encoder=str(facts["encoder"]),
        dim=int(facts["dim"]),
        storage=storage,
        columns=columns,
        gaps=bool(facts.get("gaps")),
    )


def ledger_name(collection: str) -> str:
    """The table that lists a collection's loaded shards."""
    return f"{collection}_shards"


#: The ledger's columns. A shard's last row counts; `state` says how far it is, `left_out` and `kept` count bad rows.
LEDGER_COLUMNS: Mapping[str, str] = {
    "shard": "Int32",
    "state": "LowCardinality(String) DEFAULT 'loaded'",
    "rows": "UInt64",
    "rows_read": "UInt64",
    "has_text": "Bool",
    "fingerprint": "String",
    "checksums": "Map(String, String)",
    "left_out": "Map(String, UInt64)",
    "kept": "Map(String, UInt64)",
    "reason": "String",
    "source": "String",
    "seconds": "Float32",
    "loaded_at": "DateTime DEFAULT now()",
}


def create_ledger(collection: str) -> str:
    """The ledger: what became of each shard. Written rarely and never to be lost, so each insert is fsynced."""
    columns = ",\n".join(f"    {identifier(name)} {kind}" for name, kind in LEDGER_COLUMNS.items())
    return (
        f"CREATE TABLE IF NOT EXISTS {identifier(ledger_name(collection))}\n(\n{columns}\n)\n"
        "ENGINE = ReplacingMergeTree\nORDER BY shard\n"
        "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
    )


def deleted_name(collection: str) -> str:
    """The table that remembers which rows were deleted on purpose, so that loading their shard leaves them out."""
    return f"{collection}_deleted"


def create_deleted(collection: str) -> str:
    """One row a deleted id, with the deletion it was part of; ids in order take next to no space."""
    return (
        f"CREATE TABLE IF NOT EXISTS {identifier(deleted_name(collection))}\n(\n"
        "    `id` Int64 CODEC(Delta, ZSTD(1)),\n    `deletion` LowCardinality(String),\n"
        "    `deleted_at` DateTime DEFAULT now()\n)\n"
        "ENGINE = ReplacingMergeTree\nORDER BY id\nSETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
    )


def denied_name(collection: str) -> str:
    """The table that lists what may never be in a collection."""
    return f"{collection}_denied"


def create_denied(collection: str) -> str:
    """One row an entry: `value` is a url, or a hash in lower-case hex, as `kind` says."""
    return (
        f"CREATE TABLE IF NOT EXISTS {identifier(denied_name(collection))}\n(\n"
        "    `kind` LowCardinality(String),\n    `value` String CODEC(ZSTD(1)),\n"
        "    `source` LowCardinality(String),\n    `added_at` DateTime DEFAULT now()\n)\n"
        "ENGINE = ReplacingMergeTree\nORDER BY (kind, value)\nSETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
    )


def truth_name(collection: str) -> str:
    """The table that keeps the true neighbours of queries that a collection was evaluated with."""
    return f"{collection}_truth"


def create_truth(collection: str) -> str:
    """One row a query. `truth` names what was asked, `data` the rows it was asked of; a newer answer replaces one."""
    return (
        f"CREATE TABLE IF NOT EXISTS {identifier(truth_name(collection))}\n(\n"
        "    `truth` String,\n    `data` String,\n    `query` UInt32,\n"
        "    `ids` Array(Int64),\n    `distances` Array(Float64),\n    `computed_at` DateTime DEFAULT now()\n)\n"
        "ENGINE = ReplacingMergeTree\nORDER BY (truth, query)"
    )


def staging_prefix(collection: str) -> str:
    """What the names of a collection's staging tables begin with."""
    return f"{collection}_loading_"


def create_staging(collection: str, staging: str, holder: str) -> str:
    """An empty table that parts of the collection can come from; `holder` says whose it is.

    It builds no vector index of its own and merges nothing until it is told to, and then once. Inserts that carry a
    token are taken once, however often the driver sends them.
    """
    settings = [
        _WIDE,
        merge_limit(1),
        "materialize_skip_indexes_on_merge = 0",
        "non_replicated_deduplication_window = 10000",
        "parts_to_delay_insert = 1000000",
        "parts_to_throw_insert = 1000000",
    ]
    return (
        f"CREATE TABLE {identifier(staging)} AS {identifier(collection)}\n"
        f"ENGINE = MergeTree\nORDER BY id\nSETTINGS {', '.join(settings)}\nCOMMENT {literal(holder)}"
    )


def attach_parts(source: str, target: str) -> str:
    """The parts of one table become parts of another too, by links to their files, in one step."""
    return f"ALTER TABLE {identifier(target)} ATTACH PARTITION tuple() FROM {identifier(source)}"


@dataclass(frozen=True, slots=True)
class IndexDefinition:
    """A vector index as the table defines it."""

    name: str
    column: str
    dim: int
    config: IndexConfig


def index_name(column: str) -> str:
    """The tutorial's name for the index on `column`: image_embedding has image_index."""
    return column.removesuffix("_embedding") + "_index"


def add_index(collection: str, column: str, dim: int, config: IndexConfig) -> str:
    """Define the vector index on `column`; it holds nothing until it is materialized."""
    return (
        f"ALTER TABLE {identifier(collection)} ADD INDEX {identifier(index_name(column))} {identifier(column)} "
        f"TYPE vector_similarity('hnsw', 'cosineDistance', {dim}, {literal(config.quantization)}, "
        f"{config.m}, {config.ef_construction})"
    )


def materialize_index(collection: str, name: str) -> str:
    """Build the index for every part that lacks it, in the background; `system.mutations` tells the progress."""
    return f"ALTER TABLE {identifier(collection)} MATERIALIZE INDEX {identifier(name)} SETTINGS mutations_sync = 0"


def drop_index(collection: str, name: str) -> str:
    """Remove the index and its files."""
    return f"ALTER TABLE {identifier(collection)} DROP INDEX {identifier(name)}"


_VECTOR_INDEX = re.compile(
    r"vector_similarity\('hnsw',\s*'cosineDistance',\s*(\d+)(?:,\s*'(\w+)',\s*(\d+),\s*(\d+))?\)"
)


def parse_index(name: str, expression: str, type_full: str) -> IndexDefinition | None:
    """The definition behind one row of `system.data_skipping_indices`, or None if it serves no cosine search."""
    match = _VECTOR_INDEX.fullmatch(type_full)
    if match is None:
        return None
    dim, quantization, m, ef_construction = match.groups()
    return IndexDefinition(
        name=name,
        column=expression.strip("`"),
        dim=int(dim),
        config=IndexConfig(
            quantization=_quantization(quantization or "bf16"),
            m=int(m or 0) or 32,  # 0 and absent mean the engine's default
            ef_construction=int(ef_construction or 0) or 128,
        ),
    )


def _quantization(name: str) -> Quantization:
    return name  # type: ignore[return-value]  # the engine accepted it; IndexConfig checks it again
