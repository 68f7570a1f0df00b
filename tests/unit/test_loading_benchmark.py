"""The loading benchmark: what is watched, what is checked, what is computed, and what a result reads like."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import load_systems, loading, loading_figures, report, tutorial_steps
from benchmarks.files import read_parameters
from benchmarks.load_systems import CLIPHOUSE, PEERS, TUTORIAL
from benchmarks.watch import Sample, disk_bytes, thinned, watch
from cliphouse.schema import METADATA_COLUMNS
from tests.conftest import SHARED
from tests.data import random_unit, write_shard

RUN = loading.Run(**read_parameters("loading"))
linux = pytest.mark.skipif(sys.platform != "linux", reason="it watches /proc")

_PARENT = """
import pathlib, subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
pathlib.Path(sys.argv[2], "written").write_bytes(bytes(3_000_000))
print("done")
"""
_CHILD = """
import hashlib
held = bytes(range(256)) * 600_000  # 154 MB, in use for a while
for _ in range(4):
    hashlib.sha256(held).digest()
"""


@linux
def test_what_a_command_and_its_children_take_is_seen(tmp_path: Path) -> None:
    seen = watch([sys.executable, "-c", _PARENT, _CHILD, str(tmp_path)], every=0.01, directory=tmp_path)
    assert seen.output == "done\n"
    assert seen.peak_rss > seen.peak_anon > 154e6
    assert seen.seconds > seen.samples[-1].seconds > 0
    assert seen.cpu_seconds > 0.05
    assert seen.io["wchar"] >= 3_000_000
    assert 3_000_000 <= seen.peak_disk < 4_000_000
    told = json.loads(json.dumps(seen.as_json(points=5)))
    assert len(told["timeline"]["rss_mb"]) == 5
    assert max(told["timeline"]["anon_mb"]) > 154
    assert "output" not in told


@linux
def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="failed with 3: no room"):
        watch([sys.executable, "-c", "import sys; sys.stderr.write('no room'); sys.exit(3)"], every=0.01)


def test_thinned_samples_keep_the_peaks_and_the_end() -> None:
    samples = [Sample(float(number), number % 97, number % 31) for number in range(1000)]
    kept = thinned(samples, 7)
    assert len(kept) == 7
    assert kept[-1].seconds == 999
    assert [each.seconds for each in kept] == sorted({each.seconds for each in kept})
    assert max(each.rss for each in kept) == 96
    assert max(each.anon for each in kept) == 30
    assert thinned(samples[:7], 7) == samples[:7]


def test_a_file_with_two_names_takes_its_room_once(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "one").write_bytes(bytes(100_000))
    once = disk_bytes(tmp_path)
    os.link(tmp_path / "one", tmp_path / "below" / "two")
    assert disk_bytes(tmp_path) == once >= 100_000


def test_a_run_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="encoders"):
        replace(RUN, kind="encoders")
    with pytest.raises(ValueError, match="rounds and shards must be 1"):
        replace(RUN, rounds=0, shards=0)
    assert RUN.disk_needed(["ten"]) > RUN.disk_needed(["shard"]) > 0
    with pytest.raises(ValueError, match="choose another disk with --scratch"):
        loading.check_room(replace(RUN, rows=10**12), tmp_path, loading.PARTS)
    loading.check_room(replace(RUN, rows=1), tmp_path, ["shard"])


def test_every_system_stores_the_columns_that_cliphouse_has() -> None:
    absent = {"md5", "sha256"}  # no file of LAION-400M has them
    sources = [set(names) for _, names in METADATA_COLUMNS.values() if not absent & set(names)]
    assert all(any(name.lower() in names for names in sources) for name in load_systems.METADATA)
    assert len(load_systems.METADATA) == len(sources)


def test_the_tutorials_steps_are_the_ones_printed() -> None:
    pages = list((SHARED / "seed").glob("*.txt"))
    if not pages:
        pytest.skip("the tutorial's page is not here")
    printed = {line.strip() for line in pages[0].read_text().splitlines()}
    for text in (tutorial_steps.PROCESS, tutorial_steps.create_table(), tutorial_steps.INSERT):
        assert {line.strip() for line in text.splitlines()} <= printed


@pytest.fixture
def bench(tmp_path: Path) -> loading.Bench:
    return loading.Bench(replace(RUN, rows=300, shards=2, points=20), tmp_path)


def _shard(directory: Path, *, seed: int, rows: int = 300) -> Path:
    images, texts = random_unit(rows, 64, seed=seed), random_unit(rows, 64, seed=seed + 1)
    return write_shard(directory, 0, [f"caption {row}" for row in range(rows)], images=images, texts=texts)


@linux
def test_shards_are_loaded_by_the_command_and_checked(bench: loading.Bench, tmp_path: Path) -> None:
    told = loading.load_many(bench, _shard(tmp_path / "in", seed=1))
    assert told["rows"] == told["load"]["rows"] == 600
    assert [each["shard"] for each in told["finished"]] == [0, 1]
    assert told["load"]["table_bytes"] > 300 * 2 * 2 * 64 * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"], "databases go"


@linux
def test_a_database_that_does_not_hold_the_files_is_no_result(bench: loading.Bench, tmp_path: Path) -> None:
    shard, database = _shard(tmp_path / "in", seed=1), tmp_path / "db"
    watch(CLIPHOUSE.command(shard, database), every=0.1)
    assert bench.checked(CLIPHOUSE, shard, database, 1)["rows"] == 300
    with pytest.raises(RuntimeError, match="holds an image_embedding that is not that of its row"):
        bench.checked(CLIPHOUSE, _shard(tmp_path / "other", seed=5), database, 1)
    with pytest.raises(RuntimeError, match="holds 300 rows of 310"):
        bench.checked(CLIPHOUSE, _shard(tmp_path / "more", seed=1, rows=310), database, 1)


def test_the_floor_reads_all_and_writes_what_it_is_told(tmp_path: Path) -> None:
    shard = _shard(tmp_path / "in", seed=1)
    for size in (1000, 1_000_000):
        load_systems.write_floor(shard, tmp_path / "bytes", size)
        assert (tmp_path / "bytes").stat().st_size == size


def _load(seconds: float, **more: Any) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "started": 1e9,
        "cpu_seconds": seconds,
        "sync_seconds": 0.5,
        "peak_rss": 1_200_000_000,
        "peak_anon": 500_000_000,
        "peak_disk": 2_500_000_000,
        "disk_bytes": 2_200_000_000,
        "io": {"rchar": 1, "wchar": 2, "read_bytes": 3, "write_bytes": 4},
        "largest_difference": 0.001,
        "timeline": {"seconds": [1.0, 2.0], "rss_mb": [900.0, 1200.0], "anon_mb": [400.0, 500.0]},
        **more,
    }


def _result() -> dict[str, Any]:
    run = replace(RUN, rows=1_000_000, shards=10)
    moments = [float(second) for second in range(201)]
    timeline = {
        "seconds": moments,
        "rss_mb": [900.0 + (second == 25) for second in moments],
        "anon_mb": [400.0 + second / 20 for second in moments],
    }
    ten = _load(200.0, table_bytes=20_000_000_000, peak_disk=23_000_000_000, timeline=timeline)
    return {
        "run": "loading",
        "kind": "loading",
        "date": "2026-01-01T00:00:00+00:00",
        "commit": "0123456789abcdef",
        "dirty": False,
        "machine": {"cpu": "a processor", "cores": 2, "memory_bytes": 16_000_000_000, "os": "Linux"},
        "versions": {"duckdb": "2.0"},
        "parameters": asdict(run),
        "page_cache": "warm",
        "systems": [{"name": each.name, "label": each.label, "note": each.note} for each in (*PEERS, TUTORIAL)]
        + [{"name": "floor", "label": "floor", "note": "reads and writes"}],
        "data": {
            "img_emb_0.npy": {"bytes": 1_000_000_000, "sha256": "a"},
            "text_emb_0.npy": {"bytes": 1_000_000_000, "sha256": "b"},
            "metadata_0.parquet": {"bytes": 50_000_000, "sha256": "c"},
        },
        "shard": {
            "rows": 1_000_000,
            "loads": {
                "cliphouse": [_load(seconds, table_bytes=2_100_000_000) for seconds in (20.0, 25.0, 40.0)],
                "lancedb": [_load(10.0)] * 3,
                "duckdb": [_load(50.0)] * 3,
                "floor": [_load(4.0)] * 3,
            },
        },
        "tutorial": {
            "rows": 100_000,
            "csv_bytes": 2_000_000_000,
            "steps": {"process": _load(100.0), "insert": _load(10.0)},
            "seconds": 110.0,
            "cliphouse": [_load(3.0), _load(2.0), _load(4.0)],
            "ratio": 110 / 3,
        },
        "ten": {
            "rows": 10_000_000,
            "load": ten,
            "finished": [{"shard": shard, "seconds": 20.0 * (shard + 1)} for shard in range(10)],
        },
        "process": {"seconds": 300, "load_average_before": 0.1, "load_average_after": 1.9},
    }


def test_a_plan_is_in_proportion_to_what_was_measured() -> None:
    ten, all_of_it = (loading_figures.plan(_result(), shards) for shards in (10, 410))
    assert (ten.load_seconds, all_of_it.load_seconds) == (200, 200 * 41)
    assert (ten.table_bytes, all_of_it.table_bytes) == (20e9, 20e9 * 41)
    assert (ten.file_bytes, all_of_it.rows) == (10 * 2.05e9, 410_000_000)
    assert ten.download_seconds == {100_000_000: pytest.approx(1640), 1_000_000_000: pytest.approx(164)}
    assert ten.room_bytes == all_of_it.room_bytes == 3e9, "what a load needs for a while does not grow"
    assert ten.peak_memory_bytes == all_of_it.peak_memory_bytes == 1_200_000_000
    with pytest.raises(ValueError, match="1 shard or more"):
        loading_figures.plan(_result(), 0)


def test_the_long_load_is_told_apart_by_shard() -> None:
    result = _result()
    shards = loading_figures.by_shard(result)
    assert [each.shard for each in shards] == list(range(10))
    assert {each.seconds for each in shards} == {20}
    assert [each.peak_rss_mb for each in shards] == [900, 901, *[900] * 8]
    assert [each.peak_anon_mb for each in shards] == [401 + number for number in range(10)]
    result["ten"]["finished"][1]["seconds"] = 20.0  # two within one second of the ledger
    assert loading_figures.by_shard(result)[1].seconds == 0
    assert "| 1 | 0.0 s | - |" in report.report([(Path("loading-0123456789ab.json"), result)])


@pytest.mark.parametrize(
    ("seconds", "said"), [(25, "25 s"), (600, "10 min"), (3 * 3600, "3.0 h"), (86400 * 3.5, "3.5 days")]
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert loading_figures.duration(seconds) == said


@pytest.fixture
def project(tmp_path: Path) -> Path:
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "loading-0123456789ab.json").write_text(json.dumps(_result()))
    (tmp_path / "docs" / "guides").mkdir(parents=True)
    (tmp_path / "README.md").write_text("<!-- benchmark:loading -->\n<!-- /benchmark -->\n")
    return tmp_path


def test_a_result_becomes_a_section_and_tables_in_two_pages(project: Path) -> None:
    guide = project / "docs" / "guides" / "load.md"
    guide.write_text("# Load\n\n<!-- benchmark:loading-plan -->\nold\n<!-- /benchmark -->\n\nThen search.\n")
    (project / "docs" / "plain.md").write_text("no marks")
    texts = report.render(project, report.newest_results(project / "benchmarks" / "results"))
    assert set(texts) == {project / "README.md", guide, project / "benchmarks" / "REPORT.md"}
    readme, whole = texts[project / "README.md"], texts[project / "benchmarks" / "REPORT.md"]
    assert "| cliphouse | 39,216 | 26 s | 1.20 GB | 2.20 GB |" in readme
    assert "| LanceDB | 95,238 | 10 s | 1.20 GB | 2.20 GB |" in readme
    assert "takes 36.7 times as long" in readme
    assert "50,000 rows/s, memory 900.0 MB to 901.0 MB" in readme
    assert texts[guide].startswith("# Load\n\n<!-- benchmark:loading-plan -->\n| shards |")
    assert texts[guide].endswith("<!-- /benchmark -->\n\nThen search.\n")
    assert "| 10 (measured) | 10,000,000 | 20.50 GB | 20.00 GB | 27 min | 3 min | 3 min | 1.20 GB |" in texts[guide]
    assert "| 410 (extrapolated) | 410,000,000 | 840.50 GB | 820.00 GB | 18.7 h | 112 min |" in texts[guide]
    assert "3.00 GB more than the table" in texts[guide]
    assert "| cliphouse | 39,216 | 48,780, 39,216, 24,691 | 25.0 s | 0.5 s | 25.0 s |" in whole
    assert "| both | 110.0 s | 909 | 1.20 GB |" in whole
    assert "| 9 | 20.0 s | 50,000 | 900.0 MB | 410.0 MB |" in whole


def test_a_page_that_asks_for_a_table_nobody_measured_is_named(project: Path) -> None:
    (project / "docs" / "guides" / "load.md").write_text("<!-- benchmark:loading-plans -->\n<!-- /benchmark -->\n")
    with pytest.raises(ValueError, match=r"docs/guides/load.md asks for the table loading-plans"):
        report.render(project, report.newest_results(project / "benchmarks" / "results"))


def test_values_of_a_drawn_shard_survive_the_readers_batches(tmp_path: Path) -> None:
    shard = _shard(tmp_path / "in", seed=1)
    table = load_systems._reader(shard, "float32", 128).read_all()
    images = np.load(shard / "img_emb_0.npy")
    assert table["id"].to_pylist() == list(range(300))
    assert (np.array(table["image_embedding"].to_pylist(), np.float32) == images).all()
    assert load_systems._reader(shard, "float16", 128).read_all()["text_embedding"].type.list_size == 64
