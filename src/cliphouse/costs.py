"""What a collection will cost before it is there: a model of disk, memory, time and latency, and the index to choose.

Each quantity is a small formula with fitted coefficients. docs/decisions/0018-cost-model.md says what they leave out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from cliphouse.clusters import CELL_SHARE, ROUNDS, count_for, sample_for
from cliphouse.cost_model import Hardware, Model, fitted, measured_hardware
from cliphouse.errors import UsageError
from cliphouse.types import MAX_DIM, MAX_EF_SEARCH, MIN_DIM, IndexConfig, SearchPath
from cliphouse.units import duration, size

#: Where the bytes of a search come from.
Place = Literal["engine cache", "page cache", "disk", "memory"]

#: Shares of a machine's memory: what the engine's uncompressed cache takes of one column, what the operating system
#: keeps of files beside the engine, and what graphs may take. The first and the last are the embedded engine's.
COLUMN_SHARE, PAGE_SHARE, GRAPH_SHARE = 0.225, 0.6, 0.30
#: Building a graph takes this much more memory than the graph, and may take this share of the machine's.
BUILD_OVERHEAD, BUILD_SHARE = 1.25, 0.80
#: An advised graph is built within so many seconds, and answers this many times as fast as lists on disk.
LONGEST_BUILD, WORTH_A_GRAPH = 3600.0, 1.5
#: Advised lists are built within so many seconds.
LONGEST_LISTS = 7 * 86_400.0
#: An index that is not this much faster than the scan is not worth having, nor any where the scan is so fast, in
#: seconds, that nobody waits for it.
WORTH_AN_INDEX, SOON = 1.25, 0.030
#: Loading and building write each byte twice: in small parts, and merged.
WRITTEN_TIMES = 2.0
#: The share of memory that Linux lets be unwritten before it makes writers wait (vm.dirty_background_ratio).
_UNWRITTEN_SHARE = 0.10
#: The least that a search through a graph looks at.
_LEAST_EF = 10
#: What a search through a graph finds, it compares once more with all that is stored beside it: so many rows.
FOUND, GRANULE_ROWS = 10, 8192
#: Bytes of a number of a vector in the table.
_NUMBER = 2
#: What nobody measured, and is assumed: one random read of a disk, one at a time for each core; asking
#: other machines, and merging the rows of each.
SEEK_SECONDS = 1e-4
MERGE_SECONDS, MERGE_SECONDS_A_MACHINE = 1e-3, 1e-5

MAX_ROWS = 10**13
MAX_MACHINES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be searched: rows in all, how long their vectors are, on how many machines, and how much is found."""

    rows: int
    dim: int = 512
    machines: int = 1
    recall: float = 0.95

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= MAX_ROWS:
            raise UsageError(f"rows must be from 1 to {MAX_ROWS}, got {self.rows}")
        if not MIN_DIM <= self.dim <= MAX_DIM:
            raise UsageError(f"dim must be from {MIN_DIM} to {MAX_DIM}, got {self.dim}")
        if not 1 <= self.machines <= MAX_MACHINES:
            raise UsageError(f"machines must be from 1 to {MAX_MACHINES}, got {self.machines}")
        if not 0 < self.recall <= 1:
            raise UsageError(f"recall must be over 0 and up to 1, got {self.recall}")

    @property
    def rows_each(self) -> int:
        """Rows of the machine that has most: each holds a share of the rows, and answers every search."""
        return -(-self.rows // self.machines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one way to search takes on each machine, besides loading.

    `disk_bytes` are table and index; `memory_bytes` is what searching needs at least, and `reads` says where the rest
    comes from. `missing` says why it cannot be done, or is "". `effort` is ef_search or nprobe for the wanted recall.
    """

    kind: SearchPath
    disk_bytes: float
    memory_bytes: float
    build_seconds: float
    latency_seconds: float
    reads: Place
    effort: int | None = None
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """The advised way to search, and the reason with its numbers."""

    kind: SearchPath
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `wanted` takes on machines of a kind. Bytes and seconds are of each machine; all work at the same time."""

    wanted: Wanted
    hardware: Hardware
    table_bytes: float
    load_seconds: float
    costs: tuple[Cost, ...]
    choice: Choice

    def cost(self, kind: SearchPath) -> Cost:
        """Of one way to search."""
        return next(each for each in self.costs if each.kind == kind)


def choose(
    *,
    rows: int,
    dim: int,
    memory_bytes: int,
    cores: int,
    recall: float = 0.95,
    disk_read: float | None = None,
    disk_write: float | None = None,
    model: Model | None = None,
) -> Choice:
    """How to search so many rows on a machine of so much memory; disks are as fast as the measured one by default.

    Raises:
        UsageError: a number is out of range.
    """
    known = measured_hardware()
    hardware = Hardware(
        cores=cores,
        memory_bytes=memory_bytes,
        disk_read=disk_read or known.disk_read,
        disk_write=disk_write or known.disk_write,
    )
    return plan(Wanted(rows=rows, dim=dim, recall=recall), hardware, model).choice


def plan(wanted: Wanted, hardware: Hardware, model: Model | None = None) -> Plan:
    """What each way to search would take, and which is advised; by the fitted model, if no other is given."""
    model = model or fitted()
    costs = (_exact(wanted, hardware, model), _hnsw(wanted, hardware, model), _ivf(wanted, hardware, model))
    return Plan(
        wanted=wanted,
        hardware=hardware,
        table_bytes=_table_bytes(wanted, model),
        load_seconds=_load_seconds(wanted, hardware, model),
        costs=costs,
        choice=_choice(wanted, hardware, model, *costs),
    )


def ivf_flops(rows: int, dim: int) -> float:
    """Multiplications and additions that building an ivf index takes.

    In each round of training the rows of the sample are assigned, and then all rows.
    """
    count = count_for(rows)
    return 2.0 * dim * met_centroids(count) * (rows + ROUNDS * sample_for(count))


def met_centroids(count: int) -> float:
    """Vectors that a row is compared with to be assigned: centres of root-many coarse cells, and some centroids."""
    return math.sqrt(count) + count / CELL_SHARE


def trained_on(rows: int) -> float:
    """Rows of the sample for each cluster: fewer than `SAMPLE_PER_CLUSTER` where the sample is as large as may be."""
    count = count_for(rows)
    return sample_for(count) / count


def hnsw_read_bytes(rows: int, dim: int) -> float:
    """Bytes that a search through a graph reads of the table: the granules that hold what it found.

    More of them with more rows, until each row that is found lies in one of its own.
    """
    granules = max(1.0, rows / GRANULE_ROWS)
    met = granules * (1 - (1 - 1 / granules) ** FOUND)
    return min(rows, GRANULE_ROWS) * met * dim * _NUMBER


def ivf_read_bytes(rows: int, dim: int, share: float) -> float:
    """Bytes that a search compares which reads a share of the lists: their rows, and all centroids, of float32."""
    return (share * rows * _NUMBER + count_for(rows) * 4) * dim


def _column_bytes(wanted: Wanted) -> float:
    """One embedding of all rows of a machine."""
    return float(wanted.rows_each * wanted.dim * _NUMBER)


def _table_bytes(wanted: Wanted, model: Model) -> float:
    return 2 * _column_bytes(wanted) + wanted.rows_each * model.metadata_bytes


def _load_seconds(wanted: Wanted, hardware: Hardware, model: Model) -> float:
    """Working, or reading files as large as the table if that takes longer; and waiting for what is written."""
    table, scale = _table_bytes(wanted, model), wanted.dim / model.dim
    work = wanted.rows_each * scale * model.load_row / hardware.cores
    return model.load_fixed + max(work, table / hardware.disk_read) + load_waits(table, hardware, model.write_share)


def load_waits(table_bytes: float, hardware: Hardware, write_share: float) -> float:
    """Seconds that a load waits for the disk: for what it writes beyond what the system keeps to write later."""
    later = _UNWRITTEN_SHARE * hardware.memory_bytes
    return max(0.0, WRITTEN_TIMES * table_bytes - later) / (hardware.disk_write * write_share)


def _writing(count: float, hardware: Hardware, model: Model) -> float:
    """Seconds to write what ends up as so many bytes on the disk."""
    return WRITTEN_TIMES * count / (hardware.disk_write * model.write_share)


def _merging(wanted: Wanted) -> float:
    """What it takes to ask several machines, and to put their rows in order."""
    return 0.0 if wanted.machines == 1 else MERGE_SECONDS + wanted.machines * MERGE_SECONDS_A_MACHINE


def _effort(miss: tuple[float, float, float], wanted: Wanted) -> float:
    """What to look at for the wanted recall; infinite for all of it."""
    a, p, q = miss
    if wanted.recall == 1:
        return math.inf
    power = (a + q * math.log(wanted.rows_each) - math.log(1 - wanted.recall)) / p
    return math.exp(min(power, 700.0))


def _reading(place: Place, count: float, byte: float, hardware: Hardware, model: Model) -> float:
    """Seconds to compare so many bytes that come from `place`: the slowest of cores, memory and disk."""
    seconds = max(count * byte / hardware.cores, count / hardware.memory_read)
    return max(seconds, count / (hardware.disk_read * model.disk_share)) if place == "disk" else seconds


def _exact(wanted: Wanted, hardware: Hardware, model: Model) -> Cost:
    column = _column_bytes(wanted)
    place: Place = "disk"
    if column <= COLUMN_SHARE * hardware.memory_bytes:
        place = "engine cache"
    elif column <= PAGE_SHARE * hardware.memory_bytes:
        place = "page cache"
    byte = model.cached_byte if place == "engine cache" else model.paged_byte
    return Cost(
        kind="exact",
        disk_bytes=_table_bytes(wanted, model),
        memory_bytes=model.engine_bytes,
        build_seconds=0.0,
        latency_seconds=model.exact_base + _reading(place, column, byte, hardware, model) + _merging(wanted),
        reads=place,
    )


def _hnsw(wanted: Wanted, hardware: Hardware, model: Model) -> Cost:
    rows, scale = wanted.rows_each, wanted.dim / model.dim
    graph = float(rows * IndexConfig().bytes_per_row(wanted.dim))
    doublings, levels = math.log2(max(rows, 2)), math.log2(1 + rows / model.hnsw_few)
    again = hnsw_read_bytes(rows, wanted.dim)
    reading = model.hnsw_byte * again
    place: Place = "memory"
    if graph + _column_bytes(wanted) > PAGE_SHARE * hardware.memory_bytes:
        place, reading = "disk", max(reading, again / (hardware.disk_read * model.disk_share))
    effort = max(_LEAST_EF, math.ceil(min(_effort(model.hnsw_miss, wanted), MAX_EF_SEARCH + 1)))
    room = min(GRAPH_SHARE, BUILD_SHARE / BUILD_OVERHEAD) * hardware.memory_bytes
    missing = ""
    if wanted.recall == 1:
        missing = "only an exact search is sure to find everything"
    elif effort > MAX_EF_SEARCH:
        missing = f"no ef_search up to {MAX_EF_SEARCH} reaches a recall of {wanted.recall:g}"
    elif graph > room:
        missing = f"its graph takes {size(graph)} of memory, and graphs have {size(room)} here"
    return Cost(
        kind="hnsw",
        disk_bytes=_table_bytes(wanted, model) + graph * model.hnsw_disk,
        memory_bytes=model.engine_bytes + graph,
        build_seconds=max(
            model.hnsw_row * rows * levels * scale / hardware.cores,
            _writing(graph * model.hnsw_disk, hardware, model),
        ),
        latency_seconds=model.hnsw_base + model.hnsw_step * effort * doublings * scale + reading + _merging(wanted),
        reads=place,
        effort=effort if effort <= MAX_EF_SEARCH else None,
        missing=missing,
    )


def _ivf(wanted: Wanted, hardware: Hardware, model: Model) -> Cost:
    rows, dim, count = wanted.rows_each, wanted.dim, count_for(wanted.rows_each)
    share = min(1.0, _effort(model.ivf_miss, wanted))
    probes = max(1, math.ceil(share * count))
    column, read = _column_bytes(wanted), ivf_read_bytes(rows, dim, share)
    kept = column * model.ivf_disk
    place: Place = "page cache" if kept <= PAGE_SHARE * hardware.memory_bytes else "disk"
    latency = model.ivf_base + probes * model.ivf_list + _reading(place, read, model.ivf_byte, hardware, model)
    if place == "disk":
        latency += probes * SEEK_SECONDS / hardware.cores
    work = model.ivf_row * rows * dim / model.dim + model.ivf_flop * ivf_flops(rows, dim)
    memory = model.engine_bytes + count * dim * 4
    return Cost(
        kind="ivf",
        disk_bytes=_table_bytes(wanted, model) + kept,
        memory_bytes=memory,
        build_seconds=model.ivf_fixed
        + max(work / hardware.cores, column / hardware.disk_read + _writing(kept, hardware, model)),
        latency_seconds=latency + _merging(wanted),
        reads=place,
        effort=probes,
        missing="only an exact search is sure to find everything"
        if wanted.recall == 1
        else f"its centroids take {size(memory)} of memory, and {size(hardware.memory_bytes)} are there"
        if memory > hardware.memory_bytes
        else "",
    )


def _choice(wanted: Wanted, hardware: Hardware, model: Model, exact: Cost, hnsw: Cost, ivf: Cost) -> Choice:
    """The scan if nobody waits for it, or no index is much faster; the graph if it fits, is soon built and pays; else
    the lists, if they are built in a time that one can wait.
    """
    if not ivf.missing and ivf.build_seconds > LONGEST_LISTS:
        ivf = replace(ivf, missing=_too_long(wanted, hardware, model, ivf))
    if not hnsw.missing and hnsw.build_seconds > LONGEST_LISTS:
        hnsw = replace(hnsw, missing=f"it would take {duration(hnsw.build_seconds)} to build")
    possible = [each for each in (hnsw, ivf) if not each.missing]
    scan = f"an exact scan of {wanted.rows_each:,} rows takes {duration(exact.latency_seconds)}"
    if exact.latency_seconds <= SOON:
        return Choice("exact", f"{scan}, which needs no index")
    if not possible:
        return Choice("exact", f"{scan}, and no index can be had: hnsw, {hnsw.missing}; ivf, {ivf.missing}")
    fastest = min(possible, key=lambda each: each.latency_seconds)
    if exact.latency_seconds < WORTH_AN_INDEX * fastest.latency_seconds:
        return Choice("exact", f"{scan}, an index ({fastest.kind}) {duration(fastest.latency_seconds)}")
    gain = f"{scan}, ivf {duration(ivf.latency_seconds)} at recall {wanted.recall:g}"
    if ivf.missing:
        return Choice("hnsw", f"{scan}, hnsw {duration(hnsw.latency_seconds)}; ivf cannot be had: {ivf.missing}")
    if hnsw.missing:
        return Choice("ivf", f"{gain}; hnsw cannot be had: {hnsw.missing}")
    builds = f"{duration(hnsw.build_seconds)} to build, ivf {duration(ivf.build_seconds)}"
    if hnsw.build_seconds > LONGEST_BUILD:
        return Choice("ivf", f"{gain}; hnsw would take {builds}")
    if ivf.latency_seconds < WORTH_A_GRAPH * hnsw.latency_seconds:
        return Choice("ivf", f"{gain}, hnsw {duration(hnsw.latency_seconds)}; hnsw would take {builds}")
    return Choice(
        "hnsw",
        f"{gain}, hnsw {duration(hnsw.latency_seconds)}, whose graph fits in {size(hnsw.memory_bytes)} of memory; "
        f"it takes {builds}",
    )


def _too_long(wanted: Wanted, hardware: Hardware, model: Model, ivf: Cost) -> str:
    """That lists take long to build, and how many machines would not: twice as many until it is enough."""
    long = f"it would take {duration(ivf.build_seconds)} to build"
    more = wanted
    while more.machines < min(wanted.rows, MAX_MACHINES):
        more = replace(more, machines=min(2 * more.machines, MAX_MACHINES))
        if (shorter := _ivf(more, hardware, model).build_seconds) <= LONGEST_LISTS:
            return f"{long}, and on {more.machines} such machines {duration(shorter)}"
    return long
