"""SQL as the engine's own parser reads it: text to a tree and back, without running any of it.

The text travels as a value (its bytes in hex), never as a part of a statement, and what runs in the end is written by
the engine from the tree that was looked at. Comments, odd quotes and whatever else a text can hide are gone by then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from cliphouse.engine import Engine
from cliphouse.errors import EngineError
from cliphouse.types import Query

Node = Mapping[str, Any]

#: How deep a tree may nest, in nodes; a call of a function is two.
MAX_DEPTH = 200
#: And how many nodes it may have: a list of constants is one.
MAX_NODES = 20_000

#: Parts of a tree that are known to be harmless if what they hold is. Whatever is not here is refused.
_PARTS: Mapping[str, frozenset[str]] = {
    kind: frozenset(parts.split())
    for kind, parts in {
        "SelectWithUnionQuery": "union_mode list_of_modes list_of_selects settings_ast format_ast",
        "SelectIntersectExceptQuery": "final_operator children",
        "SelectQuery": """with select tables where prewhere having window qualify group_by order_by limit_by
            limit_by_offset limit_by_length limit_length limit_offset limit_with_ties interpolate distinct settings
            order_by_all group_by_all group_by_with_totals group_by_with_rollup group_by_with_cube
            group_by_with_grouping_sets recursive_with""",
        "ExpressionList": "children separator",
        "Subquery": "children alias cte_name",
        "WithElement": "name subquery is_materialized aliases",
        "TablesInSelectQuery": "children",
        "TablesInSelectQueryElement": "table_expression table_join array_join",
        "TableExpression": """database_and_table_name table_function subquery final sample_size sample_offset
            column_aliases""",
        "TableIdentifier": "name name_parts alias",
        "TableJoin": "kind locality strictness using_expression_list on_expression",
        "ArrayJoin": "kind expression_list",
        "Function": """name arguments parameters is_operator is_lambda_function is_window_function kind alias
            window_name window_definition nulls_action is_compound_name""",
        "Identifier": "name name_parts alias",
        "Literal": "value alias",
        "QueryParameter": "name param_type alias",
        "Asterisk": "expression transformers",
        "QualifiedAsterisk": "qualifier transformers",
        "ColumnsTransformerList": "children",
        "ColumnsExceptTransformer": "children is_strict pattern",
        "ColumnsReplaceTransformer": "children is_strict",
        "ColumnsReplaceTransformerReplacement": "name children",
        "ColumnsApplyTransformer": "func_name parameters lambda lambda_arg column_name_prefix",
        "ColumnsListMatcher": "column_list expression transformers",
        "ColumnsRegexpMatcher": "pattern expression transformers",
        "QualifiedColumnsListMatcher": "qualifier column_list transformers",
        "QualifiedColumnsRegexpMatcher": "qualifier pattern transformers",
        "OrderByElement": """direction nulls_direction nulls_direction_was_explicitly_specified expression collation
            with_fill fill_from fill_to fill_step fill_staleness""",
        "InterpolateElement": "column expr",
        "WindowDefinition": """parent_window_name partition_by order_by frame_is_default frame_type frame_begin_type
            frame_begin_offset frame_begin_preceding frame_end_type frame_end_preceding frame_end_offset""",
        "WindowListElement": "name definition",
        "SampleRatio": "numerator denominator",
        "SetQuery": "changes",
        "ExplainQuery": "kind settings query format_ast",
        "ShowTablesQuery": """like not_like case_insensitive_like from limit_length full databases settings changed
            temporary where_expression format_ast""",
        "ShowColumnsQuery": """extended full database table like not_like case_insensitive_like where_expression
            limit_length format_ast""",
        "ShowIndexesQuery": "extended database table where_expression format_ast",
    }.items()
}
#: Said of every statement that answers; true would be the clause INTO OUTFILE.
_OUTFILE = frozenset({"is_outfile_append", "is_outfile_truncate", "is_into_outfile_with_stdout"})


class NotRead(Exception):
    """The text is no statement that can be looked into; the reason in one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(" ".join(reason.split()))  # which may repeat what was sent


class NotATree(NotRead):
    """It is a statement whose tree the engine does not give."""


def read(engine: Engine, text: str, *, most: int) -> Node:
    """The tree of one statement of at most so many characters; every part of it is of a known kind.

    Raises:
        NotATree: the parser knows the statement and gives no tree of it.
        NotRead: it is no statement, several, or one with parts that strangers may not use.
    """
    tree = parse(engine, text, most=most)
    for count, (node, depth) in enumerate(nodes(tree)):
        if depth > MAX_DEPTH or count > MAX_NODES:
            raise NotRead("it nests too deeply" if depth > MAX_DEPTH else "it has too many parts")
        known = _PARTS.get(node["type"])
        if known is None:
            raise NotRead(f"{_in_words(node['type'])} is not allowed")
        for part, value in node.items():
            if part not in known and part != "type" and not (part in _OUTFILE and value is False):
                raise NotRead(f"{_clause(part)} is not allowed")
    return tree


def parse(engine: Engine, text: str, *, most: int) -> Node:
    """The tree of one statement of at most so many characters, whatever it is.

    Raises:
        NotATree, NotRead: as `read`.
    """
    if len(text) > most:
        raise NotRead(f"it is longer than {most:,} characters")
    try:
        tree: Node = json.loads(_call(engine, "parseQueryToJSON", text))
    except RecursionError:
        raise NotRead("it nests too deeply") from None
    return tree


def one_line(engine: Engine, text: str) -> str:
    """The statement in `text` as the engine writes it, in one line without comments."""
    return _call(engine, "formatQuerySingleLine", text)


def write(engine: Engine, tree: Node) -> str:
    """The statement of a tree."""
    return _call(engine, "formatQueryFromJSON", json.dumps(tree, ensure_ascii=False))


def nodes(tree: Any) -> Iterator[tuple[Node, int]]:
    """All nodes of a tree with their depth, each before what it holds."""
    waiting: list[tuple[Any, int]] = [(tree, 0)]
    while waiting:
        found, depth = waiting.pop()
        if isinstance(found, list):
            waiting.extend((each, depth) for each in reversed(found))
        elif isinstance(found, dict):
            if "type" in found:
                yield found, depth
            if found.get("type") != "Literal":
                waiting.extend((value, depth + 1) for value in reversed(found.values()))


def _call(engine: Engine, function: str, text: str) -> str:
    if "\0" in text:
        raise NotRead("it has a zero byte")
    try:
        rows = engine.query(Query(sql=f"SELECT hex({function}(unhex('{text.encode().hex()}')))")).rows
        return bytes.fromhex(rows[0][0]).decode()
    except UnicodeError:
        raise NotRead("it holds what is not valid Unicode") from None
    except EngineError as error:
        if error.name == "BAD_ARGUMENTS":
            raise NotATree("this kind of statement is not allowed") from error
        if error.name == "UNKNOWN_FUNCTION":
            raise NotRead("the server must be ClickHouse 26.8 or later to check it") from error
        raise NotRead(_reason(str(error))) from error


def _reason(message: str) -> str:
    """What the parser said, without our own statement behind it."""
    return message.partition(": In scope ")[0].partition(" (SYNTAX_ERROR")[0].strip()


def _in_words(kind: str) -> str:
    """`DropQuery` as a statement that people know: DROP."""
    words = "".join(f" {c}" if c.isupper() else c for c in kind.removesuffix("Query")).split()
    return " ".join(words).upper()


def _clause(part: str) -> str:
    return "INTO OUTFILE" if part in _OUTFILE or part == "out_file" else part.replace("_", " ").upper()
