"""What `embed` can be pointed at: a folder, a tar, a parquet file, one picture, a list of paths."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cliphouse.encoders.decode import suffixes
from cliphouse.errors import UsageError
from cliphouse.pipeline.captions import (
    JSON,
    TABLE_SUFFIXES,
    TEXT,
    Description,
    Table,
    Unusable,
    clean_caption,
    combine,
    read_json,
    read_text,
)
from cliphouse.pipeline.containers import companion, count_in, from_parquet, from_tar, is_tar, picture_column, tar_stem
from cliphouse.pipeline.items import Found, Known, Missing, as_text, failed, item_of, unmatched
from cliphouse.pipeline.plan import MARK, SKIPPED

Listed = Iterable[str | Path | tuple[str | Path, str]]


class Source:
    """What `embed` is pointed at: a folder, a tar, a parquet file, one picture, or a list of paths.

    A list holds paths, or pairs of a path and its caption.
    """

    def __init__(self, src: str | Path | Listed) -> None:
        self._listed: Listed | None = None
        if not isinstance(src, (str, Path)):
            self._listed, self.name, self.prefix = src, "the list", ""
            return
        # Resolved once: the same folder by another way is the same source.
        self._path = Path(os.path.realpath(Path(src).expanduser()))
        if not self._path.exists():
            raise UsageError(f"there is nothing at {src}; give a folder of pictures, a tar, a parquet file or a list")
        self.name = str(self._path)
        #: What the paths of all its items begin with.
        self.prefix = as_text(self._path).rstrip("/") + ("/" if self._is_container else "")

    def keep_apart(self, out: Path) -> None:
        """Refuse to write shards to `out`, a resolved path, if this is it or lies in it.

        Raises:
            UsageError: it does.
        """
        if self._listed is None and self._path.is_relative_to(out):
            what = "is the source" if self._path == out else f"holds the source {self._path}"
            raise UsageError(f"{out} {what}; write the shards to another folder")

    def items(self, done: Container[str]) -> Iterator[Found]:
        """Every picture, in a stable order. Those whose path is in `done` are named and not read.

        Raises:
            UsageError: it is a folder of shards, and holds no pictures.
        """
        if self._listed is not None:
            yield from _from_list(self._listed, done)
        elif self._path.is_dir():
            found = None
            for found in _from_folder(self._path, done):
                yield found
            if found is None and (self._path / MARK).is_file():
                raise UsageError(
                    f"{self._path} is a folder of shards that `cliphouse embed` wrote, without pictures; "
                    "load it with `cliphouse load`, or give the folder of its pictures"
                )
        elif is_tar(self._path.name):
            yield from from_tar(self._path, done)
        elif self._path.suffix.lower() == ".parquet":
            yield from from_parquet(self._path, done)
        else:
            yield from _from_list([self._path], done)

    def count(self) -> int:
        """How many items there will be, about; 0 if it cannot be told without reading them."""
        if self._listed is not None:
            return len(self._listed) if isinstance(self._listed, Sequence) else 0
        if not self._path.is_dir():
            return count_in(self._path) if self._is_container else 1
        total = 0
        for listing in _listings(self._path):
            total += len(listing.pictures) + sum(count_in(listing.folder / name) for name in listing.containers)
        return total

    @property
    def _is_container(self) -> bool:
        return self._path.is_dir() or is_tar(self._path.name) or self._path.suffix.lower() == ".parquet"


# -- folders ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    """One folder: its pictures, its tars and parquets of pictures, and the tables that describe pictures below it."""

    folder: Path
    problem: str = ""
    names: frozenset[str] = frozenset()
    pictures: Sequence[str] = ()
    containers: Sequence[str] = ()
    tables: Sequence[str] = ()


def _listings(root: Path) -> Iterator[_Listing]:
    """`root` and the folders below it, each once, in order of name.

    Left out: what is hidden (cameras and systems keep their own things there), and folders below that `embed` wrote.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            status = folder.stat()
            with os.scandir(folder) as entries:
                found = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
        except OSError as error:
            yield _Listing(folder=folder, problem=f"cannot be opened: {error.strerror}")
            continue
        files = [name for name, is_folder in found if not is_folder]
        ours = MARK in files
        if (status.st_dev, status.st_ino) in seen or (ours and folder != root):  # a link that leads back, or our output
            continue
        seen.add((status.st_dev, status.st_ino))
        folders = [name for name, is_folder in found if is_folder]
        waiting += [folder / name for name in reversed(folders)]
        containers = [name for name in files if is_tar(name) or picture_column(folder / name)]
        # img2dataset's 00000.parquet tells of the folder 00000 or of 00000.tar, and of nothing else.
        owned = {tar_stem(name) for name in files if is_tar(name)}.union(folders)
        yield _Listing(
            folder=folder,
            names=frozenset(files),
            pictures=[name for name in files if Path(name).suffix.lower() in suffixes()],
            containers=containers,
            tables=[
                name
                for name in files
                if Path(name).suffix.lower() in TABLE_SUFFIXES
                and name not in containers
                and not (ours and name == SKIPPED)
                and Path(name).stem not in owned
            ],
        )


