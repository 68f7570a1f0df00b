"""Which shards there are at a place of any kind: folders of npy files, and merged parquet files here or at an address.

Loading again is only safe if a file has the same number each time. It is the one in its name, unless told otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cliphouse import storage
from cliphouse.addresses import file_name, is_url, shown
from cliphouse.errors import UsageError
from cliphouse.pipeline.plan import discover, plan, select
from cliphouse.types import MergedShard, Shard, shard_ranges

#: How exports number their files: `train-00003-of-00010`, Spark's `part-00012-<uuid>-c000`, `laion_7` and `0012`, and
#: `0012-<hash>`. The first that fits a name, without its endings, gives the number.
_NUMBERS = (
    re.compile(r"(?:^|\D)(\d+)[-_.]of[-_.]\d+"),
    re.compile(r"^part[-_.](\d+)(?:[-_.]|$)"),
    re.compile(r"(?:^|[-_.])[A-Za-z]*(\d+)$"),
    re.compile(r"^(\d+)[-_.]"),
)
_ENDINGS = re.compile(r"(\.(snappy|zstd|gz|gzip|lz4|brotli|c\d+))*\.parquet$", re.IGNORECASE)
#: Half of a shard of npy files.
_METADATA = re.compile(r"metadata_\d+\.parquet")


def find(
    source: str | Path, wanted: Iterable[int] | None = None, first_shard: int | None = None
) -> list[Shard] | list[MergedShard]:
    """The shards at `source` (or the `wanted` ones), in order of number.

    `source` is a directory with either kind of shard, one merged file, or the address of a file or of a folder of them.
    With `first_shard`, merged files are numbered from there in the order of their names, instead of by these.

    Raises:
        UsageError: there is no such place, or its files have no numbers that tell them apart.
        UnknownShard: a wanted shard is not there.
        ShardError: a shard's number is too high.
        SourceUnavailable: an address cannot be listed.
    """
    place = str(source)
    if place.startswith("file://"):
        place = unquote(urlsplit(place).path)
    if is_url(place):
        files = _files_at(place)
    elif (path := Path(place)).is_file():
        files = [_checked(path)]
    else:
        npy = discover(path)["image"]
        files = [str(each) for each in path.iterdir() if each.is_file() and _may_be_merged(each.name)]
        if npy and files:
            raise UsageError(
                f"{path} holds both shards of npy files ({shard_ranges(npy)}) and merged parquet files "
                f"({_some(files)}); load from a folder that holds one kind, or name one file"
            )
        if not files:
            if first_shard is not None:
                raise UsageError(f"--first-shard numbers merged parquet files, and {path} holds none")
            return plan(path, wanted)
    numbered = number_files(files, first_shard)
    return [MergedShard(number=number, location=numbered[number]) for number in select(shown(place), numbered, wanted)]


def number_files(files: Sequence[str], first_shard: int | None = None) -> dict[int, str]:
    """The files by shard number: the one in each one's name, or counted from `first_shard` in the order of the names.

    A file alone that has none is shard 0.

    Raises:
        UsageError: one of several has no number, or two have the same.
    """
    in_order = sorted(files, key=_natural)
    if first_shard is not None:
        return dict(enumerate(in_order, first_shard))
    if len(in_order) == 1:
        return {_number(in_order[0]) or 0: in_order[0]}
    numbered: dict[int, str] = {}
    for file in in_order:
        if (number := _number(file)) is None:
            raise UsageError(
                f"{_name(file)} has no number in its name, so that it is not known which shard it is; "
                "number all files in the order of their names with --first-shard 0"
            )
        if number in numbered:
            raise UsageError(
                f"{_name(numbered[number])} and {_name(file)} would both be shard {number}; number all files in the "
                "order of their names with --first-shard 0, or load them one by one with a --first-shard each"
            )
        numbered[number] = file
    return numbered


def _files_at(url: str) -> list[str]:
    if file_name(url).lower().endswith(".parquet") or not storage.can_list(url):
        if shown(url).endswith("/"):
            raise UsageError(f"{shown(url)} cannot be listed; give the address of one file")
        return [url]
    if not (found := [each for each in storage.files_below(url) if _may_be_merged(_name(each))]):
        raise UsageError(
            f"there is no merged parquet file directly below {shown(url)}; give the folder that holds them"
        )
    return found


def _checked(path: Path) -> str:
    if path.suffix.lower() != ".parquet":
        raise UsageError(f"{path} is no parquet file; give one, or the directory that holds the shards")
    return str(path)


def _may_be_merged(name: str) -> bool:
    parquet = name.lower().endswith(".parquet") and not name.startswith((".", "_"))
    return parquet and not _METADATA.fullmatch(name)


def _name(file: str) -> str:
    return file_name(file) if is_url(file) else Path(file).name


def _number(file: str) -> int | None:
    stem = _ENDINGS.sub("", _name(file))
    match = next((found for pattern in _NUMBERS if (found := pattern.search(stem))), None)
    return int(match[1]) if match else None


def _natural(file: str) -> list[tuple[str, int]]:
    """An order of names in which 10 comes after 9."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", _name(file))]


def _some(files: Sequence[str]) -> str:
    names = [_name(file) for file in sorted(files, key=_natural)]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
