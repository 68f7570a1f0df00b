"""Numbers as people write them: 400M rows, 64GiB of memory, 2GB/s."""

from __future__ import annotations

import re

import click

from cliphouse.errors import UsageError

_COUNT = re.compile(r"(\d[\d_,]*(?:\.\d+)?(?:e\d+)?)\s*([KMBT]?)", re.IGNORECASE)
_THOUSANDS = ("", "K", "M", "B", "T")
_BYTES = re.compile(r"(\d[\d_,]*(?:\.\d+)?)\s*(?:([KMGT])(i?))?B?(/s)?", re.IGNORECASE)
_POWERS = ("", "K", "M", "G", "T")


def parse_count(text: str) -> int:
    """A whole number, with K, M, B or T behind it for thousands, millions, billions or trillions.

    Raises:
        UsageError: it is none, or below 1.
    """
    match = _COUNT.fullmatch(text.strip())
    count = round(_number(match[1]) * 1000 ** _THOUSANDS.index(match[2].upper())) if match else 0
    if count < 1:
        raise UsageError(f"{text!r} is no number of rows; write for example 400M, 5.85B or 1000448")
    return count


def parse_bytes(text: str, *, rate: bool = False) -> float:
    """A number of bytes, or with `rate` of bytes a second: 64GiB is 64 * 2**30, 2GB/s is 2 * 10**9 a second.

    Raises:
        UsageError: it is none, or below 1.
    """
    match = _BYTES.fullmatch(text.strip())
    base = 1024 if match and match[3] else 1000
    count = _number(match[1]) * base ** _POWERS.index((match[2] or "").upper()) if match else 0.0
    if match is None or count < 1 or (match[4] and not rate):
        example = "2GB/s or 500MB/s" if rate else "64GiB or 256GB"
        raise UsageError(f"{text!r} is no {'speed' if rate else 'size'}; write for example {example}")
    return count


def read_count(_: click.Context, __: click.Parameter, value: str) -> int:
    """The number that an option was given."""
    return parse_count(value)


def read_size(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """The bytes that an option was given, if it was."""
    return None if value is None else int(parse_bytes(value))


def read_speed(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """The bytes a second that an option was given, if it was."""
    return None if value is None else parse_bytes(value, rate=True)


def _number(text: str) -> float:
    return float(re.sub("[_,]", "", text))
