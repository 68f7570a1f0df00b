"""What happens between processes: one directory, one signal, one broken disk. Real commands, run as users run them."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cliphouse import Collection, Query
from cliphouse.engine import connect, machine_memory_bytes
from cliphouse.errors import (
    AuthenticationFailed,
    EngineError,
    EngineUnavailable,
    StorageError,
    StorageFull,
)
from tests.data import random_unit, write_shard

ENDLESS = "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"
RUNNING = Query(
    sql="SELECT count() FROM system.processes WHERE query LIKE '%sipHash64%' AND query NOT LIKE '%system.processes%'"
)


def _run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cliphouse", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def test_a_directory_in_use_is_said_with_its_holder(embedded: Collection) -> None:
    """A second process is told who holds the directory, in one line, and leaves it unharmed."""
    path = embedded.engine.location.path
    second = _run("status", "--db", path)
    assert second.returncode == 5
    assert second.stderr == (
        f"cliphouse: {path} is in use by process {os.getpid()}: an embedded database serves one process at a time; "
        "stop that process, or use another --db\n"
    )
    assert embedded.search("red car", k=1)[0].caption == "red car"
    embedded.close()
    assert _run("status", "--db", path).returncode == 0


def test_a_directory_left_by_a_killed_process_opens_again(tmp_path: Path, shards: Path) -> None:
    program = (
        "import os, signal; from cliphouse import Collection\n"
        f"c = Collection.open({str(tmp_path / 'db')!r}, encoder='test-words'); c.load({str(shards)!r})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == -signal.SIGKILL
    with Collection.open(tmp_path / "db") as again:
        assert again.status().rows == 8


def test_two_directories_in_one_process_are_refused_plainly(embedded: Collection, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="already has") as caught:
        Collection.open(tmp_path / "other")
    assert str(embedded.engine.location.path) in str(caught.value)


def test_ctrl_c_stops_a_query_within_a_second(embedded: Collection) -> None:
    def interrupt() -> None:
        with Collection.open(embedded.engine.location.path) as other:
            while not other.engine.query(RUNNING).rows[0][0]:
                pass
        stamp.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    stamp: list[float] = []
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        embedded.engine.query(Query(sql=ENDLESS))
    assert time.monotonic() - stamp[0] < 1
    thread.join()
    assert embedded.search("red car", k=1)[0].caption == "red car"
    assert embedded.engine.query(RUNNING).rows == [(0,)]


def test_two_quick_ctrl_c_end_a_query_whose_mark_was_changed(tmp_path: Path) -> None:
    query = f"SET log_comment = 'mine'; SELECT 'begun'; {ENDLESS}"
    command = [sys.executable, "-m", "cliphouse", "sql", query, "--db", str(tmp_path / "db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr.strip()) == (130, "cliphouse: interrupted")


@pytest.fixture
def endless(tmp_path: Path, shards: Path) -> Iterator[subprocess.Popen[str]]:
    """`cliphouse sql` in a process of its own, in the middle of an endless query."""
    _run("load", shards, "--db", tmp_path / "db", "--encoder", "test-words")
    command = [sys.executable, "-m", "cliphouse", "sql", f"SELECT 'begun'; {ENDLESS}", "--db", str(tmp_path / "db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        yield process
        process.kill()


def test_ctrl_c_ends_the_command_with_130_and_leaves_the_data_usable(
    endless: subprocess.Popen[str], tmp_path: Path
) -> None:
    endless.send_signal(signal.SIGINT)
    _, stderr = endless.communicate(timeout=20)
    assert (endless.returncode, stderr.strip()) == (130, "cliphouse: interrupted")
    with Collection.open(tmp_path / "db") as again:
        assert again.status().rows == 8


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(tmp_path: Path) -> None:
    for number, query in enumerate(
        ("SELECT number FROM numbers(10000000)", "SELECT number FROM numbers(9000000) FORMAT CSV")
    ):
        command = [sys.executable, "-m", "cliphouse", "sql", query, "--db", str(tmp_path / f"db{number}")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == ""
            process.wait(60)


def test_an_interrupted_load_leaves_whole_shards_only(tmp_path: Path) -> None:
    vectors = random_unit(2000, 8)
    for number in range(3):
        write_shard(tmp_path / "in", number, ["x"] * 2000, images=vectors, with_text=False)

    def interrupt(progress: object) -> None:
        if "shard 1" in str(progress):
            os.kill(os.getpid(), signal.SIGINT)

    with Collection.open(tmp_path / "db") as collection:
        with pytest.raises(KeyboardInterrupt):
            collection.load(tmp_path / "in", progress=interrupt)
        assert collection.sql("SHOW TABLES").column("name").to_pylist() == ["laion", "laion_shards"]
        assert collection.status().rows in (2000, 4000)
        assert collection.load(tmp_path / "in").rows in (4000, 2000)
        assert (collection.status().rows, collection.status().shards) == (6000, (0, 1, 2))


def test_a_full_disk_is_said_and_keeps_what_was_complete(small_disk: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "in", 0, ["x"] * 1000, images=random_unit(1000, 64), with_text=False)
    write_shard(tmp_path / "in", 1, ["x"] * 60_000, images=random_unit(60_000, 512)[:, :64] + 0.1, with_text=False)
    with Collection.open(small_disk / "db") as collection:
        collection.load(tmp_path / "in", shards="0")
        (small_disk / "ballast").write_bytes(b"\0" * (12 * 2**20))
        with pytest.raises(StorageFull, match="no space left") as caught:
            collection.load(tmp_path / "in")
        assert "\n" not in str(caught.value)
        assert collection.status().shards == (0,)
        (small_disk / "ballast").unlink()
        assert collection.load(tmp_path / "in").loaded == (1,)
        assert collection.status().rows == 61_000


def test_a_read_only_directory_is_said(small_disk: Path) -> None:
    (small_disk / "db").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageError, match=r"cannot write to .*Read-only file system"):
        connect(str(small_disk / "db"))
    with pytest.raises(StorageError, match=r"cannot create or read .*Read-only file system"):
        connect(str(small_disk / "new"))


def test_a_full_output_is_not_blamed_on_the_database(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "cliphouse", "sql", "SELECT 1", "--db", str(tmp_path / "db")]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (1, "cliphouse: output: No space left on device\n")


def test_a_name_that_cannot_be_a_directory(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="File name too long"):
        connect(str(tmp_path / ("x" * 300)))


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(
        EngineUnavailable, match=r"cannot reach clickhouse://default@127.0.0.1:9/default: Connection refused"
    ):
        connect("clickhouse://127.0.0.1:9")


def test_a_wrong_password_is_said_without_it(server_url: str) -> None:
    host = server_url.rpartition("@")[2]
    with pytest.raises(AuthenticationFailed, match="refused the user 'tester'") as caught:
        connect(f"clickhouse://tester:wrongsecret@{host}")
    assert "wrongsecret" not in str(caught.value) + repr(caught.value)


def test_server_errors_keep_their_code_and_name(collection: Collection) -> None:
    with pytest.raises(EngineError) as caught:
        collection.engine.query(Query(sql="SELECT * FROM nowhere"))
    assert (caught.value.code, caught.value.name, caught.value.sql) == (60, "UNKNOWN_TABLE", "SELECT * FROM nowhere")


@pytest.mark.parametrize("kind", ["file", "other things"])
def test_a_place_that_holds_something_else_is_refused_and_untouched(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("precious")
    else:
        place.mkdir()
        (place / "thesis.tex").write_text("precious")
    outcome = _run("sql", "SELECT 1", "--db", place)
    assert outcome.returncode == 2
    assert "choose" in outcome.stderr or "takes a directory" in outcome.stderr
    assert [path.name for path in tmp_path.rglob("*")] == (["place"] if kind == "file" else ["place", "thesis.tex"])


def test_a_memory_database_lives_as_long_as_it_is_open(shards: Path) -> None:
    with Collection.open("chdb://memory", encoder="test-words") as collection:
        collection.load(shards)
        assert collection.search("red car", k=1)[0].caption == "red car"
    with Collection.open("chdb://memory") as collection:
        assert not collection.exists()


def test_caches_follow_the_machines_memory(embedded: Collection) -> None:
    memory = machine_memory_bytes()
    sql = "SELECT name, toUInt64OrZero(value) FROM system.server_settings"
    settings = dict(embedded.engine.query(Query(sql=sql)).rows)
    assert settings["max_server_memory_usage"] == pytest.approx(0.8 * memory, rel=0.01)
    caches = (
        "vector_similarity_index_cache_size",
        "uncompressed_cache_size",
        "mark_cache_size",
        "index_mark_cache_size",
    )
    assert sum(settings[name] for name in caches) < settings["max_server_memory_usage"]


def test_the_shell_reads_statements_over_several_lines(tmp_path: Path) -> None:
    """A person at a terminal: a pseudo-terminal types, and reads what comes back."""
    controller, terminal = pty.openpty()
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "dumb", "PROMPT_TOOLKIT_NO_CPR": "1"}
    command = [sys.executable, "-m", "cliphouse", "sql", "--db", str(tmp_path / "db"), "--encoder", "test-words"]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        os.write(
            controller,
            b"SET param_target = [1, 2];\rSELECT {target:Array(Float32)}\r  AS answer;\rSELECT 1 1 1;\r"
            b"SELECT length(encode_text('a')) + 700;\rexit\r",
        )
        seen = b""
        try:
            while chunk := os.read(controller, 65536):
                seen += chunk
        except OSError:  # the terminal is closed
            pass
        os.close(controller)
        assert process.wait(30) == 0
    assert b"956" in seen, "encode_text answers with 256 numbers"
    assert b"<Fatal>" not in seen
    assert b"answer" in seen
    assert b"[1,2]" in seen
    assert b"SYNTAX_ERROR" in seen
    assert b"SELECT {target:Array(Float32)}" in (tmp_path / "state" / "cliphouse" / "sql_history").read_bytes()
