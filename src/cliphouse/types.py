"""The values that travel between the layers, and the encoder seam."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args, runtime_checkable

from cliphouse.addresses import shown
from cliphouse.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

MIN_DIM, MAX_DIM = 2, 4096
MAX_K = 10_000
MAX_OFFSET = 1_000_000
MAX_EF_SEARCH = 100_000
MAX_NPROBE = 1_000_000
MAX_WORKERS = 64
#: A row's id is `shard * ROWS_PER_SHARD + row`: readable at a glance, unique, and below 2**53 for 90 million shards,
#: so that every JSON parser keeps it exact.
ROWS_PER_SHARD = 100_000_000
MAX_SHARD = 2**53 // ROWS_PER_SHARD - 1

Modality = Literal["image", "text"]
Storage = Literal["bfloat16", "float32"]
Quantization = Literal["f64", "f32", "f16", "bf16", "i8", "b1"]
#: The kinds of vector index. "hnsw" is ClickHouse's graph in memory, "ivf" inverted lists in a table of their own.
IndexKind = Literal["hnsw", "ivf"]
SearchPath = Literal["exact", "hnsw", "ivf"]
#: How the effort of a search is called, by the kind of its index.
EFFORT_NAMES: Mapping[IndexKind, str] = {"hnsw": "ef_search", "ivf": "nprobe"}
#: What can be wrong with a row: a vector without a direction; a vector that is not of unit length; no url; no caption;
#: no similarity, or one that no cosine can be; a tag outside LAION's three.
RowKind = Literal["vector", "norm", "url", "caption", "similarity", "nsfw"]
RowPolicy = Literal["keep", "skip", "fail"]
ROW_KINDS: tuple[RowKind, ...] = get_args(RowKind)
ROW_POLICIES: tuple[RowPolicy, ...] = get_args(RowPolicy)

#: What a hit always carries besides its distance; more columns come on request.
HIT_COLUMNS = ("id", "url", "caption", "NSFW", "similarity")


@runtime_checkable
class Encoder(Protocol):
    """Turns texts and pictures into unit vectors of one space, so that near means alike."""

    @property
    def name(self) -> str:
        """The name stored with every collection this encoder made."""
        ...

    @property
    def dim(self) -> int:
        """Length of each vector."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One unit vector a text: float32, shape (len(texts), dim)."""
        ...

    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """One unit vector a picture: float32, shape (len(images), dim)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A statement and the values bound to its `{name:Type}` placeholders."""

    sql: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def script(self) -> str:
        """The query as text that `cliphouse sql` and clickhouse-client run as it stands."""
        lines = [f"SET param_{name} = {literal(value)};" for name, value in self.parameters.items()]
        return "\n".join([*lines, f"{self.sql};"])

    def complete(self) -> str:
        """The query as one statement, with its values where their placeholders are."""

        def filled(found: re.Match[str]) -> str:
            name, kind = found["name"], found["kind"]
            if name not in self.parameters:  # no placeholder, or in quotes, where it is text
                return found[0]
            value = literal(self.parameters[name])
            return value if kind == "String" else f"CAST({value}, {literal(kind)})"

        return _PLACEHOLDER.sub(filled, self.sql)


