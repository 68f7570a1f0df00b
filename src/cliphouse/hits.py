"""What a search answers with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from cliphouse.errors import MissingExtra
from cliphouse.types import Query, SearchPath

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Hit:
    """One result. `similarity` is the dataset's own image-caption score (None if unknown), not that of the query.

    Columns asked for besides the standard ones are attributes too: `hit.width`.
    """

    id: int
    distance: float
    url: str
    caption: str
    NSFW: str
    similarity: float | None
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __getattr__(self, name: str) -> Any:
        try:
            return object.__getattribute__(self, "more")[name]
        except (AttributeError, KeyError):
            raise AttributeError(f"hit has no column {name!r}; ask for it with columns=({name!r},)") from None

    def as_dict(self) -> dict[str, Any]:
        """The hit as plain columns, in the order they are printed."""
        standard = ("id", "distance", "url", "caption", "NSFW", "similarity")
        return {name: getattr(self, name) for name in standard} | dict(self.more)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """Which path a search takes, and why.

    `effort` is the candidate list of an HNSW search, or how many clusters' worth of rows an IVF search reads. `spare`
    is how many rows beyond k are asked of an HNSW index, because deleted ones are taken out of its answer.
    `rescanned` is set on the plan of a result where the fast exact scan could not prove its short list complete, so
    that a second, slower scan gave the answer. `ran` is the statement that gave it, on the plan of a result.
    """

    path: SearchPath
    reason: str
    index: str | None = None
    effort: int | None = None
    spare: int = 0
    rescanned: bool = False
    ran: Query | None = field(default=None, repr=False, compare=False)


class Hits(Sequence[Hit]):
    """The results of one search, nearest first, with the plan that ran and the columns that were asked for besides."""

    def __init__(self, hits: Iterable[Hit], plan: SearchPlan, columns: Sequence[str] = ()) -> None:
        self._hits = tuple(hits)
        self.plan = plan
        self.columns = tuple(columns)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit]: ...
    def __getitem__(self, index: int | slice) -> Hit | Sequence[Hit]:
        return self._hits[index]

    def __len__(self) -> int:
        return len(self._hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self._hits)

    def __repr__(self) -> str:
        return f"<{len(self)} hits by {self.plan.path}>"

    def to_arrow(self) -> pa.Table:
        """The hits as an Arrow table, one column per attribute."""
        import pyarrow as pa

        rows = [hit.as_dict() for hit in self]
        standard = pa.schema(
            [
                ("id", pa.int64()),
                ("distance", pa.float32()),
                ("url", pa.string()),
                ("caption", pa.string()),
                ("NSFW", pa.string()),
                ("similarity", pa.float32()),
            ]
        )
        table = pa.Table.from_pylist(rows, schema=standard)
        for name in self.columns:
            if name in standard.names:
                continue
            table = table.append_column(name, pa.array([row[name] for row in rows]))
        return table

    def to_pandas(self) -> pd.DataFrame:
        """The hits as a DataFrame.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas  # noqa: F401
        except ModuleNotFoundError:
            raise MissingExtra("to_pandas() needs pandas; install it with: pip install pandas") from None
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame
