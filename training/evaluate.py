"""Measure the shipped files on pictures and words that never trained: `python -m training.evaluate`."""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliphouse.encoders.demo import FILES, DemoEncoder
from training import galleries, texts
from training.emoji import concepts
from training.fetch import WORK
from training.galleries import Gallery, positions
from training.refine import related_words

RESULT = Path(__file__).with_name("results") / "demo-encoder.json"
_SYNONYMS = Path(__file__).with_name("synonyms.json")
_PACKAGES = ("torch", "onnxruntime", "numpy", "pillow", "onnx", "resvg-py", "pyarrow")
_K = 10

Embeddings = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A test: how many queries, over how many pictures, and the share answered at rank 1 and in the first 10."""

    test: str
    kind: str
    queries: int
    gallery: int
    hit_rate_at_1: float
    hit_rate_at_10: float


def hit_rates(scores: NDArray[np.float32], right: Callable[[int], NDArray[np.bool_]]) -> tuple[float, float]:
    """The share of queries with a right picture first, and among the first ten."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :_K]
    hits = np.array([right(query)[found] for query, found in enumerate(order)])
    return float(hits[:, 0].mean()), float(hits.any(axis=1).mean())


class Bench:
    """The encoder under test, with the embeddings of each gallery computed once."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.encoders = {
            "full": DemoEncoder(),
            "without dictionary": DemoEncoder(dictionary=False),
            "fallback": DemoEncoder(minilm=False),
            "neither": DemoEncoder(minilm=False, dictionary=False),
        }
        self._embedded: dict[str, Embeddings] = {}
        self.rows: list[Row] = []

    def embedded(self, gallery: Gallery) -> Embeddings:
        """The gallery's embeddings."""
        if gallery.name not in self._embedded:
            self._embedded[gallery.name] = self.encoders["full"].encode_images(gallery.images)
        return self._embedded[gallery.name]

    def by_text(
        self,
        test: str,
        gallery: Gallery,
        asked: Sequence[int],
        among: Sequence[int] | None = None,
        *,
        reading: str = "full",
    ) -> None:
        """Captions of the pictures `asked` as queries, over the pictures `among`, or all."""
        within = np.arange(len(gallery.keys)) if among is None else np.array(among)
        keys = np.array(gallery.keys)
        one_each = [asked[at] for at in sorted(np.unique(keys[asked], return_index=True)[1])]
        queries = self.encoders[reading].encode_texts([gallery.captions[at] for at in one_each])
        scores = queries @ self.embedded(gallery)[within].T
        self._add(test, "text to image", scores, lambda query: keys[within] == keys[one_each[query]])

    def by_image(self, test: str, asked: Gallery, gallery: Gallery, *, held_out: bool | None = None) -> None:
        """One vendor's drawings as queries over another's, for concepts that both draw: all, held out, or trained."""
        shared = set(asked.keys) & set(gallery.keys)
        wanted = [held_out is None or mark is held_out for mark in asked.held_out]
        queries = [at for at, key in enumerate(asked.keys) if key in shared and wanted[at]]
        keys = np.array(gallery.keys)
        scores = self.embedded(asked)[queries] @ self.embedded(gallery).T
        self._add(test, "image to image", scores, lambda query: keys == asked.keys[queries[query]])

    def by_synonym(self, test: str, gallery: Gallery, *, reading: str = "full") -> dict[str, list[str]]:
        """The listed synonyms as queries; returns what was found first for each."""
        entries = json.loads(_SYNONYMS.read_text(encoding="utf-8"))
        scores = self.encoders[reading].encode_texts([entry["word"] for entry in entries]) @ self.embedded(gallery).T
        named = list(zip(gallery.keys, gallery.captions, strict=True))
        masks = [np.array([_is_right(entry, key, caption) for key, caption in named]) for entry in entries]
        self._add(test, "text to image", scores, lambda query: masks[query])
        found = {}
        for entry, row, mask in zip(entries, scores, masks, strict=True):
            order = np.argsort(-row, kind="stable")[:_K]
            found[entry["word"]] = [f"{'+' if mask[at] else '-'} {gallery.captions[at]}" for at in order]
        return found

    def _add(self, test: str, kind: str, scores: Embeddings, right: Callable[[int], NDArray[np.bool_]]) -> None:
        first, ten = hit_rates(scores, right)
        queries, gallery = scores.shape
        row = Row(
            test=test,
            kind=kind,
            queries=queries,
            gallery=gallery,
            hit_rate_at_1=round(first, 4),
            hit_rate_at_10=round(ten, 4),
        )
        self.rows.append(row)
        print(f"{row.test}: {row.queries} over {row.gallery}: {first:.1%} {ten:.1%}", flush=True)


def unlisted(work: Path) -> list[str]:
    """Synonyms that are, against the rule, a word of a training text or of the demo's captions and keywords."""
    gallery, keywords = galleries.demo()
    known = [text for concept in concepts(work).values() for text in (concept.label, *concept.keywords)]
    corpus = texts.load(work)
    refined = [word for words in related_words(corpus, work).values() for word in words]
    said = " ".join([*corpus.texts, *refined, *texts.class_names(work), *gallery.captions, *keywords, *known]).lower()
    used = set(re.findall(r"\w+", said))
    entries = json.loads(_SYNONYMS.read_text(encoding="utf-8"))
    return [entry["word"] for entry in entries if used & {entry["word"], f"{entry['word']}s", f"{entry['word']}es"}]


