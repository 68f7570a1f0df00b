"""`cliphouse plan` as a user sees it, and the machine it finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cliphouse.cost_model import measured_hardware
from cliphouse.hardware import detect, disk_speed, machine

#: A machine given in full: nothing is measured.
GIVEN = ("--cores", 8, "--memory", "64GiB", "--disk-read", "2GB/s", "--disk-write", "1GB/s")


def planned(cliphouse: Callable[..., Any], *options: object) -> dict[str, Any]:
    outcome = cliphouse("plan", *options, *GIVEN, "--format", "json")
    assert outcome.code == 0, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def test_a_plan_for_people_says_what_to_choose_and_why(cliphouse: Callable[..., Any]) -> None:
    outcome = cliphouse("plan", "--rows", "400M", *GIVEN)
    assert outcome.code == 0, outcome.err
    first, *lines, last = outcome.out.splitlines()
    assert first == (
        "400,000,000 rows of 512 dimensions on 1 machine of 8 cores, 64.0 GiB, a disk that reads 2.0 GB/s and "
        "writes 1.0 GB/s"
    )
    assert [line.split()[0] for line in lines[1:4]] == ["exact", "hnsw", "ivf"]
    assert lines[4].startswith("hnsw cannot be had: its graph takes 578.9 GiB of memory")
    assert last.startswith("choose ivf: an exact scan of 400,000,000 rows takes")


def test_what_the_figures_do_not_cover_is_said(cliphouse: Callable[..., Any]) -> None:
    assert "here 12.5 a cluster, and on 40 in the runs" in cliphouse("plan", "--rows", "400M", *GIVEN).out
    assert "a cluster" not in cliphouse("plan", "--rows", "30M", *GIVEN).out


def test_a_recall_of_one_names_no_effort_that_cannot_be(cliphouse: Callable[..., Any]) -> None:
    outcome = cliphouse("plan", "--rows", "1M", "--recall", 1, *GIVEN)
    assert "ef_search" not in outcome.out
    assert planned(cliphouse, "--rows", "1M", "--recall", 1)["costs"]["hnsw"]["effort"] is None


def test_a_speed_that_was_measured_is_marked(cliphouse: Callable[..., Any], tmp_path: Path) -> None:
    given = ("--rows", "1M", "--place", tmp_path, "--disk-read", "2GB/s")
    first = cliphouse("plan", *given).out.splitlines()[0]
    assert "reads 2.0 GB/s and writes" in first
    assert first.endswith("GB/s (measured here)")


def test_lists_that_take_too_long_to_build_are_not_advised(cliphouse: Callable[..., Any]) -> None:
    options = ("--rows", "5.85B", "--dim", 768)
    assert "days to build, and on" in cliphouse("plan", *options, *GIVEN).out.splitlines()[-1]
    assert planned(cliphouse, *options)["choice"]["kind"] == "exact"
    assert planned(cliphouse, *options, "--machines", 20)["choice"]["kind"] == "ivf"


def test_a_plan_for_programs_divides_the_rows(cliphouse: Callable[..., Any]) -> None:
    found = planned(cliphouse, "--rows", "5.85B", "--dim", 768, "--machines", 20, "--recall", 0.9)
    assert found["rows"] == 5_850_000_000
    assert found["rows_a_machine"] == 292_500_000
    assert found["hardware"] == {"cores": 8, "memory_bytes": 64 * 2**30, "disk_read": 2e9, "disk_write": 1e9}
    exact = found["costs"]["exact"]
    assert exact["total_disk_bytes"] == 20 * exact["disk_bytes"] > 5.85e9 * 768 * 4
    assert found["choice"]["kind"] == "ivf"
    assert found["model"]["commits"]
    one = planned(cliphouse, "--rows", "5.85B", "--dim", 768)
    assert one["load_seconds"] > 15 * found["load_seconds"]


@pytest.mark.parametrize(
    ("written", "rows"),
    [("1000448", 1_000_448), ("1,000,448", 1_000_448), ("400M", 400_000_000), ("5.85b", 5_850_000_000), ("1e6", 10**6)],
)
def test_rows_are_read_as_people_write_them(cliphouse: Callable[..., Any], written: str, rows: int) -> None:
    assert planned(cliphouse, "--rows", written)["rows"] == rows


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rows", "many"), "'many' is no number of rows; write for example 400M"),
        (("--rows", "0"), "'0' is no number of rows"),
        (("--rows", "1M", "--memory", "64 cups"), "'64 cups' is no size; write for example 64GiB or 256GB"),
        (("--rows", "1M", "--memory", "2GB/s"), "'2GB/s' is no size"),
        (("--rows", "1M", "--disk-read", "fast"), "'fast' is no speed; write for example 2GB/s or 500MB/s"),
        (("--rows", "99999T"), "rows must be from 1 to"),
    ],
)
def test_what_is_no_number_is_refused(cliphouse: Callable[..., Any], options: tuple[str, ...], said: str) -> None:
    outcome = cliphouse("plan", *options)
    assert outcome.code == 2
    assert said in outcome.err


def test_the_disk_of_the_place_is_measured_and_nothing_stays_there(tmp_path: Path) -> None:
    write, read = disk_speed(tmp_path, size=8 * 2**20)
    assert write > 0
    assert read > 0
    assert list(tmp_path.iterdir()) == []
    found, measured = detect(tmp_path / "not" / "there")
    assert measured
    assert list(tmp_path.iterdir()) == []
    assert (found.cores, found.memory_bytes) == (machine().cores, machine().memory_bytes)


def test_a_disk_without_room_is_taken_to_be_that_of_the_model(small_disk: Path, cliphouse: Callable[..., Any]) -> None:
    found, measured = detect(small_disk)
    assert not measured
    assert found.disk_read == measured_hardware().disk_read
    assert list(small_disk.iterdir()) == []
    outcome = cliphouse("plan", "--rows", "1M", "--place", small_disk)
    assert outcome.code == 0, outcome.err
    assert "a disk that cannot be measured here" in outcome.out
