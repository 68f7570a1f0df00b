"""The benchmark of indexes: what is computed, what belongs together, one small run in full, and what it reads like."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import index_figures, index_result, index_text, index_work, indexes, laion_like, report, truth
from benchmarks.files import read_parameters
from benchmarks.index_figures import latency_at
from benchmarks.index_peers import SYSTEMS
from benchmarks.index_run import Run
from benchmarks.index_systems import Source
from tests.data import random_unit

RUN = Run(**read_parameters("indexes-5k"))
linux = pytest.mark.skipif(sys.platform != "linux", reason="it watches /proc")

CURVE = [(0.5, 1.0), (0.9, 3.0), (0.8, 9.0), (0.99, 6.0)]  # the third is beaten by the second in both


@pytest.mark.parametrize(
    ("recall", "milliseconds"),
    [
        (0.9, 3),
        (1.001 - (0.101 * 0.011) ** 0.5, 18**0.5),
        (0.99, 6),
        (1.001 - (0.501 * 0.101) ** 0.5, 3**0.5),
        (0.5, 1),
        (0.1, 1),
        (0.995, None),
    ],
)
def test_time_at_a_recall_is_interpolated_between_the_best_efforts(recall: float, milliseconds: float | None) -> None:
    assert latency_at(CURVE, recall) == (None if milliseconds is None else pytest.approx(milliseconds))
    assert latency_at([], recall) is None


_UNIT = st.floats(0, 1)
_POINTS = st.lists(st.tuples(_UNIT, st.floats(0.1, 100)), min_size=1, max_size=8)


@given(_POINTS, _UNIT, _UNIT)
def test_more_recall_never_takes_less_time(points: list[tuple[float, float]], one: float, other: float) -> None:
    less, more = latency_at(points, min(one, other)), latency_at(points, max(one, other))
    assert (more is None) == (max(found for found, _ in points) < max(one, other))
    if less is not None and more is not None:
        assert less <= more + 1e-9
        assert min(milliseconds for _, milliseconds in points) - 1e-9 <= less


@given(_POINTS, _UNIT, st.floats(0, 1), st.floats(0, 10))
def test_a_point_that_another_beats_changes_nothing(
    points: list[tuple[float, float]], recall: float, worse: float, slower: float
) -> None:
    found, milliseconds = points[0]
    beaten = (found * worse, milliseconds + slower)
    assert latency_at([*points, beaten], recall) == latency_at(points, recall)


def test_targets_are_met_from_the_side_they_are_asked_from() -> None:
    asked = {"build_ratio": 10.0, "extra_disk": 0.15, "hnsw_ratio": 1.0}
    judged = index_figures.judged(asked, {"build_ratio": 10.0, "extra_disk": 0.16, "hnsw_ratio": None})
    assert [each["met"] for each in judged] == [True, False, None]
    judged = index_figures.judged(asked, {"build_ratio": 9.9, "extra_disk": 0.15, "hnsw_ratio": 1.1})
    assert [each["met"] for each in judged] == [False, True, False]


@pytest.mark.parametrize("name", ["indexes-1m", "indexes-4m", "indexes-5k"])
def test_the_runs_can_be(name: str) -> None:
    run = Run(**read_parameters(name))
    assert {"cliphouse_ivf", "cliphouse_exact"} <= run.efforts.keys() <= SYSTEMS.keys()


def test_a_run_that_cannot_be_is_refused() -> None:
    for change, message in (
        ({"kind": "loading"}, "not 'loading'"),
        ({"systems": ["annoy"]}, "no system annoy"),
        ({"systems": ["tutorial_hnsw"]}, "asks what cliphouse_hnsw builds"),
        ({"efforts": {}}, "says nothing of cliphouse_exact"),
        ({"targets": {"beauty": 1}}, "no target beauty"),
        ({"query_seed": 1}, "query_seed must differ"),
        ({"filter_queries": 21}, "filter_queries"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(RUN, **change)


@pytest.fixture
def two_shards(tmp_path: Path) -> tuple[Source, Any]:
    vectors = random_unit(800, 64, seed=1).astype(np.float16)
    for shard in range(2):
        np.save(tmp_path / f"img_emb_{shard}.npy", vectors[shard * 400 : (shard + 1) * 400])
    return Source(directory=tmp_path, rows=400, shards=2, small=tmp_path), vectors


def test_the_truth_over_two_shards_is_that_over_their_rows(two_shards: tuple[Source, Any]) -> None:
    source, vectors = two_shards
    queries = random_unit(5, 64, seed=2)
    assert (source.take([799, 0, 400]) == vectors[[799, 0, 400]]).all()
    assert indexes.true_distances(source, queries, k=10) == pytest.approx(
        truth.nearest(vectors, queries, k=10).distances, abs=1e-12
    )
    allowed = np.arange(800) % 7 == 3
    assert indexes.true_distances(source, queries, k=10, allowed=allowed) == pytest.approx(
        truth.nearest(vectors[allowed], queries, k=10).distances, abs=1e-12
    )
    with pytest.raises(ValueError, match="lets 9 rows through, and 10"):
        indexes.true_distances(source, queries, k=10, allowed=np.arange(800) < 9)


def test_answers_that_cannot_be_right_are_no_measurement(two_shards: tuple[Source, Any]) -> None:
    source, vectors = two_shards
    queries = random_unit(1, 64, seed=2)
    nearest = truth.nearest(vectors, queries, k=3)

    def asked(rows: list[int]) -> dict[str, Any]:
        return {"rows": [rows], "latencies_ms": [1.0], "paths": {"ivf": 1}}

    right = nearest.rows[0].tolist()
    assert index_work.judged(asked(right), source, queries, nearest.distances, 3)["recall"] == 1
    assert index_work.judged(asked(right[:2]), source, queries, nearest.distances, 3)["recall"] == pytest.approx(2 / 3)
    assert index_work.judged(asked([]), source, queries, nearest.distances, 3)["recall"] == 0
    with pytest.raises(RuntimeError, match="found twice"):
        index_work.judged(asked([right[0], right[0]]), source, queries, nearest.distances, 3)
    allowed = np.ones(800, bool)
    allowed[right[1]] = False
    with pytest.raises(RuntimeError, match="does not pass the filter"):
        index_work.judged(asked(right), source, queries, nearest.distances, 3, allowed)


def test_held_out_pictures_are_no_rows_of_the_data(tmp_path: Path) -> None:
    laion_like.write_shards(tmp_path, rows=50, shards=1, seed=1)
    rows, queries = np.load(tmp_path / "img_emb_0.npy").astype(np.float32), laion_like.image_queries(20, 2)
    assert np.linalg.norm(queries, axis=1) == pytest.approx(1, abs=1e-3)
    assert (queries @ rows.T).max() < 0.99
    assert (laion_like.image_queries(50, 1) == rows).all()
    assert queries.mean(axis=0) @ rows.mean(axis=0) > 0.5, "from the same cone"


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shard")
    laion_like.write_shards(directory, rows=RUN.rows, shards=1, seed=RUN.seed)
    return directory


def _carried_out(run: Run, shard: Path, place: Path, **more: Any) -> dict[str, Any]:
    bench = indexes.Bench(run, shard, place, **more)
    outcomes = bench.execute()
    return index_result.assemble(run, outcomes, data=bench.data, shares=bench.shares(), mixed=bench.differences)


@linux
def test_a_small_run_goes_on_where_it_stopped(shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replace(RUN, systems=("cliphouse_hnsw", "tutorial_hnsw"), rounds=1)
    result = json.loads(json.dumps(_carried_out(run, shard, tmp_path)))
    system, tutorial = result["systems"]
    assert tutorial["build"] == system["build"], "it is the same index"
    assert tutorial["efforts"][1]["text"]["recall"] == pytest.approx(system["efforts"][1]["text"]["recall"], abs=0.05)
    low, high = (effort["text"] for effort in system["efforts"])
    assert low["recall"] < high["recall"] > 0.8
    assert high["paths"] == {"hnsw": run.queries}
    one = system["efforts"][1]["filters"]["1 %"]
    assert (one["recall"], one["calls"]) == (1, run.filter_queries)
    assert 0.005 < result["filters"]["1 %"]["share"] < 0.02
    built, memory = system["build"], system["memory"][0]
    assert built["index_bytes"] > run.rows * run.dim * 2 > 0.9 * built["vector_bytes"]
    assert built["peak_bytes"] > 1e8
    assert memory["process_bytes"] > memory["engine_bytes"] > 1e8
    assert result["mixed"] == []
    assert index_text.section("indexes-5k-0123456789ab.json", result).startswith("## Vector indexes over 5,000")

    def nothing_is_left_to_do(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(indexes.Bench, "_measure", nothing_is_left_to_do)
    assert _carried_out(run, shard, tmp_path)["systems"] == result["systems"]
    with pytest.raises(ValueError, match=r"with other parameters; remove it to measure again$"):
        _carried_out(replace(run, queries=19), shard, tmp_path, mixed=True)
    monkeypatch.setattr(indexes, "sources_digest", lambda *_, **__: "other")
    with pytest.raises(ValueError, match=r"with other sources; .* --mixed"):
        _carried_out(run, shard, tmp_path)
    mixed = _carried_out(run, shard, tmp_path, mixed=True)["mixed"]
    assert mixed == [
        f"{each}: other sources"
        for each in ("cliphouse_hnsw-build", "cliphouse_hnsw-search-0", "tutorial_hnsw-search-0")
    ]


@linux
@pytest.mark.parametrize("name", [name for name in SYSTEMS if not SYSTEMS[name].ours])
def test_a_peer_finds_what_is_there(name: str, shard: Path, tmp_path: Path) -> None:
    for module in ({"faiss-cpu": "faiss"}.get(package, package) for package in SYSTEMS[name].packages):
        pytest.importorskip(module)
    run = replace(RUN, systems=(name,))
    (system,) = _carried_out(run, shard, tmp_path)["systems"]
    assert system["efforts"][-1]["text"]["recall"] > 0.85
    assert system["efforts"][-1]["filters"] == {}
    assert bool(system["build"]["index_bytes"]) == (name != "duckdb_exact")


def test_sources_of_cliphouse_count_for_its_own_systems_alone(tmp_path: Path) -> None:
    (tmp_path / "src" / "cliphouse").mkdir(parents=True)
    before = [indexes.sources_digest(tmp_path, ours=ours) for ours in (True, False)]
    (tmp_path / "src" / "cliphouse" / "search.py").write_text("x = 1\n")
    after = [indexes.sources_digest(tmp_path, ours=ours) for ours in (True, False)]
    assert before[0] != after[0]
    assert before[1] == after[1]


def _asked(recall: float, milliseconds: float, **paths: int) -> dict[str, Any]:
    times = {f"{name}_ms": milliseconds * factor for name, factor in (("p50", 1), ("p90", 2), ("p99", 3))}
    return {"recall": recall, **times, "calls": 300, "paths": paths}


def _system(name: str, efforts: list[tuple[dict[str, int], float, float]], build_seconds: float, **built: int) -> Any:
    bytes_ = {"vector_bytes": 1_000_000_000, "index_bytes": 0, "beside_bytes": 0, **built}
    memory = {"process_bytes": 500_000_000, "engine_bytes": 450_000_000, "mapped_bytes": 1_000_000}
    once = {"commit": "0123456789abcdef", "dirty": False, "started": "then", "ended": "later"}
    return {
        "name": name,
        "label": SYSTEMS[name].label,
        "note": SYSTEMS[name].note,
        "build": {"load_seconds": 20, "build_seconds": build_seconds, "cpu_seconds": 90, "peak_bytes": 10**9, **bytes_},
        "efforts": [
            {
                "effort": effort,
                "text": _asked(recall, milliseconds),
                "image": _asked((recall + 1) / 2, milliseconds),
                "filters": {"1 %": _asked(1.0, milliseconds * 2, ivf=75, exact=225)} if SYSTEMS[name].ours else {},
            }
            for effort, recall, milliseconds in efforts
        ],
        "memory": [memory],
        "measured": [once | {"phase": "build", "load_average_before": 0.1, "load_average_after": 1.9}],
    }


def _result(*, exact_ms: float = 100.0, name: str = "indexes-1m", smaller: Any = None) -> dict[str, Any]:
    run = replace(Run(**read_parameters(name)), systems=("cliphouse_ivf", "cliphouse_exact"))
    ivf = [({"nprobe": 8}, 0.85, 5.0), ({"nprobe": 64}, 0.95, 10.0), ({"nprobe": 512}, 0.99, 30.0)]
    systems = [
        _system("cliphouse_ivf", ivf, 100.0, index_bytes=1_100_000_000, beside_bytes=1_100_000_000),
        _system("cliphouse_exact", [({}, 0.99, exact_ms)], 0.0),
        _system("cliphouse_hnsw", [({"ef_search": 64}, 0.9, 8.0), ({"ef_search": 256}, 0.99, 20.0)], 1500.0),
        _system("tutorial_hnsw", [({"ef_search": 64}, 0.9, 6.0), ({"ef_search": 256}, 0.98, 22.0)], 1500.0),
        _system("faiss_hnsw", [({"ef": 64}, 0.9, 2.0), ({"ef": 256}, 0.94, 3.0)], 600.0, beside_bytes=200_000_000),
    ]
    result: dict[str, Any] = {
        "run": name,
        "kind": "indexes",
        "date": "2026-01-01T00:00:00+00:00",
        "commit": "0123456789abcdef",
        "dirty": False,
        "machine": {"cpu": "a processor", "cores": 2, "memory_bytes": 16_000_000_000, "os": "Linux"},
        "versions": {"faiss-cpu": "1.15"},
        "parameters": asdict(run),
        "data": {"img_emb_0.npy": {"bytes": 1_000_000_000, "sha256": "a"}},
        "filters": {"1 %": {"where": "width < 103", "share": 0.0099}},
        "systems": systems,
        "mixed": [],
        "process": {"seconds": 3000, "load_average_before": 0.5, "load_average_after": 1.9},
    }
    result["targets"] = index_figures.judged(run.targets, index_figures.measured(result, smaller))
    if smaller:
        result["grown_from"] = {each: smaller[each] for each in ("run", "commit", "date")}
    return result


def test_what_was_asked_is_computed_from_the_curves() -> None:
    found = {each["name"]: (each["measured"], each["met"]) for each in _result()["targets"]}
    assert found == {
        "build_ratio": (15.0, True),
        "resident_bytes": (50_000_000, True),
        "extra_disk": (pytest.approx(0.1), True),
        "exact_ratio": (pytest.approx(10), True),
        "hnsw_ratio": (pytest.approx(10 / (8 + 12 * 5 / 9)), True),
    }
    larger = _result(exact_ms=390.0, name="indexes-4m", smaller=_result())
    assert {each["name"]: each["measured"] for each in larger["targets"]}["growth"] == pytest.approx(3.9)
    unknown = _result(name="indexes-4m")["targets"][-1]
    assert (unknown["name"], unknown["measured"], unknown["met"]) == ("growth", None, None)


def test_growth_is_told_from_the_newest_result_of_the_run_of_fewer_rows(tmp_path: Path) -> None:
    for number, date in enumerate(("2026-01-02", "2026-01-03", "2026-01-01")):
        (tmp_path / f"{number}.json").write_text(json.dumps(_result(exact_ms=100.0 + number) | {"date": date}))
    large = Run(**read_parameters("indexes-4m"))
    smaller = index_result.smaller_result(large, [tmp_path / "nothing here", tmp_path])
    assert smaller is not None
    assert smaller["date"] == "2026-01-03"
    assert index_result.smaller_result(RUN, [tmp_path]) is None


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "runs").mkdir()
    (tmp_path / "docs").mkdir()
    return tmp_path


def _rendered(project: Path, *results: dict[str, Any]) -> dict[Path, str]:
    for result in results:
        (project / "benchmarks" / "results" / f"{result['run']}.json").write_text(json.dumps(result))
    return report.render(project, report.newest_results(project / "benchmarks" / "results"))


def test_a_result_becomes_a_section_and_tables_in_a_page(project: Path) -> None:
    page = project / "docs" / "benchmarks.md"
    marks = ("indexes-1m", "indexes-1m-targets", "indexes-1m-standing", "indexes-1m-recalls", "indexes-1m-filters")
    page.write_text(
        "".join(f"<!-- benchmark:{mark} -->\n<!-- /benchmark -->\n" for mark in (*marks, "indexes-4m-targets"))
    )
    texts = _rendered(project, _result(), _result(exact_ms=390.0, name="indexes-4m", smaller=_result()))
    tables, whole = texts[page], texts[project / "benchmarks" / "REPORT.md"]
    assert "| cliphouse ivf | 10.0 ms | 7.50 ms | 100 s | 500.0 MB | 1.10 GB |" in tables
    assert "| cliphouse exact | 100 ms | 100 ms | none | 500.0 MB | none |" in tables
    assert "| faiss HNSW | not reached | 2.00 ms | 10 min | 500.0 MB | 200.0 MB |" in tables
    assert "| build of the HNSW, over that of ivf | at least 10 | 15 | yes |" in tables
    assert "| memory of ivf beyond the engine | at most 64.0 MB | 50.0 MB | yes |" in tables
    assert "| build | cliphouse ivf, 100 s | 100 s | 1 of 4 | 1.0 times the least |" in tables
    assert "| text query | cliphouse ivf, 10.0 ms | 10.0 ms | 1 of 4 |" in tables
    assert "| image query | faiss HNSW, 2.00 ms |" in tables
    assert "| cliphouse ivf | nprobe 64 | 1 % | 1.000 | 20.0 ms | 40.0 ms | exact 75%, ivf 25% |" in tables
    assert "nprobe 512" not in tables
    assert "| at least 1 | 3.9 | yes |" in tables
    assert "The run of fewer rows is indexes-1m of commit 0123456789ab." in tables
    assert "| cliphouse ivf | nprobe 8 | 0.850 | 5.00 ms | 10.0 ms | 15.0 ms | 0.925 |" in whole
    assert "The index of cliphouse ivf is one more copy and 10.0% of it." in whole
    assert "not all was measured in the same way" not in whole
    mixed = _result() | {"mixed": ["usearch-build: other sources"]}
    assert "not all was measured in the same way: usearch-build: other sources" in index_text.section("f", mixed)


def test_a_page_may_wait_for_a_run_that_nobody_has_carried_out(project: Path) -> None:
    page = project / "docs" / "benchmarks.md"
    page.write_text("<!-- benchmark:indexes-4m-targets -->\n<!-- /benchmark -->\n")
    with pytest.raises(ValueError, match="asks for the table indexes-4m-targets"):
        _rendered(project, _result())
    (project / "benchmarks" / "runs" / "indexes-4m.toml").write_text("")
    assert "\nNot measured yet.\n<!-- /benchmark -->" in _rendered(project, _result())[page]
    _rendered(project, _result(name="indexes-4m"))
    page.write_text("<!-- benchmark:indexes-4m-beauty -->\n<!-- /benchmark -->\n")
    with pytest.raises(ValueError, match="asks for the table indexes-4m-beauty"):
        _rendered(project)


def test_the_plot_has_a_curve_for_each_system(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import index_plot

    index_plot.draw(_result(), tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    index_plot.draw(_result(), tmp_path / "again.svg")
    assert drawn.startswith("<?xml")
    assert (tmp_path / "again.svg").read_text() == drawn
