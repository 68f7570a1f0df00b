"""`make demo`: draw pictures, embed them into shards, load them, and ask, with the commands a user would type.

The encoder is `test-words`, which knows words and colours and needs no model, so a text finds pictures by what is in
their pixels. The data are LAION-layout shards like any other.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from demo.pictures import draw_all, write_shards
from demo.sheet import write_sheet

PLACE = Path("demo-data")
DB = str(PLACE / "db")
TUTORIAL_QUERY = (
    "SELECT caption FROM laion ORDER BY cosineDistance(text_embedding, encode_text('a large yellow star')) ASC LIMIT 3"
)


def main() -> int:
    """Run the demo; return the exit code of the first command that fails."""
    shutil.rmtree(PLACE, ignore_errors=True)
    pictures = draw_all(PLACE / "pictures")
    shards = write_shards(PLACE / "shards", pictures)
    print(
        f"Drew {len(pictures)} pictures and wrote their embeddings as {shards} shards in the LAION layout, in {PLACE}."
    )
    commands = (
        ["load", str(PLACE / "shards"), "--encoder", "test-words", "--db", DB],
        ["search", "something green", "-k", "4", "--db", DB],
        ["search", "--image", str(pictures[0].path), "-k", "4", "--where", "caption LIKE '%star'", "--db", DB],
        ["search", "a small purple ring", "--in", "text", "-k", "3", "--db", DB],
        ["sql", TUTORIAL_QUERY, "--db", DB],
        ["index", "build", "--db", DB],
        ["search", "--like", "100000007", "-k", "3", "--format", "jsonl", "--db", DB],
        ["status", "--db", DB],
    )
    for command in commands:
        print(f"\n$ cliphouse {shlex.join(command)}", flush=True)
        code = subprocess.run([sys.executable, "-m", "cliphouse", *command], check=False).returncode
        if code:
            return code
    sheet = PLACE / "answers.png"
    write_sheet(sheet, DB, ["red", "something green", "blue and yellow", "black"])
    print(
        f"\nThe answers as pictures: {sheet}"
        f"\nGo on with your own shards:  {Path(sys.executable).parent}/cliphouse load DIR"
        f"\nor ask the demo more:        {Path(sys.executable).parent}/cliphouse sql --db {DB}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
