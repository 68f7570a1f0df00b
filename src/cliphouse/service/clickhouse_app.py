"""ClickHouse's HTTP interface over the embedded engine, as an ASGI application of its own port.

What it does is ClickHouse's own behaviour; the modules clickhouse_* beside this one each have a part of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import socket
import string
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from cliphouse.collection import Collection
from cliphouse.encoders.access import ImageAccess
from cliphouse.engine import Answer
from cliphouse.errors import Busy, CliphouseError, EngineError, TimedOut, UsageError
from cliphouse.service import clickhouse_blocks as blocks
from cliphouse.service import clickhouse_forms as forms
from cliphouse.service import clickhouse_work as work
from cliphouse.service.clickhouse_door import Door
from cliphouse.service.clickhouse_errors import refused, status_of, text_of
from cliphouse.service.clickhouse_request import MAX_QUERY_BYTES, Arguments, Statement, arguments, statement
from cliphouse.service.clickhouse_sessions import Place, Running, Sessions
from cliphouse.service.clickhouse_streams import ClientGone, Incoming, Outgoing
from cliphouse.service.metrics import Metrics
from cliphouse.service.observing import Observer
from cliphouse.service.pool import Pool
from cliphouse.service.settings import Settings
from cliphouse.types import Query

_BROKEN_OFF = "ASGI callable returned without completing response"
#: One client may hold several at once: our own loader reads a stream while it inserts another.
_PLACES = 32
#: Statements of somebody who may write are not stopped by the clock: an index is built for hours.
_FOREVER = 30 * 24 * 3600.0
#: What is left of a body that nobody wanted is read, up to so much, to use the connection again.
_DRAINED_BYTES = 2**20
#: An answer that is held back until its end.
_BUFFER_BYTES = 64 * 2**20
#: So much is held back of every other.
_HELD_BYTES = 2**16
#: A shorter answer is not worth compressing.
_COMPRESSED_BYTES = 1024

_TYPES = (
    (("JSONEachRow", "JSONLines", "NDJSON", "JSONCompactEachRow"), "application/x-ndjson; charset=UTF-8"),
    (("JSON",), "application/json; charset=UTF-8"),
    (("TabSeparated", "TSV"), "text/tab-separated-values; charset=UTF-8"),
    (("CSV",), "text/csv; charset=UTF-8"),
    (("XML",), "application/xml; charset=UTF-8"),
    (("Pretty", "Vertical", "Values", "Markdown", "SQLInsert"), "text/plain; charset=UTF-8"),
)


class _Route:
    """What requests are counted as."""

    path_format = "clickhouse"


def create_clickhouse_app(collection: Collection, settings: Settings, metrics: Metrics | None = None) -> ASGIApp:
    """The application that serves the database of `collection`, which stays the caller's to close after it.

    Raises:
        UsageError: the database is on a server, which has the interface itself.
    """
    if not collection.engine.capabilities.embedded:
        raise UsageError(
            "the database is on a ClickHouse server; leave --clickhouse-port out and ask the server itself"
        )
    # What broke off says so at its end and in our own log; uvicorn would call it a fault of the application.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not record.getMessage().startswith(_BROKEN_OFF))
    metrics = metrics or Metrics()
    return Observer(_Interface(collection, settings, metrics), metrics)


class _Interface:
    def __init__(self, collection: Collection, settings: Settings, metrics: Metrics) -> None:
        self._collection, self.settings, self._metrics = collection, settings, metrics
        self.door = Door(settings)
        self.engine = collection.engine
        self.sessions, self.running = Sessions(), Running()
        self.pool: Pool | None = None
        self.timezone = "UTC"
        self.name = socket.gethostname()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            scope["route"] = _Route
            await _Exchange(self, scope, receive, send).run()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def start(self) -> None:
        self._collection.image_access = ImageAccess(self.settings.pictures)
        self._collection.install_functions()
        self.timezone = str(self.engine.query(Query(sql="SELECT timezone()")).rows[0][0])
        timeout = _FOREVER if self.settings.allow_writes else self.settings.timeout
        self.pool = Pool(self.engine, self._metrics, workers=_PLACES, waiting=0, timeout=timeout)

    async def stop(self) -> None:
        if self.pool is not None:
            await self.pool.close()
        self.sessions.close()


@dataclass(slots=True)
class _Wanted:
    """How an answer is to be sent."""

    query_id: str
    encoding: str | None = None
    packer: blocks.Packer | None = None
    whole: bool = False  # not before it is complete


class _Exchange:
    """One request and its answer."""

    def __init__(self, interface: _Interface, scope: Scope, receive: Receive, send: Send) -> None:
        self._all, self._settings = interface, interface.settings
        self._scope, self._receive, self._send = scope, receive, send
        self._headers = Headers(scope=scope)
        self._began = time.monotonic_ns()
        self._wanted = _Wanted(str(uuid.uuid4()))
        self._incoming = Incoming(receive, ())
        self._begun = False
        self._tag = "".join(secrets.choice(string.ascii_lowercase) for _ in range(16))

    async def run(self) -> None:
        """Answer."""
        path, method = self._scope["path"], self._scope["method"]
        try:
            if method not in ("GET", "POST", "HEAD"):
                await self._short(501, f"Method {method} is not supported\n")
            elif path == "/" and (method == "POST" or self._scope["query_string"]):
                await self._query()
            elif path in ("/", "/ping", "/replicas_status"):
                await self._short(200, "Ok.\n")
            else:
                await self._short(404, f"There is no handle {path}\n\nUse / or /ping for health checks.\n")
        except ClientGone:
            pass
        except EngineError as error:
            await self._failed(error)
        except Busy as error:
            busy = refused("TOO_MANY_SIMULTANEOUS_QUERIES", f"Too many simultaneous queries. Maximum: {_PLACES}")
            await self._failed(busy, {"Retry-After": str(error.retry_after)})
        except TimedOut as error:
            await self._failed(refused("TIMEOUT_EXCEEDED", f"Timeout exceeded: maximum {error.seconds:g} s"))
        except CliphouseError as error:  # of a function of ours in the statement, or of a name
            await self._failed(refused("BAD_ARGUMENTS", str(error)))

    # -- what is asked ------------------------------------------------------------------------------------------------

    async def _query(self) -> None:
        pairs = parse_qsl(self._scope["query_string"].decode("latin-1"), keep_blank_values=True)
        asked = arguments(pairs)
        user = self._all.door.user(self._scope, asked)
        given = asked.given
        self._wanted.query_id = given.get("query_id") or self._wanted.query_id
        self._choose_compression(asked)
        content_type = self._headers.get("content-type", "")
        encoding = self._headers.get("content-encoding", "")
        self._incoming = Incoming(self._receive, blocks.unpackers(encoding, blocks=asked.flag("decompress")))
        tables: list[forms.Table] = []
        if content_type.startswith("multipart/form-data"):
            fields, tables = forms.read(content_type, await self._incoming.beginning(forms.MOST_BYTES), dict(pairs))
            described = {f"{table.name}_{what}" for table in tables for what in ("structure", "types", "format")}
            asked = arguments(pair for pair in [*pairs, *fields] if pair[0] not in described)
            body = b""
        else:
            body = await self._incoming.beginning(MAX_QUERY_BYTES)
        if text := asked.given.get("query", ""):
            body = text.encode() + b"\n" + body
        parsed = statement(body)
        if parsed.data is None and not self._incoming.ended:
            raise refused("QUERY_IS_TOO_LARGE", f"A query may have {MAX_QUERY_BYTES} bytes (max_query_size)")
        await self._do(user, parsed, asked, tables)

    def _choose_compression(self, asked: Arguments) -> None:
        if asked.flag("compress"):
            self._wanted.packer = blocks.Blocks()
        elif asked.flag("enable_http_compression", default=True):
            self._wanted.encoding = blocks.chosen(self._headers.get("accept-encoding", ""))
        self._wanted.whole = asked.flag("wait_end_of_query") or asked.flag("http_wait_end_of_query")

    # -- doing it -----------------------------------------------------------------------------------------------------

    async def _do(self, user: str, parsed: Statement, asked: Arguments, tables: list[forms.Table]) -> None:
        given, pool = asked.given, self._all.pool
        if pool is None:
            raise refused("TOO_MANY_SIMULTANEOUS_QUERIES", "the service starts or stops")
        may_write = self._settings.allow_writes and self._scope["method"] == "POST"
        form = (
            parsed.form
            if parsed.form and parsed.data is None
            else (self._headers.get("x-clickhouse-format") or given.get("default_format") or "TabSeparated")
        )
        database = self._headers.get("x-clickhouse-database") or given.get("database")
        rows: Iterable[bytes] = chain([parsed.data or b""], self._incoming.rest())
        job = work.Job(parsed, asked, database, form, may_write, rows, tables)
        killing = parsed.words[:2] == ("KILL", "QUERY")
        place = self._all.sessions.take(
            user,
            given.get("session_id"),
            must_exist=asked.flag("session_check"),
            timeout=given.get("session_timeout"),
        )
        out = Outgoing(_BUFFER_BYTES if self._wanted.whole else _HELD_BYTES)

        # A session of somebody who only reads keeps nothing: it is a name.
        keep = place.name is not None and self._settings.allow_writes

        def doing() -> Answer:
            guest = place.guest or self._all.engine.guest()
            if keep:
                place.guest = guest
            try:
                if killing:
                    ours = self._all.running.of(user)
                    return work.kill(guest, job, ours, out.write, anything=may_write)
                self._all.running.by_mark[guest.mark] = (self._wanted.query_id, user)
                return work.run(self._all.engine, guest, job, self._settings, out.write, keep=keep)
            finally:
                self._all.running.by_mark.pop(guest.mark, None)
                if not keep:
                    guest.close()

        # A statement that kills others must not wait for one of their places.
        task = asyncio.ensure_future(asyncio.to_thread(doing) if killing else pool.run(doing))
        task.add_done_callback(lambda _: self._leave(user, place, close=asked.flag("close_session")))
        try:
            await self._answer(parsed, form, task, out)
        finally:
            out.close()
            if not task.done() and (parsed.reads or not self._incoming.ended):
                task.cancel()
            if task.done() and not task.cancelled():
                task.exception()  # told already, or nobody is there to be told

    def _leave(self, user: str, place: Place, *, close: bool) -> None:
        self._all.sessions.give_back(user, place, close=close)

    # -- the answer ---------------------------------------------------------------------------------------------------

    async def _answer(self, parsed: Statement, form: str, task: asyncio.Future[Answer], out: Outgoing) -> None:
        gone = asyncio.ensure_future(self._incoming.gone())
        try:
            while True:
                piece = out.take()
                if piece is not None:
                    await self._begin(parsed, form, Answer())
                    await self._body(piece)
                elif task.done():
                    break
                else:
                    await asyncio.wait((out.ready, task, gone), return_when=asyncio.FIRST_COMPLETED)
                if gone.done() and not task.done():
                    raise gone.result()
            answer = await task  # what went wrong is raised here
            await self._begin(parsed, form, answer, last=out.last())
        finally:
            gone.cancel()

    async def _begin(self, parsed: Statement, form: str, answer: Answer, last: bytes | None = None) -> None:
        """Send the status and headers if they have not been sent, and with `last` the end of the body."""
        if last is not None and not self._begun and len(last) < _COMPRESSED_BYTES:
            self._wanted.encoding = None
        self._wanted.packer = self._wanted.packer or blocks.packer(self._wanted.encoding)
        data = None if last is None else self._wanted.packer.pack(last) + self._wanted.packer.end()
        if not self._begun:
            headers = self._common(answer)
            if parsed.answers:
                headers["X-ClickHouse-Format"] = form
                headers["Content-Type"] = _content_type(form)
            if self._wanted.encoding:
                headers["Content-Encoding"] = self._wanted.encoding
            headers["X-ClickHouse-Exception-Tag"] = self._tag
            if data is not None:
                headers["Content-Length"] = str(len(data))
            await self._start(200, headers)
        if data is not None:
            await self._send({"type": "http.response.body", "body": data})

    async def _body(self, piece: bytes) -> None:
        data = self._wanted.packer.pack(piece) if self._wanted.packer else piece
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _failed(self, error: EngineError, headers: dict[str, str] | None = None) -> None:
        text = text_of(error, self._all.engine.capabilities.version)
        if self._begun:
            # The status has been sent: the error stands at the end of the body between marks, and the body stays
            # without an end, as ClickHouse does it.
            tag = self._tag
            mark = f"\r\n__exception__\r\n{tag}\r\n{text}{len(text.encode())} {tag}\r\n__exception__\r\n"
            await self._body(mark.encode())
            if self._wanted.packer and (rest := self._wanted.packer.end()):
                await self._send({"type": "http.response.body", "body": rest, "more_body": True})
            return
        if not await self._incoming.drain(_DRAINED_BYTES):
            headers = {**(headers or {}), "Connection": "close"}
        more = {"X-ClickHouse-Exception-Code": str(error.code or 1002), "Content-Type": "text/plain; charset=UTF-8"}
        if error.name == "REQUIRED_PASSWORD":
            more["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
        await self._short(status_of(error), text, {**self._common(Answer()), **more, **(headers or {})})

    def _common(self, answer: Answer) -> dict[str, str]:
        counted = {
            "read_rows": answer.rows_read,
            "read_bytes": answer.bytes_read,
            "written_rows": answer.rows_written,
            "written_bytes": answer.bytes_written,
            "total_rows_to_read": "0",
            "elapsed_ns": time.monotonic_ns() - self._began,
        }
        return {
            "X-ClickHouse-Query-Id": self._wanted.query_id,
            "X-ClickHouse-Server-Display-Name": self._all.name,
            "X-ClickHouse-Timezone": self._all.timezone,
            "X-ClickHouse-Summary": json.dumps({name: str(value) for name, value in counted.items()}),
        }

    async def _short(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        body = text.encode()
        plain = {"Content-Type": "text/html; charset=UTF-8", "Content-Length": str(len(body))}
        await self._start(status, plain | (headers or {}))
        await self._send({"type": "http.response.body", "body": body})

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        self._begun = True
        raw = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})


def _content_type(form: str) -> str:
    known = (type_ for names, type_ in _TYPES if form.startswith(names))
    return next(known, "application/octet-stream")
