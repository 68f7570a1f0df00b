"""Searching a collection that `cliphouse serve` holds, from Python: the calls of `Collection`, over HTTP.

::

    from cliphouse import Client

    with Client("http://127.0.0.1:8000") as house:
        for hit in house.search("a red car in the snow", filters={"nsfw": ["UNLIKELY"]}):
            print(f"{hit.distance:.3f}  {hit.url}")
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cliphouse.errors import InvalidImage, ServiceError, ServiceUnreachable, UsageError
from cliphouse.hits import Hit, Hits, SearchPlan
from cliphouse.types import HIT_COLUMNS, IndexKind, Modality, Query
from cliphouse.vectors import query_vector

if TYPE_CHECKING:
    from PIL.Image import Image
    from urllib3 import BaseHTTPResponse, Retry

Form = Literal["jsonl", "csv", "parquet"]

#: Answers that say "come again": the places are taken, or the rate is used up.
_AGAIN = frozenset({429, 503})
_LONGEST_WAIT_SECONDS = 30.0
_CHUNK = 1 << 20
#: How a picture may keep its colours in a PNG.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")


@dataclass(frozen=True, slots=True)
class SqlAnswer:
    """The answer to a statement: names and types of its columns, and its rows, `truncated` if there are more."""

    columns: Mapping[str, str]
    rows: Sequence[Sequence[Any]]
    truncated: bool


class Client:
    """A service and one of its collections. Safe to use from several threads at once.

    Every method raises `ServiceError` where the service refuses or fails, and `ServiceUnreachable` where there is none.
    A service that is busy is asked again after the time that it names, 30 seconds at most, up to `retries` times.
    """

    def __init__(
        self,
        url: str,
        *,
        collection: str | None = None,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        ca_certificate: str | Path | None = None,
    ) -> None:
        """`url` is the service's address; `collection` by default the one that it serves; `timeout` is in seconds.

        `ca_certificate` is the file of the authority behind a service's own TLS certificate.
        """
        from urllib3 import PoolManager, Timeout

        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r} is no address of a service; it begins with http:// or https://")
        self.url, self.collection = url.rstrip("/"), collection
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = PoolManager(
            maxsize=16,
            retries=_again(retries),
            timeout=Timeout(connect=10, read=timeout),
            ca_certs=str(ca_certificate) if ca_certificate else None,
        )

    def search(
        self,
        query: str | Path | Image | ArrayLike | None = None,
        *,
        like: int | None = None,
        k: int = 10,
        column: Modality = "image",
        exact: bool = False,
        where: str | None = None,
        filters: Mapping[str, Any] | None = None,
        kind: IndexKind | None = None,
        ef_search: int | None = None,
        nprobe: int | None = None,
        recall: float | None = None,
        offset: int = 0,
        columns: Iterable[str] = (),
    ) -> Hits:
        """The `k` rows nearest to `query` (a text, a picture or the Path of one, a vector) or to the row `like`.

        The options are those of `Collection.search`; `filters` are the service's: `{"min_width": 1024}`. A hit's
        `picture` is where the service shows it, or None. `Hits.plan` says which path ran there.
        """
        asked = {
            "query": _target(query, like),
            "k": k,
            "column": column,
            "exact": exact,
            "kind": kind,
            "ef_search": ef_search,
            "nprobe": nprobe,
            "recall": recall,
            "offset": offset,
            "columns": (wanted := tuple(columns)),
        }
        answer = self._ask("POST", "/search", asked | self._selection(where, filters))
        plan = answer["plan"]
        ran = SearchPlan(
            path=plan["path"],
            reason=plan["reason"],
            index=plan["index"],
            effort=plan["effort"],
            ran=Query(sql=plan["sql"]),
        )
        return Hits(map(_hit, answer["hits"]), ran, wanted)

    def item(self, id: int, *, vectors: bool = False) -> dict[str, Any]:  # noqa: A002  # the column's name
        """One row as plain columns, with its embeddings if `vectors`."""
        path = f"/items/{int(id)}?vectors={str(vectors).lower()}"
        if self.collection:
            from urllib.parse import quote

            path += f"&collection={quote(self.collection, safe='')}"
        item: dict[str, Any] = self._ask("GET", path)["item"]
        return item

    def count(self, *, where: str | None = None, filters: Mapping[str, Any] | None = None) -> int:
        """How many rows pass."""
        return int(self._ask("POST", "/count", self._selection(where, filters))["rows"])

    def facets(
        self,
        fields: Iterable[str] = ("nsfw", "licence", "domain"),
        *,
        where: str | None = None,
        filters: Mapping[str, Any] | None = None,
        limit: int = 20,
    ) -> dict[str, dict[Any, int]]:
        """How many of the rows that pass have which value, by field: `{"nsfw": {"UNLIKELY": 812, ...}, ...}`."""
        asked = {"fields": list(fields), "limit": limit} | self._selection(where, filters)
        found = self._ask("POST", "/facets", asked)["facets"]
        return {name: {value["value"]: value["rows"] for value in values} for name, values in found.items()}

    def status(self) -> dict[str, Any]:
        """Rows, indexes, encoder, and the last evaluation of what is served."""
        status: dict[str, Any] = self._ask("GET", "/status")
        return status

    def collections(self) -> list[dict[str, Any]]:
        """The collections of the service's database."""
        found: list[dict[str, Any]] = self._ask("GET", "/collections")
        return found

    def encode(self, query: str | Path | Image) -> NDArray[np.float32]:
        """The unit vector of a text, or of a picture: float32 (dim,)."""
        return np.asarray(self._ask("POST", "/encode", _target(query, None))["vector"], np.float32)

    def sql(self, statement: str, *, limit: int = 1000) -> SqlAnswer:
        """The answer to one statement that only reads, of `limit` rows at most."""
        answer = self._ask("POST", "/sql", {"statement": statement, "limit": limit})
        columns = {column["name"]: column["type"] for column in answer["columns"]}
        return SqlAnswer(columns, answer["rows"], answer["truncated"])

    def export(
        self,
        out: str | Path | BinaryIO,
        query: str | Path | Image | ArrayLike | None = None,
        *,
        like: int | None = None,
        ids: Iterable[int] | None = None,
        k: int = 1000,
        column: Modality = "image",
        exact: bool = False,
        where: str | None = None,
        filters: Mapping[str, Any] | None = None,
        columns: Iterable[str] = (),
        form: Form = "jsonl",
    ) -> None:
        """Write the hits of a search, or the rows of `ids`, to a file as they come; a file is whole or not there."""
        asked: dict[str, Any] = {"format": form, "columns": tuple(columns)}
        if ids is not None:
            asked["ids"] = [int(each) for each in ids]
        else:
            asked |= {"query": _target(query, like), "k": k, "column": column, "exact": exact}
        answer = self._send("POST", "/export", asked | self._selection(where, filters), stream=True)
        try:
            if not isinstance(out, (str, Path)):
                _pour(answer, out)
                return
            part = Path(out).with_name(f"{Path(out).name}.part")
            try:
                with part.open("wb") as file:
                    _pour(answer, file)
                part.replace(out)
            finally:
                part.unlink(missing_ok=True)
        finally:
            answer.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.clear()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self.url}>"

    # -- inside -------------------------------------------------------------------------------------------------------

    def _selection(self, where: str | None, filters: Mapping[str, Any] | None) -> dict[str, Any]:
        return {"collection": self.collection, "where": where, "filters": dict(filters or {})}

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._send(method, path, body).json()

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, stream: bool = False
    ) -> BaseHTTPResponse:
        from urllib3.exceptions import HTTPError

        try:
            answer = self._http.request(
                method, f"{self.url}/api/v1{path}", json=body, headers=self._headers, preload_content=not stream
            )
        except HTTPError as error:
            raise ServiceUnreachable(self.url, _reason(error)) from error
        if answer.status >= 400:
            raise _refusal(answer)
        return answer


