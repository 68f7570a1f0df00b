"""What the service writes to standard error: one line for each request, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

Form = Literal["text", "json"]

logger = logging.getLogger("cliphouse.service")

#: uvicorn writes to these, if something is wrong with a connection or with the application.
_FOREIGN = "uvicorn.error"


def configure(form: Form) -> None:
    """Write what the service logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    for name, level in ((logger.name, logging.INFO), (_FOREIGN, logging.WARNING)):
        configured = logging.getLogger(name)
        configured.handlers, configured.propagate = [handler], False
        configured.setLevel(level)


def event(what: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Log that something happened, with the facts by name; those that are None are left out."""
    known = {name: value for name, value in fields.items() if value is not None}
    logger.log(level, what, extra={"fields": known}, exc_info=error)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # A value that holds a line break or a control character must not look like a line of its own.
        facts = (f"{name}={_plain(value)}" for name, value in _fields(record).items())
        line = " ".join([_time(record), record.levelname.lower(), _plain(record.getMessage()), *facts])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _plain(value: object) -> str:
    text = str(value)
    return text if text.isprintable() else repr(text)
