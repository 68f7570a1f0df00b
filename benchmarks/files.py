"""What every run reads and writes: its TOML file, its result, and a line about what it does."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_CHUNK = 8 << 20


def read_parameters(name_or_path: str) -> dict[str, Any]:
    """The keys of the run in benchmarks/runs of that name, or in the file at that path, and its `name`."""
    path = Path(name_or_path) if name_or_path.endswith(".toml") else HERE / "runs" / f"{name_or_path}.toml"
    with path.open("rb") as file:
        return {"name": path.stem, **tomllib.load(file)}


def write_result(result: Mapping[str, Any], directory: Path) -> Path:
    """Write `result` under the name of its run and commit, whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{result['run']}-{result['commit'][:12]}.json"
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def read_through(path: Path) -> None:
    """Read the file, so that it is in the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(_CHUNK):
            pass


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
