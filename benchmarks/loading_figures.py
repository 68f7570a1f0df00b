"""What is computed from a loading result: rates, shards one by one, and what a number of shards will take. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Result = Mapping[str, Any]
Load = Mapping[str, Any]

#: Lines that downloads are computed for, in bits a second.
LINES = (100_000_000, 1_000_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTime:
    """One of many shards: how long after the one before it was in, and the most memory held in that time.

    Both are 0 if the clock of the ledger cannot tell the two apart.
    """

    shard: int
    rows: int
    seconds: float
    peak_rss_mb: float
    peak_anon_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `shards` shards take; all but what was measured for as many is in proportion to it.

    `file_bytes` come over the line, in `download_seconds[bits a second]`, which is arithmetic. `room_bytes` is what
    loading needs on disk for a while, besides the table; like `peak_memory_bytes`, it does not grow with the shards.
    """

    shards: int
    rows: int
    file_bytes: float
    table_bytes: float
    room_bytes: float
    load_seconds: float
    download_seconds: Mapping[int, float]
    peak_memory_bytes: int


def took(load: Load) -> float:
    """Seconds from the start of the process until the operating system has everything on the disk.

    Some systems wait for the disk themselves and others leave that to it; so the wait counts for all.
    """
    return float(load["seconds"] + load.get("sync_seconds", 0))


def rates(loads: Sequence[Load], rows: int) -> list[float]:
    """Rows a second of each load, with the wait for the disk."""
    return [rows / took(load) for load in loads]


def middle(loads: Sequence[Load]) -> Load:
    """The load of median duration; of an even number, the slower one in the middle."""
    return sorted(loads, key=took)[len(loads) // 2]


def median_seconds(loads: Sequence[Load]) -> float:
    """The median of what they took."""
    return float(median(took(load) for load in loads))


def median_of(loads: Sequence[Load], key: str) -> float:
    return float(median(load[key] for load in loads))


def by_shard(result: Result) -> list[ShardTime]:
    """The shards of the long load, in the order in which they were in."""
    load, rows = result["ten"]["load"], result["parameters"]["rows"]
    moments = list(zip(*(load["timeline"][name] for name in ("seconds", "rss_mb", "anon_mb")), strict=True))
    found, start = [], 0.0
    for each in sorted(result["ten"]["finished"], key=lambda each: (each["seconds"], each["shard"])):
        end = each["seconds"]
        during = [moment for moment in moments if start < moment[0] <= end]
        found.append(
            ShardTime(
                shard=each["shard"],
                rows=rows,
                seconds=end - start,
                peak_rss_mb=max((rss for _, rss, _ in during), default=0.0),
                peak_anon_mb=max((anon for _, _, anon in during), default=0.0),
            )
        )
        start = end
    return found


def plan(result: Result, shards: int) -> Plan:
    """What `shards` shards like the measured one take, at the rate and in the memory of the long load.

    Raises:
        ValueError: `shards` is not 1 or more.
    """
    if shards < 1:
        raise ValueError(f"a plan is for 1 shard or more, not {shards}")
    measured, load = result["parameters"]["shards"], result["ten"]["load"]
    file_bytes = shards * sum(file["bytes"] for file in result["data"].values())
    return Plan(
        shards=shards,
        rows=shards * result["parameters"]["rows"],
        file_bytes=file_bytes,
        table_bytes=load["table_bytes"] * shards / measured,
        room_bytes=max(0, load["peak_disk"] - load["table_bytes"]),
        load_seconds=load["seconds"] * shards / measured,
        download_seconds={line: file_bytes * 8 / line for line in LINES},
        peak_memory_bytes=load["peak_rss"],
    )


def duration(seconds: float) -> str:
    """In the unit that a person would say it in."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
