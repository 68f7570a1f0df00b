"""`cliphouse embed` and `add` as users run them: lists on standard input, Ctrl-C, and kill -9 at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cliphouse import Collection
from cliphouse.encoders.words import COLOURS
from cliphouse.errors import UnknownShard
from cliphouse.pipeline.add import WORK
from cliphouse.pipeline.plan import plan
from cliphouse.pipeline.read import open_shard
from tests.pictures import draw, draw_folder, rows_of

Cliphouse = Callable[..., "object"]

#: Runs the command line and kills itself at the Nth moment before or after one of these functions.
KILLED = """
import os, signal, sys
from pathlib import Path
from cliphouse.cli.main import main
from cliphouse.pipeline import add, folder, ledger, staging

moment = int(sys.argv.pop(1))
passed = 0

def die_in_time():
    global passed
    passed += 1
    if passed == moment:
        os.kill(os.getpid(), signal.SIGKILL)

def dying(function):
    def wrapped(*arguments, **options):
        die_in_time()
        answer = function(*arguments, **options)
        die_in_time()
        return answer
    return wrapped

for owner, name in ((Path, "replace"), (Path, "unlink"), (ledger, "write"), (staging, "drop")):
    setattr(owner, name, dying(getattr(owner, name)))
main()
"""


def _killed(moment: int, *arguments: object) -> int:
    command = [sys.executable, "-c", KILLED, str(moment), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).returncode


def _run(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "cliphouse", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, input=stdin, timeout=60, check=False)


def test_embed_and_load_as_in_the_help(cliphouse: Cliphouse, tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 5)
    draw(tmp_path / "in" / "plain.png")
    (tmp_path / "in" / "broken.jpg").write_text("text")
    out = tmp_path / "out"
    first = cliphouse("embed", tmp_path / "in", out, "--encoder", "test-words")
    assert (first.code, first.err) == (0, "")
    lines = first.out.splitlines()
    assert lines[0].startswith(f"embedded 6 pictures (5 with a caption) into shards 0-1 of {out} in ")
    assert lines[0].endswith("pictures/s); encoder test-words, 256 dimensions")
    assert lines[1] == f"skipped 1: 1 not a picture that Pillow knows; see {out / 'skipped.jsonl'}"
    again = cliphouse("embed", tmp_path / "in", out, "--encoder", "test-words")
    assert again.out.splitlines()[0] == f"6 were in {out} already"
    assert "encoder test-words" in cliphouse("load", out, "--db", tmp_path / "db").out
    assert "number3" in cliphouse("search", "green", "-k", 1, "--db", tmp_path / "db").out


def test_rows_that_name_no_picture_are_said(cliphouse: Cliphouse, tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 1, captions=False)
    (tmp_path / "in" / "t.csv").write_text("key,caption\n0,red\n1,green\n")
    said = cliphouse("embed", tmp_path / "in", tmp_path / "out", "--encoder", "test-words")
    assert said.out.splitlines()[-1] == f"2 rows of {tmp_path}/in/t.csv named no picture of the source"


def test_add_as_in_the_help(cliphouse: Cliphouse, db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw_folder(tmp_path / "in", 3)
    first = cliphouse("add", tmp_path / "in", "--db", db, "--encoder", "test-words")
    assert (first.code, first.err) == (0, "")
    assert first.out.startswith("added 3 pictures to laion as shards 0 in ")
    cliphouse("index", "build", "--db", db, "--m", 16)
    assert cliphouse("add", tmp_path / "in", "--db", db).out == "3 were in laion already\n"
    draw(tmp_path / "in" / "new.png", "pink")
    more = cliphouse("add", tmp_path / "in", "--db", db)
    assert "added 1 picture (0 with a caption) to laion as shards 1 in " in more.out
    assert "image_index does not cover the new rows yet: cliphouse index build --column image" in more.out
    found = cliphouse("search", "pink", "-k", 1, "--db", db, "--format", "jsonl", "--columns", "image_path")
    assert json.loads(found.out)["image_path"] == str(tmp_path / "in" / "new.png")
    assert (tmp_path / "cache" / "cliphouse" / "add").exists() == db.startswith("clickhouse")


ERRORS = {
    "encoder": (("in", "out", "--encoder", "clop"), "there is no encoder 'clop'"),
    "weights": (("in", "out"), "the encoder 'clip-vit-b32' cannot run here: its weights are not here"),
    "source": (("absent", "out"), "there is nothing at absent"),
    "pixels": (("in", "out", "--max-pixels", "0"), "max_pixels must be at least 1"),
    "null": (("in", "out", "-0"), "--null is about a list on standard input"),
    "nothing": (("empty", "out", "--encoder", "test-words"), "no picture to embed in"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line(cliphouse: Cliphouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    draw_folder(tmp_path / "in", 1)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    arguments, words = ERRORS[case]
    outcome = cliphouse("embed", *arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert words in outcome.err


def test_a_mistyped_source_makes_no_database(cliphouse: Cliphouse, tmp_path: Path) -> None:
    assert cliphouse("add", tmp_path / "absent", "--db", tmp_path / "db").code == 2
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize("null", [False, True])
def test_a_list_on_standard_input(tmp_path: Path, null: bool) -> None:
    red, blue = (
        draw(tmp_path / "a red one.png"),
        draw(tmp_path / "blue\tor\nnot.png" if null else tmp_path / "b.png", "blue"),
    )
    listed = b"\0".join(map(os.fsencode, (red, blue))) if null else f"{red}\ta caption\r\n\n{blue}\n".encode()
    ended = _run("embed", *(["-0"] if null else []), "-", tmp_path / "out", "--encoder", "test-words", stdin=listed)
    assert ended.returncode == 0, ended.stderr
    captions = {row["image_path"]: row["caption"] for row in rows_of(plan(tmp_path / "out"))}
    assert captions == {str(red): None if null else "a caption", str(blue): None}


def test_ctrl_c_keeps_what_was_encoded_and_says_how_to_go_on(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 3)
    command = [sys.executable, "-m", "cliphouse", "embed", str(tmp_path / "in"), str(tmp_path / "out")]
    # An encoder that waits for the signal, by a module that Python loads first.
    (tmp_path / "sitecustomize.py").write_text(
        "import signal\nfrom cliphouse.encoders.words import WordEncoder as W\nencode = W.encode_images\n"
        "from cliphouse.pipeline import embed\nembed.BATCH = 1\n"
        "def slow(self, images):\n"
        "    if slow.calls == 2:\n        print('waiting', flush=True)\n        signal.pause()\n"
        "    slow.calls += 1\n    return encode(self, images)\n"
        "slow.calls = 0\nW.encode_images = slow\n"
    )
    paths = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    with subprocess.Popen(
        [*command, "--encoder", "test-words"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    ) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert [line for line in stderr.splitlines() if line] == [
        "what was encoded is kept; run the same command again to go on",
        "cliphouse: interrupted",
    ]
    assert len(rows_of(plan(tmp_path / "out"))) == 2


def test_a_killed_embed_goes_on_and_has_each_picture_once(tmp_path: Path) -> None:
    """Killed again and again, each time a step later; what is there can be loaded at every moment."""
    draw_folder(tmp_path / "in", 9)
    (tmp_path / "in" / "04.txt").unlink()
    command = ("embed", tmp_path / "in", tmp_path / "out", "--encoder", "test-words", "--shard-size", 3)
    there = []
    for moment in (3, 6, 15, 20, 14, 10):
        assert _killed(moment, *command) == -signal.SIGKILL
        try:
            there.append(sum(open_shard(shard).rows for shard in plan(tmp_path / "out")))
        except UnknownShard:
            there.append(0)
    assert there == [0, 0, 0, 3, 6, 7]
    assert _run(*command).returncode == 0
    rows = rows_of(plan(tmp_path / "out"))
    assert len(rows) == len({row["image_path"] for row in rows}) == 9
    assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == 2 + 4 * 3 - 1
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "out")
        for number, colour in enumerate(COLOURS):
            if number < 9:
                hit = collection.search(colour, k=1, columns=("key",))[0]
                assert hit.key == f"{number:02d}.png"


def test_a_killed_add_goes_on_and_has_each_picture_once(tmp_path: Path) -> None:
    """Before the rows are in, when they are in and not recorded, recorded and not cleared, cleared in half."""
    draw_folder(tmp_path / "in", 4)
    (tmp_path / "in" / "02.txt").unlink()
    command = ("add", tmp_path / "in", "--db", tmp_path / "db", "--encoder", "test-words")
    for moment in (3, 14, 9, 6, 8):
        assert _killed(moment, *command) == -signal.SIGKILL
    ended = _run(*command)
    assert ended.returncode == 0, ended.stderr
    with Collection.open(tmp_path / "db") as collection:
        table = collection.sql("SELECT count() AS rows, uniqExact(image_path) AS pictures FROM laion").to_pylist()
        assert table == [{"rows": 4, "pictures": 4}]
        assert collection.sql("SHOW TABLES").column("name").to_pylist() == ["laion", "laion_shards"]
        shards = collection.sql("SELECT DISTINCT shard FROM laion ORDER BY shard").column("shard").to_pylist()
        assert collection.status().shards == tuple(shards)
    left = [path.name for path in (tmp_path / "db" / WORK).rglob("*") if path.is_file()]
    assert sorted(left) == ["cliphouse.json", "skipped.jsonl"]
