"""The guides do what they print."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from cliphouse import Collection
from tests.data import write_shard

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def shape(text: str) -> list[str]:
    """The words of an output without its figures, which are another machine's."""
    return re.sub(r"[\d.,]+( [KMGT]?i?B\b)?", "N", text).split()


def test_the_commands_of_the_maintenance_guide_print_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cliphouse: Callable[..., object]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "shards")
    (tmp_path / "opt-outs.txt").write_text(f"https://example.com/0/1.jpg\n{'0' * 32}\n")
    with Collection.open("./cliphouse-data", encoder="test-words") as collection:
        collection.load("shards")
        # So that a purge need not wait for the engine's next round.
        collection.sql("ALTER TABLE laion MODIFY SETTING max_cleanup_delay_period = 1")
    blocks = re.findall(r"```\n(.*?)```", (GUIDES / "maintain.md").read_text(), re.DOTALL)
    steps = [step for block in blocks for step in re.split(r"^\$ ", block, flags=re.MULTILINE) if step]
    assert len(steps) > 10
    for step in steps:
        command, _, printed = step.partition("\n")
        outcome = cliphouse(*shlex.split(command)[1:])
        assert outcome.code == 0, (command, outcome.err)
        assert shape(outcome.out) == shape(printed), (command, outcome.out)
