"""Every failure cliphouse raises on purpose, grouped by who can mend it.

::

    CliphouseError                    exit 1  http 500
      UsageError (ValueError)         exit 2  http 422  other arguments mend it
        DimensionMismatch             exit 2  http 422
        EncoderMismatch               exit 2  http 422
        NoPictures                    exit 2  http 422
        InvalidVector                 exit 2  http 422
        InvalidImage                  exit 2  http 422
        ImageNotAllowed               exit 2  http 403
        InvalidFilter                 exit 2  http 422
        StatementRefused              exit 2  http 422
        ImageUrlNotAllowed            exit 2  http 403
        ImageUrlFailed                exit 2  http 422
        UnknownDatabase               exit 2  http 404
        UnknownCollection             exit 2  http 404
        UnknownItem                   exit 2  http 404
        UnknownShard                  exit 2  http 404
        UnknownEncoder                exit 2  http 404
        MissingTruth                  exit 2  http 404
          StaleTruth                  exit 2  http 409
        RowsChanged                   exit 2  http 409
      MissingExtra (ImportError)      exit 2  http 501  an installation mends it
        EncoderUnavailable            exit 2  http 501
      ShardError                      exit 3  http 422  the files on disk must change
        RowCountMismatch              exit 3  http 422
        TruncatedShard                exit 3  http 422
        MissingColumn                 exit 3  http 422
        InvalidEmbedding              exit 3  http 422
        InvalidRow                    exit 3  http 422
        ShardConflict                 exit 3  http 409
        ShardBusy                     exit 3  http 409
      IndexBusy                       exit 3  http 409  another builder is at it
      TableDiffers                    exit 3  http 409  the table is not what was loaded
      WeightsError                    exit 3  http 503  an encoder's files must change
        InvalidCheckpoint             exit 3  http 422
        ChecksumMismatch              exit 3  http 503
        IncompleteWeights             exit 3  http 503
        PrecisionTooLow               exit 3  http 422
      DownloadFailed                  exit 3  http 503  another source, or another time
      SourceUnavailable               exit 3  http 503  another address, or another time
      InsufficientMemory              exit 4  http 507  a smaller request or a larger machine
      Busy                            exit 1  http 503  the same request a little later
      TimedOut                        exit 1  http 504  less to do, or a service with more time
      ServiceError                    exit 1  http 502  a service that was asked said no
      ServiceUnreachable              exit 5  http 503
      EngineError                     exit 5  http 502  ClickHouse said no
        StorageError                  exit 5  http 507  the data directory cannot be used
          DirectoryInUse              exit 5  http 503
          StorageFull                 exit 5  http 507
          NotEnoughSpace              exit 5  http 507
          WeightsNotStored            exit 5  http 507
        EngineUnavailable             exit 5  http 503  ClickHouse cannot be reached
        AuthenticationFailed          exit 5  http 502

A message is one line: what is wrong, the values that disagree, what to do next. The facts are attributes too. All but
the two of a service's places are in this one file, so that the tree above can be read beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from cliphouse.addresses import shown
from cliphouse.units import size


class CliphouseError(Exception):
    """Something cliphouse refused or could not do, said in one line."""

    exit_code = 1
    http_status = 500


class UsageError(CliphouseError, ValueError):
    """The request itself is wrong; other arguments mend it."""

    exit_code = 2
    http_status = 422


class DimensionMismatch(UsageError):
    """A vector has another length than the collection's embeddings."""

    def __init__(self, *, what: str, given: int, expected: int, owner: str) -> None:
        super().__init__(
            f"{what} has {given} dimensions, {owner} holds {expected}; use vectors of the encoder that made the data"
        )
        self.given, self.expected = given, expected


class EncoderMismatch(UsageError):
    """Query and collection, or two sets of embeddings, were made by different encoders."""

    def __init__(self, *, collection: str, stored: str, given: str, kind: str = "collection") -> None:
        super().__init__(
            f"{kind} {collection!r} holds {stored or 'unnamed'} embeddings, not {given}; "
            + (f"use the encoder {stored!r}" if stored else "load it with the encoder's name first")
        )
        self.collection, self.stored, self.given = collection, stored, given


class NoPictures(UsageError):
    """A source without one picture that could be embedded."""

    def __init__(self, source: str, skipped: Mapping[str, int], listed: Path | None) -> None:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
        found = f"skipped {sum(skipped.values()):,}: {reasons}" if skipped else "it holds none"
        super().__init__(
            f"no picture to embed in {source}: {found}"
            + (f"; see {listed}" if listed and skipped else "; give a folder of pictures, a tar, a parquet or a list")
        )
        self.source, self.skipped = source, dict(skipped)


