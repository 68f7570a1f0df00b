"""Quantities as people read them."""

from __future__ import annotations

import pytest

from cliphouse.errors import InsufficientMemory, NotEnoughSpace
from cliphouse.units import duration, size


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 2**20, "3.0 MiB"), (2**40, "1.00 TiB")],
)
def test_sizes(count: int, words: str) -> None:
    assert size(count) == words


def test_room_and_memory_are_said_in_units_that_tell_them_apart() -> None:
    disk = NotEnoughSpace("/x", what="shard 0", needed_bytes=3 * 2**20, free_bytes=2 * 2**20, advice="make room")
    memory = InsufficientMemory("an index", needed_bytes=2**31, available_bytes=5 * 2**20, advice="wait")
    assert str(disk) == "shard 0 needs about 3.0 MiB in /x, 2.0 MiB are free; make room"
    assert str(memory) == "an index needs about 2.0 GiB of memory, 5.0 MiB are available; wait"


def test_durations_are_said_in_the_unit_of_people() -> None:
    said = [duration(seconds) for seconds in (0.0042, 0.25, 3.3, 90, 600, 9000, 200_000, 5e7)]
    assert said == ["4.2 ms", "250 ms", "3.3 s", "90 s", "10 min", "2.5 h", "2.3 days", "579 days"]
