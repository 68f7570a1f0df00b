"""What the cost model says: formulas worked out by hand, the advice with its reasons, and the fit that feeds it."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import laion_like, plan_figures, plan_fit, plan_points, plan_text, plan_work
from benchmarks.files import read_parameters
from cliphouse.clusters import count_for
from cliphouse.cost_model import Hardware, Model, committed, fitted, from_json, measured_hardware
from cliphouse.costs import (
    COLUMN_SHARE,
    GRAPH_SHARE,
    Wanted,
    choose,
    hnsw_read_bytes,
    ivf_flops,
    ivf_read_bytes,
    plan,
    trained_on,
)
from cliphouse.engine.embedded import server_options
from cliphouse.errors import UsageError
from cliphouse.types import IndexConfig

#: Round figures, near those of a machine.
MODEL = Model(
    dim=512,
    metadata_bytes=52.0,
    engine_bytes=5e8,
    load_fixed=0.5,
    load_row=30e-6,
    exact_base=4e-3,
    cached_byte=200e-12,
    paged_byte=400e-12,
    disk_share=0.8,
    write_share=0.5,
    hnsw_row=300e-6,
    hnsw_few=10_000.0,
    hnsw_disk=1.0,
    hnsw_base=4e-3,
    hnsw_step=1e-6,
    hnsw_byte=300e-12,
    hnsw_miss=(0.0, 1.0, 0.15),
    ivf_fixed=1.0,
    ivf_row=20e-6,
    ivf_flop=2e-11,
    ivf_disk=1.05,
    ivf_base=8e-3,
    ivf_list=20e-6,
    ivf_byte=400e-12,
    ivf_miss=(0.0, 1.0, -0.1),
)
MACHINE = Hardware(cores=2, memory_bytes=24 * 2**30, disk_read=1.5e9, disk_write=1.3e9)


def test_an_exact_search_reads_its_column_from_the_nearest_place_that_holds_it() -> None:
    for rows, place, seconds in (
        (1_000_000, "engine cache", 4e-3 + 1.024e9 * 200e-12 / 2),
        (10_000_000, "page cache", 4e-3 + 1.024e10 * 400e-12 / 2),
        (100_000_000, "disk", 4e-3 + 1.024e11 / (1.5e9 * 0.8)),
    ):
        cost = plan(Wanted(rows=rows), MACHINE, MODEL).cost("exact")
        assert (cost.reads, cost.latency_seconds) == (place, pytest.approx(seconds)), rows


def test_a_plan_worked_out_by_hand() -> None:
    found = plan(Wanted(rows=4_000_000, machines=4), MACHINE, MODEL)
    assert found.wanted.rows_each == 1_000_000
    assert found.table_bytes == 1_000_000 * (4 * 512 + 52)
    waited = (2 * found.table_bytes - 0.1 * MACHINE.memory_bytes) / (1.3e9 * 0.5)
    assert found.load_seconds == pytest.approx(0.5 + 1_000_000 * 30e-6 / 2 + waited)
    graph = 1_000_000 * IndexConfig().bytes_per_row(512)
    hnsw, ivf = found.cost("hnsw"), found.cost("ivf")
    assert hnsw.disk_bytes == found.table_bytes + graph
    assert hnsw.memory_bytes == 5e8 + graph
    assert hnsw.build_seconds == pytest.approx(300e-6 * 1e6 * math.log2(1 + 1e6 / 10_000) / 2)
    assert hnsw.effort == math.ceil(1e6**0.15 / 0.05)
    share = 1e6**-0.1 / 0.05
    assert share > 1  # so all lists are read
    assert ivf.effort == count_for(1_000_000) == 4000
    assert ivf.latency_seconds == pytest.approx(
        8e-3 + 4000 * 20e-6 + ivf_read_bytes(1_000_000, 512, 1.0) * 400e-12 / 2 + 1e-3 + 4e-5
    )
    work = 1e6 * 20e-6 + ivf_flops(1_000_000, 512) * 2e-11
    assert ivf.build_seconds == pytest.approx(1 + work / 2)


def test_what_a_graph_finds_is_read_in_whole_granules_until_each_has_one_of_its_own() -> None:
    """Which the engine counts: 1.9 granules a query over 10,000 rows, 4.2 over 40,000, 6.1 over 80,000."""
    granule = 8192 * 512 * 2
    for rows, granules in ((1_000, 1000 / 8192), (10_000, 1.2), (40_000, 4.4), (80_000, 6.5), (10**9, 10)):
        assert hnsw_read_bytes(rows, 512) / granule == pytest.approx(granules, rel=0.03), rows
    quick = Hardware(cores=64, memory_bytes=2**45, disk_read=1e9, disk_write=1e9)
    small = replace(quick, memory_bytes=2**40)
    near, far = (plan(Wanted(rows=400_000_000), each, MODEL).cost("hnsw") for each in (quick, small))
    assert (near.reads, far.reads) == ("memory", "disk")
    assert far.latency_seconds - near.latency_seconds == pytest.approx(10 * granule * (1 / 0.8e9 - 300e-12), rel=0.01)


def test_many_rows_leave_few_of_the_sample_for_a_cluster() -> None:
    assert trained_on(1_000_000) == trained_on(39_000_000) == 40
    assert trained_on(400_000_000) == pytest.approx(12.5)
    assert trained_on(5_850_000_000) == pytest.approx(3.3, abs=0.05)


def test_a_slow_disk_holds_up_loading_and_building() -> None:
    slow = replace(MACHINE, disk_write=1e7)
    found = plan(Wanted(rows=1_000_000), slow, MODEL)
    assert found.load_seconds == pytest.approx(
        0.5 + (2 * found.table_bytes - 0.1 * slow.memory_bytes) / 0.5e7 + 1_000_000 * 30e-6 / 2
    )
    assert found.cost("ivf").build_seconds > 200


def test_memory_is_shared_out_as_the_embedded_engine_does() -> None:
    options = server_options(10**12)
    assert int(options["vector_similarity_index_cache_size"]) == GRAPH_SHARE * 10**12
    assert int(options["uncompressed_cache_size"]) * 0.9 == pytest.approx(COLUMN_SHARE * 10**12)


GOOD_LISTS = replace(MODEL, ivf_miss=(-2.5, 1.0, -0.1))


@pytest.mark.parametrize(
    ("rows", "recall", "model", "kind", "said"),
    [
        (10_000, 0.95, MODEL, "exact", "an exact scan of 10,000 rows takes 5.0 ms, which needs no index"),
        (300_000, 0.99, MODEL, "exact", "an exact scan of 300,000 rows takes 35 ms, an index (hnsw)"),
        (1_000_000, 1.0, MODEL, "exact", "only an exact search is sure to find everything"),
        (1_000_000, 0.95, MODEL, "hnsw", "whose graph fits"),
        (4_000_000, 0.95, GOOD_LISTS, "ivf", "hnsw would take 86 min to build, ivf"),
        (5_000_000_000, 0.95, GOOD_LISTS, "exact", "22 days to build, and on 4 such machines 2.8 days"),
        (400_000_000, 0.95, GOOD_LISTS, "ivf", "its graph takes 578.9 GiB of memory, and graphs have 7.2 GiB here"),
    ],
)
def test_the_choice_says_why(rows: int, recall: float, model: Model, kind: str, said: str) -> None:
    choice = choose(rows=rows, dim=512, memory_bytes=24 * 2**30, cores=2, recall=recall, disk_read=1.5e9, model=model)
    assert choice.kind == kind, choice
    assert said in choice.reason


@pytest.mark.parametrize(
    "options", [{"rows": 0}, {"rows": 1, "dim": 1}, {"rows": 1, "machines": 0}, {"rows": 1, "recall": 0}]
)
def test_what_cannot_be_wanted_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=str(next(reversed(options)))):
        Wanted(**options)


# -- the fit ----------------------------------------------------------------------------------------------------------


def made_points(model: Model, hardware: Hardware) -> list[dict[str, Any]]:
    """Points as they would be measured on a machine that does exactly what `model` says."""
    common = {"commit": "0" * 40, "dirty": False, "date": "2026-01-01T00:00:00+00:00", "shared": False, "engine": "26"}
    common["stamp"] = plan_points.stamp(_run(), "exact")
    points: list[dict[str, Any]] = [
        {
            "part": "machine",
            "rows": 1000,
            "disk_read": hardware.disk_read,
            "disk_write": hardware.disk_write,
            "flop_seconds": model.ivf_flop,
        },
        {"part": "disk", "rows": 1000, "disk_write": hardware.disk_write * model.write_share},
        {"part": "load", "rows": 10**6, "load_seconds": plan(Wanted(rows=10**6), hardware, model).load_seconds},
    ]
    for rows in (50_000, 100_000, 200_000, 400_000):
        found = plan(Wanted(rows=rows), hardware, model)
        column = rows * model.dim * 2
        points.append(
            {
                "part": "exact",
                "rows": rows,
                "load_seconds": found.load_seconds,
                "table_bytes": found.table_bytes,
                "resident_bytes": model.engine_bytes,
                "cached": {"p50_seconds": found.cost("exact").latency_seconds},
                "paged": {"p50_seconds": model.exact_base + column * model.paged_byte / hardware.cores},
                "cold": {"p50_seconds": model.exact_base + column / hardware.disk_read / model.disk_share},
            }
        )
        for kind, name in (("hnsw", "ef_search"), ("ivf", "nprobe")):
            tried = [plan(Wanted(rows=rows, recall=recall), hardware, model) for recall in (0.8, 0.9, 0.95, 0.98)]
            costs = [each.cost(kind) for each in tried]
            efforts = [
                {name: cost.effort, "recall": each.wanted.recall, "p50_seconds": cost.latency_seconds}
                for each, cost in zip(tried, costs, strict=True)
            ]
            cost = costs[0]
            points.append(
                {
                    "part": kind,
                    "rows": rows,
                    "build_seconds": cost.build_seconds,
                    "index_bytes": cost.disk_bytes - found.table_bytes,
                    "efforts": efforts,
                }
            )
    return [point | common for point in points]


def test_a_fit_finds_the_model_that_made_the_points() -> None:
    model = replace(GOOD_LISTS, hnsw_miss=(1.0, 0.9, 0.15))
    points = made_points(model, MACHINE)
    found = plan_fit.fit(points, MACHINE.cores, MACHINE.memory_bytes, 512)
    for figure in plan_figures.of_points(points, 512, found, MACHINE):
        assert abs(figure.off) < 0.05, figure
    for name in ("load_row", "cached_byte", "paged_byte", "hnsw_row", "ivf_row", "ivf_flop", "hnsw_step", "hnsw_byte"):
        assert getattr(found, name) == pytest.approx(getattr(model, name), rel=0.05), name
    assert found.hnsw_miss == pytest.approx(model.hnsw_miss, rel=0.1)
    assert from_json(json.loads(json.dumps(plan_fit.committed(found, points, _run())["coefficients"]))) == found


def _run() -> plan_points.Run:
    return plan_points.Run(**read_parameters("plan"))


def test_points_of_other_sources_or_machines_are_refused(tmp_path: Path) -> None:
    path, now = tmp_path / "exact-1000.json", plan_points.stamp(_run(), "exact")
    assert plan_points.kept(path, now, mixed=False) is None
    path.write_text(json.dumps({"part": "exact", "rows": 1000, "stamp": now}))
    assert plan_points.kept(path, now, mixed=False) is not None
    other = now | {"machine": {"cores": 1000}}
    with pytest.raises(ValueError, match=r"exact-1000.json was measured with other machine; .*--mixed"):
        plan_points.kept(path, other, mixed=False)
    point = plan_points.kept(path, other, mixed=True)
    assert point is not None
    assert plan_points.differing(point, other) == {"machine"}
    with pytest.raises(ValueError, match=r"other machine, parameters; remove it to measure again$"):
        plan_points.kept(path, other | {"parameters": {}}, mixed=True)


def test_rounds_of_a_point_count_as_their_median() -> None:
    rounds = [
        {"part": "ivf", "rows": 10, "cached": {"p50": p50}, "efforts": [{"recall": p50 / 10}], "engine": engine}
        for p50, engine in ((1.0, "26"), (9.0, "27"), (2.0, "26"))
    ]
    (point,) = plan_figures.medians(rounds)
    assert point == rounds[2]
    assert len(plan_figures.medians([*rounds, rounds[0] | {"rows": 20}])) == 2


def test_growth_is_told_from_points_that_are_not_exact() -> None:
    rows = np.array([1e4, 4e4, 16e4, 64e4])
    seconds = 3e-4 * rows * np.log2(1 + rows / 9_000)
    row, few = plan_fit.fit_growth(rows, seconds * [1.1, 0.95, 1.05, 0.95])
    assert row * 4e6 * math.log2(1 + 4e6 / few) == pytest.approx(3e-4 * 4e6 * math.log2(1 + 4e6 / 9_000), rel=0.1)


def test_misses_of_the_model_are_visible() -> None:
    result = {"model": plan_fit.committed(GOOD_LISTS, made_points(GOOD_LISTS, MACHINE), _run())}
    assert plan_text.check_table(result, []) == "Not measured yet.\n"
    asked = {"text": {"recall": 0.95, "p50_ms": 10_000.0}, "image": {"recall": 1.0, "p50_ms": 1.0}}
    cost = plan(Wanted(rows=1_000_000), MACHINE, GOOD_LISTS)
    built = {
        "load_seconds": cost.load_seconds,
        "build_seconds": cost.cost("ivf").build_seconds,
        "index_bytes": cost.cost("ivf").disk_bytes - cost.table_bytes,
    }
    memory = [{"process_bytes": cost.cost("ivf").memory_bytes}]
    run = {
        "machine": {"cores": 2, "memory_bytes": MACHINE.memory_bytes},
        "parameters": {"rows": 500_000, "shards": 2, "dim": 512},
        "systems": [{"name": "cliphouse_ivf", "build": built, "memory": memory, "efforts": [asked]}],
    }
    table = plan_text.check_table(result, [run])
    assert [line.endswith("not met |") for line in table.splitlines() if line.startswith("| ivf")] == [
        False,
        False,
        True,
        False,
    ]
    assert "| ivf memory | 1,000,000 |" in table
    assert table.endswith("1 of 5 are off by more than 25%: not met.\n")


def test_least_squares_leaves_out_what_would_be_below_nothing() -> None:
    x = np.array([1.0, 2.0, 4.0])
    assert plan_fit.least_squares([1, x], 3 + 2 * x) == pytest.approx([3, 2])
    assert plan_fit.least_squares([1, x], 2 * x - 1)[0] == 0


def test_a_fit_of_recall_never_finds_a_larger_collection_easier() -> None:
    points = [(x, n, 1 - 2000 / x / n**0.5) for x in (100.0, 200.0, 400.0) for n in (10_000.0, 40_000.0)]
    _, p, q = plan_fit.fit_misses(points, 0, math.inf)
    assert q == 0
    assert p == pytest.approx(1)
    with pytest.raises(ValueError, match="more effort finds no more"):
        plan_fit.fit_misses([(x, n, 0.9 - x / 1000) for x, n, _ in points], 0, math.inf)


def test_the_committed_model_is_near_the_points_it_was_fitted_to() -> None:
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    newest = max((json.loads(path.read_text()) for path in results.glob("plan-*.json")), key=lambda each: each["date"])
    assert newest["model"] == committed(), "run python -m benchmarks.plan_fit again, and commit both"
    figures = plan_figures.of_points(plan_figures.medians(newest["points"]), 512, fitted(), measured_hardware())
    assert len(figures) > 10
    off = sorted(abs(figure.off) for figure in figures)
    # Where other work was on the machine, single points are anything.
    assert off[len(off) // 2 if committed()["shared_machine"] else -1] < 0.25, figures


def test_the_tables_name_both_data_sets_and_the_advice() -> None:
    points = made_points(GOOD_LISTS, MACHINE)
    package = plan_fit.committed(plan_fit.fit(points, 2, MACHINE.memory_bytes, 512), points, _run())
    text = plan_text.short_table({"model": package, "machine": {"cpu": "a processor"}})
    assert "LAION-400M, 400,000,000 rows" in text
    assert "LAION-5B, 5,850,000,000 rows" in text
    assert "**ivf**" in text


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc, and has the system forget pages")
def test_points_are_measured_on_a_real_collection(tmp_path: Path) -> None:
    laion_like.write_shards(tmp_path / "data", rows=600, shards=1, seed=1)
    job = {"data": str(tmp_path / "data"), "place": str(tmp_path / "work"), "rows": 500}
    job |= {"k": 10, "queries": 4, "query_seed": 2, "warm_up": 1}
    exact = plan_work.measure(job | {"part": "exact"})
    assert exact["cached"]["recall"] == 1  # among vectors as they are stored
    assert exact["resident_bytes"] > 50e6
    assert exact["table_bytes"] > 500 * 4 * 512
    hnsw = plan_work.measure(job | {"part": "hnsw", "efforts": [{"ef_search": 10}, {"ef_search": 200}]})
    assert hnsw["memory_bytes"] == pytest.approx(500 * IndexConfig().bytes_per_row(512), rel=0.05)
    assert hnsw["efforts"][0]["recall"] <= hnsw["efforts"][1]["recall"]
    assert hnsw["efforts"][1]["recall"] > 0.9  # a graph built by several threads differs from run to run
    assert not (tmp_path / "work").exists()
