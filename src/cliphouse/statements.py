"""SQL text as the user typed it: where statements end, and which of them answer with rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlglot.tokenizer_core import Token

#: Statements that answer with a table and take a FORMAT clause.
_ANSWERING = frozenset(
    {"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "CHECK", "KILL", "FROM", "("}
)


def split(text: str) -> list[str]:
    """The statements of `text`, without their semicolons and without empty ones.

    Semicolons inside strings, comments and heredocs do not count. Between two ALTER TABLE statements the semicolon may
    be missing, as it is in the tutorial. Text that ends inside a string is given back whole, so that the engine reports
    the error with its own words.
    """
    tokens = _tokens(text)
    if tokens is None:
        return [text.strip()]
    statements: list[str] = []
    start: int | None = None
    for place, token in enumerate(tokens):
        words = [each.text.upper() for each in tokens[place : place + 2]]
        if start is not None and words == ["ALTER", "TABLE"] and text[start:].upper().startswith("ALTER"):
            statements.append(text[start : token.start].strip())
            start = None
        if _kind(token) == "SEMICOLON":
            if start is not None:
                statements.append(text[start : token.start].strip())
            start = None
        elif start is None:
            start = token.start
    if start is not None:
        statements.append(text[start:].strip())
    return statements


def is_finished(text: str) -> bool:
    """Whether interactive input is complete: its last token is a semicolon, or there is nothing in it."""
    tokens = _tokens(text)
    if tokens is None:
        return False
    return not tokens or _kind(tokens[-1]) == "SEMICOLON"


def takes_format(statement: str) -> bool:
    """Whether a FORMAT clause may be added: it answers with rows and names no format itself."""
    words = _words(statement)
    return bool(words) and words[0] in _ANSWERING and not names_format(statement)


def names_format(statement: str) -> bool:
    """Whether the statement ends in a FORMAT clause (which SETTINGS or INTO OUTFILE may follow)."""
    words = _words(statement)
    return any(
        word == "FORMAT" and words[place + 2 : place + 3] in ([], ["SETTINGS"], ["INTO"])
        for place, word in enumerate(words[:-1])
        if place > 0
    )


def _words(statement: str) -> list[str]:
    return [token.text.upper() for token in _tokens(statement) or []]


def is_closed(expression: str) -> bool:
    """Whether the expression stays one when it is put in parentheses: its own are balanced, and it has no semicolon."""
    depth = 0
    for token in _tokens(expression) or []:
        depth += {"L_PAREN": 1, "R_PAREN": -1}.get(_kind(token), 0)
        if depth < 0 or _kind(token) == "SEMICOLON":
            return False
    return depth == 0


def _kind(token: Token) -> str:
    return str(token.token_type.name)


def _tokens(text: str) -> list[Token] | None:
    # Imported here: it takes longer to load than most searches take to run, and only typed SQL needs it.
    from sqlglot.dialects.clickhouse import ClickHouse
    from sqlglot.errors import TokenError

    try:
        return ClickHouse().tokenize(text)
    except TokenError:
        return None
