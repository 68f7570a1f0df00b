"""Vectors as arrays: bfloat16 rounding, and what makes a usable query."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cliphouse.errors import DimensionMismatch, InvalidVector

#: Room for the float32 sums inside the engine's distance: 4096 products of unit-length halves stay well below it.
DISTANCE_TOLERANCE = 1e-5
#: Lengths whose square float32 holds well: the engine sums squares in it, and gives nonsense outside.
MIN_LENGTH, MAX_LENGTH = 1e-15, 1e15

_LONG_ARRAY = re.compile(r"\[(?:[-+.\deE]+, ?){8}[-+.\deE, ]*\]?")


def abbreviate(text: str) -> str:
    """`text` with each printed vector of more than eight numbers as […], for people to read."""
    return _LONG_ARRAY.sub("[…]", text)


def bfloat16_words(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    """The 16-bit words of `values` as bfloat16, rounded to nearest, ties to even.

    ClickHouse's own Float32 to BFloat16 conversion truncates, which doubles the worst error; so rounding happens here
    and the engine receives finished words. `values` must be finite.
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    bias = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + bias) >> np.uint32(16)).astype(np.uint16)


def round_to_bfloat16(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """`values` as float32 numbers that bfloat16 holds exactly; the same rounding as `bfloat16_words`."""
    return (bfloat16_words(values).astype(np.uint32) << np.uint32(16)).view(np.float32)


def query_vector(vector: ArrayLike, *, dim: int, owner: str) -> NDArray[np.float32]:
    """`vector` as one float32 row of length `dim`; shape (dim,) or (1, dim) is accepted.

    Raises:
        DimensionMismatch: it has another length.
        InvalidVector: it is not numeric, not one vector, or has no direction (NaN, infinite, all zero).
    """
    given = np.asarray(vector)
    if given.dtype.kind not in "fiu":
        raise InvalidVector(f"the query vector is made of {given.dtype}, not of numbers")
    row = given.astype(np.float64)
    if row.ndim == 2 and row.shape[0] == 1:
        row = row[0]
    if row.ndim != 1:
        raise InvalidVector(f"the query is an array of shape {row.shape}; give one vector, shape ({dim or 'dim'},)")
    if dim and row.shape[0] != dim:
        raise DimensionMismatch(what="the query vector", given=row.shape[0], expected=dim, owner=owner)
    if not np.isfinite(row).all():
        raise InvalidVector("the query vector holds NaN or infinite values; encode the query again")
    length = float(np.linalg.norm(row / max(np.abs(row).max(), 1e-300)) * np.abs(row).max())
    if length == 0:
        raise InvalidVector("the query vector is all zeros and has no direction; encode the query again")
    if not MIN_LENGTH < length < MAX_LENGTH:
        row = row / np.abs(row).max()  # the direction is what counts; this length float32 could not square
    return row.astype(np.float32)


def rounding_error(vector: NDArray[np.float32]) -> float:
    """How far any cosine distance to `vector` can move when the vector is rounded to bfloat16.

    For unit vectors |cos(a, x) - cos(b, x)| <= |a - b|, whatever x is (Cauchy-Schwarz).
    """
    exact = vector.astype(np.float64)
    rounded = round_to_bfloat16(vector).astype(np.float64)
    return float(np.linalg.norm(exact / np.linalg.norm(exact) - rounded / np.linalg.norm(rounded)))
