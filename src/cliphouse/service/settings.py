"""What a service was told when it was started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Limits and permissions of one service; times are seconds, sizes bytes.

    `workers` statements run at once and `waiting` requests may wait for a place; a request over that is told to come
    again. `pictures` are directories whose pictures may be shown. `api_keys` is empty where anybody may ask, and
    `hosts` (names that requests must use for this host) where any name will do.
    """

    workers: int = max(2, os.cpu_count() or 2)
    waiting: int = 64
    timeout: float = 30.0
    max_k: int = 1000
    max_export: int = 10_000
    max_upload: int = 20 * 2**20
    max_body: int = 32 * 2**20  # room for a picture of max_upload in base64
    max_pixels: int = 50_000_000
    max_sql_rows: int = 10_000
    max_sql_bytes: int = 64 * 2**20
    max_sql_memory: int = 2 * 2**30
    api_keys: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    rate: float = 0.0  # requests a second and key; 0 is no limit
    pictures: tuple[Path, ...] = ()
    fetch_images: bool = False
    allow_writes: bool = False
