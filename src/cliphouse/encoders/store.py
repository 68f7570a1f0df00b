"""Where encoders live: a folder each, with two ONNX files and an `encoder.json` that says what they are."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliphouse.download import sum_of
from cliphouse.encoders.specs import ModelSpec
from cliphouse.errors import ChecksumMismatch, IncompleteWeights

MANIFEST = "encoder.json"
TEXT_MODEL, IMAGE_MODEL = "text.onnx", "image.onnx"
#: Set this to keep encoders elsewhere.
HOME_VARIABLE = "CLIPHOUSE_ENCODERS"
#: What the model says of itself; the rest of a ModelSpec tells where it came from.
_FACTS = [field.name for field in dataclasses.fields(ModelSpec) if field.name not in ("checkpoint", "tokenizer_file")]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of an encoder as its manifest has it."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An encoder on disk. `made` says from which checkpoint, by what, and how it was checked."""

    folder: Path
    spec: ModelSpec
    files: Mapping[str, StoredFile]
    made: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files.values())


def home() -> Path:
    """The folder of all encoders: $CLIPHOUSE_ENCODERS, or `encoders` in the platform's cache folder for cliphouse."""
    from platformdirs import user_cache_path

    chosen = os.environ.get(HOME_VARIABLE)
    return Path(chosen).expanduser() if chosen else user_cache_path("cliphouse") / "encoders"


def find(name: str) -> Stored | None:
    """The encoder called `name`, or in the folder `name` if that is a path; None if it is not there.

    Raises:
        IncompleteWeights: its folder is there and something in it is missing or cut off.
    """
    folder = Path(name).expanduser() if is_path(name) else home() / name
    return open_folder(folder) if (folder / MANIFEST).exists() or (is_path(name) and folder.is_dir()) else None


def is_path(name: str) -> bool:
    """Whether an encoder was given by its folder."""
    return "/" in name or os.sep in name or name in (".", "..")


def stored() -> list[Stored]:
    """All whole encoders in the home folder, by name."""
    found = []
    for manifest in sorted(home().glob(f"*/{MANIFEST}")):
        try:
            found.append(open_folder(manifest.parent))
        except IncompleteWeights:
            continue  # `find` says what is wrong when it is asked for
    return found


def open_folder(folder: Path) -> Stored:
    """The encoder in `folder`; its files are there in full length (`verify` reads them).

    Raises:
        IncompleteWeights: they are not.
    """
    try:
        facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {name: StoredFile(**file) for name, file in facts["files"].items()}
        model: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in facts["model"].items()}
        found = Stored(folder=folder, spec=ModelSpec(**model), files=files, made=facts.get("made", {}))
    except FileNotFoundError:
        raise IncompleteWeights(folder, f"it has no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IncompleteWeights(folder, f"{MANIFEST} cannot be used ({error})") from error
    for name, file in files.items():
        path = folder / name
        if not path.is_file():
            raise IncompleteWeights(folder, f"{name} is missing")
        if path.stat().st_size != file.size:
            raise IncompleteWeights(folder, f"{name} has {path.stat().st_size:,} of {file.size:,} bytes")
    return found


def verify(encoder: Stored) -> None:
    """Read every file and compare its sum.

    Raises:
        ChecksumMismatch: a file was changed.
    """
    for name, file in encoder.files.items():
        if (found := sum_of(encoder.folder / name)) != file.sha256:
            raise ChecksumMismatch(encoder.folder / name, expected=file.sha256, found=found)


def install(spec: ModelSpec, made: Mapping[str, Any], target: Path, write: Callable[[Path], None]) -> Stored:
    """Let `write` fill a folder with the files of `spec`, and put it at `target` when it is whole.

    `made` may be filled by `write`; it is stored as it is afterwards.
    """
    building = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        write(building)
        files = {
            path.name: {"size": path.stat().st_size, "sha256": sum_of(path)} for path in sorted(building.iterdir())
        }
        model = {name: getattr(spec, name) for name in _FACTS}
        manifest = {"model": model, "files": files, "made": dict(made)}
        (building / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        building.replace(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return open_folder(target)
