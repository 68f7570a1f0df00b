"""The command line: what it prints, where, and how it ends."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cliphouse.cli.main import cli
from tests.data import ENCODER, write_shard

Cliphouse = Callable[..., "object"]


@pytest.fixture
def loaded(cliphouse: Cliphouse, db: str, shards: Path) -> str:
    """The URL of a database with the eight rows, on each kind of engine."""
    outcome = cliphouse("load", shards, "--db", db, "--encoder", "test-words")
    assert outcome.code == 0, outcome.err
    assert "loaded 8 rows of shards 0" in outcome.out
    assert "256 dimensions, encoder test-words, bfloat16" in outcome.out
    return db


def test_load_twice(cliphouse: Cliphouse, loaded: str, shards: Path) -> None:
    again = cliphouse("load", shards, "--db", loaded)
    assert (again.code, again.out) == (0, "shards 0 were loaded already\n")


def test_search_prints_a_table_for_people(cliphouse: Cliphouse, loaded: str) -> None:
    outcome = cliphouse("search", "red car", "-k", 2, "--db", loaded)
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["id", "distance", "similarity", "NSFW", "caption", "url"]
    assert "red car" in lines[1]
    assert "a red car parked" in lines[2]
    assert len(lines) == 3


def test_search_formats_for_programs(cliphouse: Cliphouse, loaded: str) -> None:
    arguments = ("search", "red car", "-k", 3, "--db", loaded, "--columns", "width, shard", "--format")
    objects = json.loads(cliphouse(*arguments, "json").out)
    lines = [json.loads(line) for line in cliphouse(*arguments, "jsonl").out.splitlines()]
    rows = list(csv.DictReader(io.StringIO(cliphouse(*arguments, "csv").out)))
    assert [item["caption"] for item in objects][:2] == ["red car", "a red car parked"]
    assert lines == objects
    assert [row["caption"] for row in rows] == [item["caption"] for item in objects]
    assert list(objects[0]) == ["id", "distance", "url", "caption", "NSFW", "similarity", "width", "shard"]


def test_no_result_is_an_empty_array(cliphouse: Cliphouse, loaded: str) -> None:
    arguments = ("search", "red", "--where", "id < 0", "--db", loaded, "--format")
    assert json.loads(cliphouse(*arguments, "json").out) == []
    assert cliphouse(*arguments, "csv").out == "id,distance,url,caption,NSFW,similarity\r\n"


def test_search_by_picture_vector_and_row(cliphouse: Cliphouse, loaded: str, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (30, 150, 50)).save(tmp_path / "green.png")
    np.save(tmp_path / "vector.npy", ENCODER.encode_texts(["white horse"]).astype(np.float16))
    for arguments, caption in (
        (("--image", tmp_path / "green.png"), "a green tree"),
        (("--embedding", tmp_path / "vector.npy"), "white horse"),
        (("--like", 5, "--in", "text"), "black cat on a sofa"),
    ):
        outcome = cliphouse("search", *arguments, "-k", 1, "--db", loaded, "--format", "jsonl")
        assert json.loads(outcome.out)["caption"] == caption


def test_the_printed_statement_gives_the_same_answer_in_sql(
    cliphouse: Cliphouse, loaded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("search", "red car", "-k", 4, "--where", "width > 256", "--db", loaded)
    script = cliphouse(*arguments, "--sql").out
    assert "cosineDistance(`image_embedding`, {target:Array(Float32)})" in script
    monkeypatch.setattr("sys.stdin", io.StringIO(script))
    rows = [json.loads(line) for line in cliphouse("sql", "--db", loaded, "--format", "JSONEachRow").out.splitlines()]
    hits = json.loads(cliphouse(*arguments, "--format", "json").out)
    assert [row["caption"] for row in rows] == [hit["caption"] for hit in hits]


def test_explain_says_which_path_ran(cliphouse: Cliphouse, loaded: str) -> None:
    arguments = ("search", "red car", "--db", loaded, "--explain")
    before = cliphouse(*arguments).out
    assert before.startswith("path: exact\nreason: image_embedding has no vector index\nhits: 8\n")
    built = cliphouse("index", "build", "--db", loaded, "--m", 16, "--ef-construction", 32)
    assert built.out.startswith("image_index is ready: 8 rows, hnsw, m 16, ef_construction 32, bf16")
    after = cliphouse(*arguments, "-k", 4).out
    assert after.startswith("path: hnsw\n")
    assert "vector_similarity" in after
    assert cliphouse(*arguments, "-k", 1001).out.startswith("path: exact\nreason: k is over 1000")


def test_index_show_and_drop(cliphouse: Cliphouse, loaded: str) -> None:
    assert "no vector index" in cliphouse("index", "show", "--db", loaded).out
    cliphouse("index", "build", "--db", loaded, "--column", "text_embedding", "--m", 16)
    shown = json.loads(cliphouse("index", "show", "--db", loaded, "--format", "json").out)
    assert [(state["name"], state["state"], state["rows_indexed"]) for state in shown] == [("text_index", "ready", 8)]
    assert "text_index" in cliphouse("index", "show", "--db", loaded).out
    assert cliphouse("index", "drop", "--column", "text", "--db", loaded).out == "dropped text_index\n"
    assert cliphouse("index", "drop", "--column", "text", "--db", loaded).code == 2


def test_status(cliphouse: Cliphouse, loaded: str) -> None:
    status = json.loads(cliphouse("status", "--db", loaded, "--format", "json").out)
    assert (status["rows"], status["shards"], status["encoder"], status["dim"]) == (8, [0], "test-words", 256)
    assert status["storage"] == "bfloat16"
    assert status["engine_version"].count(".") == 3
    assert "test-words, 256 dimensions" in cliphouse("status", "--db", loaded).out
    assert "s3cret" not in json.dumps(status)


def test_sql_with_parameters_and_formats(cliphouse: Cliphouse, loaded: str, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", ENCODER.encode_texts(["white horse"])[0])
    query = "SELECT caption FROM laion ORDER BY cosineDistance(image_embedding, {target:Array(Float32)}) LIMIT 1"
    target = ("--param", f"target=@{tmp_path / 'v.npy'}")
    assert cliphouse("sql", query, *target, "--db", loaded).out == "white horse\n"
    assert (
        cliphouse("sql", query, *target, "--db", loaded, "--format", "JSONEachRow").out == '{"caption":"white horse"}\n'
    )
    text = cliphouse(
        "sql",
        "SELECT {word:String} AS word",
        "--param",
        "word=it's = a \\ 猫",
        "--db",
        loaded,
        "--format",
        "JSONEachRow",
    )
    assert json.loads(text.out) == {"word": "it's = a \\ 猫"}
    assert cliphouse("sql", "SELECT 1", "--param", "nonsense", "--db", loaded).code == 2


def test_a_format_without_bfloat16_says_what_to_write(cliphouse: Cliphouse, loaded: str) -> None:
    refused = cliphouse("sql", "SELECT * FROM laion", "--format", "Parquet", "--db", loaded)
    assert refused.code == 2
    assert "select image_embedding::Array(Float32), text_embedding::Array(Float32) instead" in refused.err
    unknown = cliphouse("sql", "SELECT * FROM laion", "--format", "Nonsense", "--db", loaded)
    assert (unknown.code, "Nonsense" in unknown.err) == (5, True)


def test_sql_runs_several_statements_in_one_session(cliphouse: Cliphouse, loaded: str) -> None:
    outcome = cliphouse(
        "sql", "SET param_x = 5; -- a; comment\nSELECT {x:UInt8} + 1; SELECT ';' AS a;;", "--db", loaded
    )
    assert (outcome.code, outcome.out) == (0, "6\n;\n")


def test_sql_that_answers_without_rows_of_its_own(cliphouse: Cliphouse, loaded: str) -> None:
    for statement, answer in (
        ("EXPLAIN SYNTAX SELECT 1", "SELECT 1"),
        ("EXISTS laion", "1"),
        ("DESC laion", "caption"),
    ):
        outcome = cliphouse("sql", statement, "--db", loaded)
        assert outcome.code == 0, outcome.err
        assert answer in outcome.out


ERRORS = {
    "no query": (("search",), 2, "give one thing to search for"),
    "two queries": (("search", "a", "--like", "3"), 2, "give one thing to search for"),
    "k": (("search", "a", "-k", "0"), 2, "k must be a whole number from 1 to 10000, got 0"),
    "filter": (("search", "a", "--where", "width >="), 2, "the filter 'width >=' is not valid"),
    "row": (("search", "--like", "77"), 2, "no row with id 77"),
    "picture": (("search", "--image", "absent.png"), 2, "absent.png"),
    "vector": (("search", "--embedding", "absent.npy"), 2, "absent.npy: No such file"),
    "collection": (("search", "a", "--collection", "other"), 2, "no collection 'other'"),
    "name": (("search", "a", "--collection", "a b"), 2, "'a b' is not a valid name"),
    "encoder": (("search", "a", "--encoder", "clip-vit-b32"), 2, "holds test-words embeddings, not clip-vit-b32"),
    "option": (("search", "a", "--nope"), 2, "No such option"),
    "command": (("serach",), 2, "No such command"),
    "directory": (("load", "absent"), 2, "absent is not a directory"),
    "sql": (("sql", "SELCT 1"), 5, "SYNTAX_ERROR, code 62"),
    "table": (("sql", "SELECT * FROM nope"), 5, "UNKNOWN_TABLE, code 60"),
    "parameter": (("index", "build", "--m", "1"), 2, "m must be from 2 to 1024, got 1"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_is_one_line_with_an_exit_code(cliphouse: Cliphouse, loaded: str, case: str) -> None:
    arguments, code, words = ERRORS[case]
    database = () if case == "command" else ("--db", loaded)
    outcome = cliphouse(*arguments, *database)
    assert (outcome.code, outcome.out) == (code, "")
    assert words in outcome.err
    assert outcome.err.startswith("cliphouse: ")
    assert outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.err
    assert "s3cret" not in outcome.err


def test_debug_shows_the_traceback(cliphouse: Cliphouse, loaded: str) -> None:
    outcome = cliphouse("search", "--like", 77, "--debug", "--db", loaded)
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("cliphouse: collection 'laion' has no row")
    assert outcome.code == 2


def test_reading_does_not_make_a_database(cliphouse: Cliphouse, tmp_path: Path) -> None:
    for command in (("status",), ("search", "a"), ("index", "show")):
        outcome = cliphouse(*command, "--db", tmp_path / "absent")
        assert outcome.code == 2
        assert "there is no database at" in outcome.err
        assert "cliphouse load" in outcome.err
    assert not (tmp_path / "absent").exists()


def test_the_environment_names_the_database(
    cliphouse: Cliphouse, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPHOUSE_DB", f"chdb://{tmp_path / 'from-env'}")
    monkeypatch.setenv("CLIPHOUSE_ENCODER", "test-words")
    cliphouse("load", shards)
    assert "red car" in cliphouse("search", "red car").out
    assert (tmp_path / "from-env" / "store").is_dir()


def test_captions_cannot_drive_the_terminal(cliphouse: Cliphouse, tmp_path: Path) -> None:
    write_shard(tmp_path / "in", captions=["red \x1b[2J\x1b]0;owned\x07 car [bold]x[/bold]"])
    cliphouse("load", tmp_path / "in", "--db", tmp_path / "db", "--encoder", "test-words")
    out = cliphouse("search", "red", "--db", tmp_path / "db").out
    assert "\x1b" not in out
    assert "[bold]x[/bold]" in out


def test_a_bare_command_shows_its_help(cliphouse: Cliphouse) -> None:
    for arguments in ((), ("index",)):
        outcome = cliphouse(*arguments)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.startswith("Usage: ")


def test_every_command_explains_itself() -> None:
    def walk(command: object, path: tuple[str, ...]) -> None:
        for name, child in getattr(command, "commands", {}).items():
            shown = CliRunner().invoke(cli, [*path, name, "--help"])
            assert shown.exit_code == 0
            assert child.help
            for parameter in child.params:
                assert isinstance(parameter, click.Argument) or parameter.help, (path, name, parameter.name)
            walk(child, (*path, name))

    walk(cli, ())
