"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import click
import numpy as np
from numpy.typing import NDArray

from cliphouse.collection import DEFAULT_NAME, DEFAULT_STORAGE, Collection
from cliphouse.encoders import DEVICE_VARIABLE
from cliphouse.errors import InvalidVector, UsageError
from cliphouse.types import MAX_K, IndexKind, LoadOptions, Modality, SearchParams

DEFAULT_DB = "./cliphouse-data"

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Invocation:
    """What one run of the command was told before anything ran."""

    debug: bool = False


def _set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Invocation).debug = True


def debug_option(function: F) -> F:
    """Add --debug."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show the traceback of an error."
    )(function)


def database_options(function: F) -> F:
    """Add --db, --collection and --debug; the function gets `db` and `collection`."""
    function = debug_option(function)
    function = click.option(
        "--collection",
        default=DEFAULT_NAME,
        show_default=True,
        metavar="NAME",
        help="Table that holds the pictures.",
    )(function)
    return click.option(
        "--db",
        default=DEFAULT_DB,
        envvar="CLIPHOUSE_DB",
        show_default=True,
        show_envvar=True,
        metavar="URL",
        help="A directory, chdb:///path, chdb://memory, or clickhouse://user:password@host:8123/database.",
    )(function)


def format_option(function: F) -> F:
    """Add --format; the function gets `form`, "table" or "json"."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="For people or programs.",
    )(function)


def encoder_option(function: F) -> F:
    """Add --encoder."""
    return click.option(
        "--encoder",
        envvar="CLIPHOUSE_ENCODER",
        metavar="NAME",
        help="Encoder of the embeddings, by name or folder; by default the one the collection names.",
    )(function)


def device_option(function: F) -> F:
    """Add --device."""
    return click.option(
        "--device",
        type=click.Choice(["cpu", "cuda"]),
        envvar=DEVICE_VARIABLE,
        help="Where the encoder runs; the processor by default. A GPU that is asked for and absent is an error.",
    )(function)


def _modality(_: click.Context, __: click.Parameter, value: str) -> Modality:
    return "text" if value.startswith("text") else "image"


def column_option(function: F) -> F:
    """Add --column, which takes the names of columns too; the function gets `column`."""
    return click.option(
        "--column",
        type=click.Choice(["image", "text", "image_embedding", "text_embedding"]),
        default="image",
        show_default=True,
        callback=_modality,
        help="Which embedding.",
    )(function)


def query_options(sample: int, k: int, seed: int) -> Callable[[F], F]:
    """Add --queries, --sample, -k and --seed, with these as defaults: with what a search is measured."""

    def added(function: F) -> F:
        for option in (
            click.option("--seed", default=seed, show_default=True, help="Another seed samples other rows."),
            click.option("--k", "-k", default=k, show_default=True, help="Neighbours that count."),
            click.option(
                "--sample",
                type=int,
                metavar="N",
                help="Take captions and pictures of N rows as queries, without the row itself as an answer. "
                f"{sample} by default, and none with --queries.",
            ),
            click.option(
                "--queries",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="Your own queries: FILE.npy with a vector a row, or FILE.txt with a text a line, which the "
                "encoder reads.",
            ),
        ):
            function = option(function)
        return function

    return added


def search_options(function: F) -> F:
    """Add all that makes a search: -k, --offset, --in, --where, --exact, --kind, --recall and the efforts.

    The function gets `params`.
    """
    defaults = SearchParams()

    @functools.wraps(function)
    def with_params(
        *args: Any,
        k: int,
        offset: int,
        column: Modality,
        where: str | None,
        exact: bool,
        kind: IndexKind | None,
        recall: float | None,
        ef_search: int | None,
        nprobe: int | None,
        **others: Any,
    ) -> Any:
        params = SearchParams(
            k=k,
            offset=offset,
            column=column,
            where=where,
            exact=exact,
            kind=kind,
            recall=recall,
            ef_search=ef_search,
            nprobe=nprobe,
        )
        return function(*args, params=params, **others)

    wrapped: Callable[..., Any] = with_params
    for option in (
        click.option(
            "--nprobe", type=int, metavar="N", help="Read so many clusters of an ivf index, whatever was tuned."
        ),
        click.option("--ef-search", type=int, metavar="N", help="Candidates of an hnsw index, whatever was tuned."),
        click.option(
            "--recall",
            type=float,
            metavar="SHARE",
            help="Look as hard as `cliphouse tune` found to reach this recall, for example 0.99. Without it: as it was "
            "tuned to. What no index reaches is searched exactly.",
        ),
        click.option("--kind", type=click.Choice(["hnsw", "ivf"]), help="Which index, where there are two."),
        click.option("--exact", is_flag=True, help="Compare with every row, even if there is an index."),
        click.option(
            "--where",
            callback=_condition,
            metavar="SQL",
            help="Only rows for which this holds, for example \"width >= 1024 AND NSFW = 'UNLIKELY'\".",
        ),
        click.option(
            "--in",
            "column",
            type=click.Choice(["image", "text"]),
            default=defaults.column,
            show_default=True,
            help="Which embedding to search.",
        ),
        click.option(
            "--offset",
            default=defaults.offset,
            show_default=True,
            metavar="N",
            help="Pass over the first N results: the second page of ten is --offset 10.",
        ),
        click.option("-k", default=defaults.k, show_default=True, help=f"How many results; up to {MAX_K:,}."),
    ):
        wrapped = option(wrapped)
    return cast("F", wrapped)


