"""The encoder is loaded while the service starts, not before: searches by vectors and ids need none."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from cliphouse.errors import CliphouseError
from cliphouse.service.logs import event
from cliphouse.types import Encoder


class Preparation:
    """Loads an encoder in a thread and lets it run once, for the first run takes longest."""

    def __init__(self, load: Callable[[], Encoder]) -> None:
        self._load = load
        self.ready = False
        self.problem: str | None = None  # why there is none, in one line
        self._thread = threading.Thread(target=self._prepare, name="cliphouse-encoder", daemon=True)

    @property
    def done(self) -> bool:
        """Whether it is known if there is an encoder."""
        return self.ready or self.problem is not None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Until it is done, or so long."""
        self._thread.join(seconds)

    def _prepare(self) -> None:
        try:
            self._load().encode_texts(["a picture"])
        except CliphouseError as error:
            self.problem = str(error)
        except Exception as error:  # noqa: BLE001  # whatever it is, the rest of the service can do without
            self.problem = f"{type(error).__name__}: {error}"
            event("encoder failed", level=logging.ERROR, error=error)
        else:
            self.ready = True
