"""The guides do what they print."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cliphouse import Collection
from tests.data import write_shard

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def shape(text: str) -> str:
    """The words of an output without its figures, which are another machine's."""
    return " ".join(re.sub(r"\d[\d.,]*( ([KMGT]?i?B|ms|s|min|h)\b)?", "N", text).split())


def follow(guide: str, cliphouse: Callable[..., Any]) -> int:
    """Run the commands of a guide in order, and compare what they print: "..." is anything, and nothing too. Return how
    many there were."""
    blocks = re.findall(r"```\n(.*?)```", (GUIDES / guide).read_text(), re.DOTALL)
    steps = [step for block in blocks for step in re.split(r"^\$ ", block, flags=re.MULTILINE) if step]
    for step in steps:
        command, _, printed = step.partition("\n")
        outcome = cliphouse(*shlex.split(command)[1:])
        assert outcome.code == 0, (command, outcome.err)
        wanted = ".*".join(map(re.escape, shape(printed or "...").split("...")))
        assert re.fullmatch(wanted, shape(outcome.out)), (command, outcome.out)
    return len(steps)


def test_the_commands_of_the_maintenance_guide_print_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cliphouse: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "shards")
    (tmp_path / "opt-outs.txt").write_text(f"https://example.com/0/1.jpg\n{'0' * 32}\n")
    with Collection.open("./cliphouse-data", encoder="test-words") as collection:
        collection.load("shards")
        # So that a purge need not wait for the engine's next round.
        collection.sql("ALTER TABLE laion MODIFY SETTING max_cleanup_delay_period = 1")
    assert follow("maintain.md", cliphouse) > 10


def test_the_commands_of_the_index_guide_print_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cliphouse: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cliphouse.evaluation.DEFAULT_TUNING_SAMPLE", 4)
    monkeypatch.setattr("cliphouse.evaluation.DEFAULT_SAMPLE", 4)
    said = captions(2800)
    for number, of_shard in enumerate((said[:2500], said[2500:])):
        write_shard(tmp_path / "shards", number, of_shard, columns={"width": [1200] * len(of_shard)})
    (tmp_path / "searches.txt").write_text("\n".join(said[:4]))
    with Collection.open("./cliphouse-data", encoder="test-words") as collection:
        collection.load("shards", shards=[0])
    assert follow("index.md", cliphouse) > 15
    (python,) = re.findall(r"```python\n(.*?)```", (GUIDES / "index.md").read_text(), re.DOTALL)
    exec(python, {})


def captions(count: int) -> list[str]:
    """So many, of words that come again."""
    rng = np.random.default_rng(0)
    colours = ("red", "blue", "green", "yellow", "black", "white", "brown", "pink", "grey", "orange")
    things = ("car", "dog", "cat", "house", "tree", "boat", "bird", "horse", "flower", "chair", "lamp", "train")
    places = ("snow", "sea", "street", "garden", "kitchen", "forest", "night", "field", "station", "city")
    kinds = (colours, things, colours, things, places, places)
    chosen = zip(*(rng.choice(words, count) for words in kinds), strict=True)
    return ["a {} {} and a {} {}, {} {}".format(*words) for words in chosen]
