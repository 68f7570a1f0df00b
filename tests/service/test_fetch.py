"""`image_url`: off unless told, and then of the public internet only."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cliphouse import web_public
from cliphouse.errors import ImageUrlFailed, ImageUrlNotAllowed
from cliphouse.service import fetch
from cliphouse.service.settings import Settings

ON = Settings(fetch_images=True, max_upload=10_000)
REDIRECTS = {
    "/inside": "http://127.0.0.1/secret",
    "/metadata": "http://169.254.169.254/latest/meta-data/",
    "/name": "http://localhost/",
    "/file": "file:///etc/passwd",
    "/scheme": "gopher://example.com/",
    "/user": "http://user:secret@example.com/",
    "/again": "/again",
    "/once": "/ok?x=%C3%A9&y=[1]",
}


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        if location := REDIRECTS.get(self.path):
            self.send_response(302)
            self.send_header("Location", location)
            self.end_headers()
        elif self.path.startswith("/ok"):
            self._send(b"picture", length=True)
        elif self.path == "/large":
            self._send(b"x" * 10_001, length=True)
        elif self.path == "/endless":
            self._send(b"x" * 200_000, length=False)
        elif self.path == "/packed":
            self._send(b"x", length=True, extra=("Content-Encoding", "gzip"))
        elif self.path == "/short":
            self._send(b"x" * 10, length=False, extra=("Content-Length", "100"))
        elif self.path == "/drip":
            self._drip()
        else:
            self.send_error(404)

    def _send(self, body: bytes, *, length: bool, extra: tuple[str, str] | None = None) -> None:
        self.send_response(200)
        if length:
            self.send_header("Content-Length", str(len(body)))
        if extra:
            self.send_header(*extra)
        self.end_headers()
        self.wfile.write(body)

    def _drip(self) -> None:
        """Headers that never end."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        stopped: threading.Event = self.server.stopped  # type: ignore[attr-defined]
        while not stopped.wait(0.05):
            try:
                self.wfile.write(b"X: y\r\n")
            except OSError:
                return

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A server of the public internet, as far as the module knows: picture.example leads to it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as running:
        running.asked, running.stopped = [], threading.Event()  # type: ignore[attr-defined]
        running.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        port = running.server_address[1]
        real = socket.getaddrinfo

        def look_up(host: str, *rest: object, **more: object) -> object:
            return real("127.0.0.9" if host == "picture.example" else host, *rest, **more)  # type: ignore[call-overload]

        real_public: Callable[[str], bool] = web_public.is_public
        monkeypatch.setattr(web_public, "is_public", lambda address: address == "127.0.0.9" or real_public(address))
        monkeypatch.setattr(web_public, "PORTS", web_public.PORTS | {port})
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        # 127.0.0.9 is as loopback as 127.0.0.1, where the server listens: bind to both.
        running.socket.close()
        running.socket = socket.create_server(("127.0.0.9", port))
        try:
            yield running
        finally:
            running.stopped.set()  # type: ignore[attr-defined]
            running.shutdown()
            thread.join()


def get(server: ThreadingHTTPServer, path: str) -> bytes:
    return asyncio.run(fetch.picture(f"http://picture.example:{server.server_address[1]}{path}", ON))