class InvalidVector(UsageError):
    """A query vector that no distance can be computed for."""


class InvalidImage(UsageError):
    """A picture that cannot be read."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot read the picture {path}: {reason}")
        self.path, self.reason = path, reason


class ImageNotAllowed(UsageError):
    """A picture that SQL may not open here."""

    http_status = 403

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"encode_image may not open {path}: {reason}")
        self.path = path


class InvalidFilter(UsageError):
    """A `where` expression that ClickHouse does not accept."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"the filter {where!r} is not valid: {reason}")
        self.where, self.reason = where, reason


class StatementRefused(UsageError):
    """SQL that those who ask from outside may not run."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the statement was not run: {reason}")
        self.reason = reason


class ImageUrlNotAllowed(UsageError):
    """An address that the service does not fetch pictures from."""

    http_status = 403

    def __init__(self, reason: str) -> None:
        super().__init__(f"the picture was not fetched: {reason}; send the picture itself")
        self.reason = reason


class ImageUrlFailed(UsageError):
    """An address that gave no picture."""

    def __init__(self, url: str, reason: str) -> None:
        url = shown(url)
        super().__init__(f"cannot fetch the picture {url}: {reason}; send the picture itself")
        self.url, self.reason = url, reason


class UnknownDatabase(UsageError):
    """There is no data at this place."""

    http_status = 404

    def __init__(self, where: str) -> None:
        super().__init__(f"there is no database at {where}; load one with: cliphouse load DIR --db {where}")
        self.where = where


class UnknownCollection(UsageError):
    """The database has no such collection."""

    http_status = 404

    def __init__(self, collection: str, where: str, *, known: Iterable[str] | None = None) -> None:
        super().__init__(
            f"there is no collection {collection!r} in {where}; "
            + (
                f"load one with: cliphouse load DIR --db {where}"
                if known is None
                else f"it has: {', '.join(known) or 'none'}"
            )
        )
        self.collection = collection


class UnknownItem(UsageError):
    """No row has this id."""

    http_status = 404

    def __init__(self, collection: str, item: int) -> None:
        super().__init__(f"collection {collection!r} has no row with id {item}; `cliphouse search` prints ids")
        self.item = item


class UnknownShard(UsageError):
    """A wanted shard has no files in the directory."""

    http_status = 404

    def __init__(self, directory: str | Path, *, wanted: str, present: str) -> None:
        found = f"it holds shards {present}" if present else "it holds no img_emb_N.npy and no merged parquet file"
        super().__init__(f"no shard {wanted} in {directory}: {found}")
        self.wanted, self.present = wanted, present


class UnknownEncoder(UsageError):
    """No encoder is registered under this name."""

    http_status = 404

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(
            f"there is no encoder {name!r} (known: {', '.join(sorted(known))}); name one of these, or a folder"
            if name
            else "the collection does not name its encoder; search with a vector or an id, or name one with --encoder"
        )
        self.name = name


class MissingTruth(UsageError):
    """The true neighbours of these queries were never computed."""

    http_status = 404
    _wrong = "are not there"

    def __init__(self, collection: str, queries: str, k: int, condition: str | None) -> None:
        under = f" under {condition!r}" if condition else ""
        super().__init__(
            f"the {k} true neighbours of the {queries} queries{under} {self._wrong} in collection {collection!r}; "
            "compute them: cliphouse evaluate --truth only, with the same options"
        )
        self.collection, self.queries, self.k, self.condition = collection, queries, k, condition


class StaleTruth(MissingTruth):
    """The true neighbours of these queries are those of other rows than the collection has now."""

    http_status = 409
    _wrong = "are those of other rows than there are now"


class RowsChanged(UsageError):
    """Rows of a collection change while it is measured, so that no figure would be true."""

    http_status = 409

    def __init__(self, collection: str, how: str) -> None:
        super().__init__(f"rows of collection {collection!r} {how}; do it again when nothing changes them")
        self.collection = collection


class MissingExtra(CliphouseError, ImportError):
    """A feature whose package is not installed."""

    exit_code = 2
    http_status = 501


class EncoderUnavailable(MissingExtra):
    """The encoder is known, but its model is not on this machine."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the encoder {name!r} cannot run here: {reason}")
        self.encoder = name


class ShardError(CliphouseError):
    """A shard's files are not as they should be."""

    exit_code = 3
    http_status = 422

    def __init__(self, message: str, *, shard: int) -> None:
        super().__init__(f"shard {shard}: {message}")
        self.shard = shard


