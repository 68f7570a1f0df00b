"""What the engine is told of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cliphouse.engine import embedded, machine_memory_bytes


def test_a_containers_limit_counts_where_it_is_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(embedded, "_CGROUP_LIMITS", (str(limit), str(tmp_path / "absent")))
    for text, expected in (("max\n", machine), (str(2**62), machine), ("2147483648\n", 2**31)):
        limit.write_text(text)
        assert machine_memory_bytes() == expected


@pytest.mark.parametrize("gib", [1, 4, 16, 512])
def test_the_caches_leave_room_on_every_machine(gib: int) -> None:
    options = embedded.server_options(gib * 2**30)
    caches = sum(int(value) for name, value in options.items() if name.endswith("cache_size"))
    assert caches < int(options["max_server_memory_usage"]) < gib * 2**30
