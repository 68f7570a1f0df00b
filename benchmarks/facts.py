"""What a result must say about where it comes from: commit, machine, versions, data files."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cliphouse
from cliphouse.engine import machine_memory_bytes

ROOT = Path(__file__).resolve().parent.parent
#: What the numbers depend on; results and the report made from them do not count.
_SOURCES = ("src", "pyproject.toml", "benchmarks/*.py", "benchmarks/runs", "benchmarks/data")
_CPU_MODEL_LINE = "model name"


def commit() -> dict[str, Any]:
    """The commit that is checked out, and whether the code or the runs differ from it; "unknown" outside git."""
    try:
        return {"commit": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain", "--", *_SOURCES))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": True}


def machine() -> dict[str, Any]:
    """CPU model, logical cores, memory and operating system."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": machine_memory_bytes(),
        "os": platform.platform(),
    }


def versions(engine_version: str, packages: Sequence[str]) -> dict[str, str]:
    """The versions of everything that does measured work, `packages` besides Python, cliphouse and ClickHouse."""
    return {
        "python": platform.python_version(),
        "cliphouse": cliphouse.__version__,
        "ClickHouse": engine_version,
        **{package: version(package) for package in packages},
    }


def data_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file in `directory`. Reading them also brings them into the page cache."""
    files = sorted(path for path in directory.iterdir() if path.suffix in (".npy", ".parquet"))
    found = {}
    for path in files:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[path.name] = {"bytes": path.stat().st_size, "sha256": digest}
    return found


def sources_digest(root: Path, patterns: Sequence[str]) -> str:
    """A sum over the files that these patterns name.

    Raises:
        ValueError: one of them names none.
    """
    digest = hashlib.sha256()
    for pattern in patterns:
        paths = sorted(root.glob(pattern))
        if not paths:
            raise ValueError(f"{pattern} is no file of {root}")
        for path in paths:
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def peak_memory_bytes() -> int:
    """The most memory this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith(_CPU_MODEL_LINE)]
    return models[0] if models else platform.machine()