class RowCountMismatch(ShardError):
    """The files of one shard hold different numbers of rows."""

    def __init__(self, counts: dict[Path, int], *, shard: int) -> None:
        listing = ", ".join(f"{path} has {rows} rows" for path, rows in counts.items())
        super().__init__(f"row counts differ: {listing}; download or write the shard again", shard=shard)
        self.counts = counts


class TruncatedShard(ShardError):
    """A file is shorter than its header promises."""

    def __init__(self, path: Path, *, expected_bytes: int, found_bytes: int, shard: int) -> None:
        super().__init__(
            f"{path} is cut short: its header promises {expected_bytes} bytes, {found_bytes} are there; "
            "download it again",
            shard=shard,
        )
        self.path, self.expected_bytes, self.found_bytes = path, expected_bytes, found_bytes


class MissingColumn(ShardError):
    """A metadata file lacks the columns that describe a picture."""

    def __init__(self, path: str | Path, wanted: Iterable[str], present: Iterable[str], *, shard: int) -> None:
        super().__init__(
            f"{path} has none of the columns {', '.join(wanted)}; it has: {', '.join(present) or 'no columns'}",
            shard=shard,
        )
        self.path = path


class InvalidEmbedding(ShardError):
    """An embedding on disk is not a direction (NaN, infinite, all zero), or not of unit length where that is asked."""

    def __init__(self, place: str, row: int, reason: str, *, shard: int) -> None:
        super().__init__(f"{place} {reason}; mend that row, or leave such rows out with --on-bad-row skip", shard=shard)
        self.place, self.row = place, row


class InvalidRow(ShardError):
    """A row's metadata are not as they were asked to be."""

    def __init__(self, place: str, kind: str, value: object, *, shard: int) -> None:
        said = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}..."
        super().__init__(
            f"{place} has the {kind} {said}; mend that row, or keep such rows with --on-bad-row {kind}=keep",
            shard=shard,
        )
        self.place, self.kind = place, kind


class ShardConflict(ShardError):
    """A shard of this number was already loaded from other files."""

    http_status = 409


class ShardBusy(ShardError):
    """Another loader is bringing in this shard."""

    http_status = 409

    def __init__(self, holder: str, *, idle_seconds: int, lease_seconds: int, shard: int) -> None:
        super().__init__(
            f"{holder} is loading it, and wrote {idle_seconds} s ago; leave it to that loader, or if it is dead, load "
            f"again in {max(0, lease_seconds - idle_seconds)} s",
            shard=shard,
        )
        self.holder, self.idle_seconds = holder, idle_seconds


class IndexBusy(CliphouseError):
    """Another builder is at this index."""

    exit_code = 3
    http_status = 409

    def __init__(self, index: str, holder: str, *, idle_seconds: int, lease_seconds: int) -> None:
        super().__init__(
            f"{holder} is building {index}, and said so {idle_seconds} s ago; leave it to that builder, or if it is "
            f"dead, run the same command again in {max(0, lease_seconds - idle_seconds)} s"
        )
        self.index, self.holder, self.idle_seconds = index, holder, idle_seconds


class TableDiffers(CliphouseError):
    """The table does not hold what the files do."""

    exit_code = 3
    http_status = 409

    def __init__(self, collection: str, differences: Iterable[str], different: int) -> None:
        super().__init__(
            f"collection {collection!r} differs from the files in {different} places: {'; '.join(differences)}; "
            "delete a shard that is wrong and load it again: cliphouse delete --shard N"
        )
        self.collection, self.different = collection, different


class WeightsError(CliphouseError):
    """An encoder's files are not as they should be."""

    exit_code = 3
    http_status = 503


class InvalidCheckpoint(WeightsError):
    """A file holds no model that can be made into an encoder."""

    http_status = 422

    def __init__(self, what: str | Path, reason: str) -> None:
        super().__init__(f"{what} is no checkpoint for this encoder: {reason}")
        self.reason = reason


class ChecksumMismatch(WeightsError):
    """A file is not the one that its publisher named."""

    def __init__(self, path: str | Path, *, expected: str, found: str) -> None:
        super().__init__(
            f"{path} is not the file that was published: sha256 is {found[:16]}..., expected {expected[:16]}...; "
            "fetch it again, from another mirror if need be"
        )
        self.path, self.expected, self.found = Path(path), expected, found


