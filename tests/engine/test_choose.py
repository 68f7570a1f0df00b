"""The index that `auto` chooses, on the machine where the data is."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliphouse import Collection, costs, index
from cliphouse.cost_model import measured_hardware
from cliphouse.hardware import machine
from tests.data import write_shard


def test_auto_reckons_with_the_disk_that_the_data_lies_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `plan` does; a database that is in memory has none, and the model's is taken."""
    asked: list[float | None] = []
    choose = costs.choose

    def noting(**options: object) -> costs.Choice:
        asked.append(options["disk_read"])  # type: ignore[arg-type]
        return choose(**options)  # type: ignore[arg-type]

    monkeypatch.setattr(index.costs, "choose", noting)
    write_shard(tmp_path / "in")
    for place in (str(tmp_path / "db"), "chdb://memory"):
        with Collection.open(place) as collection:
            collection.load(tmp_path / "in")
            assert collection.choose_index().kind == "exact"
    assert asked[0] != asked[1] == measured_hardware().disk_read == machine().disk_read
