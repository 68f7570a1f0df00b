"""Shards from where they are published: several files at once, each whole or not there, and loaded as they come."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from cliphouse.errors import (
    DimensionMismatch,
    DownloadFailed,
    NotEnoughSpace,
    ShardError,
    StorageError,
    StorageFull,
    UnknownShard,
    UsageError,
)
from cliphouse.files import Part, Peek
from cliphouse.pace import Pace, Stopped
from cliphouse.pipeline import mirrors, plan
from cliphouse.pipeline.board import Board, Failed, Whole
from cliphouse.pipeline.fetch import Task, bring
from cliphouse.pipeline.how import PARALLEL, Keep, Loader, Options
from cliphouse.pipeline.mirrors import CLIP_RETRIEVAL, FILES, KNOWN, Kind, Mirror, Place, Places
from cliphouse.pipeline.tally import Tally
from cliphouse.reports import DownloadReport
from cliphouse.types import LoadOptions, ProgressCallback, Storage, shard_ranges
from cliphouse.web import PATIENCE

T = TypeVar("T")
#: How long a stop waits for threads that are in the middle of something.
_FAREWELL_SECONDS = 1.0


def download(
    out: str | Path,
    *,
    shards: str | Iterable[int],
    base_urls: Sequence[str | Path] = (),
    text: bool = True,
    parallel: int = PARALLEL,
    limit_rate: float | None = None,
    patience: float = PATIENCE,
    into: Loader | None = None,
    keep: Keep = "all",
    storage: Storage | None = None,
    options: LoadOptions | None = None,
    progress: ProgressCallback | None = None,
    ended: Callable[[DownloadReport], None] | None = None,
) -> DownloadReport:
    """Download `shards` ("0-9,12" or numbers) into the folder `out`, which `Collection.load` takes.

    `base_urls` are tried in order: web addresses, s3://, gs://, az://, file:// or folders; without any, the places
    where LAION-400M was published. `text` False leaves out the text embeddings. `parallel` files come at once, at
    `limit_rate` bytes a second together; an attempt without a byte for `patience` seconds is given up. Files that are
    there and whole are left alone, and parts are gone on with. A shard that cannot be had does not stop the others: it
    is in the report's `failed`. With `into`, a Collection, each shard is loaded as soon as it is whole, in this thread,
    and one that the collection holds is not asked for; `keep` "none" deletes the files of loaded shards, and
    `storage` and `options` are those of `Collection.load`. `ended` is told the report however the download ends, an
    error and Ctrl-C included.

    Raises:
        UsageError: an argument does not fit.
        DownloadFailed: no place answers.
        NotEnoughSpace, StorageFull, StorageError: `out` cannot take it.
        EngineError: loading failed. A shard that does not fit does not end it, but goes into the report.
    """
    how = Options(
        text=text,
        parallel=parallel,
        limit_rate=limit_rate,
        patience=patience,
        keep=keep,
        storage=storage,
        load=options,
    )
    if into is None and keep != "all":
        raise UsageError("files are deleted only once they are loaded; name the collection that takes them")
    numbers = plan.parse_shards(shards) if isinstance(shards, str) else sorted(set(shards))
    if not numbers or numbers[0] < 0:
        raise UsageError("name the shards to download, for example 0-9,12")
    chosen = [mirrors.mirror(str(base)) for base in base_urls] or list(KNOWN)
    job = _Job(Path(out).expanduser(), numbers, chosen, how, into, progress)
    try:
        job.run()
    finally:
        if ended:
            ended(job.report())
    return job.report()


def probe(
    base_urls: Sequence[str | Path] = (), *, shard: int = 0, patience: float = PATIENCE
) -> dict[str, Place | DownloadFailed]:
    """What each mirror answers that is asked for `shard`: in which layout it has it, or why not."""
    answers: dict[str, Place | DownloadFailed] = {}
    look = Look([shard], tuple(FILES), Options(patience=patience).patience, Pace())
    for each in [mirrors.mirror(str(base)) for base in base_urls] or list(KNOWN):
        try:
            answers[each.base] = _apart(partial(look, each))
        except DownloadFailed as error:
            answers[each.base] = error
    return answers


@dataclass(frozen=True, slots=True)
class Look:
    """A look at a mirror: which of its layouts holds `numbers`."""

    numbers: Sequence[int]
    kinds: Sequence[Kind]
    patience: float
    pace: Pace

    def __call__(self, mirror: Mirror) -> Place:
        """Where it has them; the error says why not."""
        return mirrors.probe(mirror, self.numbers, self.kinds, self._peek)

    def _peek(self, base: str, name: str) -> Peek:
        return mirrors.peek(base, name, patience=self.patience, pace=self.pace)


def tasks(out: Path, numbers: Iterable[int], kinds: Iterable[Kind]) -> dict[int, list[Task]]:
    """The files of each shard and where they belong: where they are now, else in clip-retrieval's folders.

    Raises:
        UsageError: `out` is no folder.
        ShardError: two files in it claim one place.
    """
    found: Mapping[str, Mapping[int, Path]] = plan.discover(out) if out.exists() else {kind: {} for kind in FILES}
    return {
        number: [
            Task(
                number=number,
                kind=kind,
                target=found[kind].get(number) or out / CLIP_RETRIEVAL.path(kind, number),
            )
            for kind in kinds
        ]
        for number in numbers
    }


def check_space(out: Path, missing: Sequence[Task], place: Place, at_once: int | None) -> None:
    """What is still to come fits on the disk, by the sizes at `place`; of at most `at_once` shards, if that is said.

    Raises:
        NotEnoughSpace: it does not.
    """
    shards = sorted({task.number for task in missing})
    needed = sum(max(0, place.sizes.get(task.kind, 0) - Part(task.target).size) for task in missing)
    if at_once is not None and len(shards) > at_once:
        needed = at_once * sum(place.sizes.values())
    free = shutil.disk_usage(out).free
    if needed > free:
        raise NotEnoughSpace(
            out,
            what=f"what is missing of shards {shard_ranges(shards)}",
            needed_bytes=needed,
            free_bytes=free,
            advice="make room, name fewer --shards"
            + (", or load and delete them as they come: --then load --keep none" if at_once is None else ""),
        )


class _Job:
    def __init__(
        self,
        out: Path,
        numbers: Sequence[int],
        chosen: Sequence[Mirror],
        options: Options,
        into: Loader | None,
        progress: ProgressCallback | None,
    ) -> None:
        self.out, self.options, self.into, self.progress = out, options, into, progress
        self.pace = Pace(options.limit_rate)
        in_it = set(into.status().shards) if into is not None and into.exists() else set()
        wanted = tasks(out, numbers, options.kinds)
        # What the collection holds is left alone, but for files that a killed run was about to delete.
        self.held = [
            number
            for number in numbers
            if number in in_it and not (options.keep == "none" and all(each.target.exists() for each in wanted[number]))
        ]
        self.wanted = {number: wanted[number] for number in numbers if number not in self.held}
        self.places = Places(chosen, Look(list(self.wanted), options.kinds, options.patience, self.pace))
        self.fetched: list[int] = []
        self.present: list[int] = []
        self.loaded: list[int] = []
        self.failed: dict[int, str] = {}
        self.files = self.rows = self.rows_read = 0
        self.left_out: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.stale_indexes: tuple[str, ...] = ()
        self.started = time.perf_counter()

    def run(self) -> None:
        """Bring all shards, and load them."""
        missing = [each for files in self.wanted.values() for each in files if not each.target.exists()]
        sizes: Mapping[Kind, int] = {}
        with _writing(self.out):
            for folder in {each.target.parent for each in missing}:
                folder.mkdir(parents=True, exist_ok=True)
            if missing:
                place = _apart(self.places.first)
                sizes = place.sizes
                check_space(self.out, missing, place, self.options.window)
        self.tally = Tally(sizes, self.progress)
        for each in missing:
            self.tally.expect(each)
        self._work(Board(self.wanted, self.options.window or len(self.wanted)))

    def report(self) -> DownloadReport:
        """What has been done so far."""
        return DownloadReport(
            directory=self.out,
            fetched=tuple(sorted(self.fetched)),
            present=tuple(sorted(self.present)),
            held=tuple(self.held),
            failed=dict(sorted(self.failed.items())),
            files=self.files,
            received_bytes=self.pace.total,
            seconds=time.perf_counter() - self.started,
            loaded=tuple(sorted(self.loaded)),
            rows=self.rows,
            rows_read=self.rows_read,
            left_out=dict(self.left_out),
            kept=dict(self.kept),
            stale_indexes=self.stale_indexes,
        )

    def _work(self, board: Board) -> None:
        """Let threads fetch, and do in this one what is done with whole shards: it is the one that Ctrl-C reaches."""
        threads = [
            threading.Thread(target=self._fetch, args=(board,), name=f"cliphouse-download-{number}", daemon=True)
            for number in range(self.options.parallel)
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in self.wanted:
                event = board.events.get()
                if isinstance(event, BaseException):
                    raise event
                self.files += len(event.came)
                if isinstance(event, Failed):
                    self.failed[event.number] = event.reason
                    for task in self.wanted[event.number]:  # those that nobody began, too
                        self.tally.over(task)
                else:
                    self._finish(event)
                board.release(event.number)
        finally:
            self.pace.stop()
            board.close()
            leave = time.monotonic() + _FAREWELL_SECONDS
            for thread in threads:
                thread.join(max(0.0, leave - time.monotonic()))

    def _fetch(self, board: Board) -> None:
        """Bring one file after the other."""
        try:
            while task := board.take():
                with _writing(task.target):
                    try:
                        came = bring(
                            task,
                            self.places,
                            patience=self.options.patience,
                            pace=self.pace,
                            progress=self.tally.take,
                        )
                    except DownloadFailed as error:
                        self.tally.over(task)
                        board.failed(task, f"{error.url}: {error.reason}")
                    else:
                        self.tally.over(task)
                        board.came(came)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001  # handed to the waiting thread as it is
            board.events.put(error)

    def _finish(self, shard: Whole) -> None:
        """Count a shard that is whole, load it if it is to be loaded, and delete it if it is not to be kept."""
        number = shard.number
        (self.fetched if shard.came else self.present).append(number)
        if self.into is None:
            return
        try:
            report = self.into.load(
                self.out,
                shards=[number],
                storage=self.options.storage,
                options=self.options.load,
                progress=self.progress,
            )
        except (ShardError, DimensionMismatch, UnknownShard) as error:  # unknown: another process has deleted it
            self.failed[number] = str(error).removeprefix(f"shard {number}: ")
            return
        self.rows += report.rows
        self.rows_read += report.rows_read
        self.left_out.update(report.left_out)
        self.kept.update(report.kept)
        self.stale_indexes = report.stale_indexes
        if number not in self.into.status().shards:
            reason = report.quarantined.get(number, "it was not loaded")
            self.failed[number] = reason.removeprefix(f"shard {number}: ")
            return
        self.loaded.append(number)
        if self.options.keep == "none":
            os.sync()  # the table's new part, too, has to outlive a power cut, before the only copy goes
            with _writing(self.out):
                for task in reversed(self.wanted[number]):  # the image embeddings first: by these a shard is found
                    task.target.unlink(missing_ok=True)


def _apart(work: Callable[[], T]) -> T:
    """Do `work` in a thread of its own: while it waits for a server, Ctrl-C reaches this one."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:  # noqa: BLE001  # handed to the waiting thread as it is
            answer.set_exception(error)

    threading.Thread(target=run, name="cliphouse-probe", daemon=True).start()
    return answer.result()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say of what the system refuses inside, which file it was and why.

    Raises:
        StorageFull: there is no room.
        StorageError: it refused for another reason.
    """
    try:
        yield
    except OSError as error:
        where, reason = str(error.filename or path), error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(where) from error
        raise StorageError(f"cannot write {where}: {reason}; mend it and run the same command again") from error
