"""Pictures decoded by threads ahead of the encoder, in order, within a budget of memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cliphouse.encoders.decode import OpenImage, open_header
from cliphouse.errors import InvalidImage
from cliphouse.pipeline.items import Item

if TYPE_CHECKING:
    from PIL.Image import Image

#: Decoded pixels that may wait, in bytes; a picture larger than that comes alone.
BUDGET_BYTES = 256 * 2**20
#: Headers that are read ahead. Two batches: one is encoded while the next is decoded.
_AHEAD = 64
_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture, or why there is none; `size` is what it takes in memory."""

    item: Item
    image: Image | InvalidImage
    size: int = 0


def decoded(items: Iterable[Item], *, max_pixels: int) -> Iterator[Decoded]:
    """The pictures of `items`, in their order.

    Headers are read first, so that what a picture will take is known before it is decoded; then as many are decoded as
    the budget holds. `items` is advanced in the calling thread only.
    """
    source = iter(items)
    opening: deque[tuple[Item, Future[OpenImage | InvalidImage]]] = deque()
    decoding: deque[tuple[Item, Future[Image | InvalidImage], int]] = deque()
    held = waiting = 0  # bytes of pixels, and of files that are in memory as they are
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="cliphouse-decode")
    try:
        while True:
            while len(opening) < _AHEAD and waiting <= BUDGET_BYTES:
                if (item := next(source, None)) is None:
                    break
                waiting += _in_memory(item)
                opening.append((item, pool.submit(_open, item, max_pixels)))
            while opening and len(decoding) < _AHEAD and (opening[0][1].done() or not decoding):
                item, future = opening[0]
                opened = future.result()
                size = 0 if isinstance(opened, InvalidImage) else opened.decoded_bytes
                if decoding and held + size > BUDGET_BYTES:
                    break
                opening.popleft()
                waiting -= _in_memory(item)
                held += size
                decoding.append((item, pool.submit(_decode, opened), size))
            if not decoding:
                return
            item, result, size = decoding.popleft()
            image = result.result()
            held -= size
            yield Decoded(item, image, size)
    finally:
        pool.shutdown(cancel_futures=True)
        for _, future in opening:  # given up half way
            if not future.cancelled() and isinstance(opened := future.result(), OpenImage):
                opened.close()


def _open(item: Item, max_pixels: int) -> OpenImage | InvalidImage:
    try:
        return open_header(item.data, max_pixels=max_pixels, name=item.path)
    except InvalidImage as error:
        return error


def _decode(opened: OpenImage | InvalidImage) -> Image | InvalidImage:
    if isinstance(opened, InvalidImage):
        return opened
    try:
        return opened.decode()
    except InvalidImage as error:
        return error


def _in_memory(item: Item) -> int:
    return len(item.data) if isinstance(item.data, bytes) else 0