#: Quoted text and names, which stay as they are, and placeholders.
_PLACEHOLDER = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`|\{(?P<name>\w+):(?P<kind>[\w()]+)\}""", re.DOTALL
)


def literal(value: Any) -> str:
    """`value` as a ClickHouse literal."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    return repr(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The files of one numbered shard; a missing text embedding file is None."""

    number: int
    image_embeddings: Path
    text_embeddings: Path | None
    metadata: Path

    @property
    def source(self) -> str:
        """The file that stands for it in messages and in the ledger."""
        return str(self.image_embeddings)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedShard:
    """A numbered shard that is one parquet file, embeddings included: a path, or an address as `https://host/file`."""

    number: int
    location: str

    @property
    def source(self) -> str:
        """The location, for messages and the ledger: without what may be a key to it."""
        return shown(self.location)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionInfo:
    """What a collection remembers of itself.

    `encoder` is "" when nobody named one. `dim` is 0 while a table made by hand is still empty.
    `columns` maps each readable column to its ClickHouse type. With `gaps`, there are rows without an image embedding.
    """

    name: str
    encoder: str
    dim: int
    storage: Storage
    columns: Mapping[str, str] = field(default_factory=dict)
    gaps: bool = False
    distance: Literal["cosineDistance"] = "cosineDistance"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchParams:
    """How many results, from which column, and how hard to look.

    The first `offset` results are passed over. `kind` names the index that is to answer, where there are several.
    `ef_search` is HNSW's candidate list, raised to `offset + k` where smaller; `nprobe` is how many clusters of an IVF
    index are read. Without them, the effort is the one `tune` stored for `recall`, or for the recall it was asked for.
    `columns` are wanted besides HIT_COLUMNS.
    """

    k: int = 10
    offset: int = 0
    column: Modality = "image"
    exact: bool = False
    where: str | None = None
    kind: IndexKind | None = None
    ef_search: int | None = None
    nprobe: int | None = None
    recall: float | None = None
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or not 1 <= self.k <= MAX_K:
            raise UsageError(f"k must be a whole number from 1 to {MAX_K}, got {self.k!r}")
        if not isinstance(self.offset, int) or not 0 <= self.offset <= MAX_OFFSET:
            raise UsageError(f"offset must be a whole number from 0 to {MAX_OFFSET}, got {self.offset!r}")
        for name, most in (("ef_search", MAX_EF_SEARCH), ("nprobe", MAX_NPROBE)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or not 1 <= value <= most):
                raise UsageError(f"{name} must be a whole number from 1 to {most}, got {value!r}")
        if self.recall is not None and not 0 < self.recall <= 1:
            raise UsageError(f"recall must be over 0 and up to 1, got {self.recall!r}")
        if self.kind not in (None, "hnsw", "ivf"):
            raise UsageError(f"there is no index kind {self.kind!r}; the kinds are 'hnsw' and 'ivf'")
        if self.exact and self.kind:
            raise UsageError(f"exact asks for no index, and kind for {self.kind}; give one of them")
        for kind, name in EFFORT_NAMES.items():
            if self.kind not in (None, kind) and getattr(self, name) is not None:
                raise UsageError(f"{name} is the effort of an {kind} index, and kind asks for {self.kind}")
        if self.column not in ("image", "text"):
            raise UsageError(f"column must be 'image' or 'text', got {self.column!r}")
        if self.where is not None and not self.where.strip():
            raise UsageError("the filter is empty; leave it out to search everything")

    @property
    def embedding_column(self) -> str:
        """The table column that is searched."""
        return f"{self.column}_embedding"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """The parameters of an HNSW index (Malkov & Yashunin 2016); the defaults are the LAION tutorial's.

    `m` is `hnsw_max_connections_per_layer`, `ef_construction` is `hnsw_candidate_list_size_for_construction`.
    """

    kind: Literal["hnsw"] = "hnsw"
    m: int = 64
    ef_construction: int = 256
    quantization: Quantization = "bf16"

    def __post_init__(self) -> None:
        if self.kind != "hnsw":
            raise UsageError(f"an IndexConfig is of kind 'hnsw', got {self.kind!r}; for 'ivf' give an IvfConfig")
        if self.quantization not in QUANTIZATION_BITS:
            raise UsageError(f"quantization must be one of {', '.join(QUANTIZATION_BITS)}, got {self.quantization!r}")
        if not 2 <= self.m <= 1024:
            raise UsageError(f"m must be from 2 to 1024, got {self.m}")
        if not 2 <= self.ef_construction <= 65_536:
            raise UsageError(f"ef_construction must be from 2 to 65536, got {self.ef_construction}")

    def bytes_per_row(self, dim: int) -> int:
        """Memory and disk of one row in the graph, as usearch lays it out.

        The vector, 2 m neighbours of 4 bytes on the ground layer, and 18 bytes of key, level and lengths; the upper
        layers add less than 1 %. Within 1 % of what the engine reports from 64 to 512 dimensions.
        """
        return -(-dim * QUANTIZATION_BITS[self.quantization] // 8) + 8 * self.m + 18


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How to load, and what to do with what is not as it should be.

    `on_bad_row` is the policy for rows with a vector that has no direction, and for other kinds of dirt where they are
    named: "skip", "fail,caption=skip", "nsfw=fail". `keep` stores what is good of a row. Without a name those others
    are kept: they are common, and can be searched. `on_bad_shard` says whether a shard whose files are broken is listed
    and passed over. `similarity`: "recompute" fills missing and absurd ones in from the vectors. `columns` names, for
    columns of the table, the columns of the files that fill them where they have not the usual names. `workers` shards
    are loaded at a time.
    """

    workers: int = 1
    on_bad_row: str = "skip"
    on_bad_shard: Literal["skip", "fail"] = "fail"
    similarity: Literal["keep", "recompute"] = "keep"
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MAX_WORKERS:
            raise UsageError(f"workers must be from 1 to {MAX_WORKERS}, got {self.workers}")
        if self.on_bad_shard not in ("skip", "fail"):
            raise UsageError(f"on_bad_shard must be 'skip' or 'fail', got {self.on_bad_shard!r}")
        if self.similarity not in ("keep", "recompute"):
            raise UsageError(f"similarity must be 'keep' or 'recompute', got {self.similarity!r}")
        self._policies()

    def policy(self, kind: RowKind) -> RowPolicy:
        """What to do with a row of this kind."""
        return self._policies()[kind]

    def _policies(self) -> dict[RowKind, RowPolicy]:
        policies: dict[RowKind, RowPolicy] = {kind: "skip" if kind == "vector" else "keep" for kind in ROW_KINDS}
        for part in self.on_bad_row.split(","):
            kind, named, policy = part.strip().rpartition("=")
            if policy not in ROW_POLICIES or (named and kind not in ROW_KINDS):
                raise UsageError(
                    f"{part.strip()!r} is no policy for bad rows; write {', '.join(ROW_POLICIES)}, or KIND=POLICY with "
                    f"a kind of {', '.join(ROW_KINDS)}"
                )
            policies[cast("RowKind", kind or "vector")] = policy
        return policies


@dataclass(frozen=True, slots=True, kw_only=True)
class IvfConfig:
    """The parameters of an inverted-list index (Jégou et al. 2011): `nlist` clusters, 0 for as many as suit."""

    kind: Literal["ivf"] = "ivf"
    nlist: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.nlist <= MAX_NPROBE:
            raise UsageError(f"nlist must be from 1 to {MAX_NPROBE}, or 0 to let the rows decide, got {self.nlist}")


#: Bits per dimension of each quantization of the index.
QUANTIZATION_BITS: Mapping[str, int] = {"f64": 64, "f32": 32, "f16": 16, "bf16": 16, "i8": 8, "b1": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexState:
    """One vector index as it stands; sizes in bytes, `memory_bytes` is what searching with it keeps in memory.

    `build_seconds` is None where nobody remembers. `effort` is what searches take by themselves, ef_search or nprobe;
    `tuned` is the recall that `tune` found it for.
    """

    name: str
    column: str
    config: IndexConfig | IvfConfig
    rows_indexed: int
    rows_total: int
    disk_bytes: int
    memory_bytes: int
    building: bool
    build_seconds: float | None = None
    effort: int | None = None
    tuned: float | None = None

    @property
    def state(self) -> Literal["empty", "building", "partial", "ready"]:
        """`partial`: rows loaded after the build are still scanned exactly; build again to take them in."""
        if self.building:
            return "building"
        if self.rows_indexed == 0:
            return "empty"
        return "ready" if self.rows_indexed >= self.rows_total else "partial"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a long job is: `done` of `total` `unit`s of what `label` names."""

    label: str
    done: int
    total: int
    unit: str = "rows"


#: Called often and from any thread; it must be quick.
ProgressCallback = Callable[[Progress], None]


def shard_ranges(numbers: Iterable[int]) -> str:
    """Numbers as ranges, the way `--shards` takes them: `0-9,12`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in parts)
