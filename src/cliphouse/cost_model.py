"""The coefficients of the cost model, and the machines it is about.

`python -m benchmarks.plan_fit` finds them by least squares from measured runs and writes cost_model.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.resources import files
from typing import Any

from cliphouse.errors import UsageError

#: What nobody measured, and is assumed: bytes a second that a core reads from memory, and that all of them can at most.
_MEMORY_READ_A_CORE, _MEMORY_READ_MOST = 20e9, 200e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One machine; speeds in bytes a second."""

    cores: int
    memory_bytes: int
    disk_read: float
    disk_write: float

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not 0 < value < math.inf:
                raise UsageError(f"{each.name} must be over 0, got {value}")

    @property
    def memory_read(self) -> float:
        """What all cores together can read from memory."""
        return min(self.cores * _MEMORY_READ_A_CORE, _MEMORY_READ_MOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The coefficients. Work is in seconds of one core, and shared among all of them; fixed parts are not.

    Vectors were of `dim` numbers, and work on rows is in proportion to that. On disk a row has `metadata_bytes` besides
    its vectors; in memory an engine with data has `engine_bytes`. A load takes `load_fixed`, and `load_row` a row. An
    exact search takes `exact_base`, and `cached_byte` or `paged_byte` for a byte of its column in the engine's or the
    system's cache; from a cold disk it reads at `disk_share` of that disk's speed. What is written in gigabytes goes to
    the disk at `write_share` of the speed that a short probe finds, and a load waits for it.

    hnsw: building n rows takes `hnsw_row` * log2(1 + n / `hnsw_few`) a row: at first it meets all rows that are there,
    and then another level for each doubling. A byte of the graph in memory is `hnsw_disk` on disk. A search takes
    `hnsw_base`, `hnsw_step` for each candidate of its list and each doubling of the rows, and `hnsw_byte` for a byte of
    the table, where what it found is compared again.

    ivf: a build takes `ivf_fixed`, `ivf_row` a row, and `ivf_flop` for a multiplication or addition; its bytes are
    `ivf_disk` times those of the vectors. A search takes `ivf_base`, `ivf_list` a list, and `ivf_byte` a byte it reads.

    A search that looks at x (candidates of hnsw, a share of the lists of ivf) of n rows misses exp(a - p ln x + q ln n)
    of what it should find: `hnsw_miss` and `ivf_miss` are (a, p, q).
    """

    dim: int
    metadata_bytes: float
    engine_bytes: float
    load_fixed: float
    load_row: float
    exact_base: float
    cached_byte: float
    paged_byte: float
    disk_share: float
    write_share: float
    hnsw_row: float
    hnsw_few: float
    hnsw_disk: float
    hnsw_base: float
    hnsw_step: float
    hnsw_byte: float
    hnsw_miss: tuple[float, float, float]
    ivf_fixed: float
    ivf_row: float
    ivf_flop: float
    ivf_disk: float
    ivf_base: float
    ivf_list: float
    ivf_byte: float
    ivf_miss: tuple[float, float, float]


@lru_cache(maxsize=1)
def committed() -> Mapping[str, Any]:
    """cost_model.json: the coefficients, and where they come from."""
    found: dict[str, Any] = json.loads((files("cliphouse") / "cost_model.json").read_text(encoding="utf-8"))
    return found


def from_json(coefficients: Mapping[str, Any]) -> Model:
    """The model that these plain values describe."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in coefficients.items()
    }
    return Model(**values)


def fitted() -> Model:
    """The coefficients that were fitted to measured runs."""
    return from_json(committed()["coefficients"])


def measured_hardware() -> Hardware:
    """The machine that they were measured on."""
    return Hardware(**committed()["hardware"])
