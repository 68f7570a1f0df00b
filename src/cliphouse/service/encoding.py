"""Texts and pictures of several requests are encoded together: a model takes many in little more time than one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cliphouse.encoders.cache import text_vectors
from cliphouse.errors import Busy, InvalidImage, TimedOut
from cliphouse.service import uploads
from cliphouse.service.metrics import Metrics
from cliphouse.service.settings import Settings
from cliphouse.types import Encoder

if TYPE_CHECKING:
    from PIL.Image import Image

Vector: TypeAlias = NDArray[np.float32]
#: What has an encoder: the name of a collection, None for the one that is served.
Owner: TypeAlias = str | None

_TEXTS = 64
#: Pictures are decoded before they are encoded, and each may hold as many pixels as a service takes.
_PICTURES = 4
_RETRY_SECONDS = 1
_TO_COME: Vector = np.empty(0, np.float32)


@dataclass(eq=False, slots=True)
class _Wish:
    owner: Owner
    value: str | bytes
    outcome: asyncio.Future[Vector] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Encoding:
    """Vectors of texts and of the bytes of pictures. For one event loop.

    Nothing waits for company: whatever has come while one batch ran is the next one.
    """

    def __init__(self, encoder_of: Callable[[Owner], Encoder], settings: Settings, metrics: Metrics) -> None:
        self._encoder_of, self._settings, self._metrics = encoder_of, settings, metrics
        # One thread: the encoder has threads of its own for all cores.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cliphouse-encoding")
        self._waiting: deque[_Wish] = deque()
        self._runner: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Texts and pictures that wait for their turn."""
        return len(self._waiting)

    async def vector(self, owner: Owner, value: str | bytes) -> Vector:
        """The unit vector of a text, or of the picture whose file `value` is: float32 (dim,), not to be written to.

        Raises:
            Busy: too many wait already.
            TimedOut: it took longer than a request may.
            InvalidImage: the picture cannot be read.
            UsageError, EncoderUnavailable: there is no such collection, or no encoder for it.
        """
        if len(self._waiting) >= self._settings.waiting:
            self._metrics.busy.inc()
            raise Busy(_RETRY_SECONDS)
        wish = _Wish(owner, value)
        self._waiting.append(wish)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        try:
            return await asyncio.wait_for(wish.outcome, self._settings.timeout)
        except TimeoutError:
            self._metrics.timed_out.inc()
            raise TimedOut(self._settings.timeout) from None
        except asyncio.CancelledError:
            self._metrics.cancelled.inc()
            raise
        finally:
            with contextlib.suppress(ValueError):  # it has its turn already
                self._waiting.remove(wish)

    async def close(self) -> None:
        """Encode nothing more, and wait until what runs has ended."""
        for wish in self._waiting:
            wish.outcome.cancel()
        self._waiting.clear()
        if self._runner:
            await self._runner
        await asyncio.to_thread(self._thread.shutdown, wait=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next():
            values = [wish.value for wish in batch]
            outcomes = await loop.run_in_executor(self._thread, self._encode, batch[0].owner, values)
            for wish, outcome in zip(batch, outcomes, strict=True):
                if wish.outcome.done():
                    continue  # nobody waits any more
                if isinstance(outcome, Exception):
                    wish.outcome.set_exception(outcome)
                else:
                    wish.outcome.set_result(outcome)
        self._runner = None

    def _next(self) -> list[_Wish]:
        """The wish that has waited longest, with as many others for its encoder as go together."""
        if not self._waiting:
            return []
        first = self._waiting[0]
        most = _TEXTS if isinstance(first.value, str) else _PICTURES
        alike = (w for w in self._waiting if w.owner == first.owner and type(w.value) is type(first.value))
        batch = list(islice(alike, most))
        for wish in batch:
            self._waiting.remove(wish)
        return batch

    def _encode(self, owner: Owner, values: Sequence[str | bytes]) -> Sequence[Vector | Exception]:
        """What came of values of one kind; for the thread."""
        self._metrics.encoded_together.observe(len(values))
        try:
            encoder = self._encoder_of(owner)
            if texts := [value for value in values if isinstance(value, str)]:
                return self._texts(encoder, texts)
            return self._pictures(encoder, [value for value in values if isinstance(value, bytes)])
        except Exception as error:  # noqa: BLE001  # raised where each is awaited
            return [error] * len(values)

    def _texts(self, encoder: Encoder, texts: Sequence[str]) -> Sequence[Vector]:
        began = time.perf_counter()
        vectors = text_vectors(encoder, texts)
        self._metrics.took("text_clip_inference_time", time.perf_counter() - began, times=len(texts))
        return vectors

    def _pictures(self, encoder: Encoder, files: Sequence[bytes]) -> Sequence[Vector | Exception]:
        outcomes: list[Vector | Exception] = []
        pictures: list[Image] = []
        for data in files:
            began = time.perf_counter()
            try:
                pictures.append(uploads.picture(data, self._settings))
                outcomes.append(_TO_COME)
            except InvalidImage as error:  # its own alone
                outcomes.append(error)
            self._metrics.took("image_prepro_time", time.perf_counter() - began)
        if not pictures:
            return outcomes
        began = time.perf_counter()
        vectors = iter(encoder.encode_images(pictures))
        self._metrics.took("image_clip_inference_time", time.perf_counter() - began, times=len(pictures))
        return [next(vectors) if outcome is _TO_COME else outcome for outcome in outcomes]