def measure(bench: Bench) -> dict[str, Any]:
    """Every test; returns what was found for each synonym."""
    work = bench.work
    unseen, second = galleries.vendor("openmoji", work), galleries.vendor("emojione-v1", work)
    noto, twemoji, fluent = (galleries.vendor(name, work) for name in ("noto", "twemoji", "fluent-emoji"))
    everything = list(range(len(unseen.keys)))
    new = positions(unseen.held_out)
    seen = [at for at in everything if not unseen.held_out[at] and not unseen.flags[at]]
    bench.by_text("unseen vendor (OpenMoji), all labels", unseen, everything)
    bench.by_text("unseen vendor, emoji seen from others", unseen, seen)
    bench.by_text("unseen vendor, flags", unseen, positions(unseen.flags))
    bench.by_text("unseen vendor, unseen emoji", unseen, new)
    bench.by_text("unseen vendor, unseen emoji, only those in the gallery", unseen, new, new)
    bench.by_text("second unseen vendor (EmojiOne 1), all labels", second, range(len(second.keys)))
    bench.by_text("trained vendor (Noto), unseen emoji", noto, positions(noto.held_out))
    bench.by_text("trained vendor (Noto), all labels", noto, range(len(noto.keys)))
    art = galleries.clip_arts(work)
    held_out = positions(art.held_out)
    bench.by_text("unseen clip-art titles", art, held_out)
    stamps = galleries.stamps(work)
    bench.by_text("Tux Paint stamps, without letters, coins and signs", stamps, positions(stamps.flags, wanted=False))
    bench.by_image("Twemoji to Noto", twemoji, noto)
    bench.by_image("Noto to Twemoji", noto, twemoji)
    bench.by_image("Twemoji to Noto, trained emoji", twemoji, noto, held_out=False)
    bench.by_image("Noto to Twemoji, trained emoji", noto, twemoji, held_out=False)
    bench.by_image("Twemoji to Noto, unseen emoji", twemoji, noto, held_out=True)
    bench.by_image("Fluent 3D to Noto", fluent, noto)
    bench.by_image("unseen OpenMoji to Noto", unseen, noto)
    pack, _ = galleries.demo()
    found = bench.by_synonym("unseen synonyms, demo pictures", pack)
    bench.by_synonym("unseen synonyms, OpenMoji", unseen)
    bench.by_synonym("without dictionary: unseen synonyms, demo pictures", pack, reading="without dictionary")
    bench.by_synonym("without dictionary: unseen synonyms, OpenMoji", unseen, reading="without dictionary")
    bench.by_text("without dictionary: unseen vendor, all labels", unseen, everything, reading="without dictionary")
    bench.by_text("without dictionary: unseen clip-art titles", art, held_out, reading="without dictionary")
    bench.by_text("without MiniLM: unseen vendor, all labels", unseen, everything, reading="fallback")
    bench.by_text("without MiniLM: trained vendor (Noto), all labels", noto, range(len(noto.keys)), reading="fallback")
    bench.by_text("without MiniLM: unseen clip-art titles", art, held_out, reading="fallback")
    bench.by_synonym("without MiniLM: unseen synonyms, demo pictures", pack, reading="fallback")
    bench.by_synonym("without MiniLM and dictionary: unseen synonyms, demo pictures", pack, reading="neither")
    return {"synonyms": found}


def speed(bench: Bench) -> dict[str, float]:
    """Milliseconds a picture in batches, and a short text, on this machine as loaded as it is."""
    gallery, _ = galleries.demo()
    pictures = gallery.images[:512]
    began = time.perf_counter()
    bench.encoders["full"].encode_images(pictures)
    middle = time.perf_counter()
    bench.encoders["full"].encode_texts(gallery.captions[:200])
    end = time.perf_counter()
    return {"image_ms": round((middle - began) / 512 * 1e3, 2), "text_ms": round((end - middle) / 200 * 1e3, 2)}


def _is_right(entry: Mapping[str, Any], key: str, caption: str) -> bool:
    if key.startswith("openclipart/"):
        right = {form for word in entry["words"] for form in (word, f"{word}s")}
        return bool(set(re.findall(r"[a-z-]+", caption.lower())) & right)
    return caption in entry["labels"]


def _facts() -> dict[str, Any]:
    root = Path(__file__).resolve().parent.parent
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True)
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git.stdout.strip(),
        "machine": {"cpu": cpu, "cores": len([line for line in lines if line.startswith("processor")])},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }


def main() -> None:
    """Run every test and write the result."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if words := unlisted(arguments.work):
        raise SystemExit(f"these synonyms are words of training or of the demo's captions: {words}")
    bench = Bench(arguments.work)
    found = measure(bench)
    encoder = json.loads((FILES / "encoder.json").read_text(encoding="utf-8"))
    rows = [asdict(row) for row in bench.rows]
    result = {**_facts(), "encoder": encoder, "speed": speed(bench), "rows": rows, **found}
    arguments.result.parent.mkdir(exist_ok=True)
    arguments.result.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
