"""The laws of the cost model, whatever its coefficients: more rows cost more, more machines cost no more."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cliphouse.cost_model import Hardware, Model, fitted
from cliphouse.costs import MERGE_SECONDS, MERGE_SECONDS_A_MACHINE, SEEK_SECONDS, Plan, Wanted, plan
from cliphouse.engine.embedded import server_options

_POSITIVE = st.floats(1e-12, 1e-3)
_ROWS = st.integers(1, 10**11)
_RECALL = st.floats(0.5, 0.999)


def _misses(least: float, most: float) -> st.SearchStrategy[tuple[float, float, float]]:
    """a, p and q as a fit may give them, with q / p within bounds."""
    return st.tuples(st.floats(-8, 8), st.floats(0.2, 3), st.floats(least, most)).map(
        lambda each: (each[0], each[1], each[1] * each[2])
    )


MODELS = st.builds(
    Model,
    dim=st.just(512),
    metadata_bytes=st.floats(0, 1000),
    engine_bytes=st.floats(1e8, 1e9),
    load_fixed=st.floats(0, 5),
    load_row=_POSITIVE,
    exact_base=st.floats(0, 0.1),
    cached_byte=st.floats(1e-12, 1e-9),
    paged_byte=st.floats(1e-9, 1e-8),
    disk_share=st.floats(0.1, 1),
    write_share=st.floats(0.05, 1),
    hnsw_row=_POSITIVE,
    hnsw_few=st.floats(1, 1e6),
    hnsw_disk=st.floats(0.5, 2),
    hnsw_base=st.floats(0, 0.1),
    hnsw_step=_POSITIVE,
    hnsw_byte=st.floats(0, 1e-8),
    hnsw_miss=_misses(0, 1),
    ivf_fixed=st.floats(0, 5),
    ivf_row=_POSITIVE,
    ivf_flop=st.floats(1e-13, 1e-9),
    ivf_disk=st.floats(1, 2),
    ivf_base=st.floats(0, 0.1),
    ivf_list=_POSITIVE,
    ivf_byte=st.floats(1e-12, 1e-8),
    ivf_miss=_misses(-0.5, 0),
)
MACHINES = st.builds(
    Hardware,
    cores=st.integers(1, 256),
    memory_bytes=st.integers(2**30, 2**42),
    disk_read=st.floats(1e8, 2e10),
    disk_write=st.floats(1e8, 2e10),
)


def _at_most(one: float, other: float) -> bool:
    return one <= other * (1 + 1e-9)


@given(MODELS, MACHINES, _ROWS, _ROWS, _RECALL)
def test_more_rows_cost_no_less(model: Model, machine: Hardware, one: int, other: int, recall: float) -> None:
    few, many = (plan(Wanted(rows=rows, recall=recall), machine, model) for rows in sorted((one, other)))
    assert _at_most(few.table_bytes, many.table_bytes)
    assert _at_most(few.load_seconds, many.load_seconds)
    for less, more in zip(few.costs, many.costs, strict=True):
        assert _at_most(less.disk_bytes, more.disk_bytes), less.kind
        assert _at_most(less.memory_bytes, more.memory_bytes), less.kind
        assert _at_most(less.build_seconds, more.build_seconds), less.kind
    assert not few.cost("hnsw").missing or many.cost("hnsw").missing


@given(MODELS, MACHINES, _ROWS, st.integers(1, 1000), st.integers(1, 1000), _RECALL)
def test_more_machines_are_slower_by_no_more_than_asking_them(
    model: Model, machine: Hardware, rows: int, one: int, other: int, recall: float
) -> None:
    few, many = (
        plan(Wanted(rows=rows, machines=count, recall=recall), machine, model) for count in sorted((one, other))
    )
    assert _at_most(many.load_seconds, few.load_seconds)
    asking = MERGE_SECONDS + max(one, other) * MERGE_SECONDS_A_MACHINE
    for slower, faster in zip(few.costs, many.costs, strict=True):
        assert _at_most(faster.build_seconds, slower.build_seconds), slower.kind
        # Numbers of lists are whole, and so a smaller collection may look into one more.
        rounding = 2 * (model.ivf_list + SEEK_SECONDS) if slower.kind == "ivf" else 0
        assert _at_most(faster.latency_seconds, slower.latency_seconds + asking + rounding), slower.kind


@given(MODELS, MACHINES, _ROWS, _RECALL, _RECALL)
def test_a_higher_recall_is_never_cheaper(model: Model, machine: Hardware, rows: int, one: float, other: float) -> None:
    low, high = (plan(Wanted(rows=rows, recall=recall), machine, model) for recall in sorted((one, other)))
    for less, more in zip(low.costs, high.costs, strict=True):
        assert _at_most(less.latency_seconds, more.latency_seconds), less.kind


@given(MODELS, MACHINES, _ROWS, st.floats(0.5, 1))
def test_what_is_advised_can_be_had_and_every_figure_is_a_number(
    model: Model, machine: Hardware, rows: int, recall: float
) -> None:
    found = plan(Wanted(rows=rows, recall=recall), machine, model)
    assert not found.cost(found.choice.kind).missing
    if found.choice.kind == "hnsw":
        caches = server_options(machine.memory_bytes)
        assert (
            found.cost("hnsw").memory_bytes - model.engine_bytes
            <= int(caches["vector_similarity_index_cache_size"]) + 1
        )
    assert recall < 1 or found.choice.kind == "exact"
    for cost in found.costs:
        for value in (cost.disk_bytes, cost.memory_bytes, cost.build_seconds, cost.latency_seconds):
            assert math.isfinite(value), cost
            assert value >= 0, cost


@given(MACHINES, _ROWS, _RECALL, st.integers(2, 8))
def test_a_faster_machine_is_not_slower(machine: Hardware, rows: int, recall: float, times: int) -> None:
    wanted = Wanted(rows=rows, recall=recall)
    larger = replace(
        machine,
        cores=machine.cores * times,
        memory_bytes=machine.memory_bytes * times,
        disk_read=machine.disk_read * times,
        disk_write=machine.disk_write * times,
    )
    slow, fast = (plan(wanted, each, fitted()) for each in (machine, larger))
    assert _at_most(fast.load_seconds, slow.load_seconds)
    assert all(_at_most(one, other) for one, other in zip(_seconds(fast), _seconds(slow), strict=True))


def _seconds(found: Plan) -> list[float]:
    return [value for cost in found.costs for value in (cost.build_seconds, cost.latency_seconds)]
