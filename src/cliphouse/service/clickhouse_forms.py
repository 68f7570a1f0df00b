"""Requests that are forms: parameters as fields, and tables that come with a query."""

from __future__ import annotations

import email
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message

from cliphouse.service.clickhouse_errors import refused

#: A form is held in memory.
MOST_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that come with a query, to be read as a temporary table."""

    name: str
    structure: str
    form: str
    data: bytes


def read(content_type: str, body: bytes, given: Mapping[str, str]) -> tuple[list[tuple[str, str]], list[Table]]:
    """Fields and tables of a multipart form; `given` are the URL's parameters, which describe the tables.

    Raises:
        EngineError: it is too large or no form, or a table has no structure.
    """
    if len(body) > MOST_BYTES:
        raise refused("QUERY_IS_TOO_LARGE", f"A form may have {MOST_BYTES} bytes")
    message = email.message_from_bytes(b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n" + body)
    fields: list[tuple[str, str]] = []
    tables: list[Table] = []
    parts = message.get_payload()
    if not isinstance(parts, list):
        raise refused("BAD_ARGUMENTS", "the form cannot be read")
    files: list[tuple[str, bytes]] = []
    for part in parts:
        assert isinstance(part, Message)  # noqa: S101
        name, data = part.get_param("name", header="Content-Disposition"), part.get_payload(decode=True)
        if not isinstance(name, str) or not isinstance(data, bytes):
            raise refused("BAD_ARGUMENTS", "a part of the form has no name")
        if part.get_filename() is not None:
            files.append((name, data))
        else:
            fields.append((name, data.decode(errors="replace")))
    described = {**given, **dict(fields)}
    for name, data in files:
        structure = described.get(f"{name}_structure", "")
        if not structure and (types := described.get(f"{name}_types")):
            structure = ", ".join(f"_{place} {type_}" for place, type_ in enumerate(types.split(","), 1))
        if not structure:
            raise refused("BAD_ARGUMENTS", f"the table {name} has neither {name}_structure nor {name}_types")
        tables.append(Table(name, structure, described.get(f"{name}_format", "TabSeparated"), data))
    return fields, tables
