"""What an index run says, and what of it does not fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.index_figures import TARGETS
from benchmarks.index_peers import SYSTEMS
from benchmarks.index_systems import Effort


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to measure: `systems` over `shards` shards of `rows` rows drawn with `seed`, searched for `k` results.

    `queries` texts and as many pictures, drawn with `query_seed` and after `warm_up` others of each, are asked with
    each of `efforts[system]`, in each of `rounds` rounds. The first `filter_queries` texts are also asked under each of
    `filters`, which is the name of a column and what its values must be below. `options[system]` are those of the
    build. A system is compared with others at `recall`, and at those of `recalls`. `targets` are bounds for the
    figures in `index_figures.TARGETS`; `growth` is told from the newest result of the run `grown_from`. `small_rows`
    are searched to see what a system takes without an index. `left_out` says what the run does not measure and why.
    """

    name: str
    kind: Literal["indexes"]
    title: str
    rows: int
    shards: int
    seed: int
    dim: int
    k: int
    queries: int
    query_seed: int
    warm_up: int
    rounds: int
    recall: float
    recalls: Sequence[float]
    small_rows: int
    filter_queries: int
    filters: Mapping[str, Mapping[str, Any]]
    systems: Sequence[str]
    options: Mapping[str, Mapping[str, Any]]
    efforts: Mapping[str, Sequence[Effort]]
    targets: Mapping[str, float]
    left_out: Sequence[str]
    grown_from: str = ""

    def __post_init__(self) -> None:
        if self.kind != "indexes":
            raise ValueError(f"this measures runs of the kind 'indexes', not {self.kind!r}")
        if unknown := [name for name in self.systems if name not in SYSTEMS]:
            raise ValueError(f"there is no system {', '.join(unknown)}; the systems are {', '.join(SYSTEMS)}")
        if alone := [name for name in self.systems if SYSTEMS[name].shares not in ("", *self.systems)]:
            raise ValueError(f"{', '.join(alone)} asks what {SYSTEMS[alone[0]].shares} builds, which is not in the run")
        if without := [name for name in self.systems if not self.efforts.get(name)]:
            raise ValueError(f"[efforts] says nothing of {', '.join(without)}")
        if unknown := [name for name in self.targets if name not in TARGETS]:
            raise ValueError(f"there is no target {', '.join(unknown)}; the targets are {', '.join(TARGETS)}")
        if self.query_seed == self.seed:
            raise ValueError("query_seed must differ from seed: queries are not rows of the shards")
        if self.filter_queries > self.queries:
            raise ValueError(f"filter_queries ({self.filter_queries}) is over queries ({self.queries})")

    def where(self, name: str) -> str:
        """The condition of a filter, as SQL."""
        return f"{self.filters[name]['column']} < {self.filters[name]['below']}"
