"""Captions that lie beside pictures, joined to them by name, never by position."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

#: What a table's column may be called that names the picture, best first; compared without case.
NAME_COLUMNS = (
    *("image_path", "file_name", "filename", "file", "file_path", "filepath", "path"),
    *("image", "image_name", "key"),
)
#: What a caption may be called, best first; compared without case.
CAPTION_COLUMNS = ("caption", "text", "txt", "title", "description", "label")
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
#: A longer file is a document of the same name, not about a picture; LAION's longest caption has 61,000 letters.
_MAX_FILE_BYTES = 2**20

#: Ends by which text comes with a picture of the same name.
TEXT, JSON = ".txt", ".json"


class Unusable(Exception):
    """Why a picture must wait: what is said of it cannot be read, or contradicts itself."""


class Conflict(Unusable):
    """What is said of the picture, by name, is several different captions."""


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a picture besides its pixels; `more` keeps the source's own names, `told_by` is its file."""

    caption: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    told_by: str = ""


def describe(fields: Mapping[str, Any], *, naming: str = "", told_by: str = "") -> Description:
    """The caption among `fields`, and the rest of what is not empty; `naming` is the column that names the picture."""
    lower = {name.lower(): name for name in reversed(list(fields))}
    caption = next((lower[name] for name in CAPTION_COLUMNS if isinstance(fields.get(lower.get(name, "")), str)), None)
    more = {
        name: value
        for name, value in fields.items()
        if value not in (None, "") and name != caption and (name != naming or name.lower() == "key")
    }
    return Description(None if caption is None else clean_caption(fields[caption]), more, told_by)


def clean_caption(text: str) -> str | None:
    """`text` without the white space around it; None if nothing is left."""
    return text.strip() or None


def is_failure(status: object) -> bool:
    """Whether this is img2dataset's word for a picture that it could not get; other sources mean other things."""
    return isinstance(status, str) and status.startswith("failed_to_")


def read_text(data: bytes | Path, name: str) -> Description:
    """The caption in a text file called `name`."""
    text = (_read(data) or b"") if isinstance(data, Path) else data
    return Description(clean_caption(text.decode("utf-8-sig", "replace")), told_by=name)


def read_json(data: bytes | Path, name: str) -> Description:
    """The description in a JSON file called `name`, or none if it holds something else than an object.

    Raises:
        Unusable: it is not JSON.
    """
    try:
        fields = json.loads((_read(data) or b"null") if isinstance(data, Path) else data)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise Unusable(f"description cannot be read: {PurePosixPath(name).name}: {reason}") from None
    return describe(fields, told_by=name) if isinstance(fields, dict) else Description()


def combine(*described: Description) -> Description:
    """One description of several: their one caption, and of other facts what the first says.

    Raises:
        Conflict: they have different captions; white space makes no difference.
    """
    first, *others = [one for one in described if one.caption] or [Description()]
    for other in others:
        if (first.caption or "").split() != (other.caption or "").split():
            told_by = [PurePosixPath(one.told_by).name for one in (first, other)]
            if told_by[0] == told_by[1]:
                told_by = [first.told_by, other.told_by]
            raise Conflict(f"ambiguous description: {told_by[0]} and {told_by[1]} have different captions for it")
    more: dict[str, Any] = {}
    for one in reversed(described):
        more |= one.more
    return Description(first.caption, more, first.told_by)


def join(
    names: Iterable[str | None], pictures: Collection[str]
) -> tuple[dict[str, list[int]], dict[str, str], list[int]]:
    """Which rows of a table describe each picture, why some pictures cannot be told, and which rows name none.

    `names` are the table's, by row; `pictures` are paths below the table's folder, with forward slashes. A name means
    the picture of this path, else of this path without its ending, else of this file name anywhere, else of this file
    name without its ending; so `cat` describes `cat.jpg` and `cat.png` beside each other. A name that fits pictures in
    several places describes none of them.
    """
    views: tuple[Callable[[str], str], ...] = (str, _without_ending, _file_name, _key)
    indexes: list[dict[str, list[str]]] = [defaultdict(list) for _ in views]
    for picture in pictures:
        for view, index in zip(views, indexes, strict=True):
            index[view(picture)].append(picture)
    rows: dict[str, list[int]] = defaultdict(list)
    doubts: dict[str, str] = {}
    strays: list[int] = []
    for row, name in enumerate(names):
        given = (name or "").strip()
        forms = [str(PurePosixPath(form)) for form in dict.fromkeys((given, given.replace("\\", "/")))]
        found = next((index[form] for form in forms for index in indexes if form in index), [])
        if len({_without_ending(picture) for picture in found}) > 1:
            doubts |= dict.fromkeys(found, f"{name!r} also fits {found[0]} and {found[1]}")
        else:
            for picture in found:
                rows[picture].append(row)
        if not found:
            strays.append(row)
    return dict(rows), doubts, strays


