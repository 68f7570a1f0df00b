"""What a request to ClickHouse's HTTP interface asks for: parameters, and the parts of a statement."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from cliphouse.service.clickhouse_errors import refused

#: What the interface itself reads; everything else is a setting, or begins with param_.
_OURS = frozenset(
    {"query", "database", "default_format", "session_id", "session_timeout", "session_check", "query_id"}
    | {"compress", "decompress", "user", "password", "quota_key", "role", "wait_end_of_query", "buffer_size"}
    | {
        "enable_http_compression",
        "http_zlib_compression_level",
        "client_protocol_version",
        "stacktrace",
        "close_session",
    }
    | {"send_progress_in_http_headers", "http_headers_progress_interval_ms", "http_write_exception_in_output_format"}
    | {"cancel_http_readonly_queries_on_client_close", "http_response_headers", "http_wait_end_of_query"}
    | {"http_response_buffer_size", "add_http_cors_header", "framing"}
)
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: As much as the engine parses of a statement by default.
MAX_QUERY_BYTES = 262_144

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*|\#[!\ ][^\n]*|/\*.*?\*/)
    |(?P<text>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`|\$(\w*)\$.*?\$\3\$)
    |(?P<word>[^\W\d]\w*)
    |(?P<other>\d\w*|.)""",
    re.DOTALL | re.VERBOSE,
)
#: Statements that answer with rows.
_ANSWERING = frozenset(
    {"SELECT", "WITH", "FROM", "(", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "CHECK", "KILL"}
)
#: Statements that only read.
_READING = _ANSWERING - {"CHECK", "KILL"}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int
    depth: int

    @property
    def word(self) -> str:
        """The keyword that it may be; nothing inside parentheses is one that matters here."""
        return self.text.upper() if self.kind == "word" and self.depth == 0 else ""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: what it begins with, and its text without a semicolon and without a FORMAT clause.

    An INSERT that brings its rows has `data`, their beginning.
    """

    verb: str
    sql: str
    form: str | None
    words: tuple[str, ...] = ()
    data: bytes | None = None

    @property
    def answers(self) -> bool:
        """Whether it answers with rows, be it none."""
        return self.verb in _ANSWERING

    @property
    def reads(self) -> bool:
        """Whether it only reads."""
        return self.verb in _READING


@dataclass(slots=True)
class Arguments:
    """Parameters of a request, from its URL and its form."""

    given: dict[str, str]
    parameters: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Whether one of the interface's own parameters is on."""
        return self.given.get(name, str(int(default))).lower() in ("1", "true")


def arguments(pairs: Iterable[tuple[str, str]]) -> Arguments:
    """Names and values of a URL or a form, told apart.

    Raises:
        EngineError: something is no setting's name.
    """
    found = Arguments(dict(pairs))
    for name, value in found.given.items():
        if name.startswith("param_"):
            found.parameters[name.removeprefix("param_")] = value
        elif name not in _OURS:
            if not _SETTING.fullmatch(name):
                raise refused(
                    "UNKNOWN_SETTING", f"Setting {name[:100]!r} is neither a builtin setting nor a custom one"
                )
            found.settings[name] = value
    return found


def statement(text: bytes) -> Statement:
    """The statement that a request's text begins with; after an INSERT rows may follow, and the text may be cut there.

    Raises:
        EngineError: there is none, or more than one, or it names a file of this machine.
    """
    # Rows may be any bytes; with surrogates for those that are no text, places in the text can be found in the bytes.
    whole = text.decode(errors="surrogateescape")
    tokens = _tokens(whole)
    first = next(tokens, None)
    if first is None:
        raise refused("SYNTAX_ERROR", "Empty query")
    if first.word == "INSERT":
        return _insert(whole, tokens)
    if len(text) > MAX_QUERY_BYTES:
        raise refused("QUERY_IS_TOO_LARGE", f"A query may have {MAX_QUERY_BYTES} bytes (max_query_size)")
    return _plain(whole, [first, *tokens])


def _plain(whole: str, tokens: list[_Token]) -> Statement:
    while tokens and tokens[-1].text == ";":
        tokens.pop()
    if not tokens:
        raise refused("SYNTAX_ERROR", "Empty query")
    words = [token.word for token in tokens]
    if any(token.text == ";" and token.kind == "other" for token in tokens):
        raise refused("SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
    if any(pair == ("INTO", "OUTFILE") for pair in pairwise(words)):
        raise refused("INTO_OUTFILE_NOT_ALLOWED", "INTO OUTFILE is not allowed")
    verb = words[0] or tokens[0].text
    sql, form = whole[: tokens[-1].end], None
    for place in range(1, len(words) - 1):
        if words[place] == "FORMAT" and words[place + 2 : place + 3] in ([], ["SETTINGS"]):
            named = tokens[place + 1]
            form = named.text.strip('`"')
            sql = whole[: tokens[place].start] + whole[named.end : tokens[-1].end]
            break
    return Statement(verb, sql.strip(), form, tuple(words))


def _insert(whole: str, tokens: Iterator[_Token]) -> Statement:
    """INSERT [INTO] [TABLE | FUNCTION] name [(columns)] [SETTINGS ...], and then FORMAT, VALUES or SELECT."""
    words, named = ["INSERT"], False
    for token in tokens:
        words.append(token.word)
        if not named:
            named = token.word not in ("INTO", "TABLE", "FUNCTION")
        elif token.word in ("SELECT", "WITH", "WATCH"):
            return _plain(whole, [_Token("word", "INSERT", 0, 6, 0), token, *tokens])
        elif token.word == "FROM":
            raise refused("ACCESS_DENIED", "Files of this machine cannot be inserted: send the rows in the request")
        elif token.word == "VALUES":
            return _with_rows(whole, words, token.start, "Values", token.end)
        elif token.word == "FORMAT":
            name = next(tokens, None)
            if name is None or name.kind != "word":
                raise refused("SYNTAX_ERROR", "Syntax error: FORMAT is not followed by the name of one")
            return _with_rows(whole, words, token.start, name.text, name.end)
    return _with_rows(whole.rstrip(" \t\r\n;"), words, len(whole), "Values", len(whole))


def _with_rows(whole: str, words: list[str], end: int, form: str, start: int) -> Statement:
    """An INSERT that ends at one place, whose rows begin at another."""
    return Statement("INSERT", whole[:end].strip(), form, tuple(words), _rows(whole[start:], form))


def _rows(rest: str, form: str) -> bytes:
    """The rows that follow the name of a format: one line break and the blanks before it belong to neither."""
    if form != "Values":
        rest = re.sub(r"\A[ \t\f]*;?[ \t\f]*\r?\n?", "", rest, count=1)
    return rest.encode(errors="surrogateescape")


def _tokens(whole: str) -> Iterator[_Token]:
    depth = 0
    for found in _TOKEN.finditer(whole):
        kind = found.lastgroup or "other"
        if kind == "space":
            continue
        text = found[0]
        if text in (")", "]", "}"):
            depth = max(0, depth - 1)
        yield _Token(kind, text, found.start(), found.end(), depth)
        if text in ("(", "[", "{"):
            depth += 1
