"""The result of an encoder run as Markdown, as `text` does it for search. Pure: text out of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.encoder_inputs import FEWEST_WORDS, MOST_WORDS
from benchmarks.text import Result, left_out, load_average, milliseconds, opening, size, table

#: The system that the others' speed is told by.
_YARDSTICK = "open_clip"
_MEASURES = ("p50", "p90", "p99", "min", "mean")
_STAGES = {"python": "Python itself", "import": "imports", "open": "opening", "first": "first answer"}


def short_table(result: Result) -> str:
    """The table for README.md, and what it is."""
    run, machine, made = result["parameters"], result["machine"], result["made"]
    rows = [
        (
            each["label"],
            _with_speed(each, result, "text"),
            _with_speed(each, result, "picture"),
            _rate(each, "texts"),
            _rate(each, "pictures"),
            _seconds(each["cold"]["median_s"]),
        )
        for each in result["systems"]
    ]
    return (
        table(("encoder", "one text", "one picture", "texts/s", "pictures/s", "cold start"), rows)
        + f"\nCLIP ViT-B/32 on {run['threads']} threads of {machine['cores']} cores ({machine['cpu']}), all from the "
        "same weights, which are random: values do not change the speed. Medians, from texts and JPEG files to "
        f"vectors, one at a time and in batches of {run['batch']}. Cold start is from the start of a Python process "
        f"to the hits of a text among {made['collection']['rows']:,} rows; for open_clip, which searches nothing, to "
        "the text's vector. What int8 costs in quality depends on the real weights. In full: "
        "[benchmarks/REPORT.md](benchmarks/REPORT.md).\n"
    )


def section(file_name: str, result: Result) -> str:
    """One run in full; `file_name` is that of its result."""
    return "\n".join(
        [
            _origin(file_name, result),
            _one_at_a_time(result),
            _batches(result),
            _cold_start(result),
            _agreement(result),
            left_out(result),
        ]
    )


def _origin(file_name: str, result: Result) -> str:
    run, inputs = result["parameters"], result["inputs"]
    lines = (
        f"threads: {run['threads']} in each system; each runs in a process of its own, one at a time",
        f"weights: {run['encoder']}, random, seed {run['seed']}, the same in all systems",
        f"data: captions of {FEWEST_WORDS} to {MOST_WORDS} words, each asked once, {inputs['mean_words']:.1f} words or "
        f"{inputs['mean_tokens']:.1f} tokens on average; {run['pictures']} JPEG files of {run['width']} x "
        f"{run['height']}, {inputs['mean_jpeg_bytes'] / 1e3:.0f} kB on average",
        f"the run took {result['process']['seconds']:.0f} s; {load_average(result)}",
    )
    return opening(file_name, result, lines)


def _one_at_a_time(result: Result) -> str:
    run = result["parameters"]
    parts = [
        "### One text, one picture\n\n"
        f"In {run['rounds']} rounds that every system takes part in, after one that is not counted. A text is timed "
        "from the string to its unit vector, tokens included; a picture from the JPEG file in memory, decoding "
        "included. Speed is by the median, that of open_clip being 1.\n\n"
        f"![Latencies, rates and cold starts, by system]({result['run']}.svg)\n"
    ]
    for task in ("text", "picture"):
        rows = [
            (
                each["label"],
                *(milliseconds(each["tasks"][task][f"{measure}_ms"]) for measure in _MEASURES),
                _speed(each, result, task),
                str(each["tasks"][task]["calls"]),
            )
            for each in result["systems"]
        ]
        parts.append(table((f"one {task}", *_MEASURES, "speed", "calls"), rows))
    return "\n".join(parts)


def _batches(result: Result) -> str:
    batch = result["parameters"]["batch"]
    tasks = ("texts", "pictures", "tower")
    rows = [
        (
            each["label"],
            *(f"{_rate(each, task)} ({_speed(each, result, task)})" for task in tasks),
            size(each["peak_memory_bytes"]),
        )
        for each in result["systems"]
    ]
    return (
        f"### Batches of {batch}\n\nTexts or pictures a second, by the median batch; in parentheses the speed, that of "
        "open_clip being 1. The tower alone takes pictures that were decoded and prepared before. Memory is the most "
        "that the process held, with both towers loaded.\n\n"
        + table(("system", "texts/s", "pictures/s from JPEG", "pictures/s, tower alone", "peak memory"), rows)
    )


def _cold_start(result: Result) -> str:
    run, made, files = result["parameters"], result["made"], result["made"]["file_bytes"]
    rows = [
        (
            each["label"],
            _seconds(each["cold"]["median_s"]),
            *(_seconds(each["cold"]["stages_s"][stage]) for stage in _STAGES),
            f"{_seconds(min(each['cold']['seconds']))} to {_seconds(max(each['cold']['seconds']))}",
        )
        for each in result["systems"]
    ]
    searching = [each for each in result["systems"] if each["cold"]["searches"]]
    searches = [
        (each["label"], *(milliseconds(each["cold"]["searches"][kind][f"{measure}_ms"]) for kind in ("new", "repeated")
                          for measure in ("p50", "p90")))
        for each in searching
    ]  # fmt: skip
    counted = searching[0]["cold"]["searches"]["new"]["calls"]
    return (
        "### Cold start\n\n"
        f"From the start of a Python process to its first answer: medians of {run['cold']['starts']} starts, files in "
        "the page cache. cliphouse opens an embedded collection of "
        f"{made['collection']['rows']:,} rows of {made['collection']['dim']} dimensions and prints the 10 hits of a "
        f"text, for which it loads the text tower alone ({size(files['text.onnx'])}, as int8 "
        f"{size(files['int8 text.onnx'])}); open_clip makes its model from the checkpoint "
        f"({size(files['checkpoint'])}) and encodes a text, with nothing to search.\n\n"
        + table(("system", "cold start", *_STAGES.values(), "range"), rows)
        + f"\n`Collection.search` in those processes afterwards: {counted} texts, each new, then each again, when its "
        "vector is remembered.\n\n" + table(("system", "new text, p50", "p90", "same text again, p50", "p90"), searches)
    )


def _agreement(result: Result) -> str:
    agreement = result["agreement"]
    return (
        "### Do they compute the same?\n\n"
        "The largest difference in any number of a unit vector to open_clip's, with the same weights: "
        f"{agreement['text_difference']:.1e} for texts and {agreement['image_difference']:.1e} for pictures from their "
        f"files; {result['made']['torch_difference']:.1e} when the encoder was made and checked. The int8 variant is "
        "not compared: with random weights the figure would say nothing of a real model. "
        "`cliphouse encoder quantize` measures it on your own sample.\n"
    )


def _with_speed(system: Mapping[str, Any], result: Result, task: str) -> str:
    return f"{milliseconds(system['tasks'][task]['p50_ms'])} ({_speed(system, result, task)})"


def _speed(system: Mapping[str, Any], result: Result, task: str) -> str:
    yardstick = next(each for each in result["systems"] if each["name"] == _YARDSTICK)
    return f"{yardstick['tasks'][task]['p50_ms'] / system['tasks'][task]['p50_ms']:.1f}x"


def _rate(system: Mapping[str, Any], task: str) -> str:
    rate = system["tasks"][task]["items_per_second"]
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s"
