"""Shards as one parquet file, and places on the network that serve them."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliphouse.pipeline.merged import ParquetShard, open_merged
from cliphouse.types import MergedShard
from tests.data import CAPTIONS, ENCODER

#: The embeddings that files have where nobody gives others.
ENCODED = ENCODER.encode_texts(CAPTIONS)


def lists(vectors: NDArray[np.floating], kind: str = "list", *, without: Sequence[int] = ()) -> pa.Array:
    """Vectors as a column of `list`, `large_list`, `fixed_size_list` or `tensor`; rows `without` are null."""
    vectors = np.ascontiguousarray(vectors)
    values = pa.array(vectors.reshape(-1))
    mask = pa.array(np.isin(np.arange(len(vectors)), without))
    dim = vectors.shape[1]
    if kind == "fixed_size_list":
        return pa.FixedSizeListArray.from_arrays(values, dim, mask=mask)
    if kind == "tensor":
        return pa.FixedShapeTensorArray.from_numpy_ndarray(vectors)
    large = kind == "large_list"
    offsets = np.arange(len(vectors) + 1) * dim
    array = pa.LargeListArray if large else pa.ListArray
    return array.from_arrays(pa.array(offsets, pa.int64() if large else pa.int32()), values, mask=mask)


def opened_at(path: Path, columns: dict[str, str] | None = None) -> ParquetShard:
    """One such file, open."""
    return open_merged(MergedShard(number=0, location=str(path)), columns or {})


def write_merged(
    path: Path,
    captions: Sequence[str] = CAPTIONS,
    *,
    kind: str = "list",
    dtype: str = "float32",
    columns: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write captions with their embeddings to one file; `columns` replace and add, and leave out where None."""
    encoded = ENCODER.encode_texts(captions).astype(dtype)
    rows = len(captions)
    table = {
        "url": [f"https://example.com/0/{row}.jpg" for row in range(rows)],
        "caption": list(captions),
        "NSFW": ["UNLIKELY"] * rows,
        "similarity": [0.3 + row / 1000 for row in range(rows)],
        "width": [256 * (row + 1) for row in range(rows)],
        "image_embedding": lists(encoded, kind),
        "text_embedding": lists(encoded, kind),
    } | (columns or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: values for name, values in table.items() if values is not None}), path, **options)
    return path


@dataclass
class Site:
    """Files on the web, and which bytes were asked of them. `rule` says how the answers for a path go wrong:

    `refuse`; `moved`; `whole`, without ranges; `changing`, another file each time; `cut`, the first answer for a range.
    """

    root: Path
    url: str = ""
    rule: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, int, int]] = field(default_factory=list)


@contextmanager
def web(root: Path) -> Iterator[Site]:
    """A web server with ranges over the files below `root`."""
    site = Site(root)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            rule = site.rule.get(path, "")
            file = root / path.lstrip("/")
            if rule == "moved" and not urlsplit(self.path).query:
                self.send_response(302)
                self.send_header("Location", f"{path}?elsewhere=1")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if rule == "refuse" or not file.is_file():
                self.send_error(403 if rule == "refuse" else 404)
                return
            content = file.read_bytes()
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
            if match is None or rule == "whole":
                self._answer(200, {}, content)
                return
            start, end = int(match[1]), min(int(match[2]) + 1, len(content))
            again = any(end == each for _, _, each in site.asked)
            site.asked.append((path, start, end))
            tag = f'"{len(site.asked)}"' if rule == "changing" else '"one"'
            headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}", "ETag": tag}
            body = content[start:end]
            cut = rule == "cut" and not again
            self._answer(206, headers, body, len(body) // 2 if cut else len(body))

        def _answer(self, status: int, headers: dict[str, str], body: bytes, sent: int | None = None) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(body[:sent])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def s3_server() -> Iterator[str]:
    """An S3 server of its own process, as the endpoint's URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(300):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
