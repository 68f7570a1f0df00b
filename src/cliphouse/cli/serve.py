"""`cliphouse serve`."""

from __future__ import annotations

import threading
import webbrowser
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cliphouse.cli.options import database_options, device_option, encoder_option, open_collection
from cliphouse.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from cliphouse.service.logs import Form


_SECOND = "--clickhouse-port"
_FOLDER = click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is all of them.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free one.")
@click.option(
    "--api-key",
    "key",
    envvar="CLIPHOUSE_API_KEY",
    show_envvar=True,
    help="Answer only to requests that bring this key.",
)
@click.option("--api-key-file", type=_FILE, help="Keys, one a line; # begins a comment.")
@click.option("--tls-cert", type=_FILE, help="Certificate (PEM, with the chain): serve https.")
@click.option("--tls-key", type=_FILE, help="Its private key.")
@click.option("--allow-public", is_flag=True, help="Listen on other addresses than loopback without a key.")
@click.option("--workers", type=click.IntRange(1, 256), help="Searches that run at once; by default one a core.")
@click.option(
    "--timeout", type=click.FloatRange(0.1, 3600), default=30.0, show_default=True, help="Seconds a request may take."
)
@click.option(
    "--rate", type=click.FloatRange(0), default=0.0, help="Requests a second for each key or address; no limit if 0."
)
@click.option(
    "--pictures",
    type=_FOLDER,
    multiple=True,
    metavar="DIR",
    help="Show pictures of the collection that lie below DIR. May be given several times; by default none are shown.",
)
@click.option("--allow-image-urls", is_flag=True, help="Let requests name a picture by url, which the service fetches.")
@click.option("--allow-writes", is_flag=True, help="Let ClickHouse's interface insert and change, too.")
@click.option(
    _SECOND,
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Speak ClickHouse's HTTP interface on this port as well, for example 8123; 0 takes any free one.",
)
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How requests are logged, a line each, on standard error.",
)
@encoder_option
@device_option
@database_options
def serve(
    host: str,
    port: int,
    key: str | None,
    api_key_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    allow_public: bool,
    workers: int | None,
    timeout: float,
    rate: float,
    pictures: tuple[Path, ...],
    allow_image_urls: bool,
    allow_writes: bool,
    clickhouse_port: int | None,
    open_page: bool,
    log_format: Form,
    encoder: str | None,
    device: str | None,
    db: str,
    collection: str,
) -> None:
    """Serve a collection: a page to search with, REST, and what clip-retrieval's clients expect.

    It listens on this machine alone unless --host says otherwise, and then it wants a key. Ctrl-C or SIGTERM ends it
    when the requests that run are done. An embedded database is this process's own while it runs: other commands reach
    it through --clickhouse-port, as --db clickhouse://127.0.0.1:8123.

    \b
    Examples:
      cliphouse serve --open
      cliphouse serve --db ./photos --pictures ~/Pictures
      curl 'http://127.0.0.1:8000/api/v1/search?text=a+red+car&k=5'
      CLIPHOUSE_API_KEY=... cliphouse serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
      cliphouse serve --clickhouse-port 8123

    /api/v1/openapi.json describes REST, /readyz says when texts can be looked for, /metrics is for Prometheus.
    """
    try:
        from cliphouse.service import access, logs, server
        from cliphouse.service.settings import Settings
    except ImportError as error:
        raise MissingExtra(f"serving needs {error.name}; install it: pip install 'cliphouse[serve]'") from None
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key go together; give both")
    keys = _keys(key, api_key_file)
    local = server.is_loopback(host)
    if not local and not keys and not allow_public:
        raise UsageError(
            f"{host} can be reached from other machines, and there is no key; set CLIPHOUSE_API_KEY or --api-key-file, "
            "or say --allow-public to let anybody ask"
        )
    context = server.tls(tls_cert, tls_key) if tls_cert and tls_key else None
    chosen: dict[str, Any] = {} if workers is None else {"workers": workers}
    settings = Settings(
        timeout=timeout,
        api_keys=keys,
        hosts=access.LOOPBACK_HOSTS | {host.lower()} if local else frozenset(),
        rate=rate,
        pictures=pictures,
        fetch_images=allow_image_urls,
        allow_writes=allow_writes,
        **chosen,
    )
    logs.configure(log_format)
    with (
        server.listen(host, port) as listener,
        nullcontext() if clickhouse_port is None else server.listen(host, clickhouse_port, _SECOND) as clickhouse,
        open_collection(db, collection, encoder=encoder, device=device) as opened,
    ):
        name = f"[{host}]" if ":" in host else host
        address = f"{'https' if context else 'http'}://{name}:{listener.getsockname()[1]}"
        opened.info()  # that there is one

        def ready() -> None:
            click.echo(f"{collection} is served at {address} (Ctrl-C ends it)")
            if clickhouse is not None:
                scheme = "clickhouses" if context else "clickhouse"
                click.echo(f"ClickHouse's interface: {scheme}://{name}:{clickhouse.getsockname()[1]}/default")
            if open_page:
                threading.Thread(target=webbrowser.open, args=(f"{address}/",), daemon=True).start()

        server.run(opened, settings, listener, clickhouse=clickhouse, context=context, ready=ready)


def _keys(key: str | None, path: Path | None) -> frozenset[str]:
    """The keys that the options name.

    Raises:
        UsageError: a file without one.
    """
    found = {key} if key else set()
    if path:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise UsageError(f"{path} is no text in UTF-8; write one key a line") from None
        named = {line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")}
        if not named:
            raise UsageError(f"{path} holds no key; write one a line")
        found |= named
    return frozenset(found)
