"""DDL and statements of the inverted-list index as pure functions: one table of lists, one of clusters, one of notes.

The lists are a copy of the collection's rows in the order of their clusters, so that those of one cluster lie together
and a search reads few long ranges. Metadata is copied too: a filter is applied where the vectors are, before the cut.
Why tables and not an index of the engine's: docs/decisions/0017-ivf.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cliphouse.schema import CLUSTER_COLUMN, EMBEDDING_COLUMNS, identifier, is_identifier
from cliphouse.types import ROWS_PER_SHARD, literal

#: Rows of a granule: a cluster is a few of them, so that little is read for nothing. The engine's 8,192 would be 8 MB.
_GRANULE = 128
#: Bytes that are compressed together at least. By the engine's 65,536, the ids and lengths of some hundred clusters far
#: apart would be several thousand rows each to unpack and to check for the hundred that are wanted.
_BLOCK_BYTES = 1_024
_SHARD = f"intDiv(id, {ROWS_PER_SHARD}) AS number"


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column as the engine defines it: `kind` is "" for one that is stored as it is, else DEFAULT, ALIAS, ..."""

    name: str
    type: str
    kind: str
    expression: str


def lists_name(collection: str, column: str, token: str) -> str:
    """The table that holds the rows by cluster; `token` tells one build from another."""
    return f"{collection}_{column.removesuffix('_embedding')}_ivf_{token}"


def clusters_name(lists: str) -> str:
    """The table of a build's clusters."""
    return f"{lists}_clusters"


def assigned_name(lists: str, attempt: str) -> str:
    """The table that says, while one attempt copies rows, which cluster each belongs to."""
    return f"{lists}_assigned_{attempt}"


def building_prefix(collection: str, column: str) -> str:
    """What the names of the tables begin with that say who is building the lists of a column."""
    return f"{collection}_building_{column.removesuffix('_embedding')}_"


def create_building(table: str, holder: str) -> str:
    """The table that says `holder` is building; each row is a sign of life."""
    return (
        f"CREATE TABLE {identifier(table)} (`alive_at` DateTime)\n"
        f"ENGINE = MergeTree\nORDER BY tuple()\nCOMMENT {literal(holder)}"
    )


def notes_name(collection: str) -> str:
    """The table that remembers of each index what the engine does not."""
    return f"{collection}_indexes"


def create_notes(collection: str) -> str:
    """A note about an index: a newer one of its column, kind and topic replaces an older. Each insert is fsynced."""
    return (
        f"CREATE TABLE IF NOT EXISTS {identifier(notes_name(collection))}\n(\n"
        "    `column` LowCardinality(String),\n    `kind` LowCardinality(String),\n"
        "    `topic` LowCardinality(String),\n"
        "    `note` String,\n    `noted_at` DateTime64(6) DEFAULT now64(6)\n)\n"
        "ENGINE = ReplacingMergeTree(noted_at)\nORDER BY (column, kind, topic)\n"
        "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
    )


def create_lists(lists: str, column: str, columns: Sequence[TableColumn]) -> str:
    """The table of rows by cluster, with the columns of the collection but for some."""
    lines = [f"{identifier(CLUSTER_COLUMN)} UInt32 CODEC(Delta, ZSTD(1))"]
    for each in copied(columns, column):
        codec = {"id": " CODEC(NONE)", column: " CODEC(NONE)"}.get(each.name, "")
        codec = codec or (" CODEC(ZSTD(1))" if each.type == "String" else "")
        lines.append(f"{identifier(each.name)} {each.type}{codec}")
    lines += [f"{identifier(each.name)} {each.type} ALIAS {each.expression}" for each in computed(columns, column)]
    return (
        f"CREATE TABLE IF NOT EXISTS {identifier(lists)}\n(\n    " + ",\n    ".join(lines) + "\n)\n"
        f"ENGINE = MergeTree\nORDER BY ({identifier(CLUSTER_COLUMN)}, id)\n"
        f"SETTINGS index_granularity = {_GRANULE}, min_compress_block_size = {_BLOCK_BYTES}, "
        "min_bytes_for_wide_part = 0, "
        "cleanup_delay_period = 1, cleanup_delay_period_random_add = 0, max_cleanup_delay_period = 10"
    )


def copied(columns: Sequence[TableColumn], column: str) -> list[TableColumn]:
    """The columns that the lists of `column` hold: all that are stored, but those left out."""
    return [each for each in columns if each.kind not in ("ALIAS", "EPHEMERAL") and not _is_left_out(each, column)]


