"""Numbers as people write them: 400M rows, 64GiB of memory, 2GB/s."""

from __future__ import annotations

import re

import click

_ROWS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_POWERS = "KMGT"
_COUNT = re.compile(r"(\d[\d_,]*(?:\.\d+)?(?:e\d+)?)\s*([KMBT]?)", re.IGNORECASE)
_BYTES = re.compile(r"(\d[\d_,]*(?:\.\d+)?)\s*(?:([KMGT])(i?))?B?(/s)?", re.IGNORECASE)


class Count(click.ParamType):
    """A whole number, with K, M, B or T behind it for thousands, millions, billions or trillions: 400M, 5.85B."""

    name = "count"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        if isinstance(value, int):
            return value
        match = _COUNT.fullmatch(str(value).strip())
        count = _number(match[1]) * _ROWS[match[2].upper()] if match else 0.0
        if not match or round(count) < 1:
            self.fail(f"{value!r} is no number of rows; write for example 400M, 5.85B or 1000448", param, ctx)
        return round(count)


class Bytes(click.ParamType):
    """A number of bytes, or of bytes a second: 64GiB is 64 * 2**30, 2GB/s is 2 * 10**9 a second."""

    name = "bytes"

    def __init__(self, *, rate: bool = False) -> None:
        self._rate = rate

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number of bytes."""
        if isinstance(value, (int, float)):
            return float(value)
        match = _BYTES.fullmatch(str(value).strip())
        power = _POWERS.index(match[2].upper()) + 1 if match and match[2] else 0
        count = _number(match[1]) * (1024 if match[3] else 1000) ** power if match else 0.0
        if not match or count < 1 or (match[4] and not self._rate):
            example = "2GB/s or 500MB/s" if self._rate else "64GiB or 256GB"
            self.fail(f"{value!r} is no {'speed' if self._rate else 'size'}; write for example {example}", param, ctx)
        return count


def _number(text: str) -> float:
    return float(re.sub("[_,]", "", text))