def _target(query: str | Path | Image | ArrayLike | None, like: int | None) -> dict[str, Any]:
    """What to look for, as the service wants to be told."""
    if (query is None) == (like is None):
        raise UsageError("give one thing to search for: a text, a picture's Path, a vector, or the id of a row")
    if like is not None:
        return {"id": int(like)}
    if isinstance(query, str):
        return {"text": query}
    if hasattr(query, "convert"):  # a PIL image, told without importing Pillow
        image = cast("Image", query)
        plain = image if image.mode in _PNG_MODES else image.convert("RGB")
        plain.save(file := io.BytesIO(), "PNG")
        return {"image": base64.b64encode(file.getvalue()).decode()}
    if isinstance(query, Path):
        try:
            return {"image": base64.b64encode(query.read_bytes()).decode()}
        except OSError as error:
            raise InvalidImage(str(query), error.strerror or str(error)) from error
    return {"vector": query_vector(cast("ArrayLike", query), dim=0, owner="the service").tolist()}


def _again(retries: int) -> Retry:
    """When to ask a busy service again, and when to let it be."""
    from urllib3 import Retry

    class Bounded(Retry):
        def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
            seconds = super().get_retry_after(response)
            return None if seconds is None else min(seconds, _LONGEST_WAIT_SECONDS)

    return Bounded(
        total=None,
        connect=0,
        read=0,
        redirect=0,
        other=0,
        status=retries,
        status_forcelist=_AGAIN,
        allowed_methods=None,  # nothing that is asked here changes anything
        backoff_factor=0.5,
        raise_on_status=False,
    )


def _hit(row: Mapping[str, Any]) -> Hit:
    standard = {"distance", *HIT_COLUMNS}
    more = {name: value for name, value in row.items() if name not in standard}
    return Hit(**{name: row[name] for name in standard}, more=more)


def _pour(answer: BaseHTTPResponse, out: BinaryIO) -> None:
    from urllib3.exceptions import HTTPError

    try:
        out.writelines(answer.stream(_CHUNK))
    except HTTPError as error:
        raise ServiceError(answer.status, "broken-off", f"the answer broke off: {_reason(error)}") from error


def _refusal(answer: BaseHTTPResponse) -> ServiceError:
    """What a problem+json says; or, of something else that stands at the address, that it is no service of ours."""
    try:
        problem = json.loads(answer.data)
        kind, detail = str(problem["type"]), str(problem["detail"])
    except (ValueError, TypeError, KeyError):
        kind, detail = "no-service", f"HTTP {answer.status} and no problem: is this the address of a cliphouse service?"
    after = answer.headers.get("Retry-After", "")
    return ServiceError(answer.status, kind, detail, int(after) if after.isdigit() else None)


def _reason(error: Exception) -> str:
    """The innermost cause, without the addresses that urllib3 repeats around it."""
    cause: BaseException = getattr(error, "reason", None) or error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(getattr(cause, "strerror", None) or cause)
