"""Values of columns as JSON has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinity are null, what JSON has no kind for is a text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case np.generic():
            return plain(value.item())
        case np.ndarray():
            return plain(value.tolist())
        case bytes():
            return value.decode(errors="backslashreplace")
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Mapping():
            return {str(name): plain(each) for name, each in value.items()}
        case list() | tuple() | set():
            return [plain(each) for each in value]
    return str(value)
