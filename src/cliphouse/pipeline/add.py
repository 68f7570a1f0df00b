"""Pictures straight into a collection: each shard is loaded as soon as it is written, and then its files go.

What is in the table is asked from the table. The work folder only saves encoding again what was written and not loaded
when a run ended; if it is lost, nothing is lost and nothing comes twice.
"""

from __future__ import annotations

import os.path
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cliphouse import catalog
from cliphouse.engine import Engine
from cliphouse.engine.url import EmbeddedLocation
from cliphouse.errors import DimensionMismatch, NoPictures, ShardError
from cliphouse.index import definitions
from cliphouse.pipeline import ledger, load
from cliphouse.pipeline.embed import EmbedOptions, run
from cliphouse.pipeline.folder import EmbedFolder, paths_in, remove
from cliphouse.pipeline.sources import Source
from cliphouse.reports import EmbedReport, LoadReport
from cliphouse.schema import identifier
from cliphouse.types import ROWS_PER_SHARD, CollectionInfo, Encoder, LoadOptions, ProgressCallback, Query, Shard

#: Inside an embedded database's directory: on its disk, moved and deleted with it.
WORK = "cliphouse-add"
_TEXT_INDEX = "no caption: the text index needs one in every row; drop it first: cliphouse index drop --column text"


def add(
    engine: Engine,
    info: CollectionInfo,
    encoder: Encoder,
    source: Source,
    work: Path | None,
    options: EmbedOptions,
    progress: ProgressCallback | None,
) -> EmbedReport:
    """Bring in the pictures of `source` that the collection does not have; a new one becomes what `info` says.

    Raises:
        DimensionMismatch: the encoder's vectors are not as long as the collection's.
        NoPictures: the source has none that can be read.
        EngineError: writing failed; what was loaded stays.
    """
    if info.dim not in (0, encoder.dim):
        raise DimensionMismatch(
            what=f"the encoder {encoder.name}",
            given=encoder.dim,
            expected=info.dim,
            owner=f"collection {info.name!r}",
        )
    load.check_columns(info)
    adder = _Adder(engine, info)
    if work is not None:
        source.keep_apart(work.resolve())
    with (
        _workplace(engine, info.name, work) as (place, lasting),
        EmbedFolder.open(place, encoder, source.name, disposable=True) as folder,
    ):
        adder.finish_earlier(folder, source)
        folder.number = adder.next_number()
        if "text_embedding" in definitions(engine, info.name):
            options = replace(options, captionless=_TEXT_INDEX)
        done = adder.paths(source.prefix)
        try:
            report = run(source, folder, encoder, done, options=options, progress=progress, finished=adder.bring_in)
        except NoPictures as error:
            if lasting:
                raise
            raise NoPictures(error.source, error.skipped, None) from error
        return replace(
            report,
            skipped_list=report.skipped_list if lasting else None,
            stale_indexes=adder.stale_indexes,
        )


class _Adder:
    """One collection, and the shards that enter it one by one."""

    def __init__(self, engine: Engine, info: CollectionInfo) -> None:
        self._engine, self._info = engine, info
        self.stale_indexes: tuple[str, ...] = ()

    @property
    def _exists(self) -> bool:
        return bool(self._info.columns)

    def bring_in(self, shard: Shard) -> None:
        """Load a shard, and remove its files."""
        self._load(shard)
        remove(shard)

    def finish_earlier(self, folder: EmbedFolder, source: Source) -> None:
        """Load what an earlier run wrote and did not load, unless its pictures have come in by another way."""
        for shard in folder.shards():
            try:
                paths = paths_in(shard)
                if self._may_enter(shard, paths, source):
                    self._load(shard)
            except ShardError:
                pass  # its pictures are encoded again, or are in
            remove(shard)

    def _may_enter(self, shard: Shard, paths: Sequence[str], source: Source) -> bool:
        if not self._exists:  # dropped since, and perhaps for what was in it
            return all(path.startswith(source.prefix) for path in paths)
        # Rows under its number may be this very shard, half recorded: `load` tells, and refuses any others.
        begun = ledger.rows_present(self._engine, self._info.name, shard.number) > 0
        return begun or self.paths(os.path.commonpath(paths)).isdisjoint(paths)

    def paths(self, prefix: str) -> set[str]:
        """The paths of the pictures in the table that begin with `prefix`."""
        if not self._exists:
            return set()
        sql = (
            f"SELECT image_path FROM {identifier(self._info.name)} "
            "WHERE notEmpty(image_path) AND startsWith(image_path, {prefix:String})"
        )
        return {str(row[0]) for row in self._engine.query(Query(sql=sql, parameters={"prefix": prefix})).rows}

    def next_number(self) -> int:
        """The number after all that the ledger and the table know."""
        return max([*ledger.entries(self._engine, self._info.name), self._last_number()], default=-1) + 1

    def _last_number(self) -> int:
        if not self._exists:
            return -1
        rows = self._engine.query(Query(sql=f"SELECT count(), max(id) FROM {identifier(self._info.name)}")).rows
        count, largest = rows[0]
        return int(largest) // ROWS_PER_SHARD if count else -1

    def _load(self, shard: Shard) -> None:
        enter = load.load if self._exists else load.load_new
        options = LoadOptions()
        loaded: LoadReport = enter(self._engine, self._info, load.open_all([shard], options), options, None)
        self.stale_indexes = loaded.stale_indexes
        if not self._exists:
            self._info = catalog.find(self._engine, self._info.name) or self._info


@contextmanager
def _workplace(engine: Engine, collection: str, work: Path | None) -> Iterator[tuple[Path, bool]]:
    """The folder to work in, and whether it outlives this run."""
    location = engine.location
    if work is not None:
        yield work.resolve(), True
    elif isinstance(location, EmbeddedLocation) and location.path is not None:
        yield location.path / WORK / collection, True
    else:
        with tempfile.TemporaryDirectory(prefix="cliphouse-add-") as place:
            yield Path(place), False
