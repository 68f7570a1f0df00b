"""One service and one Chromium for the tests of the page; a fresh profile for each of them."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, sync_playwright

from tests.web.server import served

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: What Chromium says of answers that a test provokes; what the policy refuses reads otherwise.
_EXPECTED = re.compile(r"Failed to load resource")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS) as browser,
    ):
        yield browser


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[str]:
    """The address of a service with 180 rows."""
    folder = tmp_path_factory.mktemp("web") / "house"
    # A process of its own: embedded databases of this one stay its own affair.
    subprocess.run([sys.executable, "-m", "tests.web.server", str(folder)], check=True, cwd=Path(__file__).parents[2])
    with served(folder / "db", "--pictures", str(folder / "pictures")) as address:
        yield address


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[str]:
    """The address of a service that wants the key `sesame` and whose encoder is not installed."""
    folder = tmp_path_factory.mktemp("locked")
    code = (
        "import sys; from pathlib import Path; from cliphouse import Collection; from tests.data import *\n"
        "folder = Path(sys.argv[1]); vectors = random_unit(8, 512)\n"
        "shard = write_shard(folder, images=vectors, texts=vectors)\n"
        "with Collection.open(folder / 'db', encoder='clip-vit-b32') as c: c.load(shard)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, cwd=Path(__file__).parents[2])
    with served(folder / "db", "--api-key", "sesame") as address:
        yield address


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open an address in a fresh profile; afterwards nothing may have broken there, or been refused by the policy."""
    said: list[str] = []

    def pictures(route: Route) -> None:
        if "/gone/" in route.request.url:
            route.abort()
        else:
            out = io.BytesIO()
            Image.new("RGB", (30, 30), (90, 120, 150)).save(out, "PNG")
            route.fulfill(body=out.getvalue(), content_type="image/png")

    with ExitStack() as stack:

        def opened(address: str, **profile: object) -> Page:
            context = stack.enter_context(
                browser.new_context(**({"viewport": {"width": 1200, "height": 800}} | profile))
            )
            context.set_default_timeout(10_000)
            context.route("**/*.pictures.example/**", pictures)
            page = context.new_page()
            page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(address)
            return page

        yield opened
    assert [text for text in said if not _EXPECTED.search(text)] == []
