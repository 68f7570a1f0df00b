"""What the run of many queries at once says of its result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import exact, exact_plot, exact_text, report
from benchmarks.files import read_parameters


def result() -> dict[str, Any]:
    run = read_parameters("many-1m")
    system = {
        "label": "cliphouse exact", "name": "cliphouse", "note": "ours", "scanned_bytes": 2e9,
        "p50_ms": 100.0, "scan_bytes_per_second": 2e10, "batch_measured": True, "batch_seconds": 0.5,
        "batch_gain": 20.0, "recall_at_10": 0.99, "batch_recall_at_10": 0.98, "same_answers": 99,
    }  # fmt: skip
    slow = system | {"label": "slow", "name": "duckdb", "batch_measured": False, "batch_seconds": 50, "batch_gain": 1.0}
    bandwidth = {"read_bytes_per_second": 3e10, "copy_bytes_per_second": 2e10}
    return {
        "run": "many-1m", "kind": "exact", "date": "2026-01-01", "commit": "c" * 40, "dirty": False,
        "versions": {"a": "1"}, "machine": {"cpu": "cpu", "cores": 2, "memory_bytes": 1, "os": "os"}, "parameters": run,
        "memory": {"1": bandwidth, "2": bandwidth}, "systems": [system, slow],
        "process": {"seconds": 1, "peak_memory_bytes": 1, "load_average_before": 0, "load_average_after": 0},
    }  # fmt: skip


def test_the_report_has_the_gain_and_the_memory_beside_the_scan(tmp_path: Path) -> None:
    text = report.report([(Path("many-1m-c.json"), result())])
    assert "| cliphouse exact | 100 ms | 0.50 s | 200 | 20.0x | 0.980 |" in text
    assert "| slow | 100 ms | 50.00 s* | 2 | 1.0x | 0.980 |" in text
    assert "| memory, 2 threads | 30.0 GB/s read, 20.0 GB/s copied |" in text
    assert "| cliphouse exact | 20.0 GB/s: 2.00 GB in 100 ms |" in text
    assert exact_text.short_table(result()) in text
    pytest.importorskip("matplotlib")
    exact_plot.draw(result(), tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_the_committed_run_is_one() -> None:
    parameters = read_parameters("many-1m")
    assert exact.Run(**parameters).queries == 100
    with pytest.raises(ValueError, match="kind"):
        exact.Run(**(parameters | {"kind": "search"}))
