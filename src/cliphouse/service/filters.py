"""Filters as typed fields, made into one SQL condition."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from cliphouse.errors import InvalidFilter
from cliphouse.schema import identifier, is_identifier
from cliphouse.service.contract import Filters
from cliphouse.types import literal

#: What a filter or facet is about.
Subject = Literal["nsfw", "width", "height", "licence", "domain", "similarity", "caption"]

#: The columns that hold it, best first, compared without case: LAION's files and tables made by hand name them so.
_COLUMNS: Mapping[Subject, Sequence[str]] = {
    "nsfw": ("nsfw",),
    "width": ("width", "original_width"),
    "height": ("height", "original_height"),
    "licence": ("license", "licence"),
    "domain": ("url",),
    "similarity": ("similarity",),
    "caption": ("caption", "text"),
}
_ANY, _NUMBER, _TEXT = re.compile(""), re.compile(r"^(Nullable\()?(U?Int|Float)\d+\)?$"), re.compile(r"\bString\b")
_TYPES: Mapping[Subject, re.Pattern[str]] = {
    "width": _NUMBER,
    "height": _NUMBER,
    "similarity": _NUMBER,
    "domain": _TEXT,
    "caption": _TEXT,
}
_SUBJECTS: Mapping[str, Subject] = {
    "nsfw": "nsfw",
    "min_width": "width",
    "max_width": "width",
    "min_height": "height",
    "max_height": "height",
    "licence": "licence",
    "domain": "domain",
    "min_similarity": "similarity",
    "max_similarity": "similarity",
    "caption_contains": "caption",
}


def column_of(subject: Subject, columns: Mapping[str, str]) -> str | None:
    """The column that holds it, or None if there is none of a type that will do; `columns` maps names to types."""
    kind = _TYPES.get(subject, _ANY)
    usable = {name.lower(): name for name, type_ in columns.items() if is_identifier(name) and kind.search(type_)}
    return next((usable[name] for name in _COLUMNS[subject] if name in usable), None)


def possible(columns: Mapping[str, str]) -> list[str]:
    """The names in `Filters` that these columns allow."""
    return [name for name, subject in _SUBJECTS.items() if column_of(subject, columns)]


def host(url: str) -> str:
    """The host in a column of urls, in small letters, as an expression."""
    return f"lower(domain({identifier(url)}))"


def condition(filters: Filters, columns: Mapping[str, str]) -> str | None:
    """All filters as one condition, None if there are none.

    Raises:
        InvalidFilter: one is on a column that is not there.
    """
    return " AND ".join(_conditions(filters, columns)) or None


def _conditions(filters: Filters, columns: Mapping[str, str]) -> Iterator[str]:
    for name, value in filters.model_dump(exclude_none=True).items():
        column = column_of(_SUBJECTS[name], columns)
        if column is None:
            wanted = " or ".join(_COLUMNS[_SUBJECTS[name]])
            raise InvalidFilter(name, f"the collection has no column {wanted}; it has: {', '.join(columns)}")
        yield _one(name, value, column, columns[column])


def _one(name: str, value: str | float | list[str], column: str, type_: str) -> str:
    quoted = identifier(column)
    match name, value:
        case "domain", list():
            # A host itself and those below it, as ".img.example.org" ends in ".example.org".
            ends = f"host -> endsWith(concat('.', {host(column)}), concat('.', lower(host)))"
            return f"arrayExists({ends}, {_texts(value)})"
        case _, list():
            return f"has({_texts(value)}, toString({quoted}))"
        case "caption_contains", _:
            return f"positionCaseInsensitiveUTF8({quoted}, {literal(value)}) > 0"
        case "min_similarity" | "max_similarity", _ if "Float32" in type_:
            # 0.3 is another number there, and must be the same as a stored 0.3.
            return f"{quoted} {_comparison(name)} toFloat32({value!r})"
    return f"{quoted} {_comparison(name)} {value!r}"


def _comparison(name: str) -> str:
    return ">=" if name.startswith("min_") else "<="


def _texts(values: list[str]) -> str:
    """An array of texts, also if there are none."""
    return f"CAST({literal(values)}, 'Array(String)')"
