"""Which shards there are and which of them are still to do. Reads file names only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cliphouse.errors import ShardError, UnknownShard, UsageError
from cliphouse.types import MAX_SHARD, Shard, shard_ranges

#: Folders a kind of file may be in: the tutorial's flat layout, clip-retrieval's, and that of the-eye.eu's mirror.
_PLACES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "image": (("", "img_emb", "images"), r"img_emb_(\d+)\.npy"),
    "text": (("", "text_emb", "texts"), r"text_emb_(\d+)\.npy"),
    "metadata": (("", "metadata"), r"metadata_(\d+)\.parquet"),
}


#: The file by which a folder that `embed` wrote tells its encoder.
MARK = "cliphouse.json"
#: Where `embed` lists what it could not take, beside the mark.
SKIPPED = "skipped.jsonl"

#: A range longer than any data set has shards is a slip of the finger.
_MAX_RANGE = 1_000_000


def parse_shards(ranges: str) -> list[int]:
    """The shard numbers in `0-9,12`, in order, each once.

    Raises:
        UsageError: it is not a list of numbers and ranges.
    """
    numbers: set[int] = set()
    for part in ranges.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise UsageError(f"{ranges!r} is not a list of shards; write for example 0-9,12")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last > MAX_SHARD or last - first > _MAX_RANGE:
            raise UsageError(f"the shard range {part.strip()!r} is not valid; write for example 0-9,12")
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def discover(directory: Path) -> dict[str, dict[int, Path]]:
    """The files of each kind (`image`, `text`, `metadata`) by shard number; 7 and 0007 are the same number.

    Raises:
        UsageError: `directory` is not one.
        ShardError: two files claim one place.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory; give the one that holds img_emb_N.npy")
    found: dict[str, dict[int, Path]] = {kind: {} for kind in _PLACES}
    for kind, (folders, pattern) in _PLACES.items():
        for folder in folders:
            place = directory / folder
            for path in sorted(place.iterdir()) if place.is_dir() else ():
                if not (match := re.fullmatch(pattern, path.name)):
                    continue
                number = int(match[1])
                if number in found[kind]:
                    raise ShardError(f"both {found[kind][number]} and {path} claim it; keep one", shard=number)
                found[kind][number] = path
    return found


def select(source: str | Path, present: Iterable[int], wanted: Iterable[int] | None) -> list[int]:
    """The `wanted` ones of the shard numbers that are `present`, in order; all of them if none are named.

    Raises:
        UnknownShard: a wanted one is not present, or nothing is.
        ShardError: one is too high.
    """
    present = set(present)
    numbers = sorted(present if wanted is None else set(wanted))
    missing = [number for number in numbers if number not in present]
    if missing or not numbers:
        raise UnknownShard(source, wanted=shard_ranges(missing) or "at all", present=shard_ranges(present))
    if numbers[-1] > MAX_SHARD:
        raise ShardError(f"shard numbers end at {MAX_SHARD}; rename its files", shard=numbers[-1])
    return numbers


def plan(directory: Path, wanted: Iterable[int] | None = None) -> list[Shard]:
    """The shards of `directory` (or the `wanted` ones), in order of number, each file paired by number.

    Raises:
        UnknownShard: a wanted shard has no image embeddings here.
        ShardError: a shard's number is too high.
    """
    files = discover(directory)
    return [
        Shard(
            number=number,
            image_embeddings=files["image"][number],
            text_embeddings=files["text"].get(number),
            # One that is missing is a broken shard, as one that cannot be read: the opener says so.
            metadata=files["metadata"].get(number, files["image"][number].with_name(f"metadata_{number}.parquet")),
        )
        for number in select(directory, files["image"], wanted)
    ]


def encoder_of(directory: Path) -> str | None:
    """The encoder that made the shards of `directory`, if the folder tells.

    Raises:
        UsageError: it tells, in a way that cannot be read.
    """
    path = directory / MARK
    if not path.is_file():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["encoder"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read ({error}); remove it, and name the encoder with --encoder") from error


def is_ours(shard: Shard) -> bool:
    """Whether the folder of a shard says that `embed`, `add` or `export` wrote it."""
    place = shard.image_embeddings.parent
    return ((place.parent if place.name in _PLACES["image"][0] else place) / MARK).is_file()


def pending(shards: Sequence[Shard], done: Iterable[int]) -> list[Shard]:
    """The shards still to do, in order."""
    finished = set(done)
    return [shard for shard in shards if shard.number not in finished]
