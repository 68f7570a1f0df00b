"""One picture on its way in, before it is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cliphouse.pipeline.captions import Description, Table, is_failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One picture before it is decoded. `path` is its identity: where it lies, absolute, unlike that of any other."""

    path: str
    key: str
    data: Path | bytes
    caption: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Missing:
    """A picture that is told of and cannot be had."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Known:
    """A picture that was done before."""

    path: str


@dataclass(frozen=True, slots=True)
class Unmatched:
    """Rows of the table at `path` that name no picture."""

    path: str
    rows: int


Found = Item | Missing | Known | Unmatched


def item_of(
    identity: str, key: str, data: Path | bytes, found: Description, *, url: str | None = None
) -> Item | Missing:
    """The picture, unless its description says that there is none. `url` is used where the description has none."""
    more = dict(found.more)
    if is_failure(more.get("status")):
        return Missing(identity, f"not downloaded: {more['status']}")
    if url is not None and not more.get("url"):
        more["url"] = url
    caption = None if found.caption is None else as_text(found.caption)
    return Item(path=identity, key=as_text(str(more.pop("key", key))), data=data, caption=caption, more=more)


def failed(table: Table) -> Iterator[Missing]:
    """The pictures that `table` lists and that were never downloaded."""
    for name, status in table.failed():
        yield Missing(f"{as_text(table.path)}/{name}", f"not downloaded: {status}")


def unmatched(tables: Iterable[Table]) -> Iterator[Unmatched]:
    """The tables with rows that name no picture; asked when all their pictures have been told."""
    for table in tables:
        if rows := table.unmatched():
            yield Unmatched(as_text(table.path), rows)


def as_text(text: str | Path) -> str:
    """`text` as any file can hold it: what is not Unicode, in the name of a file say, becomes backslash escapes."""
    return str(text).encode("utf-8", "surrogatepass").decode("utf-8", "backslashreplace")
