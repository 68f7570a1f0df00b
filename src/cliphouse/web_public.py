"""One small file from an address that a stranger names: of the public internet, and nothing else.

Whoever lets strangers choose what a server fetches lets them ask what only the server can reach: its own ports, its
neighbours, the metadata of its cloud. So a name is looked up once, all that it leads to must be public, and the
connection goes to the address that was checked. Proxies of the environment are not used: they would look up again.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

from cliphouse.errors import ImageUrlFailed, ImageUrlNotAllowed, UsageError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse
    from urllib3.connection import HTTPConnection

PORTS = frozenset({80, 443})
_REDIRECTS = 3
_ADDRESSES = 3  # of one name that are tried
_CHUNK = 1 << 16
#: What may stand in the path and query of an address as it is.
_PLAIN = "/%:@!$&'()*+,;=~-._?[]"
#: Seconds for one step of the network: to connect, to wait for bytes.
_PATIENCE = 5.0
#: Networks that lead to an IPv4 address, by the bits that follow it.
_NAT64, _NAT64_LOCAL = ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48")


class Fetch:
    """One fetch, which another thread can break off."""

    def __init__(self, *, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._open: list[HTTPConnection] = []
        self._stopped = False

    def stop(self) -> None:
        """End it now: whatever it waits for on the network fails."""
        self._stopped = True
        for connection in list(self._open):
            if (connected := connection.sock) is not None:
                with _ignoring():
                    connected.shutdown(socket.SHUT_RDWR)

    def run(self, url: str) -> bytes:
        """The bytes at `url`, which may lead elsewhere three times.

        Raises:
            ImageUrlNotAllowed: it, or where it leads, is not http or https on the public internet.
            ImageUrlFailed: the server cannot be reached, refuses, takes too long, or sends too much.
        """
        import urllib3

        deadline = time.monotonic() + self._seconds
        try:
            for _ in range(_REDIRECTS + 1):
                with closing(self._ask(url, deadline)) as connection, closing(connection.getresponse()) as answer:
                    location = answer.get_redirect_location()
                    if not location:
                        return self._read(url, answer, deadline)
                    url = urljoin(url, str(location))
        except UsageError:
            raise
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ImageUrlFailed(url, _reason(error)) from error
        raise ImageUrlFailed(url, "too many redirects")

    def _ask(self, url: str, deadline: float) -> HTTPConnection:
        """A connection on which the request was sent."""
        from urllib3.connection import HTTPConnection, HTTPSConnection
        from urllib3.exceptions import HTTPError

        host, port, target, secure = _parts(url)
        headers = {
            "Host": _host_header(host, port, secure=secure),
            "User-Agent": "cliphouse",
            "Accept": "image/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        failure: Exception | None = None
        for address in public_addresses(host, port)[:_ADDRESSES]:
            patience = self._left(url, deadline)
            connection = (
                HTTPSConnection(address, port, timeout=patience, server_hostname=host, assert_hostname=host)
                if secure
                else HTTPConnection(address, port, timeout=patience)
            )
            self._open.append(connection)
            try:
                connection.request("GET", target, headers=headers, preload_content=False, decode_content=False)
            except (HTTPError, OSError, ValueError) as error:  # a wrong name in a certificate is the last
                connection.close()
                failure = error
            else:
                return connection
        raise failure or OSError("the name leads nowhere")

    def _read(self, url: str, answer: BaseHTTPResponse, deadline: float) -> bytes:
        if answer.status != 200:
            raise ImageUrlFailed(url, f"the server answered {answer.status}")
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ImageUrlFailed(url, "the server sends it packed, though it was asked not to")
        length = answer.headers.get("Content-Length", "")
        content = bytearray()
        while len(content) <= self._most and not (length.isdecimal() and int(length[:20]) > self._most):
            self._left(url, deadline)
            if not (piece := answer.read1(_CHUNK)):
                return bytes(content)
            content += piece
        raise ImageUrlFailed(url, f"it is larger than {self._most:,} bytes")

    def _left(self, url: str, deadline: float) -> float:
        """Seconds that the next step may take."""
        left = deadline - time.monotonic()
        if left <= 0 or self._stopped:
            raise ImageUrlFailed(url, f"it took longer than {self._seconds:g} s")
        return min(left, _PATIENCE)


def public_addresses(host: str, port: int) -> list[str]:
    """The addresses of a host, all of which are public.

    Raises:
        ImageUrlNotAllowed: one is not, or the name is unknown: which of both, strangers are not told.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        found = []
    addresses = list(dict.fromkeys(str(place[4][0]) for place in found))
    if not addresses or not all(is_public(address) for address in addresses):
        raise ImageUrlNotAllowed("its host is not known, or not on the public internet")
    return addresses


def is_public(address: str) -> bool:
    """Whether anybody on the internet would reach the same machine under this address."""
    try:
        place = ip_address(address)
    except ValueError:  # with the zone of an interface
        return False
    if isinstance(place, IPv6Address):
        if place in _NAT64_LOCAL or place.is_site_local or place.teredo:
            return False
        inner = place.ipv4_mapped or place.sixtofour
        if place in _NAT64:
            inner = IPv4Address(int(place) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
    return place.is_global and not (place.is_multicast or place.is_reserved or place.is_unspecified)


def _parts(url: str) -> tuple[str, int, str, bool]:
    """Host, port, what to ask for, and whether by TLS.

    Raises:
        ImageUrlNotAllowed: it is no plain address of the web.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = (parts.hostname or "").rstrip(".")
        host = host if host.isascii() else host.encode("idna").decode()
    except ValueError:
        raise ImageUrlNotAllowed("it is not an address of the web") from None
    if parts.scheme not in ("http", "https") or not host or any(c in host for c in " %\\\t\r\n\0"):
        raise ImageUrlNotAllowed("it is not an address of the web")
    if "@" in parts.netloc:
        raise ImageUrlNotAllowed("its address has a user or password")
    if port not in PORTS:
        raise ImageUrlNotAllowed("its port is neither 80 nor 443")
    target = quote(parts.path or "/", safe=_PLAIN) + (f"?{quote(parts.query, safe=_PLAIN)}" if parts.query else "")
    return host, port, target, parts.scheme == "https"


def _host_header(host: str, port: int, *, secure: bool) -> str:
    named = f"[{host}]" if ":" in host else host
    return named if port == (443 if secure else 80) else f"{named}:{port}"


@contextmanager
def _ignoring() -> Iterator[None]:
    try:
        yield
    except OSError:  # it has ended by itself
        return


def _reason(error: Exception) -> str:
    """What strangers may know of a failure: not what a host inside answered."""
    if isinstance(error, TimeoutError) or "timed out" in str(error):
        return "the server does not answer in time"
    return "the server cannot be reached, or does not speak HTTP"
