"""The encoder benchmark without its encoders: what is asked, what is timed, and what a result reads like."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import encoder_inputs, encoders, report
from benchmarks.encoder_systems import SYSTEMS, TASKS, Loaded, timed
from benchmarks.files import read_parameters
from cliphouse.encoders import open_image

RUN = encoders.Run(**read_parameters("encoders"))
SMALL = replace(RUN, rounds=2, batch=3, pictures=4, sample=2, width=80, height=80)


def test_captions_differ_and_have_all_lengths_alike() -> None:
    drawn = encoder_inputs.captions(650, seed=1)
    assert len(set(drawn)) == 650
    assert drawn == encoder_inputs.captions(650, seed=1) != encoder_inputs.captions(650, seed=2)
    lengths = Counter(len(caption.split()) for caption in drawn)
    assert sorted(lengths) == list(range(3, 16))
    assert min(lengths.values()) > 25


def test_pictures_are_jpeg_files_of_the_size_asked_for() -> None:
    files = encoder_inputs.pictures(2, seed=1, width=640, height=480)
    assert [open_image(file).size for file in files] == [(640, 480)] * 2
    assert files[0] != files[1]
    assert files == encoder_inputs.pictures(2, seed=1, width=640, height=480)


def test_no_text_is_asked_twice() -> None:
    inputs = encoders.Inputs.draw(SMALL)
    asked = [*inputs.sample, *inputs.cold]
    for number in range(1 + SMALL.rounds):
        for task in ("text", "texts"):
            calls = inputs.calls(SMALL, task, number)
            assert len(calls) == SMALL.calls[task]
            asked += [text for call in calls for text in call]
    assert len(set(asked)) == len(asked)
    assert {len(call) for call in inputs.calls(SMALL, "pictures", 1)} == {SMALL.batch}
    assert inputs.calls(SMALL, "tower", 0) != inputs.calls(SMALL, "tower", 1)


def test_a_run_that_leaves_out_a_task_is_refused() -> None:
    with pytest.raises(ValueError, match="tower"):
        replace(RUN, calls={"text": 1})
    with pytest.raises(ValueError, match="encoders"):
        replace(RUN, kind="search")


def test_each_task_runs_what_it_is_called_for() -> None:
    seen: list[tuple[str, Any]] = []

    def note(what: str) -> Any:
        return lambda given: seen.append((what, given)) or "prepared"

    loaded = Loaded(
        threads=1, texts=note("texts"), pictures=note("pictures"), prepare=note("prepare"), tower=note("tower")
    )
    for task in TASKS:
        assert len(timed(loaded, task, [[task]])) == 1
    assert seen == [
        ("texts", ["text"]),
        ("texts", ["texts"]),
        ("pictures", ["picture"]),
        ("pictures", ["pictures"]),
        ("prepare", ["tower"]),
        ("tower", "prepared"),
    ]


def test_agreement_is_told_apart_for_texts_and_pictures() -> None:
    ours = np.zeros((4, 2), np.float32)
    theirs = ours + np.array([[0.1, 0], [0, -0.2], [0.3, 0], [0, 0]], np.float32)
    found = encoders.agreement({"cliphouse": ours, "open_clip": theirs}, 2)
    assert found == {"text_difference": pytest.approx(0.2), "image_difference": pytest.approx(0.3)}


def test_a_cold_start_is_its_stages_and_the_interpreter() -> None:
    told = [
        {"seconds": seconds, "stages": {"import": 0.5, "open": 0.25, "first": 0.125}, "new_ms": [10.0, 30.0]}
        for seconds in (1.0, 1.25, 2.0)
    ]
    found = encoders.describe_cold(told)
    assert found["median_s"] == 1.25
    assert found["stages_s"] == {"python": 0.375, "import": 0.5, "open": 0.25, "first": 0.125}
    assert found["searches"]["new"]["calls"] == 6
    assert found["searches"]["new"]["p50_ms"] == 20
    assert "repeated" not in found["searches"]


def _result() -> dict[str, Any]:
    """A result in which open_clip takes 100 ms for anything, cliphouse 25 ms, and its variant 12.5 ms."""
    took = {"cliphouse": 25.0, "cliphouse_int8": 12.5, "open_clip": 100.0}
    stages = {"import": 0.5, "open": 0.25, "first": 0.25}
    systems = []
    for name, ms in took.items():
        cold: dict[str, Any] = {"seconds": ms / 20, "stages": stages}
        if name != "open_clip":
            cold |= {"new_ms": [ms], "repeated_ms": [3.0]}
        systems.append(
            {
                "name": name,
                "label": SYSTEMS[name].label,
                "note": SYSTEMS[name].note,
                "threads": 2,
                "peak_memory_bytes": 1_500_000_000,
                "tasks": {task: encoders.describe([ms, ms], RUN.size(task)) for task in TASKS},
                "cold": encoders.describe_cold([cold]),
            }
        )
    return {
        "run": "encoders",
        "kind": "encoders",
        "date": "2026-01-01T00:00:00+00:00",
        "commit": "0123456789abcdef",
        "dirty": False,
        "machine": {"cpu": "a processor", "cores": 2, "memory_bytes": 16_000_000_000, "os": "Linux"},
        "versions": {"torch": "2.0"},
        "parameters": asdict(RUN),
        "inputs": {"mean_words": 9, "mean_tokens": 13, "mean_jpeg_bytes": 74_000},
        "made": {
            "collection": {"rows": 10_000, "dim": 512, "storage": "bfloat16"},
            "torch_difference": 1.5e-7,
            "file_bytes": {"text.onnx": 250e6, "int8 text.onnx": 140e6, "checkpoint": 600e6},
        },
        "agreement": {"text_difference": 1e-7, "image_difference": 2e-7},
        "systems": systems,
        "process": {"seconds": 300, "load_average_before": 0.1, "load_average_after": 1.9},
    }


def test_results_of_both_kinds_become_one_report_and_their_tables(tmp_path: Path) -> None:
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    search = next((report.ROOT / "benchmarks" / "results").glob("exact-1m-*.json"))
    (results / search.name).write_text(search.read_text())
    (results / "encoders-0123456789ab.json").write_text(json.dumps(_result()))
    blocks = [f"<!-- benchmark:{run} -->\n<!-- /benchmark -->\n" for run in ("encoders", "exact-1m")]
    (tmp_path / "README.md").write_text("".join(blocks))
    texts = report.render(tmp_path, report.newest_results(results))
    readme, whole = texts[tmp_path / "README.md"], texts[tmp_path / "benchmarks" / "REPORT.md"]
    assert "| cliphouse | 25.0 ms (4.0x) | 25.0 ms (4.0x) | 1,280 | 1,280 | 1.25 s |" in readme
    assert "| open_clip | 100 ms (1.0x) | 100 ms (1.0x) | 320 | 320 | 5.00 s |" in readme
    assert "recall@10" in readme
    assert [line for line in whole.splitlines() if line.startswith("## ")] == [
        f"## {RUN.title}",
        "## Exact search over 1,000,448 pictures",
    ]
    assert "| cliphouse, int8 | 12.5 ms | 12.5 ms | 3.00 ms | 3.00 ms |" in whole
    assert "1.0e-07 for texts and 2.0e-07 for pictures" in whole
