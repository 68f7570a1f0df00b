"""`make demo`: embed real pictures, load them, index them and ask, offline, with the commands a user would type.

The pictures are emoji of several vendors and public-domain clip art (demo/PICTURES.md); the encoder is the small one
that comes with cliphouse (training/README.md). The data are LAION-layout shards like any other.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from cliphouse import Collection
from demo.pictures import unpack
from demo.sheet import Answer, write_sheet

PLACE, DB, SHEET = Path("demo-data"), Path("cliphouse-demo"), Path("demo.png")
QUERIES = Path(__file__).parent / "queries"
#: Half of these words stand in no caption: the text side of the encoder knows what they mean.
TEXTS = (
    "a red fruit",
    "spectacles",
    "something to drink",
    "a musical instrument",
    "timepiece",
    "fiddle",
)
SHOWN, ACROSS = 5, 9


def main() -> int:
    """Run the demo; return the exit code of the first command that fails."""
    started = time.perf_counter()
    for place in (PLACE, DB):
        shutil.rmtree(place, ignore_errors=True)
    count = unpack(PLACE / "pictures")
    print(f"{count:,} pictures with captions, in {PLACE / 'pictures'}; where they come from: demo/PICTURES.md")
    for command in (
        ["embed", str(PLACE / "pictures"), str(PLACE / "shards"), "--encoder", "demo"],
        ["load", str(PLACE / "shards"), "--db", str(DB)],
        ["index", "build", "--db", str(DB)],
    ):
        print(f"\n$ cliphouse {shlex.join(command)}", flush=True)
        code = subprocess.run([sys.executable, "-m", "cliphouse", *command], check=False).returncode
        if code:
            return code
    with Collection.open(DB) as collection:
        questions: list[str | Path] = [*TEXTS, *sorted(QUERIES.glob("*.png"))]
        answers = [ask(collection, question) for question in questions]
    write_sheet(SHEET, answers, across=ACROSS)
    cliphouse = Path(sys.executable).parent / "cliphouse"
    print(
        f"\nThe answers as pictures: {SHEET} (all of it took {time.perf_counter() - started:.0f} s)\n"
        f"\nOpen the page: make demo-web, or\n  {cliphouse} serve --db {DB} --pictures {PLACE / 'pictures'} --open\n"
        "\nTry next:"
        f'\n  {cliphouse} search "feline" -k 20 --db {DB}'
        f"\n  {cliphouse} sql \"SELECT caption FROM laion ORDER BY cosineDistance(image_embedding, encode_text('sea'))"
        f' LIMIT 5" --db {DB}'
        f"\n  {cliphouse} add ~/Pictures --db my-pictures --encoder demo"
        "\nThe demo encoder is small; for the real CLIP: cliphouse encoder fetch clip-vit-b32"
    )
    return 0


def ask(collection: Collection, question: str | Path) -> Answer:
    """Search by a text or a picture, and print what came with its distances and the time it took."""
    start = time.perf_counter()
    hits = collection.search(question, k=ACROSS, columns=("image_path",))
    seconds = time.perf_counter() - start
    shown = shlex.join(["--image", str(question)] if isinstance(question, Path) else [question])
    print(f"\n$ cliphouse search {shown} --db {DB}    # {1000 * seconds:.0f} ms, {hits.plan.path}")
    for hit in hits[:SHOWN]:
        print(f"  {hit.distance:.3f}  {hit.caption}")
    return Answer(question=question, pictures=[(Path(hit.image_path), hit.caption) for hit in hits])


if __name__ == "__main__":
    sys.exit(main())
