"""The result of a search run as Markdown: a small table for README.md, and a section of REPORT.md.

Pure: text out of numbers. What is said of every run in the same words is here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]

#: The system that the others' speed is told by.
_YARDSTICK = "tutorial"
#: Differences in the last bits of float64 are not worth a figure.
_FLOAT64_NOISE = 1e-14


def short_table(result: Result) -> str:
    """The table for README.md, and two sentences that say what it is."""
    run, machine, k = result["parameters"], result["machine"], result["parameters"]["k"]
    rows = [
        (
            each["label"],
            milliseconds(each["p50_ms"]),
            milliseconds(each["p90_ms"]),
            _speed(each, result),
            f"{each[f'recall_at_{k}']:.3f}",
            f"{size(each['vector_bytes'])} {_place(each)}",
        )
        for each in result["systems"]
    ]
    return (
        table(("system", "p50", "p90", "speed", f"recall@{k}", "image embeddings"), rows)
        + f"\nThe {k} nearest of {run['rows']:,} rows of {run['dim']} dimensions, one query at a time on warm caches, "
        f"on {machine['cores']} cores ({machine['cpu']}). From its second search on, cliphouse reads from the engine's "
        "uncompressed cache. Recall is against the float16 source vectors. In full: "
        "[benchmarks/REPORT.md](benchmarks/REPORT.md).\n"
    )


def section(file_name: str, result: Result) -> str:
    """One run in full; `file_name` is that of its result."""
    parts = [
        _origin(file_name, result),
        _latency(result),
        _size(result),
        _loading(result),
        _storage_effect(result),
        left_out(result),
        _sources(result),
    ]
    return "\n".join(parts)


def _origin(file_name: str, result: Result) -> str:
    run, process = result["parameters"], result["process"]
    lines = (
        f"data: {run['rows']:,} rows of {run['dim']} dimensions, seed {run['seed']}; the queries are {run['queries']} "
        f"text embeddings that the data does not hold, seed {run['query_seed']}; k = {run['k']}",
        f"the run took {process['seconds']:.0f} s and at most {size(process['peak_memory_bytes'])} of memory; "
        f"{load_average(result)}",
    )
    return opening(file_name, result, lines)


def _latency(result: Result) -> str:
    run, k, proofs = result["parameters"], result["parameters"]["k"], result["full_scans"]
    asked = sorted({each["distinct_queries"] for each in result["systems"]})
    measures = ("p50", "p90", "p99", "min", "mean")
    rows = [
        (
            each["label"],
            *(milliseconds(each[f"{measure}_ms"]) for measure in measures),
            _speed(each, result),
            f"{each[f'recall_at_{k}']:.4f}",
            str(each["measured_queries"]),
        )
        for each in result["systems"]
    ]
    return (
        "### Latency and recall\n\n"
        f"One query at a time, after {run['warm_up']} to warm up, in {run['rounds']} rounds that every system takes "
        f"part in; each was asked {' or '.join(map(str, asked))} different queries. Speed is by the median, that of "
        f"the tutorial table being 1. Recall@{k} is the share of the rows found whose true distance, in float64 from "
        f"the float16 source, is no more than the {k}th true one.\n\n"
        f"![Latency of every query, by system]({result['run']}.svg)\n\n"
        + table(("system", *measures, "speed", f"recall@{k}", "queries"), rows)
        + "\nFrom its second search on, cliphouse keeps the column it searches in the engine's uncompressed cache if "
        f"there is room (here {size(result['process']['uncompressed_cache_bytes'])}). The tutorial's statement knows "
        "nothing of that cache. "
        f"Of {proofs['queries']} queries, {proofs['count']} needed a second scan in full precision, because the fast "
        "scan of bfloat16 vectors could not prove its answer complete.\n"
    )


def _size(result: Result) -> str:
    rows = [
        (each["label"], size(each["vector_bytes"]), size(each["total_bytes"]), _place(each))
        for each in result["systems"]
    ]
    return "### Size\n\n" + table(("system", "image embeddings", "everything kept", "where"), rows)


def _loading(result: Result) -> str:
    labels = {each["name"]: each["label"] for each in result["systems"]}
    rows = [
        (labels[name], f"{each['rows']:,}", f"{each['seconds']:.1f}", f"{each['rows_per_second']:,.0f}")
        for name, each in result["load"].items()
    ]
    return (
        "### Loading\n\nFrom npy and parquet files in the page cache to a searchable table with both embeddings and "
        "all metadata; one load each.\n\n" + table(("system", "rows", "seconds", "rows/s"), rows)
    )


def _storage_effect(result: Result) -> str:
    k = result["parameters"]["k"]
    rows = [
        (
            each["format"],
            _error(each["mean_distance_error"]),
            _error(each["max_distance_error"]),
            f"{each[f'recall_at_{k}']:.4f}",
        )
        for each in result["storage_effect"]
    ]
    return (
        f"### What 16 bits do to distances\n\nError of the cosine distance over the true {k} nearest rows of all "
        "queries, and recall of an exact search by NumPy over vectors so stored. ClickHouse's own conversion "
        "truncates; cliphouse rounds.\n\n" + table(("stored as", "mean error", "largest error", f"recall@{k}"), rows)
    )


def _sources(result: Result) -> str:
    statements = "".join(
        f"{each['label']}:\n\n```sql\n{each['statement']}\n```\n\n" for each in result["systems"] if each["statement"]
    )
    files = [(name, f"{each['bytes']:,}", f"`{each['sha256']}`") for name, each in result["data"].items()]
    return f"### Statements and data\n\n{statements}" + table(("file", "bytes", "SHA-256"), files)


def opening(file_name: str, result: Result, lines: Iterable[str]) -> str:
    """How the section of any run begins: its title, where it comes from, `lines` of its own, and its systems."""
    machine, changed = result["machine"], ", with uncommitted changes" if result["dirty"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    facts = (
        f"run [{result['run']}](runs/{result['run']}.toml), result [{file_name}](results/{file_name})",
        f"commit {result['commit'][:12]}{changed}, {result['date']}",
        f"machine: {machine['cpu']}, {machine['cores']} cores, {size(machine['memory_bytes'])}, {machine['os']}",
        f"versions: {versions}",
        *lines,
    )
    described = table(("system", "what it is"), [(each["label"], each["note"]) for each in result["systems"]])
    return f"## {result['parameters']['title']}\n\n" + "".join(f"- {fact}\n" for fact in facts) + f"\n{described}"


def load_average(result: Result) -> str:
    """What else the machine did."""
    process = result["process"]
    return f"load average before {process['load_average_before']:.2f}, after {process['load_average_after']:.2f}"


def left_out(result: Result) -> str:
    """What a run does not measure, in its own words."""
    return "### Left out, and why\n\n" + "".join(f"- {each}\n" for each in result["parameters"]["left_out"])


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. With more than two columns, all but the first hold figures and stand to the right."""
    rule = "---:" if len(header) > 2 else "---"
    lines = [header, ("---", *[rule] * (len(header) - 1)), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def milliseconds(value: float) -> str:
    """Three significant figures."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} ms"


def size(value: float) -> str:
    """Decimal units: 1 MB is 1,000,000 bytes."""
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def _error(value: float) -> str:
    return "0" if value < _FLOAT64_NOISE else f"{value:.2e}"


def _speed(system: Mapping[str, Any], result: Result) -> str:
    yardstick = next(each for each in result["systems"] if each["name"] == _YARDSTICK)
    return f"{yardstick['p50_ms'] / system['p50_ms']:.1f}x"


def _place(system: Mapping[str, Any]) -> str:
    return f"{'on' if system['place'] == 'disk' else 'in'} {system['place']}"
