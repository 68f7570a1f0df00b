"""What the driver and the system raise, as the errors of cliphouse: codes kept, messages cut to one useful line."""

from __future__ import annotations

import errno
import re
import shutil

from clickhouse_connect.driver.exceptions import OperationalError

from cliphouse.engine.embedded import failures
from cliphouse.engine.url import EmbeddedLocation, Location, ServerLocation
from cliphouse.errors import AuthenticationFailed, CliphouseError, EngineError, EngineUnavailable, StorageFull
from cliphouse.vectors import abbreviate

_AUTHENTICATION = frozenset({"AUTHENTICATION_FAILED", "REQUIRED_PASSWORD", "WRONG_PASSWORD", "UNKNOWN_USER"})
_WRITE_FAILURES = frozenset(
    {"CANNOT_WRITE_TO_FILE_DESCRIPTOR", "CANNOT_FSYNC", "CANNOT_OPEN_FILE", "CANNOT_CREATE_DIRECTORY"}
    | {"CANNOT_TRUNCATE_FILE", "STD_EXCEPTION", "CANNOT_CREATE_FILE"}
)
#: What stands between a server and us says that the server cannot be reached.
_GATEWAY = re.compile(r"received HTTP status 50[234]\b")
#: With less than this left, a failed write is taken for a full disk.
_FULL_DISK_BYTES = 4 * 2**20

#: Parts of a message that are attributes already, repeat the statement, or list all of SQL.
_NOISE = (
    re.compile(r"^Unable to open the chdb engine at '.*?': Failed to create connection: "),
    re.compile(r"Received ClickHouse exception, code: \d+, server response: "),
    re.compile(r"Python UDF '\w+' raised an exception at row \d+: \w+: "),
    re.compile(r"User defined function '\w+' failed\. Command: .*? Original error: ", re.DOTALL),
    re.compile(r"Executable generates stderr: |,? Stack trace \(when copying.*", re.DOTALL),
    re.compile(r"Code: \d+\. |DB::Exception: "),
    re.compile(r"\s*\([A-Z][A-Z0-9_]{3,}\)|\s*\(version [^()]*(\([^()]*\))?\)"),
    re.compile(r"\. In scope .*|\s*Expected one of: .*", re.DOTALL),
)


def map_error(error: BaseException, location: Location, sql: str = "") -> CliphouseError:
    """The cliphouse error that stands for a driver's or the system's."""
    code, name = getattr(error, "code", None), getattr(error, "name", None)
    path = location.path if isinstance(location, EmbeddedLocation) else None
    if failure := failures.take(str(error)):
        return failure
    if isinstance(error, OSError):
        if error.errno == errno.ENOSPC:
            return StorageFull(error.filename or "the temporary directory")
        return EngineError(f"{error.strerror or error}", sql=sql)
    if name == "NOT_ENOUGH_SPACE" or (
        name in _WRITE_FAILURES and path is not None and shutil.disk_usage(path).free < _FULL_DISK_BYTES
    ):
        return StorageFull(str(path or location), code=code, name=name)
    if isinstance(location, ServerLocation):
        if name in _AUTHENTICATION:
            return AuthenticationFailed(
                f"{location} refused the user {location.user!r} or its password; mend it in the URL",
                code=code,
                name=name,
            )
        if code is None and (isinstance(error, OperationalError) or _GATEWAY.search(str(error))):
            return EngineUnavailable(
                f"cannot reach {location}: {_reason(error)}; is the server running, are host and port right?"
            )
    return EngineError(one_line(str(error)), code=code, name=name, sql=sql)


def one_line(message: str) -> str:
    """ClickHouse's message without codes, names, version and traces, which travel as attributes or help nobody."""
    message = message.partition("\n\nAt:\n")[0]
    for noise in _NOISE:
        message = noise.sub("", message)
    message = abbreviate(" ".join(message.split())).strip().rstrip(".")
    return message if len(message) <= 400 else message[:399] + "…"


def _reason(error: BaseException) -> str:
    """The innermost cause: the driver's own message repeats the address and what urllib3 wrapped around it."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return one_line(getattr(error, "strerror", None) or str(error))
