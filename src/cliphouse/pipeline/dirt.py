"""Rows that are not as they should be: what is wrong with them, what is done about it, and how many there were.

The kinds are those that LAION's files really contain. As the policy of its kind says, a row is left out, or kept with
what is good of it, or stops its shard. Each is counted, and none moves another: a row's id is its place in the files.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cliphouse.errors import InvalidEmbedding, InvalidRow
from cliphouse.pipeline.deny import Denied
from cliphouse.pipeline.native import numbers
from cliphouse.pipeline.rows import Batch, OpenShard, Rows, Vectors
from cliphouse.types import LoadOptions, RowKind, Storage
from cliphouse.vectors import MAX_LENGTH, MIN_LENGTH, bfloat16_words, row_lengths

#: A length that differs from 1 by more was not normalised; rounding to bfloat16 moves it by less.
_UNIT_TOLERANCE = 0.01
#: A cosine is never larger than 1; that of rounded vectors can seem so.
_LARGEST_SIMILARITY = 1.01
#: LAION's word for a picture that nobody judged.
_UNTAGGED = pa.scalar(b"UNTAGGED", pa.large_binary())
_TAGS = pa.array([b"UNLIKELY", b"UNSURE", b"NSFW", b"UNTAGGED", b""], pa.large_binary())
#: What LAION writes for a licence that nobody knows.
_NO_LICENSE = pa.array([b"?", b""], pa.large_binary())
_NOTHING = pa.scalar(b"", pa.large_binary())


@dataclass(slots=True)
class Tally:
    """What was found in a shard so far: rows read, rows left out, and rows kept in spite of it, by kind."""

    rows_read: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    #: Rows that somebody deleted, before this shard was loaded again.
    deleted: int = 0
    #: Rows stored without an image embedding.
    gaps: int = 0

    @property
    def rows(self) -> int:
        """Rows that are good enough for the table."""
        return self.rows_read - sum(self.left_out.values())

    @property
    def stored(self) -> int:
        """Rows that go into the table."""
        return self.rows - self.deleted


class Cleaner:
    """Turns the rows of one shard into batches to store, and counts what was wrong with them.

    Rows whose numbers are `deleted` do not come back, nor do rows that are `denied`.
    """

    def __init__(
        self,
        shard: OpenShard,
        options: LoadOptions,
        storage: Storage,
        *,
        deleted: NDArray[np.int64] | None = None,
        denied: Denied | None = None,
    ) -> None:
        self._shard, self._options, self._storage = shard, options, storage
        self._deleted, self._denied = deleted, denied
        self.tally = Tally()

    def clean(self, rows: Rows) -> Batch:
        """The rows that stay, as they are to be stored.

        Raises:
            InvalidEmbedding, InvalidRow: a row is bad of a kind whose policy is to fail.
        """
        found = _Findings(self, rows)
        if self._deleted is not None and len(self._deleted):
            found.out |= np.isin(rows.numbers, self._deleted)
            self.tally.deleted += int(np.count_nonzero(found.out))
        if self._denied is not None:
            found.leave_out("denied", self._denied.rows(rows.metadata, len(rows.numbers)))
        image, text = self._vectors(rows.image), None if rows.text is None else self._vectors(rows.text, rows.textless)
        columns = [each for each in (image, text) if each is not None]
        found.judge("vector", np.logical_or.reduce([each.bad for each in columns]))
        found.judge("norm", np.logical_or.reduce([each.not_unit for each in columns]))
        metadata = dict(rows.metadata)
        for name in ("url", "caption"):
            if name in metadata:
                metadata[name] = _text(metadata[name])
                found.judge_missing(name, _mask(pc.equal(metadata[name], _NOTHING)))
        if "NSFW" in metadata:
            tags = _text(metadata["NSFW"])
            found.judge_missing("nsfw", _mask(metadata["NSFW"].is_null()))
            found.judge("nsfw", ~_mask(pc.is_in(tags, _TAGS)))
            metadata["NSFW"] = pc.if_else(pc.equal(tags, _NOTHING), _UNTAGGED, tags)
        if "license" in metadata:
            known = _text(metadata["license"])
            metadata["license"] = pc.if_else(pc.is_in(known, _NO_LICENSE), _NOTHING, known)
        self._similarity(metadata, rows, found)
        self.tally.rows_read += len(rows.numbers)
        self.tally.gaps += int(np.count_nonzero(image.bad & ~found.out))
        return _select(~found.out, rows.numbers, image.vectors(), text.vectors() if text else None, metadata)

    def _vectors(self, raw: NDArray[np.floating], absent: NDArray[np.bool_] | None = None) -> _Measured:
        if self._storage == "bfloat16":
            return _Measured(bfloat16_words(raw), absent)
        with np.errstate(over="ignore"):  # becomes infinite, and is found by its length
            return _Measured(np.ascontiguousarray(raw, np.float32), absent)

    def _similarity(self, metadata: dict[str, pa.Array], rows: Rows, found: _Findings) -> None:
        """Null where it is missing or no cosine, or computed again from the two vectors, if that was asked for."""
        recompute = self._options.similarity == "recompute" and rows.text is not None
        if "similarity" in metadata:
            found_values = numbers(metadata["similarity"], pa.float64()).to_numpy(zero_copy_only=False)
        elif recompute:
            found_values = np.full(len(rows.numbers), np.nan)
        else:
            return
        bad = ~(np.abs(found_values) <= _LARGEST_SIMILARITY)
        values: NDArray[np.float32] = found_values.astype(np.float32)
        if recompute and rows.text is not None:
            values[bad] = _cosines(rows.image[bad], rows.text[bad])
            bad = ~np.isfinite(values)
        if "similarity" in metadata:
            missing = _mask(metadata["similarity"].is_null())
            found.judge_missing("similarity", bad & missing)
            found.judge("similarity", bad & ~missing)
        metadata["similarity"] = pa.array(values, pa.float32(), mask=bad)


class _Measured:
    """Vectors as they are stored, and what their lengths tell; those that are `absent` are stored as empty ones."""

    def __init__(
        self, stored: NDArray[np.uint16] | NDArray[np.float32], absent: NDArray[np.bool_] | None = None
    ) -> None:
        self._stored = stored
        lengths = row_lengths(stored)
        usable = (lengths > MIN_LENGTH) & (lengths < MAX_LENGTH)  # false for NaN too
        self._empty = ~usable
        self.bad = self._empty if absent is None else self._empty & ~absent
        self.not_unit = usable & (np.abs(lengths - 1) > _UNIT_TOLERANCE)

    def vectors(self) -> Vectors:
        """For the batch."""
        return Vectors(self._stored, self._empty if self._empty.any() else None)


class _Findings:
    """Which of some rows are left out, as the policies say."""

    def __init__(self, cleaner: Cleaner, rows: Rows) -> None:
        self._shard, self._options, self._tally = cleaner._shard, cleaner._options, cleaner.tally
        self._rows = rows
        self.out = np.zeros(len(rows.numbers), bool)

    def leave_out(self, kind: str, rows: NDArray[np.bool_]) -> None:
        """Leave these rows out and count them under `kind`, but for those that are out already."""
        self._tally.left_out.update({kind: count} if (count := int(np.count_nonzero(rows & ~self.out))) else {})
        self.out |= rows

    def judge(self, kind: RowKind, rows: NDArray[np.bool_]) -> None:
        """Do with these rows what the policy of `kind` says."""
        rows = rows & ~self.out
        if not rows.any():
            return
        policy = self._options.policy(kind)
        if policy == "fail":
            self._fail(kind, int(np.argmax(rows)))
        if policy == "skip":
            self.leave_out(kind, rows)
        else:
            self._tally.kept[kind] += int(np.count_nonzero(rows))

    def judge_missing(self, kind: RowKind, rows: NDArray[np.bool_]) -> None:
        """The same for rows that lack something. In a shard of ours that is in order, unless a policy was given for it:
        a picture of yours has no url or tag, and need not have a caption.
        """
        if not self._shard.ours or self._options.policy(kind) != "keep":
            self.judge(kind, rows)

    def _fail(self, kind: RowKind, at: int) -> None:
        row, number = int(self._rows.numbers[at]), self._shard.number
        if kind not in ("vector", "norm"):
            value = self._rows.metadata["NSFW" if kind == "nsfw" else kind][at].as_py()
            raise InvalidRow(self._shard.where(kind, row), kind, value, shard=number)
        for column, vectors in (("image_embedding", self._rows.image), ("text_embedding", self._rows.text)):
            if vectors is not None and (reason := _fault(vectors[at], kind)):
                raise InvalidEmbedding(self._shard.where(column, row), row, reason, shard=number)


def _fault(vector: NDArray[np.floating], kind: RowKind) -> str:
    """What is wrong with one vector, in words; nothing if it is in order."""
    with np.errstate(over="ignore"):
        single = vector.astype(np.float32)
    if not np.isfinite(single).all():
        return "holds NaN or infinite values"
    if not single.any():
        return "is all zeros"
    largest = float(np.abs(single).max())
    length = float(np.linalg.norm(single / largest)) * largest
    if not MIN_LENGTH < length < MAX_LENGTH:
        return f"has values of about {largest:.0e}, which no distance can be computed with"
    return f"has length {length:.3g} instead of 1" if kind == "norm" and abs(length - 1) > _UNIT_TOLERANCE / 2 else ""


def _cosines(image: NDArray[np.floating], text: NDArray[np.floating]) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):  # a vector without a direction gives NaN
        one, other = image.astype(np.float32), text.astype(np.float32)
        products = np.einsum("ij,ij->i", one, other)
        result: NDArray[np.float32] = products / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))
    return result


def _text(values: pa.Array) -> pa.Array:
    """Any column as the bytes of its text, null as nothing."""
    if pa.types.is_null(values.type):
        return pa.repeat(_NOTHING, len(values))
    if not pa.types.is_binary(values.type) and not pa.types.is_large_binary(values.type):
        values = values.cast(pa.large_string())  # numbers as text, dictionaries as values
    return values.cast(pa.large_binary()).fill_null(b"")


def _mask(values: pa.Array) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = values.to_numpy(zero_copy_only=False)
    return mask


def _select(
    stay: NDArray[np.bool_],
    rows: NDArray[np.int64],
    image: Vectors,
    text: Vectors | None,
    metadata: dict[str, pa.Array],
) -> Batch:
    if stay.all():
        return Batch(rows, image, text, metadata)

    def some(vectors: Vectors) -> Vectors:
        empty = None if vectors.empty is None else vectors.empty[stay]
        return Vectors(vectors.stored[stay], empty if empty is not None and empty.any() else None)

    chosen = pa.array(stay)
    return Batch(
        rows[stay], some(image), text and some(text), {name: column.filter(chosen) for name, column in metadata.items()}
    )
