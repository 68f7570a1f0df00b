"""The worker as a process: its pipes, its exit codes, and what it says."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest

from tests.data import ENCODER

PROGRAM = """
import os, sys
import cliphouse.udf_worker as worker
known = worker.load_encoder
def load(name):
    {body}
worker.load_encoder = load
worker.main()
"""
ONE_CAT = b"1\n\x00\x03cat"


def _run(body: str, data: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", PROGRAM.format(body=body), "text", "--encoder", "test-words"]
    return subprocess.run(command, input=data, capture_output=True, timeout=60, check=False)


def test_what_a_library_prints_reaches_neither_the_rows_nor_the_message() -> None:
    noise = "print('noise', flush=True); print('noise', file=sys.stderr); os.write(1, b'x'); os.write(2, b'x')"
    ended = _run(f"{noise}; return known(name)", ONE_CAT)
    (vector,) = ENCODER.encode_texts(["cat"])
    assert ended.stdout == b"\x80\x02" + struct.pack("<256f", *vector)
    assert (ended.stderr, ended.returncode) == (b"", 0)


@pytest.mark.parametrize(
    ("body", "said", "code"),
    [
        ("return known('clip')", b"there is no encoder 'clip'", 2),
        ("raise MemoryError('no memory\\nfor weights')", b"cliphouse failed: MemoryError: no memory for weights", 1),
    ],
)
def test_a_model_that_does_not_load_ends_the_process_with_one_line(body: str, said: bytes, code: int) -> None:
    ended = _run(body, ONE_CAT)
    assert (ended.stdout, ended.returncode) == (b"", code)
    assert ended.stderr.startswith(said)
    assert ended.stderr.count(b"\n") == 1


def test_a_server_that_asks_nothing_gets_nothing() -> None:
    ended = _run("raise AssertionError", b"")
    assert (ended.stdout, ended.stderr, ended.returncode) == (b"", b"", 0)


def test_the_worker_imports_neither_an_engine_nor_a_shell() -> None:
    heavy = ("chdb", "clickhouse_connect", "pyarrow", "pandas", "click", "rich", "sqlglot")
    program = f"import sys, cliphouse.udf_worker; print([name for name in {heavy!r} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
