"""Laws of the rate: a budget is kept whoever takes from it, in whatever helpings."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliphouse.cli.download import parse_rate
from cliphouse.errors import UsageError
from cliphouse.pace import Bucket, Pace, Stopped

#: What floats may lose of a moment.
_INSTANT = 1e-6

helpings = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 10**6)), min_size=1, max_size=60)


@given(rate=st.floats(1, 10**9), steps=helpings)
def test_one_taker_is_at_most_one_helping_ahead(rate: float, steps: list[tuple[float, int]]) -> None:
    """Who waits as told, and dawdles besides, has at any moment taken at most rate * time, and the last helping."""
    bucket, now, taken = Bucket(rate), 100.0, 0
    for dawdle, count in steps:
        wait = bucket.take(count, now)
        assert wait >= 0
        assert taken <= rate * (now - 100 + _INSTANT)
        taken += count
        now += wait + dawdle


@given(rate=st.floats(1, 10**9), steps=helpings, takers=st.integers(1, 8))
def test_several_takers_share_the_rate(rate: float, steps: list[tuple[float, int]], takers: int) -> None:
    """Each takes when its own wait is over; together they have the rate, and one helping each."""
    bucket, free, last, taken = Bucket(rate), [0.0] * takers, [0] * takers, 0
    for _, count in steps:
        who = min(range(takers), key=lambda each: free[each])
        now = free[who]
        taken += count
        last[who] = count
        assert taken - sum(last) <= rate * (now + _INSTANT)
        free[who] = now + bucket.take(count, now)


@given(rate=st.floats(1, 10**9), counts=st.lists(st.integers(1, 10**6), min_size=1))
def test_the_whole_rate_is_used(rate: float, counts: list[int]) -> None:
    """Without dawdling the time is that of the bytes by the rate, to the rounding of floats."""
    bucket, now = Bucket(rate), 0.0
    for count in counts:
        now += bucket.take(count, now)
    assert now == pytest.approx(sum(counts) / rate)


def test_a_stop_ends_a_wait() -> None:
    pace = Pace(limit=1)
    threading.Timer(0.05, pace.stop).start()
    started = time.monotonic()
    with pytest.raises(Stopped):
        pace.took(1000)
    assert time.monotonic() - started < 20
    with pytest.raises(Stopped):
        pace.rest(0)


@pytest.mark.parametrize(
    ("text", "rate"), [("50M", 50 * 2**20), ("800k", 800 * 2**10), ("1.5 GiB/s", 1.5 * 2**30), ("1000", 1000)]
)
def test_rates_as_people_write_them(text: str, rate: float) -> None:
    assert parse_rate(text) == rate
    for wrong in ("", "M", "-1", "5 apples", "0"):
        with pytest.raises(UsageError, match="is no rate"):
            parse_rate(wrong)
