"""SQL from strangers: what of it may reach the engine.

The engine's own parser reads it (see `vet_tree`), each part must be on a list of what is allowed (see `vet_names`), and
what runs is written anew from what was read. Reading tables under limits is `reading`'s part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from cliphouse.engine import Engine
from cliphouse.errors import InvalidFilter, StatementRefused
from cliphouse.schema import denied_name, is_identifier
from cliphouse.service.contract import MAX_SQL, MAX_TEXT, MAX_WHERE
from cliphouse.service.vet_names import (
    FILTER_FUNCTIONS,
    INFORMATION_SCHEMA,
    OURS,
    SETTINGS,
    SYSTEM_TABLES,
    TABLE_FUNCTIONS,
    functions,
)
from cliphouse.service.vet_tree import Node, NotATree, NotRead, nodes, one_line, parse, read, write
from cliphouse.types import CollectionInfo, Query

#: How often a filter or statement may call the encoder.
_MOST_ENCODED = 8
#: Types that a filter may cast to: none is larger than what it is made of.
_PLAIN_TYPE = re.compile(
    r"(Nullable\()?(U?Int(8|16|32|64)|Float(32|64)|BFloat16|Bool|String|Date(32)?|DateTime(64\(\d\))?)\)?"
)
_FILTER_NODES = frozenset({"ExpressionList", "Function", "Identifier", "Literal"})
_TYPE_NODES = frozenset(
    {"DataType", "EnumDataType", "TupleDataType", "ExpressionList", "NameTypePair", "Literal", "Identifier"}
)
_EXPLAINED = frozenset(
    {"EXPLAIN", "EXPLAIN AST", "EXPLAIN SYNTAX", "EXPLAIN QUERY TREE", "EXPLAIN PIPELINE", "EXPLAIN ESTIMATE"}
)
_MEMBERSHIP = re.compile(r"(global)?(not)?(null)?in(ignoreset)?", re.IGNORECASE)

_NAME = r"(?:`(?:[^`\\]|\\.)*`|\w+)"
#: Statements of which the engine gives no tree, in the one way that it writes them.
_PLAIN = re.compile(
    rf"(?:(?:DESCRIBE|EXISTS|SHOW CREATE) TABLE (?P<table>{_NAME}(?:\.{_NAME})?)"
    r"|SHOW (?:FUNCTIONS|ENGINES)(?: I?LIKE '(?:[^'\\]|\\.)*')?)"
)
_DESCRIBED = re.compile(r"DESCRIBE TABLE \((?P<query>.*)\)", re.DOTALL)
_FORMAT = re.compile(r" FORMAT (?P<name>`\w+`|\w+)$")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that only reads: its text without settings and format, and these beside it."""

    sql: str
    settings: Mapping[str, int | float | str] = field(default_factory=dict)
    format: str | None = None


def check_expression(engine: Engine, info: CollectionInfo, where: str) -> str:
    """`where` as the engine's parser wrote it back: one scalar expression over the columns of the collection.

    Raises:
        InvalidFilter: it is something else, calls a function that filters may not, or names no column.
    """
    try:
        tree = read(engine, f"SELECT {where}", most=MAX_WHERE + len("SELECT "))
        _check_filter(engine, tree, info.columns)
        return write(engine, tree).removeprefix("SELECT").strip()
    except NotRead as error:
        raise InvalidFilter(where if len(where) <= 200 else f"{where[:200]}…", str(error)) from error


def _check_filter(engine: Engine, tree: Node, columns: Iterable[str]) -> None:
    selects = tree["list_of_selects"]["children"] if tree["type"] == "SelectWithUnionQuery" else []
    if "format_ast" in tree or len(selects) != 1 or selects[0].keys() - {"type", "select"}:
        raise NotRead("it is not one expression")
    expressions = selects[0]["select"]["children"]
    if len(expressions) != 1:
        raise NotRead("it is not one expression")
    known, columns, encoded = functions(engine), set(columns), 0
    for node, _ in nodes(expressions[0]):
        kind, name = node["type"], str(node.get("name", ""))
        if kind not in _FILTER_NODES or node.get("alias"):
            raise NotRead("only columns, constants, operators and functions may stand in a filter")
        if kind == "Identifier" and (name not in columns or len(node.get("name_parts", ())) > 1):
            raise NotRead(f"there is no column {name!r}; the columns are {', '.join(sorted(columns))}")
        if kind != "Function":
            continue
        full = name if name in OURS else (known.find(name) or ("",))[0]
        if full not in FILTER_FUNCTIONS or node.get("is_window_function") or "parameters" in node:
            raise NotRead(f"the function {name} is not for filters")
        arguments = node.get("arguments", {}).get("children", [])
        if full == "CAST" and not _PLAIN_TYPE.fullmatch(_text(arguments[-1:])):
            raise NotRead("a filter may cast to plain numbers, texts and dates only")
        if full == "encode_text":
            encoded += 1
            if len(arguments) != 1 or not 0 < len(_text(arguments)) <= MAX_TEXT or encoded > _MOST_ENCODED:
                raise NotRead(f"encode_text takes one constant of up to {MAX_TEXT:,} characters, {_MOST_ENCODED} times")


