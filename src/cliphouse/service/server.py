"""The process around the application: a socket, TLS, signals, and an end that waits for what runs."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from cliphouse.collection import Collection
from cliphouse.errors import UsageError
from cliphouse.service.app import create_app
from cliphouse.service.clickhouse_app import create_clickhouse_app
from cliphouse.service.logs import event
from cliphouse.service.metrics import Metrics
from cliphouse.service.settings import Settings

#: After a signal, requests that run have so long to end; then they are cancelled.
GRACE_SECONDS = 10
_BACKLOG = 1024


def addresses(host: str) -> list[str]:
    """The addresses that a host name stands for here.

    Raises:
        UsageError: it stands for none.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise UsageError(f"there is no host {host!r} here; --host takes an address of this machine") from None
    return [str(address[4][0]) for address in found]


def is_loopback(host: str) -> bool:
    """Whether nothing but this machine can reach what listens there."""
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses(host))


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """A socket bound to a port, 0 for any that is free; `option` is what chose it.

    Raises:
        UsageError: the port is taken, or may not be had.
    """
    address = addresses(host)[0]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # asyncio knows TCP by this number alone: without it, the body of an answer would wait 40 ms for its client to
    # acknowledge the headers.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # What a service that has just ended leaves behind does not count; one that runs does.
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((address, port))
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} of {host} is taken by another program; stop it, "
                f"or choose another port: {option} {port + 1}"
            ) from None
        advice = "choose a port over 1023" if error.errno == errno.EACCES else "choose another --host or --port"
        raise UsageError(f"cannot listen on port {port} of {host}: {error.strerror}; {advice}") from None
    return found


def tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """What makes connections private.

    Raises:
        UsageError: the files are not a certificate and its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl's errors are of it
        reason = error.strerror if error.errno and not isinstance(error, ssl.SSLError) else "they do not fit"
        raise UsageError(
            f"cannot use {certificate} and {key} for TLS: {reason}; give a certificate and its key, both as PEM"
        ) from None
    return context


def run(
    collection: Collection,
    settings: Settings,
    listener: socket.socket,
    *,
    clickhouse: socket.socket | None = None,
    context: ssl.SSLContext | None = None,
    ready: Callable[[], None],
) -> None:
    """Serve until SIGINT or SIGTERM, then let the requests that run end; `ready` is called when requests are taken.

    With a socket for it, ClickHouse's HTTP interface is served beside the rest.
    """
    metrics = Metrics()
    server = _Server(_config(create_app(collection, settings, metrics), context), ready)
    beside = None
    if clickhouse is not None:
        beside = _Beside(_config(create_clickhouse_app(collection, settings, metrics), context), clickhouse)
    asyncio.run(_serve(server, listener, beside))


async def _serve(server: _Server, listener: socket.socket, beside: _Beside | None) -> None:
    if beside is None:
        await server.serve([listener])
        return
    async with beside.running():
        await server.serve([listener])


def _config(app: ASGIApp, context: ssl.SSLContext | None) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        ws="none",
        backlog=_BACKLOG,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    config.load()
    if context:
        # After load(), which would open the file: only that there is one is asked from here on.
        config.ssl_certfile = "given"
    config.ssl = context
    return config


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready and takes a signal for the end that was asked for, not a death."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _: object) -> None:
        # The second signal does not wait.
        self.force_exit = self.should_exit
        self.should_exit = True
        event("stopping", signal=signal.Signals(number).name, at_once=self.force_exit or None)


class _Beside(uvicorn.Server):
    """A second server in the same process and loop, which ends when the first does."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self._listener, self._up = listener, asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While it takes requests."""
        serving = asyncio.ensure_future(self.serve([self._listener]))
        up = asyncio.ensure_future(self._up.wait())
        await asyncio.wait((serving, up), return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        try:
            yield
        finally:
            self.should_exit = True
            await serving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._up.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