class Table:
    """A CSV, TSV, parquet or JSON lines file that names pictures.

    `pictures` are those it may describe, as paths below `folder`, the one it lies in or belongs to.
    """

    def __init__(self, path: Path, folder: Path, pictures: Collection[str]) -> None:
        self.path = path
        self._folder = folder
        self._pictures = pictures
        self._broken = ""

    def of(self, picture: str) -> Description:
        """What the table says of `picture`: nothing, if it does not name it.

        Raises:
            Unusable: the table cannot be read, or says two things.
        """
        rows, doubts, _ = self._joined
        if self._broken:
            raise Unusable(f"description cannot be read: {self.path.name}: {self._broken}")
        if picture in doubts:
            raise Unusable(f"ambiguous description: in {self.path.name}, {doubts[picture]}")
        found = [self._row(row) for row in rows.get(picture, ())]
        if len({one.caption for one in found}) > 1:
            where = ", ".join(str(row + 1) for row in rows[picture][:5])
            raise Conflict(f"ambiguous description: {self.path.name} has several captions for it, in rows {where}")
        return found[0] if found else Description()

    def complete(self, found: Description, picture: str) -> Description:
        """`found` and what the table adds. If what it means is in doubt, a picture that has a caption does without.

        Raises:
            Conflict: the table names the picture and has another caption for it, or several.
            Unusable: as `of`, for a picture without a caption.
        """
        try:
            return combine(found, self.of(picture))
        except Conflict:
            raise
        except Unusable:
            if found.caption is None:
                raise
            return found

    def unmatched(self) -> int:
        """How many rows name no picture that is here, if it was asked about any; those of failed downloads apart."""
        if "_joined" not in self.__dict__:
            return 0
        status = _column(self._table.column_names, ("status",))
        states = self._table.column(status) if status else None
        return sum(states is None or not is_failure(states[row].as_py()) for row in self._joined[2])

    def failed(self) -> list[tuple[str, str]]:
        """The names that it marks as not downloaded, with their status; img2dataset lists these too."""
        status = _column(self._table.column_names, ("status",))
        if status is None or self._naming is None:
            return []
        pairs = zip(self._names, self._table.column(status).to_pylist(), strict=True)
        return [(str(name), state) for name, state in pairs if is_failure(state)]

    @cached_property
    def _table(self) -> pa.Table:
        try:
            return _read_table(self.path)
        except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
            self._broken = str(error).splitlines()[0]
            return pa.table({})

    @property
    def _naming(self) -> str | None:
        return _column(self._table.column_names, NAME_COLUMNS)

    @property
    def _names(self) -> list[str | None]:
        names = [] if self._naming is None else self._table.column(self._naming).to_pylist()
        return [None if name is None else self._relative(str(name)) for name in names]

    @cached_property
    def _joined(self) -> tuple[dict[str, list[int]], dict[str, str], list[int]]:
        return join(self._names, self._pictures)

    def _relative(self, name: str) -> str:
        """`name` as a path below the folder: absolute ones, and those that start where the table lies."""
        for form in (name, name.replace("\\", "/")):
            path = self.path.parent / form
            if path.is_relative_to(self._folder):
                return path.relative_to(self._folder).as_posix()
        return name

    def _row(self, row: int) -> Description:
        return describe(self._table.slice(row, 1).to_pylist()[0], naming=self._naming or "", told_by=str(self.path))


def _read_table(path: Path) -> pa.Table:
    """The table in `path`, numbers in text formats kept as they are written: 000000123 is a key."""
    if path.suffix.lower() == ".parquet":
        plain = [each.name for each in pq.read_schema(path) if not (_nested(each.type) or _binary(each.type))]
        return pq.read_table(path, columns=plain)
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
    if path.suffix.lower() == ".jsonl":
        return pajson.read_json(path) if _column(_fields(first), NAME_COLUMNS) else pa.table({})
    delimiter, names = _header(first)
    if not _column(names, NAME_COLUMNS):  # a table of something else
        return pa.table({})
    return pacsv.read_csv(
        path,
        parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
        ),
    )


def _fields(line: str) -> Iterable[str]:
    try:
        value = json.loads(line)
    except ValueError:
        return ()
    return value if isinstance(value, dict) else ()


def _header(line: str) -> tuple[str, Sequence[str]]:
    """The delimiter under which the header has a column that names pictures; a comma if none has."""
    split = {delimiter: next(csv.reader([line], delimiter=delimiter), []) for delimiter in ",\t;|"}
    found = next((each for each, names in split.items() if _column(names, NAME_COLUMNS)), ",")
    return found, split[found]


def _column(names: Iterable[str], wanted: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in names}
    return next((lower[name] for name in wanted if name in lower), None)


def _nested(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind))


def _binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _read(path: Path) -> bytes | None:
    """What is in a file beside a picture; None if it is too long to be about the picture."""
    try:
        with path.open("rb") as file:
            found = file.read(_MAX_FILE_BYTES + 1)
            return found if len(found) <= _MAX_FILE_BYTES else None
    except OSError as error:
        raise Unusable(f"description cannot be read: {path.name}: {error.strerror}") from error


def _without_ending(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _file_name(path: str) -> str:
    return PurePosixPath(path).name


def _key(path: str) -> str:
    return PurePosixPath(path).stem