def _text(arguments: list[Node]) -> str:
    """The text of a constant, if that is what the one argument is."""
    value = arguments[0].get("value", {}) if len(arguments) == 1 else {}
    return str(value["value"]) if isinstance(value, dict) and value.get("field_type") == "String" else ""


def check_statement(engine: Engine, sql: str) -> str:
    """`sql` as the engine's parser wrote it back: one statement that reads tables of the database, with no format.

    Raises:
        StatementRefused: it is something else.
    """
    statement = read_statement(engine, sql)
    if statement.format or statement.settings:
        raise StatementRefused("leave the clauses FORMAT and SETTINGS out")
    return statement.sql


def read_statement(engine: Engine, sql: str, *, database: str | None = None) -> Statement:
    """One statement that only reads, taken apart; `database` is where names without one are looked up.

    SELECT, EXPLAIN of one, DESCRIBE, EXISTS, SHOW TABLES, COLUMNS, INDEXES, DATABASES, SETTINGS, FUNCTIONS, ENGINES and
    CREATE TABLE. It may read the tables of the database that is served, some of `system`, and `information_schema`.

    Raises:
        StatementRefused: it is something else, or uses what strangers may not.
    """
    try:
        served = _served(engine)
        judge = _Judge(engine, served, database or served)
        try:
            tree: Any = read(engine, sql, most=MAX_SQL)
        except NotATree:
            return judge.plain(sql)
        return judge.statement(tree)
    except NotRead as error:
        raise StatementRefused(str(error)) from error


def check_structure(engine: Engine, structure: str) -> str:
    """Names and types of columns, and nothing else, as the engine's parser wrote them back: `a Int8, b String`.

    Raises:
        StatementRefused: it is something else; a DEFAULT, for one, could call any function.
    """
    try:
        tree = parse(engine, f"CREATE TEMPORARY TABLE t ({structure})", most=MAX_SQL)
        _check_structure(tree)
        return write(engine, tree).partition("(")[2].rpartition(")")[0].strip()
    except NotRead as error:
        raise StatementRefused(str(error)) from error


def _check_structure(tree: Node) -> None:
    wrong = NotRead("the structure of a table is names and types only")
    told = {part for part, value in tree.items() if value}
    if told != {"type", "table", "table_ast", "is_temporary", "columns_list"} or tree["type"] != "CreateQuery":
        raise wrong
    if tree["columns_list"].keys() != {"type", "columns"}:
        raise wrong
    for column in tree["columns_list"]["columns"]["children"]:
        if {part for part, value in column.items() if value} != {"type", "name", "data_type"}:
            raise wrong
        for node, _ in nodes(column["data_type"]):
            if node["type"] not in _TYPE_NODES:
                raise wrong


_databases: WeakKeyDictionary[Engine, str] = WeakKeyDictionary()


def _served(engine: Engine) -> str:
    if engine not in _databases:
        _databases[engine] = str(engine.query(Query(sql="SELECT currentDatabase()")).rows[0][0])
    return _databases[engine]


