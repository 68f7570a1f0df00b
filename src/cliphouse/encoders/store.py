"""Where encoders live: a folder each, with two ONNX files and an `encoder.json` that says what they are."""

from __future__ import annotations

import dataclasses
import glob
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cliphouse.encoders.specs import ModelSpec
from cliphouse.errors import ChecksumMismatch, IncompleteWeights, UsageError, WeightsNotStored
from cliphouse.files import sum_of

MANIFEST = "encoder.json"
TEXT_MODEL, IMAGE_MODEL, TOKENIZER = "text.onnx", "image.onnx", "tokenizer.json"
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
        files = {_plain(name): StoredFile(**file) for name, file in facts["files"].items()}
        for file in files.values():
            _check_types(file)
        model: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in facts["model"].items()}
        spec = ModelSpec(**model)
        _check_types(spec)
        found = Stored(folder=folder, spec=spec, files=files, made=dict(facts.get("made", {})))
    except FileNotFoundError:
        raise IncompleteWeights(folder, f"it has no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IncompleteWeights(folder, f"{MANIFEST} cannot be used ({error})") from error
    needed = [TEXT_MODEL, IMAGE_MODEL, *([TOKENIZER] if spec.tokenizer == "siglip" else [])]
    for name in needed:
        if name not in files:
            raise IncompleteWeights(folder, f"{MANIFEST} lists no {name}")
    for name, file in files.items():
        path = folder / name
        if not path.is_file():
            raise IncompleteWeights(folder, f"{name} is missing")
        if path.stat().st_size != file.size:
            raise IncompleteWeights(folder, f"{name} has {path.stat().st_size:,} of {file.size:,} bytes")
    return found


def _plain(name: str) -> str:
    if Path(name).name != name or name in ("", ".."):
        raise ValueError(f"{name!r} is no plain file name")
    return name


def _check_types(facts: Any) -> None:
    """Every field of a manifest's dataclass holds what its annotation says.

    Raises:
        ValueError: one does not.
    """
    for name, hint in get_type_hints(type(facts)).items():
        if not _fits(value := getattr(facts, name), hint):
            wanted = " or ".join(map(repr, get_args(hint))) if get_origin(hint) is Literal else _KINDS.get(hint, hint)
            raise ValueError(f"{name} is {value!r}, not {wanted}")


_KINDS = {int: "a whole number above 0", float: "a number above 0", str: "a text", bool: "true or false"}


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is_number, value))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and value > 0
    if hint is float:
        return _is_number(value) and value > 0
    return isinstance(value, hint)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def verify(encoder: Stored) -> None:
    """Read every file and compare its sum.

    Raises:
        ChecksumMismatch: a file was changed.
    """
    for name, file in encoder.files.items():
        if (found := sum_of(encoder.folder / name)) != file.sha256:
            raise ChecksumMismatch(encoder.folder / name, expected=file.sha256, found=found)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of what the system refuses inside, which file it was and why.

    Raises:
        WeightsNotStored: it refused.
    """
    try:
        yield
    except OSError as error:
        raise WeightsNotStored(error.filename or path, error.strerror or str(error)) from error


def check_place(target: Path) -> None:
    """An encoder may be put at `target`: nothing is there, or an empty folder, or an encoder.

    Raises:
        UsageError: something of the user's is there.
        WeightsNotStored: it cannot be looked at.
    """
    if target == Path.cwd():
        raise UsageError(f"{target} is the folder you are in; name one for the encoder, such as ./my-encoder")
    with writing(target):
        if target.exists() and not target.is_dir():
            raise UsageError(f"{target} is a file; name a folder for the encoder")
        there = {path.name for path in target.iterdir()} if target.is_dir() else set()
    ours = {MANIFEST, TEXT_MODEL, IMAGE_MODEL, TOKENIZER} if MANIFEST in there else set()
    if strange := sorted(there - ours):
        raise UsageError(
            f"{target} holds other things than an encoder ({strange[0]}); name a folder that is empty or not there yet"
        )


def install(spec: ModelSpec, made: Mapping[str, Any], target: Path, write: Callable[[Path], None]) -> Stored:
    """Let `write` fill a folder with the files of `spec`, and put it at `target` when it is whole.

    `made` may be filled by `write`; it is stored as it is afterwards.

    Raises:
        UsageError: something else is at `target`.
        WeightsNotStored: nothing can be written there.
    """
    with writing(target):
        target = target.expanduser().resolve()
        check_place(target)
        building = target.with_name(f".{target.name}.{os.getpid()}")
        _remove_leftovers(target)
        building.mkdir(parents=True)
        try:
            write(building)
            files = {
                path.name: {"size": path.stat().st_size, "sha256": sum_of(path)} for path in sorted(building.iterdir())
            }
            model = {name: getattr(spec, name) for name in _FACTS}
            manifest = {"model": model, "files": files, "made": dict(made)}
            (building / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            _swap(building, target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return open_folder(target)


def _swap(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`, between two renames."""
    check_place(target)  # the conversion took a while
    if not target.exists():
        new.replace(target)
        return
    old = new.with_name(f"{new.name}.old")
    target.replace(old)
    try:
        new.replace(target)
    except OSError:
        old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """Remove what installations of `target` left that were killed."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*"):
        match = re.fullmatch(r"\.(\d+)(\.old)?", path.name.removeprefix(f".{target.name}"))
        if match and not _lives(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)


def _lives(pid: int) -> bool:
    if pid == os.getpid():  # a number that came round again
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
