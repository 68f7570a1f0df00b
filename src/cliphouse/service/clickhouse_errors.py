"""Errors in ClickHouse's words: its codes and names, and the HTTP status that its own server gives to each."""

from __future__ import annotations

from cliphouse.errors import EngineError

#: As in ClickHouse's exceptionCodeToHTTPStatus. What is not named here is 500.
_STATUS: dict[int, frozenset[str]] = {
    400: frozenset(
        {"BAD_ARGUMENTS", "CANNOT_COMPILE_REGEXP", "CANNOT_PARSE_TEXT", "CANNOT_PARSE_ESCAPE_SEQUENCE"}
        | {"CANNOT_PARSE_QUOTED_STRING", "CANNOT_PARSE_DATE", "CANNOT_PARSE_DATETIME", "CANNOT_PARSE_NUMBER"}
        | {"CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING", "CANNOT_PARSE_IPV4", "CANNOT_PARSE_IPV6", "CANNOT_PARSE_UUID"}
        | {"CANNOT_PARSE_INPUT_ASSERTION_FAILED", "DUPLICATE_COLUMN", "ILLEGAL_COLUMN", "UNKNOWN_ELEMENT_IN_AST"}
        | {"UNKNOWN_TYPE_OF_AST_NODE", "THERE_IS_NO_COLUMN", "TOO_DEEP_AST", "TOO_BIG_AST", "SYNTAX_ERROR"}
        | {"UNEXPECTED_AST_STRUCTURE", "INCORRECT_DATA", "TYPE_MISMATCH", "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE"}
    ),
    401: frozenset({"REQUIRED_PASSWORD"}),
    403: frozenset(
        {"UNKNOWN_USER", "WRONG_PASSWORD", "AUTHENTICATION_FAILED", "SET_NON_GRANTED_ROLE", "ACCESS_DENIED"}
    ),
    404: frozenset(
        {"UNKNOWN_TABLE", "UNKNOWN_FUNCTION", "UNKNOWN_IDENTIFIER", "UNKNOWN_TYPE", "UNKNOWN_STORAGE"}
        | {"UNKNOWN_DATABASE", "UNKNOWN_SETTING", "UNKNOWN_DIRECTION_OF_SORTING", "UNKNOWN_AGGREGATE_FUNCTION"}
        | {"UNKNOWN_FORMAT", "UNKNOWN_DATABASE_ENGINE", "UNKNOWN_TYPE_OF_QUERY", "UNKNOWN_ROLE"}
    ),
    408: frozenset({"TIMEOUT_EXCEEDED"}),
    411: frozenset({"HTTP_LENGTH_REQUIRED"}),
    413: frozenset({"QUERY_IS_TOO_LARGE"}),
    415: frozenset({"UNSUPPORTED_MEDIA_TYPE"}),
    # ClickHouse's own server says 500 to this and to TOO_MANY_SIMULTANEOUS_QUERIES; clients come again after ours.
    429: frozenset({"QUOTA_EXCEEDED"}),
    501: frozenset({"NOT_IMPLEMENTED"}),
    503: frozenset({"SOCKET_TIMEOUT", "CANNOT_OPEN_FILE", "CANNOT_SCHEDULE_TASK", "TOO_MANY_SIMULTANEOUS_QUERIES"}),
}
_BY_NAME = {name: status for status, names in _STATUS.items() for name in names}

#: Codes of what this server refuses by itself.
_CODES = {
    "BAD_ARGUMENTS": 36,
    "NOT_IMPLEMENTED": 48,
    "SYNTAX_ERROR": 62,
    "UNKNOWN_SETTING": 115,
    "TIMEOUT_EXCEEDED": 159,
    "READONLY": 164,
    "REQUIRED_PASSWORD": 194,
    "QUOTA_EXCEEDED": 201,
    "TOO_MANY_SIMULTANEOUS_QUERIES": 202,
    "QUERY_IS_TOO_LARGE": 229,
    "CANNOT_DECOMPRESS": 271,
    "INTO_OUTFILE_NOT_ALLOWED": 358,
    "SESSION_NOT_FOUND": 372,
    "SESSION_IS_LOCKED": 373,
    "INVALID_SESSION_TIMEOUT": 374,
    "QUERY_WAS_CANCELLED": 394,
    "ACCESS_DENIED": 497,
    "AUTHENTICATION_FAILED": 516,
    "CHECKSUM_DOESNT_MATCH": 40,
    "UNKNOWN_COMPRESSION_METHOD": 89,
}


def refused(name: str, message: str) -> EngineError:
    """A refusal of this server's own, with the name that ClickHouse has for such a thing."""
    return EngineError(message, code=_CODES[name], name=name, said=message)


def status_of(error: EngineError) -> int:
    """The HTTP status of an error."""
    return _BY_NAME.get(error.name or "", 500)


def text_of(error: EngineError, version: str) -> str:
    """The body of an answer that is an error."""
    name = f" ({error.name})" if error.name else ""
    said = (error.said or str(error)).rstrip(" .")
    return f"Code: {error.code or 1002}. DB::Exception: {said}.{name} (version {version})\n"
