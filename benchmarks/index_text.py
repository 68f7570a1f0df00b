"""The result of an index run as Markdown, as `text` does it for search. Pure: text out of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.index_figures import (
    MEASURES,
    TARGETS,
    Result,
    SystemResult,
    extra_disk,
    mapped_bytes,
    named,
    p50_at,
    process_bytes,
    resident_bytes,
)
from benchmarks.loading_figures import duration
from benchmarks.text import left_out, milliseconds, opening, size, table

_OURS = "cliphouse_ivf"
_KINDS = ("text", "image")
_NOT_REACHED = "not reached"


def short_table(result: Result) -> str:
    """Every system at the recall asked, and what it takes to have it; and what that is."""
    run, machine, recall = result["parameters"], result["machine"], result["parameters"]["recall"]
    rows = [
        (
            each["label"],
            *(_latency(p50_at(each, kind, recall)) for kind in _KINDS),
            duration(each["build"]["build_seconds"]) if _has_index(each) else "none",
            size(process_bytes(each)),
            size(each["build"]["beside_bytes"]) if _has_index(each) else "none",
        )
        for each in result["systems"]
    ]
    return (
        table(("system", "text query, p50", "image query, p50", "build", "memory", "disk beside the vectors"), rows)
        + f"\nThe {run['k']} nearest of {run['rows'] * run['shards']:,} pictures, for held-out captions and pictures, "
        f"one at a time, at recall@{run['k']} of {recall:g} (interpolated between the efforts tried), on "
        f"{machine['cores']} cores ({machine['cpu']}), files in the page cache. Memory is what the process holds that "
        "searches, the program itself included.\n"
    )


def plot_link(result: Result) -> str:
    """The plot, for a page in docs."""
    return f"![Recall against latency, by system](../benchmarks/{result['run']}.svg)\n"


def targets_table(result: Result) -> str:
    """What was asked of the ivf index, and whether it is so."""
    run = result["parameters"]
    rows = [
        (
            TARGETS[each["name"]][0],
            f"{'at least' if TARGETS[each['name']][1] else 'at most'} {_figure(each['name'], each['asked'])}",
            "-" if each["measured"] is None else _figure(each["name"], each["measured"]),
            {True: "yes", False: "no", None: "not measured"}[each["met"]],
        )
        for each in result["targets"]
    ]
    before = result.get("grown_from")
    compared = f" The run of fewer rows is {before['run']} of commit {before['commit'][:12]}." if before else ""
    return (
        table(("ivf", "asked", "measured", "met"), rows)
        + f"\nRecall@{run['k']} asked: {run['recall']:g}, on text queries; ratios are of medians.{compared}\n"
    )


def standing_table(result: Result) -> str:
    """For each measure, which index takes least, and where the ivf index stands among them."""
    recall, ours = result["parameters"]["recall"], named(result, _OURS)
    indexes = [each for each in result["systems"] if _has_index(each)]
    rows = []
    for name, value_of in MEASURES:
        values = {each["label"]: value_of(each, recall) for each in indexes}
        order = sorted((value, label) for label, value in values.items() if value is not None)
        label = ours["label"] if ours else ""
        mine = values.get(label)
        place = f"{1 + sum(value < mine for value, _ in order)} of {len(indexes)}" if mine is not None else "-"
        least = f"{order[0][1]}, {_measure(name, order[0][0])}" if order else _NOT_REACHED
        ratio = f"{mine / order[0][0]:.1f} times the least" if mine is not None and order[0][0] > 0 else "-"
        rows.append((name, least, _measure(name, mine) if ours else "-", place, ratio))
    return (
        table(("measure", "least", "cliphouse ivf", "place", "that is"), rows)
        + f"\nAmong the systems with an index; queries at recall {recall:g}, the median; disk is what is there beside "
        "the vectors.\n"
    )


def recalls_table(result: Result) -> str:
    """The median time of each system at several recalls, for both kinds of queries."""
    recalls = result["parameters"]["recalls"]
    rows = [
        (each["label"], *(_latency(p50_at(each, kind, recall)) for kind in _KINDS for recall in recalls))
        for each in result["systems"]
    ]
    return table(("system", *(f"{kind}, {recall:g}" for kind in _KINDS for recall in recalls)), rows)


def filters_table(result: Result) -> str:
    """Searches with a condition, with the first effort that reaches the recall asked where there is none."""
    rows = [row for each in result["systems"] for row in _filtered(each, [_enough(each, result)])]
    return (
        table(("system", "effort", "rows that pass", "recall", "p50", "p90", "answered by"), rows)
        + "\n"
        + _share(result)
    )


def section(file_name: str, result: Result) -> str:
    """One run in full; `file_name` is that of its result."""
    parts = (_origin, _efforts, _equal, _cost, _filters, _targets, _when, left_out, _data)
    return "\n".join([_origin(file_name, result), *(part(result) for part in parts[1:])])


def _origin(file_name: str, result: Result) -> str:
    run, process = result["parameters"], result["process"]
    lines = [
        f"data: {run['shards']} x {run['rows']:,} rows of {run['dim']} dimensions, seed {run['seed']}; the queries are "
        f"{run['queries']} captions and {run['queries']} pictures that the data does not hold, seed "
        f"{run['query_seed']}; k = {run['k']}",
        f"the processes took {duration(process['seconds'])} together; load average at most "
        f"{process['load_average_before']:.2f} when one began, {process['load_average_after']:.2f} when it ended",
    ]
    if result["mixed"]:
        lines.append(f"not all was measured in the same way: {'; '.join(result['mixed'])}")
    return opening(file_name, result, lines)


def _efforts(result: Result) -> str:
    run = result["parameters"]
    rows = [
        (
            each["label"],
            _named(effort["effort"]),
            *(
                text
                for kind in _KINDS
                for text in (
                    f"{effort[kind]['recall']:.3f}",
                    *(milliseconds(effort[kind][f"{measure}_ms"]) for measure in ("p50", "p90", "p99")),
                )
            ),
        )
        for each in result["systems"]
        for effort in each["efforts"]
    ]
    header = ("system", "effort", *(f"{kind}, {what}" for kind in _KINDS for what in ("recall", "p50", "p90", "p99")))
    return (
        f"### Recall and latency\n\nEach system in a process of its own, one query at a time, in {run['rounds']} "
        f"rounds that every system takes part in, after {run['warm_up']} queries of each kind to warm up. From the "
        "vector to the answer as Python objects: ids with address and caption where the system stores them, which the "
        f"table above says. Recall@{run['k']} is the share of the rows found whose true distance, in float64 from the "
        f"float16 source, is no more than the {run['k']}th true one.\n\n"
        f"![Recall against latency, by system]({result['run']}.svg)\n\n" + table(header, rows)
    )


def _equal(result: Result) -> str:
    return (
        "### At equal recall\n\nThe median time at which each system's curve reaches a recall, interpolated between "
        "the efforts that no other one beats in both (time against what is missed, both by their logarithms); less "
        "is better.\n\n" + recalls_table(result)
    )


def _cost(result: Result) -> str:
    rows = [
        (
            each["label"],
            f"{each['build']['load_seconds']:.1f} s",
            f"{each['build']['build_seconds']:.1f} s" if _has_index(each) else "none",
            f"{each['build']['cpu_seconds']:.0f} s",
            size(each["build"]["peak_bytes"]),
            size(each["build"]["vector_bytes"]),
            size(each["build"]["index_bytes"]) if _has_index(each) else "none",
            size(each["build"]["beside_bytes"]) if _has_index(each) else "none",
            size(process_bytes(each)),
            size(resident_bytes(each)),
            size(mapped_bytes(each)),
        )
        for each in result["systems"]
    ]
    ivf = named(result, _OURS)
    extra = f" The index of cliphouse ivf is one more copy and {extra_disk(ivf):.1%} of it." if ivf else ""
    small = result["parameters"]["small_rows"]
    return (
        "### What an index takes\n\nRows enter, then the index is built, until it is on the disk; processor time and "
        "memory are of both, seen from outside. Vectors: one copy as the system stores it. Beside: what is on the disk "
        f"because of the index and is not the first copy of the vectors.{extra} Memory of the process after its "
        "searches, and how much of that came after the same process had searched "
        f"{small:,} rows without an index; neither has pages of mapped files in it, which are a column of their own, "
        "because the system takes them back when others need the room; medians.\n\n"
        + table(
            (
                "system", "load", "build", "processor", "peak memory", "vectors", "index", "beside", "memory",
                "of it the index", "mapped",
            ),
            rows,
        )
    )  # fmt: skip


def _filters(result: Result) -> str:
    rows = [row for each in result["systems"] for row in _filtered(each, each["efforts"])]
    return (
        "### With a filter\n\nText queries with a condition. An index that gives too few rows is not believed, and "
        "the search is done again exactly; what answered is in the last column.\n\n"
        + table(("system", "effort", "rows that pass", "recall", "p50", "p90", "answered by"), rows)
        + "\n"
        + _share(result)
    )


def _targets(result: Result) -> str:
    return "### What was asked\n\n" + targets_table(result)


def _when(result: Result) -> str:
    rows = [
        (
            each["label"],
            one["phase"],
            f"{one['commit'][:12]}{' and changes' if one['dirty'] else ''}",
            one["started"],
            one["ended"],
            f"{one['load_average_before']:.2f}",
            f"{one['load_average_after']:.2f}",
        )
        for each in result["systems"]
        for one in each["measured"]
    ]
    return "### When\n\n" + table(("system", "what", "commit", "from", "to", "load before", "load after"), rows)


def _data(result: Result) -> str:
    files = [(name, f"{each['bytes']:,}", f"`{each['sha256']}`") for name, each in result["data"].items()]
    return "### Data\n\n" + table(("file", "bytes", "SHA-256"), files)


def _filtered(system: SystemResult, efforts: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            system["label"],
            _named(effort["effort"]),
            name,
            f"{found['recall']:.3f}",
            milliseconds(found["p50_ms"]),
            milliseconds(found["p90_ms"]),
            ", ".join(f"{path} {count / found['calls']:.0%}" for path, count in sorted(found["paths"].items())),
        )
        for effort in efforts
        for name, found in effort["filters"].items()
    ]


def _share(result: Result) -> str:
    told = ", ".join(f"`{each['where']}` {each['share']:.2%}" for each in result["filters"].values())
    return f"Rows that pass: {told}.\n"


def _enough(system: SystemResult, result: Result) -> Mapping[str, Any]:
    """The first effort that reaches the recall asked, or the last."""
    wanted = result["parameters"]["recall"]
    efforts: Any = system["efforts"]
    return next((effort for effort in efforts if effort["text"]["recall"] >= wanted), efforts[-1])


def _has_index(system: SystemResult) -> bool:
    return bool(system["build"]["build_seconds"])


def _named(effort: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in effort.items()) or "all rows"


def _latency(value: float | None) -> str:
    return _NOT_REACHED if value is None else milliseconds(value)


def _measure(name: str, value: float | None) -> str:
    if value is None:
        return _NOT_REACHED
    return {"build": duration, "memory": size, "disk": size}.get(name, milliseconds)(value)


def _figure(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return size(value)
    return f"{value:.1%}" if name == "extra_disk" else f"{value:.3g}"