def computed(columns: Sequence[TableColumn], column: str) -> list[TableColumn]:
    """What the lists of `column` compute as the collection does: the aliases of nothing that they lack."""
    lacking = {each.name for each in columns if each.kind == "EPHEMERAL" or _is_left_out(each, column)}
    aliases = [each for each in columns if each.kind == "ALIAS" and each.name not in lacking]
    while wrong := [each for each in aliases if any(_is_named(name, each.expression) for name in lacking)]:
        lacking |= {each.name for each in wrong}  # an alias may be of an alias
        aliases = [each for each in aliases if each not in wrong]
    return aliases


def definitions(columns: Sequence[TableColumn], column: str) -> set[tuple[str, str, str]]:
    """What tells whether lists of `column` answer for these columns: name, type, and what an alias computes."""
    stored = {(each.name, each.type, "") for each in copied(columns, column)}
    return stored | {(each.name, each.type, each.expression) for each in computed(columns, column)}


def _is_left_out(each: TableColumn, column: str) -> bool:
    """The other embedding; and columns of names that no statement of ours could have: such searches are exact."""
    other = next(name for name in EMBEDDING_COLUMNS if name != column)
    return each.name in (other, CLUSTER_COLUMN) or not is_identifier(each.name)


def _is_named(name: str, expression: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", expression) is not None


def create_clusters(table: str) -> str:
    """The clusters: a centroid is a mean of unit vectors, `radius` how far from it its rows lie (root mean square)."""
    return (
        f"CREATE TABLE IF NOT EXISTS {identifier(table)}\n(\n"
        "    `cluster` UInt32,\n    `centroid` Array(Float32) CODEC(NONE),\n"
        "    `radius` Float32,\n    `rows` UInt64\n)\n"
        "ENGINE = MergeTree\nORDER BY cluster"
    )


def create_assigned(table: str) -> str:
    """Which cluster each row of a run of ids belongs to."""
    return (
        f"CREATE TABLE IF NOT EXISTS {identifier(table)} (`id` Int64, `cluster` UInt32)\n"
        "ENGINE = MergeTree\nORDER BY id"
    )


def copy_rows(collection: str, lists: str, column: str, columns: Sequence[TableColumn], ids: str, assigned: str) -> str:
    """Copy the rows of the condition `ids` to the lists, each to the cluster that the table `assigned` says."""
    names = [each.name for each in copied(columns, column)]
    listed = ", ".join(identifier(name) for name in names)
    return (
        f"INSERT INTO {identifier(lists)} ({identifier(CLUSTER_COLUMN)}, {listed})\n"
        f"SELECT assigned.cluster, {', '.join(f'source.{identifier(name)}' for name in names)}\n"
        f"FROM (SELECT {listed} FROM {identifier(collection)} WHERE {ids}) AS source\n"
        f"LEFT SEMI JOIN {identifier(assigned)} AS assigned ON source.id = assigned.id\n"
        "SETTINGS min_insert_block_size_rows = 262144, min_insert_block_size_bytes = 268435456, "
        "max_insert_threads = 1, query_plan_join_swap_table = 'false'"
    )


def contents(columns: Sequence[TableColumn], column: str) -> str:
    """A hash of all that a row holds in these columns; `column` is the embedding among them.

    The bytes of a vector are hashed at once, seven times faster than its numbers one by one. A NULL has no hash.
    """
    hashed = []
    for each in columns:
        value = identifier(each.name)
        value = f"reinterpret({value}, 'String')" if each.name == column else value
        hashed.append(value if each.name == "id" else f"ifNull(cityHash64({value}), 0)")
    return f"cityHash64({', '.join(hashed)})"


def shard_ends(table: str, condition: str) -> str:
    """Of each shard in a table: its rows, and their first and last id."""
    return (
        f"SELECT {_SHARD}, count(), min(id), max(id)\n"
        f"FROM {identifier(table)}\nWHERE {condition}\nGROUP BY number ORDER BY number"
    )


def shard_facts(table: str, content: str, condition: str) -> str:
    """The same, and the sum of what `content` is for its rows."""
    return (
        f"SELECT {_SHARD}, count(), min(id), max(id), sum({content})\n"
        f"FROM {identifier(table)}\nWHERE {condition}\nGROUP BY number ORDER BY number"
    )


def part_facts(table: str, content: str, condition: str) -> str:
    """The same of each shard in the parts {parts}, first of the rows that are shown, then of those that are hidden."""
    return (
        f"SELECT _part, {_SHARD}, _row_exists, count(), min(id), max(id), sum({content})\n"
        f"FROM {identifier(table)}\nWHERE _part IN {{parts:Array(String)}} AND {condition}\n"
        "GROUP BY _part, number, _row_exists SETTINGS apply_deleted_mask = 0"
    )


def part_ends(table: str, condition: str) -> str:
    """The first and last id of each shard in the parts {parts}."""
    return (
        f"SELECT _part, {_SHARD}, min(id), max(id)\n"
        f"FROM {identifier(table)}\nWHERE _part IN {{parts:Array(String)}} AND {condition}\nGROUP BY _part, number"
    )
