"""A web server that has shards, and does wrong what it is told to."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

#: What is asked to see whether a file is there.
PROBE = "bytes=0-15"


@dataclass
class Behaviour:
    """How one file is served; `statuses` are answered first, one a request."""

    content: bytes | None = None
    statuses: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    cut_after: int | None = None  # bytes of each answer, before the connection breaks
    cuts: int = 10**9  # how many answers are cut
    stall_after: int | None = None  # bytes of each answer, before nothing more comes
    stalls: int = 10**9  # how many answers stall
    ranges: bool = True
    heeds_if_range: bool = True
    off_by: int = 0  # a range begins elsewhere than was asked
    lie: int = 0  # by which the length that is said is wrong
    says_length: bool = True
    etag: str | None = None  # empty for none
    encoding: str = ""
    type: str = "application/octet-stream"


@dataclass
class Shelf:
    """The files of `root`; `behave["img_emb_3.npy"]` is how one is served, `behave["*"]` all others."""

    root: Path
    url: str = ""
    behave: dict[str, Behaviour] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    probes: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    stalled: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Event = field(default_factory=threading.Event)
    on_request: Callable[[str], None] = lambda _: None
    #: Answer as many probes with 503.
    busy_probes: int = 0
    #: Answer 401 to all who do not send this.
    authorization: str = ""
    #: Answer 403 to all who do not have this query.
    query: str = ""

    def names(self) -> list[str]:
        return [name for name, _ in self.asked]

    def ranges(self, name: str) -> list[str]:
        return [range_ for asked, range_ in self.asked if asked == name]


@contextmanager
def serving(root: Path) -> Iterator[Shelf]:
    shelf = Shelf(root)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.path, _, query = self.path.partition("?")
            if shelf.authorization not in ("", self.headers.get("Authorization")):
                self.answer(401, b"no", {})
                return
            if shelf.query not in ("", query):
                self.answer(403, b"no", {})
                return
            path = shelf.root / self.path.lstrip("/")
            name, wanted = path.name, self.headers.get("Range", "all")
            how = shelf.behave.get(name) or shelf.behave.get("*") or Behaviour()
            probe = wanted == PROBE
            if probe:
                shelf.probes.append(self.path.lstrip("/"))
                if shelf.busy_probes:
                    shelf.busy_probes -= 1
                    self.answer(503, b"no", {})
                    return
            else:
                shelf.asked.append((name, wanted))
                shelf.on_request(name)
                if how.statuses:
                    status, headers = how.statuses.pop(0)
                    self.answer(status, b"no", headers)
                    return
            if how.content is None and not path.is_file():
                self.answer(404, b"<html>not here</html>", {})
                return
            content = path.read_bytes() if how.content is None else how.content
            etag = f'"{md5(content).hexdigest()}"' if how.etag is None else how.etag
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted) if how.ranges else None
            if match and how.heeds_if_range and self.headers.get("If-Range", etag) != etag:
                match = None
            start = int(match[1]) if match else 0
            if match and start >= len(content):
                self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            stop = int(match[2]) + 1 if match and match[2] else len(content)
            if match and start:
                start += how.off_by
            body = content[start:stop]
            headers = ({"ETag": etag} if etag else {}) | {"Content-Type": how.type}
            if how.encoding:
                headers["Content-Encoding"] = how.encoding
            if match:
                headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{len(content) + how.lie}"
            self.answer(206 if match else 200, body, headers, how, faulty=not probe)

        def answer(
            self,
            status: int,
            body: bytes,
            headers: dict[str, str],
            how: Behaviour | None = None,
            *,
            faulty: bool = False,
        ) -> None:
            how = how or Behaviour()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if how.says_length:
                self.send_header("Content-Length", str(len(body) + how.lie))
            self.end_headers()
            stop = len(body)
            if faulty and how.stall_after is not None and how.stalls and len(body) > how.stall_after:
                how.stalls -= 1
                with suppress(ConnectionError):
                    self.send(body[: how.stall_after])
                shelf.stalled.release()
                shelf.go_on.wait(30)
                body = body[how.stall_after :]
                stop = len(body)
            elif faulty and how.cut_after is not None and how.cuts:
                how.cuts -= 1
                stop = how.cut_after
            with suppress(ConnectionError):
                self.send(body[:stop])
            if how.lie or not how.says_length or stop < len(body):
                self.close_connection = True
                with suppress(OSError):
                    self.connection.close()

        def send(self, piece: bytes) -> None:
            name = Path(self.path).name
            if self.headers.get("Range") != PROBE:
                shelf.sent[name] = shelf.sent.get(name, 0) + len(piece)
            self.wfile.write(piece)
            self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        shelf.url = f"http://127.0.0.1:{server.server_port}"
        yield shelf
        shelf.go_on.set()
        server.shutdown()