def _condition(_context: click.Context, _parameter: click.Parameter, given: str | None) -> str | None:
    if given is not None and not given.strip():
        raise UsageError("--where is empty; leave it out, or write --where true for every row")
    return given


def load_options(function: F) -> F:
    """Add --storage, --on-bad-row, --on-bad-shard and --similarity; the function gets `storage` and `options`."""

    @functools.wraps(function)
    def with_options(
        *args: Any,
        on_bad_row: str,
        on_bad_shard: Literal["skip", "fail"],
        similarity: Literal["keep", "recompute"],
        **others: Any,
    ) -> Any:
        options = LoadOptions(on_bad_row=on_bad_row, on_bad_shard=on_bad_shard, similarity=similarity)
        return function(*args, options=options, **others)

    wrapped: Callable[..., Any] = with_options
    for option in (
        click.option(
            "--similarity",
            type=click.Choice(["keep", "recompute"]),
            default="keep",
            show_default=True,
            help="Whether missing and absurd similarities stay unknown, or are computed from the vectors.",
        ),
        click.option(
            "--on-bad-shard",
            type=click.Choice(["skip", "fail"]),
            default="fail",
            show_default=True,
            help="Whether a shard with broken files is listed and passed over, or fails.",
        ),
        click.option(
            "--on-bad-row",
            metavar="POLICY",
            default="skip",
            show_default=True,
            help="keep, skip or fail, for rows with a vector that has no direction; or KIND=POLICY for other dirt.",
        ),
        click.option(
            "--storage",
            type=click.Choice(["bfloat16", "float32"]),
            help=f"How a new collection stores its vectors; {DEFAULT_STORAGE} by default.",
        ),
    ):
        wrapped = option(wrapped)
    return cast("F", wrapped)


def merged_options(function: F) -> F:
    """Add --map and --first-shard; the function gets `columns`, a dict, and `first_shard`."""
    function = click.option(
        "--first-shard",
        type=click.IntRange(min=0),
        metavar="N",
        help="Number merged parquet files N, N+1, ... in the order of their names, not by the numbers in these. The "
        "set of files must then stay as it is: one that is added in between would move the numbers of others.",
    )(function)
    return click.option(
        "--map",
        "columns",
        multiple=True,
        callback=_mapping,
        metavar="COLUMN=SOURCE",
        help="Fill a column of the table, for example image_embedding, from the parquet column SOURCE. Repeatable.",
    )(function)


def _mapping(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for each in given:
        column, _, source = each.partition("=")
        if not column or not source or column in columns:
            raise UsageError(f"--map {each!r} is not COLUMN=SOURCE, or names its column again")
        columns[column] = source
    return columns


def open_collection(
    db: str, collection: str, *, encoder: str | None = None, device: str | None = None, create: bool = False
) -> Collection:
    """The collection that the shared options name."""
    return Collection.open(db, name=collection, encoder=encoder, device=device, create=create)


def read_queries(path: Path) -> list[str] | NDArray[np.float32]:
    """What a file asks for: the rows of an npy file, or the lines of a text file.

    Raises:
        InvalidVector: an npy file that has no rows of numbers.
        UsageError: a text file that cannot be read, or has an empty line.
    """
    if path.suffix == ".npy":
        vectors = read_vector(path)
        if vectors.ndim != 2:
            raise InvalidVector(f"{path} holds an array of shape {vectors.shape}; save one row a query, (queries, dim)")
        return vectors
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is neither an npy file nor text in UTF-8"
        raise UsageError(f"cannot read the queries in {path}: {reason}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UsageError(f"line {number} of {path} is empty; each line is a text to search for")
    return lines


def read_vector(path: Path) -> NDArray[np.float32]:
    """The array in an npy file.

    Raises:
        InvalidVector: there is none.
    """
    try:
        vector: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it is not an npy file"
        raise InvalidVector(f"cannot read the vector in {path}: {reason}") from error
    if not isinstance(vector, np.ndarray):
        raise InvalidVector(f"cannot read the vector in {path}: it is an archive of arrays; save one with numpy.save")
    return vector
