"""From pictures to shards: decode ahead, encode in batches, write shards, and go on where the last run ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cliphouse.encoders import LAION_ENCODER, load_encoder
from cliphouse.encoders.decode import MAX_PIXELS, quiet
from cliphouse.errors import InvalidImage, NoPictures, StorageError, UsageError
from cliphouse.pipeline.ahead import BUDGET_BYTES, Decoded, decoded
from cliphouse.pipeline.folder import EmbedFolder, paths_in, plain
from cliphouse.pipeline.items import Item, Known, Missing, Unmatched, as_text
from cliphouse.pipeline.plan import SKIPPED
from cliphouse.pipeline.sources import Listed, Source
from cliphouse.reports import EmbedReport
from cliphouse.types import ROWS_PER_SHARD, Encoder, Progress, ProgressCallback, Shard

if TYPE_CHECKING:
    from PIL.Image import Image

#: A shard is written after this many pictures or this long, whichever comes first: a killed run loses no more than the
#: shards at work, and needs no files besides the shards themselves to go on. Small shards cost `load` little.
SHARD_SIZE = 10_000
SHARD_SECONDS = 300.0
BATCH = 32
#: Longer text is not kept of what a source says besides captions: some put the whole picture there, as base64.
MAX_TEXT = 2**16

Vector = NDArray[np.float32]
Half = NDArray[np.float16]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """How to embed. `captionless` is why pictures without a caption are to be skipped; "" embeds them too."""

    shard_size: int = SHARD_SIZE
    max_pixels: int = MAX_PIXELS
    captionless: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.shard_size <= ROWS_PER_SHARD:
            raise UsageError(f"a shard holds from 1 to {ROWS_PER_SHARD:,} pictures, not {self.shard_size}")
        if self.max_pixels < 1:
            raise UsageError(f"max_pixels must be at least 1, got {self.max_pixels}")


def embed(
    src: str | Path | Listed,
    out: str | Path,
    *,
    encoder: str | Encoder = LAION_ENCODER,
    device: str | None = None,
    shard_size: int = SHARD_SIZE,
    max_pixels: int = MAX_PIXELS,
    progress: ProgressCallback | None = None,
) -> EmbedReport:
    """Embed the pictures of `src` into numbered shards in the folder `out`, which `Collection.load` takes.

    `src` is a folder, a tar, a parquet file, a picture, or a list of paths or (path, caption) pairs. Pictures that are
    in `out` already are left alone, so the same call goes on where an earlier one ended. `encoder` is a name, a folder
    of one, or an object; it runs on `device`, "cpu" or "cuda".

    Raises:
        NoPictures: not one picture could be embedded.
        StorageError: `out` cannot be written to.
        UsageError: `src` or `out` cannot be used; `EncoderMismatch` if `out` was made by another encoder.
        UnknownEncoder, EncoderUnavailable: the encoder cannot run here.
    """
    options = EmbedOptions(shard_size=shard_size, max_pixels=max_pixels)
    source, out = Source(src), Path(out).resolve()
    source.keep_apart(out)
    ready = load_encoder(encoder, device) if isinstance(encoder, str) else encoder
    with EmbedFolder.open(out, ready, source.name) as folder:
        done = {path for shard in folder.shards() for path in paths_in(shard)}
        return run(source, folder, ready, done, options=options, progress=progress)


def run(
    source: Source,
    folder: EmbedFolder,
    encoder: Encoder,
    done: set[str],
    *,
    options: EmbedOptions,
    progress: ProgressCallback | None = None,
    finished: Callable[[Shard], None] = lambda _: None,
) -> EmbedReport:
    """Embed what of `source` is not in `done`, which grows; `finished` gets each shard when it is on disk.

    Whatever ends it early, what was encoded is written first.
    """
    job = _Job(source, folder, encoder, done, options, progress, finished)
    try:
        with quiet():
            for batch in _batches(decoded(job.wanted(), max_pixels=options.max_pixels)):
                job.take(batch)
    except BaseException:
        with suppress(StorageError):  # a full disk, and that is what ended it
            job.finished = lambda _: None
            job.flush()
        raise
    job.flush()
    return job.report()


def _batches(pictures: Iterator[Decoded]) -> Iterator[list[Decoded]]:
    batch: list[Decoded] = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == BATCH or sum(each.size for each in batch) >= BUDGET_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclass(slots=True)
class _Open:
    """A shard that is not written yet. Its pictures all have a caption or all have none.

    A LAION shard has text embeddings for each row or for none, and a zero vector in place of one is no direction:
    search could not tell how far it is. So pictures without a caption go to shards without a text file.
    """

    #: Image embedding, text embedding and metadata; one append, which no Ctrl-C can split.
    rows: list[tuple[Half, Half | None, dict[str, Any]]] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class _Job:
    """One run: what is open, and what has been counted."""

    source: Source
    folder: EmbedFolder
    encoder: Encoder
    done: set[str]
    options: EmbedOptions
    progress: ProgressCallback | None
    finished: Callable[[Shard], None]
    started: float = field(default_factory=time.perf_counter)
    open: dict[bool, _Open] = field(default_factory=dict)
    shards: list[int] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    unmatched: dict[str, int] = field(default_factory=dict)
    captioned: int = 0
    pictures: int = 0
    known: int = 0
    total: int = 0

    def wanted(self) -> Iterator[Item]:
        """The items that must be decoded; the others are counted on the way."""
        self.total = self.source.count()
        for found in self.source.items(self.done):
            if isinstance(found, Unmatched):
                self.unmatched[found.path] = found.rows
            elif isinstance(found, Missing):
                self.skip(found.path, found.reason)
            elif isinstance(found, Known) or found.path in self.done:
                self.known += 1
            elif found.caption is None and self.options.captionless:
                self.skip(found.path, self.options.captionless)
            else:
                self.done.add(found.path)
                yield found

    def skip(self, path: str, reason: str) -> None:
        """Count and list a picture that cannot be embedded."""
        self.skipped[reason.partition(":")[0]] += 1
        self.folder.skip(path, reason)

    def take(self, batch: Sequence[Decoded]) -> None:
        """Encode a batch; write the shards that are full or old."""
        pairs: list[tuple[Item, Image]] = []
        for each in batch:
            if isinstance(each.image, InvalidImage):
                self.skip(each.item.path, each.image.reason)
            else:
                pairs.append((each.item, each.image))
        images = _encode([image for _, image in pairs], self.encoder.encode_images)
        captions = [item.caption for item, _ in pairs if item.caption is not None]
        texts = iter(_encode(captions, self.encoder.encode_texts))
        for (item, image), vector in zip(pairs, images, strict=True):
            text = next(texts) if item.caption is not None else None
            if isinstance(vector, str):
                self.skip(item.path, f"not encoded: {vector}")
            elif isinstance(text, str) and self.options.captionless:
                self.skip(item.path, f"caption not encoded: {text}")
            else:
                self._add(item, image.size, vector, None if isinstance(text, str) else text)
        for captioned, shard in list(self.open.items()):
            if time.monotonic() - shard.since > SHARD_SECONDS:
                self._write(captioned)
        if self.progress:
            done = self.pictures + self.known + self.skipped.total()
            self.progress(Progress(label="embedding", done=done, total=max(done, self.total), unit="pictures"))

    def flush(self) -> None:
        """Write what is open."""
        for captioned in list(self.open):
            self._write(captioned)

    def report(self) -> EmbedReport:
        """What was done.

        Raises:
            NoPictures: nothing, now or earlier.
        """
        listed = self.folder.path / SKIPPED
        if not self.pictures and not self.known:
            raise NoPictures(self.source.name, self.skipped, listed)
        return EmbedReport(
            encoder=self.encoder.name,
            dim=self.encoder.dim,
            pictures=self.pictures,
            captioned=self.captioned,
            known=self.known,
            skipped=dict(self.skipped.most_common()),
            skipped_list=listed if self.skipped else None,
            shards=tuple(self.shards),
            seconds=time.perf_counter() - self.started,
            unmatched=self.unmatched,
        )

    def _add(self, item: Item, size: tuple[int, int], image: Vector, text: Vector | None) -> None:
        if text is None:
            similarity, half = None, None
        else:
            similarity, half = float(image @ text / np.linalg.norm(image) / np.linalg.norm(text)), text.astype("f2")
        shard = self.open.setdefault(text is not None, _Open())
        shard.rows.append((image.astype("f2"), half, _row(item, size, similarity)))
        self.pictures += 1
        self.captioned += text is not None
        if len(shard.rows) >= self.options.shard_size:
            self._write(text is not None)

    def _write(self, captioned: bool) -> None:
        images, texts, rows = zip(*self.open.pop(captioned).rows, strict=True)
        written = self.folder.write(images, texts if captioned else None, rows)
        self.shards.append(written.number)
        self.finished(written)


def _encode(things: Sequence[Any], encode: Callable[[Sequence[Any]], Vector]) -> list[Vector | str]:
    """A vector for each of `things`, or why there is none. One that the encoder refuses does not cost its batch."""
    if not things:
        return []
    try:
        vectors = encode(things)
    except (ValueError, OSError) as error:
        if len(things) == 1:
            reason = error.reason if isinstance(error, InvalidImage) else str(error)
            return [reason.partition("\n")[0] or type(error).__name__]
        return [one for thing in things for one in _encode([thing], encode)]
    # The loader would refuse a whole shard for one vector without a direction.
    return [
        vector if np.isfinite(vector).all() and vector.astype("f2").any() else "the encoder gave no direction"
        for vector in vectors
    ]


def _row(item: Item, size: tuple[int, int], similarity: float | None) -> dict[str, Any]:
    """The metadata of a picture: the columns of SCHEMA, and whatever else its source said."""
    lower = {name.lower(): value for name, value in item.more.items()}
    width, height = size
    fixed = {
        "image_path": item.path,
        "caption": item.caption,
        "url": _text(lower.get("url")),
        "key": item.key,
        "NSFW": _text(lower.get("nsfw")),
        "similarity": similarity,
        "width": width,
        "height": height,
        "original_width": _integer(lower.get("original_width")) or width,
        "original_height": _integer(lower.get("original_height")) or height,
        "license": _text(lower.get("license")),
    }
    taken = {name.lower() for name in fixed}
    more = {name: plain(value) for name, value in item.more.items() if name.lower() not in taken}
    return fixed | {name: value for name, value in more.items() if not isinstance(value, str) or len(value) <= MAX_TEXT}


def _text(value: Any) -> str | None:
    return None if value is None else as_text(str(value))


def _integer(value: Any) -> int | None:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 < number < 2**31 else None
