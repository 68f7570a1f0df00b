"""ClickHouse's HTTP interface over an in-memory chDB, for tests of the server path where no server is installed.

Run as a program, perhaps with options of chDB's, it prints its port and serves until it is killed. It knows queries,
parameters, settings, sessions, inserts, one user with a password, and errors with ClickHouse's codes; it is the real
engine behind a thin shell, not an imitation of one.

A POST to /faults sets, as JSON, what goes wrong with the next requests; see `Fault`.
"""

from __future__ import annotations

import base64
import email
import json
import re
import socket
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb

USER, PASSWORD = "tester", "s3cret/pass"
TRANSPORT = {
    *("query", "database", "session_id", "session_timeout", "session_check", "query_id", "compress", "decompress"),
    *("client_protocol_version", "wait_end_of_query", "buffer_size", "role", "enable_http_compression"),
    *("send_progress_in_http_headers", "http_headers_progress_interval_ms", "default_format", "quota_key"),
}


class Sessions:
    """Connections by session; a request without one gets its own. `options` are chDB's, as in a URL."""

    def __init__(self, options: str = "") -> None:
        self.place = f":memory:?{options}" if options else ":memory:"
        self.keep = chdb.connect(self.place)  # the database lives while one connection does
        self.by_name: dict[str, Any] = {}
        self.lock = threading.Lock()

    def connection(self, name: str | None) -> Any:
        with self.lock:
            if name is None:
                return chdb.connect(self.place)
            if name not in self.by_name:
                self.by_name[name] = chdb.connect(self.place)
            return self.by_name[name]


@dataclass
class Fault:
    """What happens to the next requests whose statement `matches`, after `skip` of them, to `times` in all.

    `cut`: the connection breaks after `bytes` of the body, of which whole blocks are inserted; `away`: at once. The
    others come after the statement was carried out: `lost`: the connection breaks; `gateway`: a proxy answers 502;
    `error`: the server answers 500 with the code of a network error.
    """

    kind: str
    matches: str = ""
    skip: int = 0
    times: int = 1
    bytes: int = 0


class Faults:
    """Those that are set and not yet used up."""

    def __init__(self) -> None:
        self.waiting: list[Fault] = []
        self.lock = threading.Lock()

    def take(self, sql: str) -> Fault | None:
        with self.lock:
            for fault in self.waiting:
                if re.search(fault.matches, sql):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    if not fault.times:
                        self.waiting.remove(fault)
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for its client to acknowledge the headers
    sessions: Sessions
    faults = Faults()

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self._body())

    def log_message(self, *_: object) -> None:
        pass

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _serve(self, body: bytes) -> None:
        arguments = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        if urlsplit(self.path).path == "/ping":
            return self._answer(200, b"Ok.\n")
        if not self._authorized():
            message = f"Code: 516. DB::Exception: {USER}: Authentication failed. (AUTHENTICATION_FAILED)"
            return self._answer(403, message.encode(), {"X-ClickHouse-Exception-Code": "516"})
        if urlsplit(self.path).path == "/faults":
            self.faults.waiting = [Fault(**each) for each in json.loads(body)]
            return self._answer(200, b"")
        if self.headers.get_content_type() == "multipart/form-data":
            message = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode() + body
            for part in email.message_from_bytes(message).get_payload():
                name = part.get_param("name", header="Content-Disposition")
                arguments[name] = part.get_payload(decode=True).decode()
            body = b""
        fault = self.faults.take(arguments.get("query") or body.decode())
        if fault is not None:
            return self._fail(fault, arguments, body)
        try:
            return self._answer(200, *self._run(arguments, body))
        except Exception as error:  # noqa: BLE001  # the client is told, whatever it was
            message = str(error)[max(0, str(error).find("Code: ")) :]
            code = re.search(r"Code: (\d+)", message)
            headers = {"X-ClickHouse-Exception-Code": code[1] if code else "1002"}
            return self._answer(500, message.encode(), headers)

    def _fail(self, fault: Fault, arguments: dict[str, str], body: bytes) -> None:
        if fault.kind != "away":
            with suppress(RuntimeError):  # the end of a body that was cut is no block
                self._run(arguments, body[: fault.bytes] if fault.kind == "cut" else body)
        if fault.kind == "gateway":
            self._answer(502, b"Bad Gateway")
        elif fault.kind == "error":
            message = b"Code: 210. DB::Exception: the other end is gone. (NETWORK_ERROR)"
            self._answer(500, message, {"X-ClickHouse-Exception-Code": "210"})
        else:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _authorized(self) -> bool:
        basic = self.headers.get("Authorization", "")
        if basic.startswith("Basic "):
            user, _, password = base64.b64decode(basic[6:]).decode().partition(":")
        else:
            user, password = self.headers.get("X-ClickHouse-User", ""), self.headers.get("X-ClickHouse-Key", "")
        return (user, password) == (USER, PASSWORD)

    def _run(self, arguments: dict[str, str], body: bytes) -> tuple[bytes, dict[str, str]]:
        session = arguments.get("session_id")
        connection = self.sessions.connection(session)
        try:
            if database := arguments.get("database"):
                connection.query(f"USE `{database}`")
            for name, value in arguments.items():
                if name not in TRANSPORT and not name.startswith("param_"):
                    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
                    connection.query(f"SET {name} = '{quoted}'")
            params = {name[6:]: value for name, value in arguments.items() if name.startswith("param_")}
            sql, data = (arguments["query"], body) if "query" in arguments else (body.decode(), b"")
            if data and re.match(r"\s*INSERT\b", sql, re.IGNORECASE):
                return self._insert(connection, sql, data), {}
            if data:
                sql += "\n" + data.decode()
            form = re.search(r"\bFORMAT\s+(\w+)\s*;?\s*$", sql, re.IGNORECASE)
            name = form[1] if form else arguments.get("default_format", "TabSeparated")
            answer = connection.query(sql, name, params=params).bytes()
            return answer, {"X-ClickHouse-Format": name} if answer else {}
        finally:
            if session is None:
                connection.close()

    @staticmethod
    def _insert(connection: Any, sql: str, data: bytes) -> bytes:
        head, form = re.fullmatch(r"(.*)\bFORMAT\s+(\w+)\s*", sql, re.IGNORECASE | re.DOTALL).groups()
        with tempfile.NamedTemporaryFile(suffix=".bin") as file:
            file.write(data)
            file.flush()
            return connection.query(f"{head} FROM INFILE '{file.name}' FORMAT {form}").bytes()

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    Handler.sessions = Sessions(*sys.argv[1:])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
