"""Which effort reaches a recall, by what was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliphouse.notes import Curve

POINTS = st.dictionaries(st.integers(1, 5000), st.floats(0, 1), min_size=1).map(lambda each: list(each.items()))


@pytest.mark.parametrize(("recall", "effort"), [(0.5, 10), (0.7, 15), (0.8, 20), (0.9, 61), (0.95, 70), (0.96, None)])
def test_an_effort_lies_between_the_last_that_missed_and_the_next(recall: float, effort: int | None) -> None:
    points = [(10, 0.6), (20, 0.8), (40, 0.92), (60, 0.89), (70, 0.95)]
    assert Curve(wanted=0.9, k=10, points=points).effort(recall) == pytest.approx(effort, abs=2)


@given(POINTS, st.floats(0, 1))
def test_no_effort_is_one_that_was_measured_to_miss_or_less(points: list[tuple[int, float]], recall: float) -> None:
    effort = Curve(wanted=0.9, k=10, points=points).effort(recall)
    missed = [each for each, reached in points if reached < recall]
    if effort is None:
        assert max(points)[0] in missed
    else:
        assert effort > max(missed, default=0)
        assert effort <= max(points)[0]
