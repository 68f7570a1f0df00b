"""A text query in a process that has done nothing yet.

    python -m benchmarks.cold_start SYSTEM ENCODER DATABASE_OR_CHECKPOINT THREADS < captions.json

Prints one line as soon as the first caption is answered, with the seconds of its stages, and for a collection a second
one: how long searches for the other captions took, each new, then each again. Nothing is imported before it is needed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

#: What the clock is stopped after; before them the interpreter itself starts.
STAGES = ("import", "open", "first")


def search(encoder: str, database: str, captions: list[str]) -> Iterator[dict[str, Any]]:
    """Ask the collection in `database` as a program of a user does."""
    stages: dict[str, float] = {}
    with stage(stages, "import"):
        from cliphouse import Collection
    with stage(stages, "open"):
        collection = Collection.open(database, create=False, encoder=encoder or None)
    with stage(stages, "first"):
        hits = collection.search(captions[0])
    if len(hits) != 10:
        raise RuntimeError(f"{len(hits)} hits")
    yield {"stages": stages}
    latencies: dict[str, list[float]] = {"new_ms": [], "repeated_ms": []}
    for taken in latencies.values():
        for caption in captions[1:]:
            start = time.perf_counter()
            collection.search(caption)
            taken.append((time.perf_counter() - start) * 1000)
    yield latencies


def encode(architecture: str, checkpoint: str, threads: int, captions: list[str]) -> Iterator[dict[str, Any]]:
    """Encode a text with open_clip, as its README does; there is nothing it could search."""
    stages: dict[str, float] = {}
    with stage(stages, "import"):
        oracle: Any = import_module("tests.oracles.open_clip")  # the two packages, also beside another torchvision
    open_clip, torch = oracle.open_clip, oracle.torch
    with stage(stages, "open"):
        torch.set_num_threads(threads)
        network = open_clip.create_model(architecture, pretrained=checkpoint).eval()
        tokenize = open_clip.get_tokenizer(architecture)
    with stage(stages, "first"), torch.inference_mode():
        network.encode_text(tokenize(captions[:1]), normalize=True).numpy()
    yield {"stages": stages}


@contextmanager
def stage(stages: dict[str, float], name: str) -> Iterator[None]:
    """Note the seconds that the block takes."""
    start = time.perf_counter()
    yield
    stages[name] = time.perf_counter() - start


def main() -> None:
    system, encoder, path, threads = sys.argv[1:]
    captions = json.load(sys.stdin)
    told = encode(encoder, path, int(threads), captions) if system == "open_clip" else search(encoder, path, captions)
    for line in told:
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
