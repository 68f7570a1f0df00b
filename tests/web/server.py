"""A collection for the page, and `cliphouse serve` over it, as a process of its own.

Its pictures are squares of one colour: a third of them are files that the service shows, the others lie at
pictures.example, which the tests answer for, and of which some are gone.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from cliphouse import Collection
from cliphouse.encoders.words import COLOURS
from cliphouse.evaluation import EvaluationOptions
from cliphouse.types import IndexConfig
from tests.data import write_shard

ROWS = 180
THINGS = ("car", "bird", "house", "flower", "boat")
NAMES = list(COLOURS)[:9]
TAGS = ("UNLIKELY",) * 10 + ("UNSURE", "NSFW")
_ADDRESS = re.compile(r"served at (http://\S+)")


def caption(row: int) -> str:
    return f"{NAMES[row % 9]} {THINGS[row % 5]} number{row}"


def make(folder: Path) -> None:
    """Write pictures and a shard below `folder`, and load, index and evaluate them in `folder/db`."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    paths, urls = [], []
    for row in range(ROWS):
        place = pictures / f"{row}.png"
        if row % 3 == 0:
            Image.new("RGB", (90 + 30 * (row % 4), 90), COLOURS[NAMES[row % 9]]).save(place)
        paths.append(str(place) if row % 3 == 0 else "")
        urls.append(f"http://{'ab'[row % 2]}.pictures.example/{'gone' if row % 10 == 4 else 'there'}/{row}.png")
    columns = {
        "url": urls,
        "image_path": paths,
        "NSFW": [TAGS[row % len(TAGS)] for row in range(ROWS)],
        "LICENSE": [("cc-by", "cc0", "?")[row % 3] for row in range(ROWS)],
        "width": [90 + 30 * (row % 4) if row % 3 == 0 else 300 * (row % 5) for row in range(ROWS)],
        "height": [90 if row % 3 == 0 else 300 for row in range(ROWS)],
        "similarity": [0.2 + row % 4 / 10 for row in range(ROWS)],
    }
    shards = write_shard(folder / "shards", captions=[caption(row) for row in range(ROWS)], columns=columns)
    with Collection.open(folder / "db", encoder="test-words") as collection:
        collection.load(shards)
        collection.build_index(config=IndexConfig(m=8, ef_construction=32))
        collection.evaluate(EvaluationOptions(sample=20, filters=False, seconds=0.05, clients=2))


@contextmanager
def served(db: Path, *options: str) -> Iterator[str]:
    """The address of the page of a database, until the block is left."""
    command = [sys.executable, "-m", "cliphouse", "serve", "--db", str(db), "--port", "0", *options]
    log = db.with_name(f"{db.name}.log")
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            found = next((match for line in process.stdout if (match := _ADDRESS.search(line))), None)
            assert found, log.read_text()
            yield found[1]
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
