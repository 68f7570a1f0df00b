"""The result of a loading run as Markdown, as `text` does it for search. Pure: text out of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.loading_figures import (
    LINES,
    Load,
    Result,
    by_shard,
    duration,
    median_of,
    median_seconds,
    middle,
    plan,
    rates,
)
from benchmarks.text import left_out, load_average, opening, size, table

#: How many shards the plan is for: one, those measured, and the whole of LAION-400M.
_WHOLE = 410
#: About what the metadata of a shard of LAION-400M takes; drawn captions and addresses are shorter.
_REAL_METADATA_BYTES = 150_000_000


def short_table(result: Result) -> str:
    """The table for README.md, and what it is."""
    run, machine, shard, many = (result[name] for name in ("parameters", "machine", "shard", "ten"))
    rows = [
        (
            label,
            f"{shard['rows'] / median_seconds(loads):,.0f}",
            duration(median_seconds(loads)),
            size(median_of(loads, "peak_rss")),
            size(_kept(loads)),
        )
        for label, loads in _by_label(result)
    ]
    memory = [each.peak_rss_mb for each in by_shard(result) if each.peak_rss_mb]
    return (
        table(("system", "rows/s", "one shard", "peak memory", "on disk"), rows)
        + f"\nOne shard of {shard['rows']:,} rows, both embeddings and the metadata, from npy and parquet files in the "
        f"page cache to a table, on {machine['cores']} cores ({machine['cpu']}); from the start of the process until "
        f"everything is on the disk, medians of {run['rounds']}. The floor reads the files and writes as many bytes as "
        "cliphouse's table. "
        f"For {result['tutorial']['rows']:,} rows, the tutorial's own pipeline takes {_ratio(result)} times as long as "
        f"cliphouse. {run['shards']} shards in a row: {many['rows'] / many['load']['seconds']:,.0f} rows/s, memory "
        f"{size(min(memory) * 1e6)} to {size(max(memory) * 1e6)} from shard to shard. In full: "
        "[benchmarks/REPORT.md](benchmarks/REPORT.md).\n"
    )


def plan_table(result: Result) -> str:
    """Disk, memory and time for some shards and for all, for the guide."""
    measured, metadata = result["parameters"]["shards"], result["data"]["metadata_0.parquet"]["bytes"]
    rows = []
    for shards in sorted({1, measured, _WHOLE}):
        found = plan(result, shards)
        basis = "measured" if shards == measured else "a share of it" if shards < measured else "extrapolated"
        rows.append(
            (
                f"{shards} ({basis})",
                f"{found.rows:,}",
                size(found.file_bytes),
                size(found.table_bytes),
                *(duration(found.download_seconds[line]) for line in LINES),
                duration(found.load_seconds),
                size(found.peak_memory_bytes),
            )
        )
    header = ("shards", "rows", "files", "table", *(f"download at {_line(line)}" for line in LINES), "load", "memory")
    more = max(0, _REAL_METADATA_BYTES - metadata)
    return (
        table(header, rows)
        + f"\nMeasured: {measured} shards of {result['parameters']['rows']:,} rows by one `cliphouse load` on "
        f"{result['machine']['cores']} cores ({result['machine']['cpu']}), embedded, files in the page cache. Figures "
        f"for {_WHOLE} shards are that, in proportion: nobody loaded them here. Downloads are computed from the size "
        "of the files, for a line that is always full. While it loads, the database needs "
        f"{size(plan(result, 1).room_bytes)} more than the table. The metadata of these shards takes {size(metadata)} "
        f"each, that of LAION's own about {size(_REAL_METADATA_BYTES)}: for {_WHOLE} shards, allow for "
        f"{size(more * _WHOLE)} more files, and about as much more table.\n"
    )


def section(file_name: str, result: Result) -> str:
    """One run in full; `file_name` is that of its result."""
    return "\n".join(
        [
            _origin(file_name, result),
            _shard(result),
            _tutorial(result),
            _many(result),
            left_out(result),
            _data(result),
        ]
    )


def _origin(file_name: str, result: Result) -> str:
    run = result["parameters"]
    lines = (
        f"data: a shard of {run['rows']:,} rows, seed {run['seed']}; the same files for every system",
        f"page cache: {result['page_cache']}",
        f"the run took {result['process']['seconds']:.0f} s; {load_average(result)}",
    )
    return opening(file_name, result, lines)


def _shard(result: Result) -> str:
    shard, run = result["shard"], result["parameters"]
    times = [
        (
            label,
            f"{shard['rows'] / median_seconds(loads):,.0f}",
            ", ".join(f"{rate:,.0f}" for rate in rates(loads, shard["rows"])),
            f"{median_of(loads, 'seconds'):.1f} s",
            f"{median_of(loads, 'sync_seconds'):.1f} s",
            f"{median_of(loads, 'cpu_seconds'):.1f} s",
        )
        for label, loads in _by_label(result)
    ]
    bytes_ = [
        (
            label,
            size(median_of(loads, "peak_rss")),
            size(median_of(loads, "peak_anon")),
            size(_kept(loads)),
            size(median_of(loads, "peak_disk")),
            *(size(middle(loads)["io"][name]) for name in ("rchar", "wchar", "read_bytes", "write_bytes")),
        )
        for label, loads in _by_label(result)
    ]
    differences = ", ".join(
        f"{label} {middle(loads)['largest_difference']:.1e}"
        for label, loads in _by_label(result)
        if "largest_difference" in middle(loads)
    )
    return (
        f"### One shard\n\nFrom the start of the process, imports included, to its end, {run['rounds']} times each, in "
        "rounds; medians, and all rates in the order of the rounds. To sync is what the operating system needs "
        "afterwards to have everything on the disk; rates count both. Then "
        "each system counts its rows, and captions and vectors of some are compared with the files; the largest "
        f"difference in any number of them: {differences}. Every system stores an id, both vectors, and those columns "
        "of the metadata that cliphouse has.\n\n"
        f"![Rows a second, by system]({result['run']}.svg)\n\n"
        + table(("system", "rows/s", "all", "seconds", "to sync", "processor"), times)
        + f"\nMemory is sampled every {run['sample_seconds']} s, with that of all processes the command starts. It "
        "counts mapped files, such as the program itself and what the page cache holds of the source, which the "
        "system takes back when it needs room; what is not mapped from files is beside it. Read and written: by system "
        "calls, mapped files left out, and then from and to the disk.\n\n"
        f"![Memory over time, by system and over many shards]({result['run']}-memory.svg)\n\n"
        + table(
            ("system", "peak memory", "not of files", "on disk", "at most", "read", "written", "from disk", "to disk"),
            bytes_,
        )
    )


def _tutorial(result: Result) -> str:
    told = result["tutorial"]
    process, insert, loads = told["steps"]["process"], told["steps"]["insert"], told["cliphouse"]
    rows = [
        _step("process.py, to CSV", process, told["rows"]),
        _step("INSERT ... FROM INFILE", insert, told["rows"]),
        (
            "both",
            f"{told['seconds']:.1f} s",
            f"{told['rows'] / told['seconds']:,.0f}",
            size(max(process["peak_rss"], insert["peak_rss"])),
        ),
        _step("cliphouse load", middle(loads), told["rows"]),
    ]
    return (
        "### The tutorial's pipeline\n\n"
        f"{told['rows']:,} rows, through the script, the CREATE TABLE and the INSERT of ClickHouse's tutorial as they "
        f"are printed there, once, and by cliphouse, {len(loads)} times (the median is shown). The CSV file takes "
        f"{size(told['csv_bytes'])}. The pipeline takes {_ratio(result)} times as long.\n\n"
        + table(("step", "seconds", "rows/s", "peak memory"), rows)
    )


def _many(result: Result) -> str:
    run, many = result["parameters"], result["ten"]
    load = many["load"]
    rows = [
        (
            str(each.shard),
            f"{each.seconds:.1f} s",
            f"{each.rows / each.seconds:,.0f}" if each.seconds else "-",
            size(each.peak_rss_mb * 1e6),
            size(each.peak_anon_mb * 1e6),
        )
        for each in by_shard(result)
    ]
    return (
        f"### {run['shards']} shards by one command\n\n"
        f"{many['rows']:,} rows in {load['seconds']:.1f} s, {many['rows'] / load['seconds']:,.0f} rows/s, with at most "
        f"{size(load['peak_rss'])} of memory, {size(load['peak_anon'])} of it not of files; {load['sync_seconds']:.1f} "
        f"s to sync. The table takes {size(load['table_bytes'])}, the database {size(load['disk_bytes'])} when the "
        f"command ends and {size(load['peak_disk'])} at most. When each shard was in is what the ledger of the "
        "collection says, to the second; the first one's time has the start of the program in it.\n\n"
        + table(("shard", "seconds", "rows/s", "peak memory", "not of files"), rows)
    )


def _data(result: Result) -> str:
    files = [(name, f"{each['bytes']:,}", f"`{each['sha256']}`") for name, each in result["data"].items()]
    return "### Data\n\n" + table(("file", "bytes", "SHA-256"), files)


def _step(name: str, load: Load, rows: int) -> tuple[str, ...]:
    return name, f"{load['seconds']:.1f} s", f"{rows / load['seconds']:,.0f}", size(load["peak_rss"])


def _by_label(result: Result) -> list[tuple[str, Sequence[Load]]]:
    """The systems that loaded the whole shard, with their loads."""
    loads: Any = result["shard"]["loads"]
    return [(each["label"], loads[each["name"]]) for each in result["systems"] if each["name"] in loads]


def _kept(loads: Sequence[Load]) -> float:
    """The size of all files of the database."""
    return median_of(loads, "disk_bytes")


def _ratio(result: Result) -> str:
    return f"{result['tutorial']['ratio']:.1f}"


def _line(bits: int) -> str:
    return f"{bits // 10**9} Gbit/s" if bits >= 10**9 else f"{bits // 10**6} Mbit/s"
