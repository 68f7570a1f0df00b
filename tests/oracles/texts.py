"""Texts of every kind that people and the web bring, the same everywhere."""

from __future__ import annotations

import json
import random
from pathlib import Path

_WORDS: list[str] = json.loads(Path(__file__).with_name("words.json").read_text(encoding="ascii"))


def texts() -> list[str]:
    """4,000 of them: made of words, of letters from all over Unicode, and the hard cases by hand."""
    chosen = random.Random(20211)
    made = ["", " ", "a", "word " * 200, "x" * 400, "é" * 90, "😀" * 60, "don't can't won't", *_WORDS]
    while len(made) < 3000:
        words = chosen.choices(_WORDS, k=chosen.randint(1, 14))
        text = chosen.choice(["", " ", "  "]).join(words) if chosen.random() < 0.2 else " ".join(words)
        made.append(chosen.choice([str, str.upper, str.title])(text))
    ranges = [(32, 127), (160, 592), (768, 880), (1024, 1280), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF)]
    while len(made) < 4000:
        first, last = chosen.choice(ranges)
        made.append("".join(chr(chosen.randrange(first, last)) for _ in range(chosen.randint(1, 40))))
    return made
