"""A collection: pictures, captions and their embeddings in one ClickHouse table, and all that is done with it.

The whole Python interface is here, which makes the file long: promises, and a call of the module that keeps each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from numpy.typing import ArrayLike

from cliphouse import catalog, evaluate, functions, index, ivf, notes, queries, ready, schema, tuning
from cliphouse.costs import Choice
from cliphouse.encoders.access import ANYWHERE, ImageAccess
from cliphouse.encoders.chosen import Chosen
from cliphouse.encoders.decode import MAX_PIXELS
from cliphouse.engine import Engine, arrow_table, connect
from cliphouse.errors import EncoderMismatch, EngineError, UsageError
from cliphouse.evaluation import Evaluation, EvaluationOptions, Tuning, TuningOptions
from cliphouse.hits import Hits, SearchPlan
from cliphouse.pipeline import add, cluster, delete, deny, export, ledger, load, plan, verify
from cliphouse.pipeline.embed import EmbedOptions
from cliphouse.pipeline.find import find
from cliphouse.pipeline.sources import Listed, Source
from cliphouse.reports import DeleteReport, DenyReport, EmbedReport, ExportReport, LoadReport, Status, VerifyReport
from cliphouse.searcher import Searcher
from cliphouse.types import (
    CollectionInfo,
    Encoder,
    IndexConfig,
    IndexKind,
    IndexState,
    IvfConfig,
    LoadOptions,
    Modality,
    ProgressCallback,
    Query,
    SearchParams,
    Storage,
)
from cliphouse.vectors import abbreviate

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

DEFAULT_NAME = "laion"
DEFAULT_STORAGE: Storage = "bfloat16"

_log = logging.getLogger(__name__)


class Collection:
    """One table of pictures, embedded or on a server. Safe to use from several threads at once."""

    def __init__(
        self,
        engine: Engine,
        name: str = DEFAULT_NAME,
        encoder: str | Encoder | None = None,
        device: str | None = None,
    ) -> None:
        schema.check_name(name)
        self.engine = engine
        self.name = name
        self.image_access = ANYWHERE  # what encode_image may open in SQL
        self._chosen = Chosen(encoder, device)
        self._searcher = Searcher(engine, name, self._chosen)

    @classmethod
    def open(
        cls,
        url: str | Path,
        *,
        name: str = DEFAULT_NAME,
        encoder: str | Encoder | None = None,
        device: str | None = None,
        create: bool = True,
    ) -> Collection:
        """The collection `name` in the database at `url`, which `load` fills if it is new.

        `url` is a directory, `chdb:///path`, `chdb://memory`, or `clickhouse://user:password@host:8123/database`.
        With `create`, a missing data directory is made. `encoder` (a name, the folder of one, or an object with the
        four attributes of `Encoder`) serves text and picture queries, on `device` ("cpu" or "cuda"); by default it is
        the one the collection names, on the processor.

        Raises:
            UsageError: `url` or `name` is not valid; `UnknownDatabase` if there is nothing and `create` is False.
            EngineError: `DirectoryInUse`, `StorageError`, `EngineUnavailable`, `AuthenticationFailed`.
        """
        schema.check_name(name)
        return cls(connect(str(url), create=create), name, encoder, device)

    def close(self) -> None:
        """Close the database; a data directory becomes free for other processes."""
        self.engine.close()

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Collection {self.name!r} in {self.engine.location}>"

    # -- what it is ---------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether the table is there."""
        return catalog.find(self.engine, self.name) is not None

    def info(self) -> CollectionInfo:
        """What the collection remembers: encoder, dimension, distance, storage, columns.

        Raises:
            UnknownCollection: there is no such table.
        """
        return self._searcher.info()

    def encoder(self) -> Encoder:
        """The encoder of this collection, ready to run.

        Raises:
            EncoderMismatch: the encoder given to `open` is not the one that made the data.
            UnknownEncoder, EncoderUnavailable: it cannot run here.
        """
        return self._chosen.load(self.info())

    def status(self) -> Status:
        """Rows, shards, disk by column, indexes, encoder and engine."""
        info = self.info()
        lines = ledger.entries(self.engine, self.name).values()
        return Status(
            collection=self.name,
            database=str(self.engine.location),
            engine_version=self.engine.capabilities.version,
            rows=catalog.count_rows(self.engine, self.name),
            shards=tuple(entry.shard for entry in lines if entry.state == "loaded"),
            quarantined={entry.shard: entry.reason for entry in lines if entry.state == "quarantined"},
            left_out=ledger.total(entry.left_out for entry in lines),
            kept=ledger.total(entry.kept for entry in lines),
            encoder=info.encoder,
            dim=info.dim,
            storage=info.storage,
            total_bytes=catalog.total_bytes(self.engine, self.name),
            disk_bytes=catalog.disk_bytes(self.engine, self.name),
            indexes=tuple(ready.states(self.engine, info)),
        )

    # -- filling it ---------------------------------------------------------------------------------------------------

    def load(
        self,
        source: str | Path,
        *,
        shards: str | Iterable[int] | None = None,
        first_shard: int | None = None,
        storage: Storage | None = None,
        options: LoadOptions | None = None,
        progress: ProgressCallback | None = None,
    ) -> LoadReport:
        """Load the shards at `source`, all or those in `shards` ("0-9,12" or numbers).

        `source` is a directory in the LAION layout, a parquet file that holds the embeddings too, a directory of such
        files, or an address of either (`s3://bucket/folder/`, `https://host/file.parquet`). Such files have the numbers
        in their names, or are counted from `first_shard` in the order of their names.

        A shard enters whole or not at all, and loading one again does nothing. All files are checked before the first
        row is written. `options` say what happens to bad rows and bad shards, and how many shards load at a time. A new
        collection takes its encoder from `open`, else from the folder if `embed` wrote it (512-dimensional data without
        one is taken for LAION's, clip-vit-b32), and its `storage` from here: bfloat16 unless told otherwise.

        Raises:
            UsageError: the source, shards, encoder or storage do not fit.
            ShardError: the files of a shard do not.
            SourceUnavailable: an address cannot be listed.
            EngineError: writing failed; shards that were finished stay.
        """
        options = options or LoadOptions()
        wanted = plan.parse_shards(shards) if isinstance(shards, str) else shards
        opened = load.open_all(find(source, wanted, first_shard), options)
        made_by = plan.encoder_of(Path(source))
        given = self._chosen.name
        if made_by and given and made_by != given:
            raise EncoderMismatch(collection=str(source), stored=made_by, given=given, kind="folder")
        info = self._before_writing(storage)
        if info is None:
            info = load.describe_new(self.name, opened, given or made_by, self._chosen.dim, storage or DEFAULT_STORAGE)
            return load.load_new(self.engine, info, opened, options, progress)
        if made_by and info.encoder and made_by != info.encoder:
            raise EncoderMismatch(collection=self.name, stored=info.encoder, given=made_by)
        return load.load(self.engine, info, opened, options, progress)

    def add(
        self,
        src: str | Path | Listed,
        *,
        storage: Storage | None = None,
        work: str | Path | None = None,
        max_pixels: int = MAX_PIXELS,
        progress: ProgressCallback | None = None,
    ) -> EmbedReport:
        """Embed the pictures of `src` (see `cliphouse.embed`) and load them, but for those that are here already.

        A picture is known by its path. `work` is where shards wait to be loaded: by default in the data directory, and
        for a server a temporary folder. A new collection is made with the encoder given to `open`, else clip-vit-b32.

        Raises:
            NoPictures: not one picture could be embedded.
            UsageError: the source, encoder or storage do not fit.
            EncoderUnavailable: the encoder cannot run here.
            EngineError: writing failed; what was loaded stays, and the same call goes on from there.
        """
        options, source = EmbedOptions(max_pixels=max_pixels), Source(src)
        info = self._before_writing(storage)
        encoder = self._chosen.load(info)
        if info is None:
            info = CollectionInfo(
                name=self.name, encoder=encoder.name, dim=encoder.dim, storage=storage or DEFAULT_STORAGE
            )
        return add.add(self.engine, info, encoder, source, Path(work) if work else None, options, progress)

    # -- keeping it in order ------------------------------------------------------------------------------------------

    def delete(
        self,
        *,
        where: str | None = None,
        ids: Iterable[int] | None = None,
        shards: str | Iterable[int] | None = None,
        purge: bool = False,
        confirm: delete.Confirm | None = None,
        progress: ProgressCallback | None = None,
    ) -> DeleteReport:
        """Delete the rows of a SQL condition, of ids, or of shards; no answer has them any more; see `pipeline.delete`.

        Rows of a condition and of ids stay away when their shard is loaded again; whole shards may be loaded again.
        `purge` takes all that was ever deleted off the disk. `confirm` is asked with the number of rows first.

        Raises:
            UsageError: the rows are named in no way or several, `InvalidFilter`, `UnknownCollection`.
            EngineError: ClickHouse failed; the same call again finishes the work.
        """
        numbers = plan.parse_shards(shards) if isinstance(shards, str) else shards
        return delete.delete(
            self.engine,
            self.info(),
            where=where,
            ids=ids,
            shards=numbers,
            purge=purge,
            confirm=confirm,
            progress=progress,
        )

    def deny(self, path: str | Path, *, remove: bool = False, progress: ProgressCallback | None = None) -> DenyReport:
        """Never show or load the urls and hashes that a file lists; with `remove`, take them off the list.

        Rows that are here already are deleted at once, and do not come back when an entry is taken off.

        Raises:
            UsageError: the file cannot be read, or holds something else.
            EngineError: ClickHouse failed; the same call again finishes the work.
        """
        change = deny.allow_again if remove else deny.deny
        return change(self.engine, self.name, Path(path), progress)

    def denied(self) -> dict[str, int]:
        """How many entries the deny list has, by kind: url, md5, sha256."""
        return deny.counts(self.engine, self.name)

    def verify(
        self,
        source: str | Path,
        *,
        shards: str | Iterable[int] | None = None,
        first_shard: int | None = None,
        columns: Mapping[str, str] | None = None,
        sample: int = 1000,
        seed: int = 0,
        checksums: bool = False,
        progress: ProgressCallback | None = None,
    ) -> VerifyReport:
        """Compare the table with the shards at `source`: all rows by number, `sample` rows of each shard in full.

        With `checksums` the files are read in full, and compared by their sums with what was loaded.

        Raises:
            UsageError: the directory or shards do not fit, `UnknownCollection`.
            EngineError: ClickHouse failed.
        """
        wanted = plan.parse_shards(shards) if isinstance(shards, str) else shards
        return verify.verify(
            self.engine,
            self.info(),
            find(source, wanted, first_shard),
            columns=columns,
            sample=sample,
            seed=seed,
            checksums=checksums,
            progress=progress,
        )

    def export(
        self,
        out: str | Path | BinaryIO,
        *,
        hits: Hits | None = None,
        where: str | None = None,
        shards: str | Iterable[int] | None = None,
        form: export.Form = "parquet",
        dtype: export.Dtype = "float32",
        force: bool = False,
        progress: ProgressCallback | None = None,
    ) -> ExportReport:
        """Write the results of a search, the rows of a condition, or shards to files; see `pipeline.export`.

        Raises:
            UsageError: the rows are not named, or the output is there already, `InvalidFilter`.
            EngineError: ClickHouse or the disk failed; nothing half written is left.
        """
        numbers = plan.parse_shards(shards) if isinstance(shards, str) else shards
        wanted = export.Wanted(hits=hits, where=where, shards=None if numbers is None else sorted(set(numbers)))
        place = Path(out) if isinstance(out, (str, Path)) else out
        return export.export(
            self.engine, self.info(), place, wanted, form=form, dtype=dtype, force=force, progress=progress
        )

    # -- searching it -------------------------------------------------------------------------------------------------

    def search(
        self,
        query: str | Path | Image | ArrayLike | None = None,
        *,
        like: int | None = None,
        k: int = 10,
        column: Modality = "image",
        exact: bool = False,
        where: str | None = None,
        kind: IndexKind | None = None,
        ef_search: int | None = None,
        nprobe: int | None = None,
        recall: float | None = None,
        offset: int = 0,
        columns: Iterable[str] = (),
    ) -> Hits:
        """The `k` rows nearest to `query` after the first `offset`, nearest first, ties by id.

        `query` is a text, a picture (a PIL image, or the Path of a file) or a vector; `like` is a row's id instead.
        `column` says which embedding is searched. `where` is a SQL condition on the columns. A vector index is used
        where one is ready and can answer, unless `exact`; `Hits.plan` says which path ran. k up to 10,000.

        `kind` names the index where there are two. How hard it looks is what `tune` found for `recall`, or for the
        recall it was tuned for; `ef_search` (hnsw) and `nprobe` (ivf) say it outright. A recall that no index was
        measured to reach is answered by an exact search.

        Raises:
            UsageError: `DimensionMismatch`, `EncoderMismatch`, `InvalidVector`, `InvalidFilter`, `UnknownItem`, ...
            EngineError: ClickHouse failed.
        """
        if isinstance(columns, str):
            raise UsageError(f"columns is a list of names, not the text {columns!r}")
        params = SearchParams(
            k=k,
            offset=offset,
            column=column,
            exact=exact,
            where=where,
            kind=kind,
            ef_search=ef_search,
            nprobe=nprobe,
            recall=recall,
            columns=tuple(columns),
        )
        return self.search_with(query, like=like, params=params)

    def search_with(
        self, query: str | Path | Image | ArrayLike | None = None, *, like: int | None = None, params: SearchParams
    ) -> Hits:
        """`search` with its options as one value."""
        return self._searcher.run(query, like, params)

    def search_many(
        self,
        queries: Iterable[str | Path | Image | ArrayLike],
        *,
        k: int = 10,
        offset: int = 0,
        column: Modality = "image",
        exact: bool = False,
        where: str | None = None,
        columns: Iterable[str] = (),
    ) -> list[Hits]:
        """The `k` rows nearest to each of `queries`, as `search` finds them, in the order of the queries.

        `queries` are texts, pictures and vectors, or an array of shape (queries, dim). Where every row is compared, one
        pass over the rows serves all queries, much faster than a search for each.

        Raises:
            As `search`.
        """
        if isinstance(columns, str):
            raise UsageError(f"columns is a list of names, not the text {columns!r}")
        if isinstance(queries, (str, Path)):
            raise UsageError(f"queries is a list of things to search for, not the one {str(queries)!r}")
        params = SearchParams(k=k, offset=offset, column=column, exact=exact, where=where, columns=tuple(columns))
        return self.search_many_with(queries, params=params)

    def search_many_with(
        self, queries: Iterable[str | Path | Image | ArrayLike], *, params: SearchParams
    ) -> list[Hits]:
        """`search_many` with its options as one value."""
        return self._searcher.run_many(queries, params)

    def statement(
        self, query: str | Path | Image | ArrayLike | None = None, *, like: int | None = None, params: SearchParams
    ) -> tuple[Query, SearchPlan]:
        """The statement that the next search would run, and why that one."""
        return self._searcher.statement(query, like, params)

    def explain(self, query: Query) -> str:
        """The engine's own plan for `query`, with its vectors abbreviated."""
        return abbreviate("\n".join(str(row[0]) for row in self.engine.query(queries.explain(query)).rows))

    # -- its indexes --------------------------------------------------------------------------------------------------

    def build_index(
        self,
        column: Modality = "image",
        config: IndexConfig | IvfConfig | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> IndexState:
        """Build the vector index of one column, or complete it after new shards; see `index.build`, `pipeline.cluster`.

        Raises:
            UsageError: the index is there with other parameters, or the rows do not fit it.
            InsufficientMemory: the graph of an hnsw index would not fit.
            NotEnoughSpace: the lists of an ivf index would not.
            IndexBusy: another builder is at the lists.
            EngineError: ClickHouse failed.
        """
        info = self._searcher.searchable(SearchParams(column=column))
        name, config = f"{column}_embedding", config or IndexConfig()
        if isinstance(config, IvfConfig):
            cluster.build(self.engine, info, name, config, progress)
        else:
            index.build(self.engine, info, name, config, progress)
            ivf.remember(self.engine, info.name)  # its parts are others now
        return next(
            state
            for state in ready.states(self.engine, info)
            if state.column == name and state.config.kind == config.kind
        )

    def choose_index(self, column: Modality = "image", recall: float = 0.95) -> Choice:
        """The kind of index that suits the column's rows, this machine's memory and the wanted recall, and why.

        The kind is "exact" where no index would be much faster than comparing every row. Nothing is built.

        Raises:
            UsageError: there are no rows, or the recall is none.
        """
        info = self._searcher.searchable(SearchParams(column=column))
        return index.choose(self.engine, info, f"{column}_embedding", recall)

    def drop_index(self, column: Modality = "image", kind: IndexKind | None = None) -> str:
        """Drop the vector index of one column, of the `kind` if it has two; return its name.

        Raises:
            UsageError: there is none, or there are two and `kind` names neither.
        """
        info, name = self.info(), f"{column}_embedding"
        if kind is None:
            kinds = [state.config.kind for state in ready.states(self.engine, info) if state.column == name]
            if len(kinds) > 1:
                raise UsageError(f"{name} has an hnsw and an ivf index; say which to drop: --kind hnsw or --kind ivf")
            kind = kinds[0] if kinds else "hnsw"
        if kind == "ivf":
            return cluster.drop(self.engine, info, name)
        return index.drop(self.engine, self.name, name)

    # -- measuring it -------------------------------------------------------------------------------------------------

    def evaluate(
        self, options: EvaluationOptions | None = None, *, progress: ProgressCallback | None = None
    ) -> Evaluation:
        """Measure recall, latency and throughput of the searches, exact and by every index; see `evaluate.evaluate`.

        The true neighbours are kept beside the collection, and computed again when its rows are others. What was
        measured is kept too, for `last_evaluation`.

        Raises:
            UsageError: the options or queries do not fit; `MissingTruth`, `StaleTruth`, `InvalidFilter`.
            EngineError: ClickHouse failed.
        """
        options = options or EvaluationOptions()
        info = self._searcher.searchable(SearchParams(column=options.column))
        measured = evaluate.evaluate(self.engine, info, self._searcher, self._chosen, options, progress)
        if measured.points:
            try:
                notes.keep_evaluation(self.engine, self.name, measured)
            except EngineError as error:  # a user who may only read has measured all the same
                _log.warning("the evaluation is not kept for the status of the collection: %s", error)
        return measured

    def last_evaluation(self) -> dict[str, Any] | None:
        """What `evaluate` measured last, as `Evaluation.as_dict` has it, with `evaluated_at`; None if it never did."""
        return notes.last_evaluation(self.engine, self.name)

    def tune(self, options: TuningOptions | None = None, *, progress: ProgressCallback | None = None) -> Tuning:
        """Find the effort at which each index of a column reaches the wanted recall, and have searches take it.

        See `tuning.tune`. It is forgotten when an index is dropped, and when lists are built anew.

        Raises:
            UsageError: no index is ready, or the options or queries do not fit.
            EngineError: ClickHouse failed.
        """
        options = options or TuningOptions()
        info = self._searcher.searchable(SearchParams(column=options.column))
        return tuning.tune(self.engine, info, self._searcher, self._chosen, options, progress)

    # -- SQL ----------------------------------------------------------------------------------------------------------

    def sql(self, statement: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The answer to a SQL statement as an Arrow table (empty for statements that answer nothing).

        `parameters` fill `{name:Type}` placeholders. `encode_text` and `encode_image` are there if the database is
        embedded.
        """
        self._searcher.forget()  # the statement may change the table
        if not self.engine.capabilities.embedded:
            return arrow_table(self.engine, statement, parameters or {})
        with functions.installed(self.engine, *self._functions()):
            return arrow_table(self.engine, statement, parameters or {})

    def install_functions(self) -> None:
        """Make `encode_text` and `encode_image` known in SQL, if the engine runs in this process."""
        if self.engine.capabilities.embedded:
            functions.install(self.engine, *self._functions())

    # -- inside -------------------------------------------------------------------------------------------------------

    def _functions(self) -> tuple[Callable[[], Encoder], ImageAccess, Hashable]:
        """What SQL's functions are to use for this collection, and a key that tells it from others'."""
        info = catalog.find(self.engine, self.name)  # now: a function must not query the engine that called it
        # SQL may be asked before there is a collection, or one that names its encoder, as in the tutorial.
        named = info if info is not None and info.encoder else None
        key = (self._chosen.key, named and named.encoder, self.image_access)
        return lambda: self._chosen.load(named), self.image_access, key

    def _before_writing(self, storage: Storage | None) -> CollectionInfo | None:
        """The collection as it is, if it is there, after checking that what comes may enter it."""
        self._searcher.forget()
        info = catalog.find(self.engine, self.name)
        if info is not None:
            if storage not in (None, info.storage):
                raise UsageError(f"collection {self.name!r} stores {info.storage}, not {storage}; its storage is fixed")
            self._chosen.check(info, writing=True)
        return info
