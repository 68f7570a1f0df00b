"""Pictures by address, where the service was told to fetch them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from cliphouse.errors import Busy, ImageUrlFailed, ImageUrlNotAllowed
from cliphouse.service.settings import Settings
from cliphouse.web_public import Fetch

#: Seconds for all of it, with redirects.
SECONDS = 15.0
_GRACE = 1.0  # after which it is broken off
#: Fetches at once, and with those that wait. In threads of their own, for a slow server keeps one.
_AT_ONCE, _MOST = 4, 32
_threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="cliphouse-fetch")
_running: set[Fetch] = set()


async def picture(url: str, settings: Settings) -> bytes:
    """The file at `url`, not yet looked at: see `uploads.picture`.

    Raises:
        ImageUrlNotAllowed: the service does not fetch, or not from there.
        ImageUrlFailed: there is none to be had within size and time.
        Busy: enough others are being fetched.
    """
    if not settings.fetch_images:
        raise ImageUrlNotAllowed("this service does not fetch pictures")
    if len(_running) >= _MOST:
        raise Busy(5)
    fetch = Fetch(most=settings.max_upload, seconds=SECONDS)
    _running.add(fetch)
    future = _threads.submit(fetch.run, url)
    future.add_done_callback(lambda _: _running.discard(fetch))
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), SECONDS + _GRACE)
    except TimeoutError:
        raise ImageUrlFailed(url, f"it took longer than {SECONDS:g} s") from None
    finally:
        if not future.done():  # too long, or nobody waits for it any more
            future.cancel()
            fetch.stop()
