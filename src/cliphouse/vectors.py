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

#: Numbers that stay in a core's cache while several passes go over them.
_CHUNK = 2**16
_NAN = np.uint16(0x7FC0)

_LONG_ARRAY = re.compile(r"\[(?:[-+.\deE]+, ?){8}[-+.\deE, ]*\]?")


def abbreviate(text: str) -> str:
    """`text` with each printed vector of more than eight numbers as […], for people to read."""
    return _LONG_ARRAY.sub("[…]", text)


def bfloat16_words(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    """The 16-bit words of `values` as bfloat16, rounded to nearest, ties to even; NaN stays NaN.

    ClickHouse's own Float32 to BFloat16 conversion truncates, which doubles the worst error; so rounding happens here
    and the engine receives finished words.
    """
    source = np.ascontiguousarray(values).reshape(-1)
    words = np.empty(source.shape, np.uint16)
    rounded = _round_halves if source.dtype == np.float16 else _round_singles
    for start in range(0, len(source), _CHUNK):
        rounded(source[start : start + _CHUNK], words[start : start + _CHUNK])
    return words.reshape(values.shape)


def _round_singles(values: NDArray[np.floating], out: NDArray[np.uint16]) -> None:
    with np.errstate(over="ignore"):  # becomes infinite
        singles = np.array(values, dtype=np.float32)
    bits = singles.view(np.uint32)
    half = bits >> np.uint32(16)
    half &= np.uint32(1)
    half += np.uint32(0x7FFF)
    nan = np.isnan(singles)
    bits += half
    bits >>= np.uint32(16)
    np.copyto(out, bits, casting="unsafe")
    if nan.any():  # its bits would have run over
        out[nan] = _NAN


def _round_halves(values: NDArray[np.float16], out: NDArray[np.uint16]) -> None:
    """The same from float16, in 16-bit arithmetic, three times as fast: widening would take longer than all the rest.

    float16 has 3 more bits in its mantissa, and its exponent is 112 less.
    """
    bits = values.view(np.uint16)
    magnitude = bits & np.uint16(0x7FFF)
    rounded = magnitude >> np.uint16(3)
    rounded &= np.uint16(1)
    rounded += np.uint16(3)
    rounded += magnitude
    rounded >>= np.uint16(3)
    rounded += np.uint16(112 << 7)
    np.bitwise_and(bits, np.uint16(0x8000), out=out)
    out |= rounded
    magnitude -= np.uint16(0x0400)  # the smallest with a full mantissa; below it, this wraps round
    if len(others := np.flatnonzero(magnitude >= np.uint16(0x7800))):  # subnormal, zero, infinite, NaN
        words = np.empty(len(others), np.uint16)
        _round_singles(values[others], words)
        out[others] = words


def row_lengths(stored: NDArray[np.uint16] | NDArray[np.float32]) -> NDArray[np.float32]:
    """The length of each row of bfloat16 words or float32 numbers; NaN or infinite where it has none."""
    lengths = np.empty(len(stored), np.float32)
    step = max(1, _CHUNK // max(1, stored.shape[1]))
    for start in range(0, len(stored), step):
        rows = stored[start : start + step]
        wide = rows if rows.dtype == np.float32 else (rows.astype(np.uint32) << np.uint32(16)).view(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            np.einsum("ij,ij->i", wide, wide, out=lengths[start : start + step])
    result: NDArray[np.float32] = np.sqrt(lengths, out=lengths)
    return result


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