class IncompleteWeights(WeightsError):
    """An encoder's folder lacks a file, or holds a part of one."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"the encoder in {folder} is not whole: {reason}; fetch or export it again")
        self.folder = folder


class PrecisionTooLow(WeightsError):
    """Smaller weights answer too differently from the full ones."""

    http_status = 422

    def __init__(self, name: str, *, what: str, cosine: float, wanted: float) -> None:
        super().__init__(
            f"{name} was not kept: on your sample its {what} vectors have a mean cosine of {cosine:.4f} to full "
            f"precision, {wanted} is wanted; use the full encoder, or lower --min-cosine knowingly"
        )
        self.cosine, self.wanted = cosine, wanted


class DownloadFailed(CliphouseError):
    """A file could not be had from where it is published."""

    exit_code = 3
    http_status = 503

    def __init__(self, url: str, reason: str, *, advice: str = "") -> None:
        url, advice = shown(url), advice or "run the same command again to go on where it stopped"
        super().__init__(f"cannot download {url}: {reason}; {advice}")
        self.url, self.reason = url, reason


class SourceUnavailable(CliphouseError):
    """Files to load are at an address that cannot be read."""

    exit_code = 3
    http_status = 503

    def __init__(self, url: str, reason: str, advice: str) -> None:
        url = shown(url)
        super().__init__(f"cannot read {url}: {reason}; {advice}")
        self.url, self.reason = url, reason


class InsufficientMemory(CliphouseError):
    """The work would need more memory than there is."""

    exit_code = 4
    http_status = 507

    def __init__(self, what: str, *, needed_bytes: int, available_bytes: int, advice: str) -> None:
        super().__init__(
            f"{what} needs about {size(needed_bytes)} of memory, {size(available_bytes)} are available; {advice}"
        )
        self.needed_bytes, self.available_bytes = needed_bytes, available_bytes


class Busy(CliphouseError):
    """All places are taken and enough requests wait; come again after `retry_after` seconds."""

    http_status = 503

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"all places are taken; come again in {retry_after} s")
        self.retry_after = retry_after


class TimedOut(CliphouseError):
    """The request took longer than it may; its statement was killed."""

    http_status = 504

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the request took longer than {seconds:g} s and was stopped")
        self.seconds = seconds


class ServiceError(CliphouseError):
    """A service refused or failed; `status` is HTTP's, `type` the kind of its problem: "unknown-item"."""

    http_status = 502

    def __init__(self, status: int, type: str, detail: str, retry_after: int | None = None) -> None:  # noqa: A002
        super().__init__(detail)
        self.status, self.type, self.retry_after = status, type, retry_after


class ServiceUnreachable(CliphouseError):
    """No service answers at an address, or not in time."""

    exit_code = 5
    http_status = 503

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"no service answers at {shown(url)}: {reason}; start one with: cliphouse serve")
        self.url, self.reason = url, reason


class EngineError(CliphouseError):
    """ClickHouse refused or failed; `code` and `name` are ClickHouse's own (60, 'UNKNOWN_TABLE').

    `said` is all that it said, where somebody asked to pass that on.
    """

    exit_code = 5
    http_status = 502

    def __init__(
        self, message: str, *, code: int | None = None, name: str | None = None, sql: str = "", said: str = ""
    ) -> None:
        super().__init__(message if name is None else f"{message} ({name}, code {code})")
        self.code, self.name, self.sql, self.said = code, name, sql, said


class StorageError(EngineError):
    """The data directory cannot be used as it is."""

    http_status = 507


class DirectoryInUse(StorageError):
    """Another process holds the data directory."""

    http_status = 503

    def __init__(self, path: Path, pid: int | None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(
            f"{path} is in use by {who}: an embedded database serves one process at a time; "
            "stop that process, or use another --db"
        )
        self.path, self.pid = path, pid


class StorageFull(StorageError):
    """No space is left to write to."""

    def __init__(self, path: str, *, code: int | None = None, name: str | None = None) -> None:
        super().__init__(
            f"no space left on {path}; what was complete is kept, make room and run the same command again",
            code=code,
            name=name,
        )
        self.path = path


class NotEnoughSpace(StorageError):
    """What is wanted is larger than the room for it."""

    def __init__(self, path: str | Path, *, what: str, needed_bytes: int, free_bytes: int, advice: str) -> None:
        super().__init__(f"{what} needs about {size(needed_bytes)} in {path}, {size(free_bytes)} are free; {advice}")
        self.path, self.needed_bytes, self.free_bytes = Path(path), needed_bytes, free_bytes


class WeightsNotStored(StorageError):
    """An encoder's files cannot be written where they belong."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(
            f"cannot write {path}: {reason}; make room or mend it, or set CLIPHOUSE_ENCODERS to another folder "
            "and run the same command again"
        )
        self.path = Path(path)


class EngineUnavailable(EngineError):
    """ClickHouse could not be reached."""

    http_status = 503


class AuthenticationFailed(EngineError):
    """ClickHouse refused the user or the password."""
