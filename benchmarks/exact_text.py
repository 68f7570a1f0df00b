"""The result of a run of the kind "exact" as Markdown: many queries at once, and one against the memory's speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.text import left_out, load_average, milliseconds, opening, size, table

Result = Mapping[str, Any]


def short_table(result: Result) -> str:
    """The table for pages, and what it says."""
    run, machine, k = result["parameters"], result["machine"], result["parameters"]["k"]
    rows = [
        (
            each["label"],
            milliseconds(each["p50_ms"]),
            _seconds(each),
            f"{run['queries'] / each['batch_seconds']:,.0f}",
            f"{each['batch_gain']:.1f}x",
            f"{each[f'batch_recall_at_{k}']:.3f}",
        )
        for each in result["systems"]
    ]
    columns = ("system", "one query", f"{run['queries']} at once", "queries/s", "gain", f"recall@{k}")
    return (
        table(columns, rows)
        + f"\nThe {k} nearest of {run['rows']:,} rows of {run['dim']} dimensions, exactly, on warm caches, on "
        f"{machine['cores']} cores ({machine['cpu']}). Gain is the median time of one query times "
        f"{run['queries']}, over the time of all at once. * asked one after the other. "
        "In full: [benchmarks/REPORT.md](benchmarks/REPORT.md).\n"
    )


def section(file_name: str, result: Result) -> str:
    """One run in full; `file_name` is that of its result."""
    return "\n".join([_origin(file_name, result), _many(result), _single(result), left_out(result)])


def _origin(file_name: str, result: Result) -> str:
    run, process = result["parameters"], result["process"]
    lines = (
        f"data: {run['rows']:,} rows of {run['dim']} dimensions, seed {run['seed']}; the queries are {run['queries']} "
        f"text embeddings that the data does not hold, seed {run['query_seed']}; k = {run['k']}",
        f"the run took {process['seconds']:.0f} s and at most {size(process['peak_memory_bytes'])} of memory; "
        f"{load_average(result)}",
    )
    return opening(file_name, result, lines)


def _many(result: Result) -> str:
    ours, run = result["systems"][0], result["parameters"]
    return (
        f"### Many queries at once\n\nEach system was asked in {run['rounds']} rounds; medians.\n\n"
        f"![Queries a second, one at a time and at once]({result['run']}.svg)\n\n"
        + short_table(result)
        + f"\nOf {run['queries']} queries, {ours['same_answers']} had the same rows in the same order from "
        f"{ours['label']} one at a time and at once; float32 cannot tell apart the distances where others differ.\n"
    )


def _single(result: Result) -> str:
    memory = [
        (
            f"memory, {threads} thread{'s' if int(threads) > 1 else ''}",
            f"{_rate(each['read_bytes_per_second'])} read, {_rate(each['copy_bytes_per_second'])} copied",
        )
        for threads, each in result["memory"].items()
    ]
    scans = [
        (
            each["label"],
            f"{_rate(each['scan_bytes_per_second'])}: {size(each['scanned_bytes'])} in {milliseconds(each['p50_ms'])}",
        )
        for each in result["systems"]
    ]
    return (
        "### One query, and what the memory gives\n\nBytes of vectors over the median time of one query; and a NumPy "
        "array larger than any cache, read once or copied (bytes read and written), best of five.\n\n"
        + table(("what", "bytes a second"), [*scans, *memory])
    )


def _seconds(system: Mapping[str, Any]) -> str:
    return f"{system['batch_seconds']:.2f} s{'' if system['batch_measured'] else '*'}"


def _rate(value: float) -> str:
    return f"{value / 1e9:.1f} GB/s"
