"""What an evaluation is asked to do, and what it measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from cliphouse.errors import UsageError
from cliphouse.types import MAX_K, IndexKind, IndexState, Modality, SearchPath

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

#: "auto" computes the true neighbours that are absent or stale, "stored" raises instead, "only" stops after that.
TruthUse = Literal["auto", "stored", "only"]
#: Where queries come from: captions and pictures of the collection, each without its own row, or a file of the user's.
QueryOrigin = Literal["text", "image", "own"]
#: "search" is what a search takes by itself; the others are forced.
Asked = Literal["search", "exact", "hnsw", "ivf"]

DEFAULT_SAMPLE = 1000
DEFAULT_TUNING_SAMPLE = 200
#: Shares of the rows that the filters leave, in thousandths.
PER_MILLE = (500, 100, 10, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """What to measure, and with which queries.

    `queries` are the user's own: texts, or vectors of shape (n, dim). `sample` rows of the table give text and image
    queries; None is 1000, or none where there are own ones. `where` is one more filter to measure under; `filters`
    says whether those of `PER_MILLE` are. Each point is measured for about `seconds` at most, by one client and then by
    `clients` at once.
    """

    queries: Sequence[str] | ArrayLike | None = None
    sample: int | None = None
    k: int = 10
    column: Modality = "image"
    filters: bool = True
    where: str | None = None
    seconds: float = 10.0
    clients: int = 8
    seed: int = 0
    truth: TruthUse = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.k < MAX_K:
            raise UsageError(f"k must be from 1 to {MAX_K - 1} here, got {self.k}")
        if self.column not in ("image", "text"):
            raise UsageError(f"column must be 'image' or 'text', got {self.column!r}")
        if self.sample is not None and self.sample < (0 if self.queries is not None else 1):
            raise UsageError(f"the sample must be of 1 row or more, got {self.sample}; or give queries of your own")
        if not self.seconds > 0:
            raise UsageError(f"seconds must be over 0, got {self.seconds}")
        if not 1 <= self.clients <= 256:
            raise UsageError(f"clients must be from 1 to 256, got {self.clients}")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed must be from 0 to 2**63 - 1, got {self.seed}")
        if self.truth not in get_args(TruthUse):
            raise UsageError(f"truth must be one of {', '.join(get_args(TruthUse))}, got {self.truth!r}")

    @property
    def sample_rows(self) -> int:
        """Rows to take queries from."""
        return (DEFAULT_SAMPLE if self.queries is None else 0) if self.sample is None else self.sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A condition that searches were measured under, and the rows that have it: their number and their share."""

    where: str
    rows: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One way to search, measured: `queries` of one origin, under one filter or none.

    `asked` and `effort` say how it was to be answered, `answered` how often each path gave the answer. `recall` is the
    mean recall@k by distance (`measures.recall_at_k`); where fewer than k rows have the filter, of those there are.
    Milliseconds are of one client at a time, as a caller in Python sees them; `queries_per_second` is by number of
    clients at once. `read_bytes` are what the engine took up of tables for a query, from disk or cache, uncompressed,
    on average; on a server all its users' reads are counted. `resident_bytes` is the memory of the process that holds
    the engine, after the point: of this one, where the engine is embedded.
    """

    queries: QueryOrigin
    filter: Filter | None
    asked: Asked
    effort: Mapping[str, int]
    answered: Mapping[SearchPath, int]
    recall: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    queries_per_second: Mapping[int, float]
    read_bytes: float
    resident_bytes: int

    @property
    def measured(self) -> int:
        """How many queries were."""
        return sum(self.answered.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthReport:
    """The true neighbours behind an evaluation: queries, of which `computed` now and not read, in so many seconds."""

    queries: int
    computed: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a collection's searches were measured to do. `points` are empty where only the truth was wanted."""

    collection: str
    database: str
    engine_version: str
    rows: int
    encoder: str
    dim: int
    storage: str
    column: Modality
    k: int
    seed: int
    cores: int
    indexes: tuple[IndexState, ...]
    truth: TruthReport
    points: tuple[Point, ...] = field(default=())
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The evaluation as plain values, for JSON."""
        plain = dataclasses.asdict(self)
        for state, found in zip(plain["indexes"], self.indexes, strict=True):
            state["state"] = found.state
        for point, measured in zip(plain["points"], self.points, strict=True):
            point["measured"] = measured.measured
        return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningOptions:
    """What recall searches are to have by themselves, and the queries to find the effort for it with.

    `queries` are the user's own: texts, or vectors of shape (n, dim). `sample` rows of the table give text and image
    queries; None is 200, or none where there are own ones. The seed is another than that of evaluations, which would
    else ask what an index was tuned with.
    """

    recall: float = 0.95
    queries: Sequence[str] | ArrayLike | None = None
    sample: int | None = None
    k: int = 10
    column: Modality = "image"
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.recall < 1:
            raise UsageError(f"recall must be over 0 and under 1, which exact search has, got {self.recall}")
        self.as_evaluation()

    def as_evaluation(self) -> EvaluationOptions:
        """The same queries, to be evaluated with."""
        sample = self.sample
        if sample is None:
            sample = DEFAULT_TUNING_SAMPLE if self.queries is None else 0
        return EvaluationOptions(
            queries=self.queries, sample=sample, k=self.k, column=self.column, seed=self.seed, filters=False
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningPoint:
    """One effort (ef_search or nprobe), measured: recall@k by the origin of queries, and their median latency.

    An answer that the index had too few rows for counts as missed, though a search would give it exactly.
    """

    effort: int
    recalls: Mapping[QueryOrigin, float]
    p50_ms: float

    @property
    def recall(self) -> float:
        """The least of them."""
        return min(self.recalls.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexTuning:
    """One index, tuned: what was measured, and the `effort` that searches now take by themselves.

    By `points`, of one half of the queries, it reaches the wanted recall if `reached`; otherwise it is the most there
    is. They flatter it a little: `confirmed` is what it reaches with the other half, None where there was one query of
    each kind. `unable` says why an index that cannot answer such searches was left as it was.
    """

    name: str
    kind: IndexKind
    points: tuple[TuningPoint, ...] = ()
    effort: int | None = None
    confirmed: TuningPoint | None = None
    reached: bool = False
    unable: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What was tuned for which recall@k, and what came of it."""

    collection: str
    column: Modality
    recall: float
    k: int
    indexes: tuple[IndexTuning, ...]
    truth: TruthReport
    seconds: float
