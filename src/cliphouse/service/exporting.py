"""Answers as files: lines of JSON, CSV, parquet."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import APIRouter, Depends
from starlette.responses import StreamingResponse

from cliphouse.collection import Collection
from cliphouse.errors import UsageError
from cliphouse.service import items, searching, targets
from cliphouse.service.contract import ExportRequest
from cliphouse.service.selecting import condition_of
from cliphouse.service.state import State, state_of
from cliphouse.service.targets import Wanted
from cliphouse.service.values import plain
from cliphouse.types import HIT_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

router = APIRouter(tags=["items"])

T = TypeVar("T")
Row = Mapping[str, Any]
Writer = Callable[[Mapping[str, str], Sequence[Row]], Iterator[bytes]]

_ROWS, _BYTES = 500, 2**20
#: Ids of one statement: a server takes no parameter over 128 KiB.
_IDS = 2_000
#: What makes a formula of a cell, where a table is opened as a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_WRAPPED = re.compile(r"(?:Nullable|LowCardinality)\((.*)\)")


@router.post(
    "/export",
    operation_id="export",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The file",
            "content": {
                "application/x-ndjson": {"schema": {"type": "string"}},
                "text/csv": {"schema": {"type": "string"}},
                "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
)
async def export(request: ExportRequest, state: Annotated[State, Depends(state_of)]) -> StreamingResponse:
    """The rows that a search finds, in its order, or those of ids, in theirs, as a file.

    NaN and what is not known is null in JSON, an empty cell in CSV. A text in CSV that a spreadsheet would take for a
    formula has an apostrophe before it.
    """
    most = state.settings.max_export
    if len(request.ids or ()) > most or (request.query and request.k > most):
        raise UsageError(f"an export has {most:,} rows at most here; go on with offset, or with further ids")
    wanted = await targets.wanted(request.query, state, request.collection) if request.query else None
    write, media_type = _FORMATS[request.format]

    def work() -> tuple[str, Iterator[bytes]]:
        collection = state.collection_of(request.collection)
        types, rows = _table(state, collection, request, wanted)
        return collection.name, write(types, rows)

    name, pieces = await state.pool.run(work)
    headers = {"Content-Disposition": f'attachment; filename="{name}.{request.format}"'}
    return StreamingResponse(pieces, media_type=media_type, headers=headers)


def _table(
    state: State, collection: Collection, request: ExportRequest, wanted: Wanted | None
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The columns with their types, and the rows."""
    info = collection.info()
    if wanted is not None:
        found = searching.run(collection, state, request, request, wanted)
        rows, names = found.rows(request.columns), ["id", "distance", *HIT_COLUMNS[1:], *request.columns]
    else:
        names = list(dict.fromkeys((*HIT_COLUMNS, *request.columns)))
        if unknown := [name for name in names if name not in info.columns]:
            raise UsageError(
                f"collection {info.name!r} has no column {', '.join(unknown)}; it has: {', '.join(info.columns)}"
            )
        where = condition_of(collection, info, request)
        rows = [
            row
            for ids in _pages(list(dict.fromkeys(request.ids or ())), _IDS)
            for row in items.rows_of(collection, info, ids, columns=names, where=where)
        ]
    types = {"distance": "Float32"} | dict(info.columns)
    return {name: types[name] for name in names}, rows


def _pages(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _jsonl(types: Mapping[str, str], rows: Sequence[Row]) -> Iterator[bytes]:
    for some in _pages(rows, _ROWS):
        lines = (json.dumps({name: plain(row[name]) for name in types}, ensure_ascii=False) for row in some)
        yield "".join(f"{line}\n" for line in lines).encode()


def _csv(types: Mapping[str, str], rows: Sequence[Row]) -> Iterator[bytes]:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(types)
    for some in _pages(rows, _ROWS):
        writer.writerows([_cell(row[name]) for name in types] for row in some)
        yield out.getvalue().encode()
        out.seek(0)
        out.truncate()
    yield out.getvalue().encode()


def _cell(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def _parquet(types: Mapping[str, str], rows: Sequence[Row]) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: _array([row[name] for row in rows], type_) for name, type_ in types.items()}
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, compression="zstd")
    data = out.getbuffer()
    return (bytes(data[start : start + _BYTES]) for start in range(0, len(data), _BYTES))


def _array(values: list[Any], type_: str) -> pa.Array:
    """A column in the type of the table's; where parquet has no such type, as texts."""
    import pyarrow as pa

    while wrapped := _WRAPPED.fullmatch(type_):
        type_ = wrapped[1]
    known = {"String": pa.string(), "Bool": pa.bool_(), "Float32": pa.float32(), "Float64": pa.float64()}
    known |= {
        f"{sign}Int{bits}": getattr(pa, f"{sign.lower()}int{bits}")() for sign in ("", "U") for bits in (8, 16, 32, 64)
    }
    known |= {f"Array({element})": pa.list_(pa.float32()) for element in ("Float32", "BFloat16")}
    if type_ in known:
        return pa.array(values, known[type_])
    texts = (plain(value) for value in values)
    return pa.array(
        [text if text is None or isinstance(text, str) else json.dumps(text) for text in texts], pa.string()
    )


_FORMATS: Mapping[str, tuple[Writer, str]] = {
    "jsonl": (_jsonl, "application/x-ndjson"),
    "csv": (_csv, "text/csv; charset=utf-8"),
    "parquet": (_parquet, "application/vnd.apache.parquet"),
}