def test_a_service_fetches_nothing_unless_it_is_told() -> None:
    with pytest.raises(ImageUrlNotAllowed, match="does not fetch"):
        asyncio.run(fetch.picture("http://example.com/a.jpg", Settings()))


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/", "http://[::1]/", "http://localhost/", "http://2130706433/", "http://0x7f000001/"),
        *("http://127.1/", "http://0177.0.0.1/", "http://0/", "http://0.0.0.0/", "http://[::]/", "http://127.0.0.1./"),
        *(
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
        ),
        *("http://[64:ff9b:1::a00:1]/", "http://[fe80::1]/", "http://[fe80::1%25lo]/", "http://[fc00::1]/"),
        *("http://[fec0::1]/", "http://[ff02::1]/", "http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.1.1/"),
        *(
            "http://169.254.169.254/latest/meta-data/",
            "http://100.64.0.1/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
        ),
        *(
            "http://192.0.2.1/",
            "http://198.18.0.1/",
            "http://[2001:db8::1]/",
            "http://１２７.0.0.1/",
            "http://ⓛocalhost/",
        ),
        *("file:///etc/passwd", "ftp://example.com/a", "gopher://example.com/", "data:image/png;base64,AA==", "//x/y"),
        *("http://user:secret@93.184.216.34/", "http://93.184.216.34@127.0.0.1/", "http://93.184.216.34:22/"),
        *(
            "http://127.0.0.1:80\\@93.184.216.34/",
            "http://93.184.216.34\\@127.0.0.1/",
            "http://127.0.0.1#@93.184.216.34/",
        ),
        *("", "http://", "http:///x", "http://[/", "http://93.184.216.34:99999/", "http://a b/", "/etc/passwd"),
    ],
)
def test_what_is_not_public_is_not_even_connected_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connects(*_: object) -> None:
        raise AssertionError("it tried")

    monkeypatch.setattr(socket.socket, "connect", connects)
    with pytest.raises(ImageUrlNotAllowed) as refused:
        asyncio.run(fetch.picture(url, ON))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8", "2002:808:808::"]
)
def test_what_is_public_is_allowed(address: str) -> None:
    assert web_public.is_public(address)


def test_one_private_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 80)) for each in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
    with pytest.raises(ImageUrlNotAllowed):
        asyncio.run(fetch.picture("http://example.com/", ON))


def test_a_file_comes_from_the_address_that_was_checked(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: str, *rest: object, **more: object) -> object:
        """Says where the server is once, and then something else."""
        looked_up.append(host)
        if host == "picture.example" and looked_up.count(host) > 1:
            host = "127.0.0.1"
        return real(host, *rest, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert get(server, "/ok/a b.jpg?q=é") == b"picture"
    assert looked_up.count("picture.example") == 1
    path, headers = server.asked[-1]  # type: ignore[attr-defined]
    assert path == "/ok/a%20b.jpg?q=%C3%A9"
    assert headers["Host"] == f"picture.example:{server.server_address[1]}"
    assert "Authorization" not in headers


def certificate(folder: Path, name: str) -> Path:
    """A certificate for `name` with its key, that whoever trusts the file takes."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    place = folder / f"{name}.pem"
    place.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return place


@pytest.mark.parametrize(("name", "fits"), [("picture.example", True), ("other.example", False)])
def test_by_tls_the_certificate_is_that_of_the_name(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, fits: bool
) -> None:
    place = certificate(tmp_path, name)
    monkeypatch.setenv("SSL_CERT_FILE", str(place))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place)
    asked_for: list[str | None] = []
    context.sni_callback = lambda _, host, __: asked_for.append(host)  # type: ignore[assignment]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://picture.example:{server.server_address[1]}/ok"
    if fits:
        assert asyncio.run(fetch.picture(url, ON)) == b"picture"
    else:
        with pytest.raises(ImageUrlFailed):
            asyncio.run(fetch.picture(url, ON))
    assert asked_for == ["picture.example"]


def test_a_redirect_is_followed_and_checked_again(server: ThreadingHTTPServer) -> None:
    assert get(server, "/once") == b"picture"
    for path in ("/inside", "/metadata", "/name", "/file", "/scheme", "/user"):
        with pytest.raises(ImageUrlNotAllowed):
            get(server, path)
    with pytest.raises(ImageUrlFailed, match="too many redirects"):
        get(server, "/again")
    assert not any(path == "/secret" for path, _ in server.asked)  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["/large", "/endless", "/packed", "/missing", "/short"])
def test_what_is_too_large_or_broken_is_not_taken(server: ThreadingHTTPServer, path: str) -> None:
    with pytest.raises(ImageUrlFailed) as failed:
        get(server, path)
    assert "picture.example" in str(failed.value)


def test_a_server_that_takes_for_ever_is_left(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SECONDS", 0.3)
    monkeypatch.setattr(fetch, "_GRACE", 0.1)
    began = time.monotonic()
    with pytest.raises(ImageUrlFailed, match="longer than"):
        get(server, "/drip")
    assert time.monotonic() - began < 3
    for _ in range(100):  # the thread that waited has gone too
        if not fetch._running:
            break
        threading.Event().wait(0.02)
    assert not fetch._running