@dataclass(frozen=True, slots=True)
class _Scope:
    """The tables that describe the pictures below `folder`."""

    folder: Path
    tables: Sequence[Table]


def _from_folder(root: Path, done: Container[str]) -> Iterator[Found]:
    scopes: list[_Scope] = []  # from the root down to the folder at work
    for listing in _listings(root):
        folder = listing.folder
        if listing.problem:
            yield Missing(as_text(folder), listing.problem)
        while scopes and not folder.is_relative_to(scopes[-1].folder):
            yield from unmatched(scopes.pop().tables)
        own = companion(folder) if folder != root else None
        if paths := [*([own] if own else []), *(folder / name for name in listing.tables)]:
            below = [
                (each.folder / name).relative_to(folder).as_posix()
                for each in _listings(folder)
                for name in each.pictures
            ]
            scopes.append(_Scope(folder, [Table(path, folder, below) for path in paths]))
            if own:
                yield from failed(scopes[-1].tables[0])
        for name in listing.pictures:
            path = folder / name
            yield _from_file(path, path.relative_to(root).as_posix(), listing.names, done, scopes=scopes)
        for name in listing.containers:
            inside = folder / name
            yield from from_tar(inside, done) if is_tar(name) else from_parquet(inside, done)
    for scope in reversed(scopes):
        yield from unmatched(scope.tables)


def _from_file(
    path: Path,
    key: str,
    names: Container[str],
    done: Container[str],
    *,
    scopes: Sequence[_Scope] = (),
    caption: str | None = None,
) -> Found:
    """The picture at `path`, with what the files of the same name beside it say (`names` lists what is there).

    A `caption` that is given is meant, whatever other captions there are.
    """
    identity = as_text(path)
    if identity in done:
        return Known(identity)
    text, more = path.with_suffix(TEXT), path.with_suffix(JSON)
    try:
        beside = (
            read_text(text, str(text)) if text.name in names and not caption else Description(),
            read_json(more, str(more)) if more.name in names else Description(),
        )
        found = replace(beside[1], caption=caption) if caption else combine(*beside)
        for scope in reversed(scopes):
            for table in scope.tables:
                found = table.complete(found, path.relative_to(scope.folder).as_posix())
    except Unusable as doubt:
        return Missing(identity, str(doubt))
    return item_of(identity, key, path, found, url=path.as_uri())


# -- lists ------------------------------------------------------------------------------------------------------------


def _from_list(listed: Listed, done: Container[str]) -> Iterator[Found]:
    for each in listed:
        name, caption = each if isinstance(each, tuple) else (each, None)
        given = Path(name).expanduser()
        try:
            path = Path(os.path.realpath(given.parent)) / given.name
            if path.is_dir():
                yield Missing(as_text(path), "not a file: list its pictures, or give the folder itself")
                continue
            beside = {other.name for other in (path.with_suffix(TEXT), path.with_suffix(JSON)) if other.is_file()}
        except (OSError, ValueError) as error:
            yield Missing(as_text(given), f"cannot be opened: {getattr(error, 'strerror', None) or error}")
            continue
        yield _from_file(path, as_text(name), beside, done, caption=clean_caption(caption or ""))