class _Judge:
    """Looks at the parts of a statement that are not the same for all: names and settings."""

    def __init__(self, engine: Engine, served: str, database: str) -> None:
        self._engine, self._served, self._database = engine, served, database
        self._functions, self._encoded = functions(engine), 0

    def plain(self, sql: str) -> Statement:
        """A statement that has no tree, by its text as the engine writes it."""
        text = one_line(self._engine, sql)
        form = None
        if asked := _FORMAT.search(text):
            form, text = asked["name"].strip("`"), text[: asked.start()]
        if inner := _DESCRIBED.fullmatch(text):
            query = read_statement(self._engine, inner["query"], database=self._database)
            if query.format or not query.sql.lstrip("( ").startswith(("SELECT", "WITH")):
                raise NotRead("DESCRIBE takes a table or a SELECT")
            return Statement(f"DESCRIBE TABLE ({query.sql})", query.settings, form)
        if not (found := _PLAIN.fullmatch(text)):
            raise NotRead("this kind of statement is not allowed")
        if found["table"]:
            self._table([_unquoted(name) for name in re.findall(_NAME, found["table"])])
        return Statement(text, {}, form)

    def statement(self, tree: dict[str, Any]) -> Statement:
        """A statement by its tree, of which settings and format are taken out."""
        form = tree.pop("format_ast", None)
        settings: dict[str, int | float | str] = {}
        query = tree
        if tree["type"] == "ExplainQuery":
            if tree["kind"] not in _EXPLAINED or "query" not in tree:
                raise NotRead(f"{tree['kind']} is not allowed")
            query = tree["query"]
            form = form or query.pop("format_ast", None)
        if query["type"] == "SelectWithUnionQuery":
            selects = query["list_of_selects"]["children"]
            last = selects[-1] if selects and selects[-1]["type"] == "SelectQuery" else {}
            for taken in (query.pop("settings_ast", None), last.pop("settings", None)):
                settings |= _settings(taken)
        elif not query["type"].startswith("Show"):
            raise NotRead("only statements that read are allowed")
        self._look(tree)
        return Statement(write(self._engine, tree), settings, form and str(form["name"]))

    def _look(self, tree: dict[str, Any]) -> None:
        named = {
            str(node["alias"])
            for node, _ in nodes(tree)
            if node.get("is_lambda_function") and node.get("alias")  # WITH x -> x + 1 AS f
        }
        tables: set[int] = set()  # functions that give tables; each is met after what it stands in
        for node, depth in nodes(tree):
            match node["type"]:
                case "TableIdentifier":
                    self._table(_parts(node))
                case "TableExpression" if "table_function" in node:
                    tables.add(id(node["table_function"]))
                    self._table_function(str(node["table_function"]["name"]))
                case "Function" if id(node) in tables:
                    pass
                case "ColumnsApplyTransformer" if node.get("func_name"):
                    self._function(str(node["func_name"]), named)
                case "Function":
                    self._call(node, named)
                case "QueryParameter" if "identifier" in str(node["param_type"]).lower():
                    raise NotRead("a parameter cannot be a name")
                case "SetQuery" if not (depth == 1 and tree["type"] == "ExplainQuery"):
                    raise NotRead("SETTINGS can stand at the end only")
                case "ShowTablesQuery" if "from" in node:
                    self._show_database(str(node["from"].get("name", "")))
                case "ShowColumnsQuery" | "ShowIndexesQuery":
                    self._table([part for part in (node.get("database"), node["table"]) if part])

    def _call(self, node: Node, named: set[str]) -> None:
        name = str(node["name"])
        arguments = node.get("arguments", {}).get("children", [])
        if name in OURS:
            self._encode(name, arguments)
            return
        self._function(name, named)
        if _MEMBERSHIP.fullmatch(name) and len(arguments) == 2 and arguments[1]["type"] == "Identifier":
            self._table(_parts(arguments[1]))  # a IN t

    def _encode(self, name: str, arguments: list[Node]) -> None:
        """An encoder runs for each row of a column, where neither time nor memory are the engine's to limit."""
        self._encoded += 1
        constant = len(arguments) == 1 and (arguments[0]["type"] == "QueryParameter" or _text(arguments))
        if not constant or len(_text(arguments)) > MAX_TEXT or self._encoded > _MOST_ENCODED:
            raise NotRead(f"{name} takes one constant of up to {MAX_TEXT:,} characters, {_MOST_ENCODED} times")

    def _function(self, name: str, named: set[str]) -> None:
        allowed = self._functions.allowed(name)
        if allowed is None and name not in named:
            raise NotRead(f"there is no function {name} here")
        if allowed is False:
            raise NotRead(f"the function {name} is not allowed")

    def _table_function(self, name: str) -> None:
        if name.lower() not in TABLE_FUNCTIONS:
            raise NotRead(f"the table function {name} is not allowed")

    def _table(self, parts: list[str]) -> None:
        if not 1 <= len(parts) <= 2 or not all(map(is_identifier, parts)):
            raise NotRead("name a table as table or as database.table, in letters, digits and underscores")
        database, table = parts if len(parts) == 2 else (self._database, parts[0])
        if database == "system":
            allowed = table in SYSTEM_TABLES
        elif database.lower() == "information_schema":
            allowed = table.lower() in INFORMATION_SCHEMA
        else:
            allowed = database == self._served and not table.endswith(denied_name(""))
        if not allowed:
            raise NotRead(f"the table {'.'.join(parts)} is not for reading from outside")

    def _show_database(self, name: str) -> None:
        if name.lower() not in (self._served.lower(), "system", "information_schema"):
            raise NotRead(f"there is no database {name} here")


def _parts(node: Node) -> list[str]:
    return [str(part) for part in node.get("name_parts") or [node["name"]]]


def _unquoted(name: str) -> str:
    return re.sub(r"\\(.)", r"\1", name[1:-1]) if name.startswith("`") else name


def _settings(node: Node | None) -> dict[str, int | float | str]:
    found: dict[str, int | float | str] = {}
    for change in node["changes"] if node else []:
        name, value = str(change["name"]), change["value"].get("value")
        if name not in SETTINGS or not isinstance(value, (int, float, str)):
            raise NotRead(f"the setting {name} is not allowed")
        found[name] = value
    return found
