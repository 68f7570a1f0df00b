"""What an engine says: of itself, and to a query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What differs between engines, asked once.

    `memory_bytes` is what the engine may use in all; 0 where it does not say.
    """

    version: str
    embedded: bool
    memory_bytes: int
    uncompressed_cache_bytes: int
    vector_cache_bytes: int


@dataclass(frozen=True, slots=True)
class Result:
    """Rows of a query, with the names of their columns (an embedded engine names none if there are no rows)."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
