"""Where shards are published, in which folders, and which of these places answer."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from cliphouse import objects, storage, web
from cliphouse.addresses import shown
from cliphouse.errors import DownloadFailed, UsageError
from cliphouse.files import Part, Peek
from cliphouse.pace import Busy, Pace
from cliphouse.types import ProgressCallback

Kind = Literal["metadata", "text", "image"]
#: In the order they are fetched: by its image embeddings a shard is found, so they come last.
FILES: Mapping[Kind, str] = {
    "metadata": "metadata_{}.parquet",
    "text": "text_emb_{}.npy",
    "image": "img_emb_{}.npy",
}
_MAGIC: Mapping[Kind, bytes] = {"metadata": b"PAR1", "text": b"\x93NUMPY", "image": b"\x93NUMPY"}


#: A mirror that was busy or could not be reached is left alone for so long: to see that may take minutes.
REST_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Layout:
    """In which folder each kind of file is."""

    name: str
    folders: Mapping[Kind, str] = field(hash=False)

    def path(self, kind: Kind, number: int) -> str:
        """The file's place below the base."""
        return f"{self.folders[kind]}/{FILES[kind].format(number)}".lstrip("/")


CLIP_RETRIEVAL = Layout("img_emb/", {"metadata": "metadata", "text": "text_emb", "image": "img_emb"})
THE_EYE = Layout("images/", {"metadata": "metadata", "text": "texts", "image": "images"})
FLAT = Layout("flat", {"metadata": "", "text": "", "image": ""})


@dataclass(frozen=True, slots=True)
class Mirror:
    """A base URL, and the layouts that its files may be in."""

    base: str
    layouts: tuple[Layout, ...] = (CLIP_RETRIEVAL, THE_EYE, FLAT)


#: LAION-400M's embeddings as they were published. Nobody promises that these places still answer.
KNOWN = (
    Mirror("https://deploy.laion.ai/8f83b608504d46bb81708ec86e912220/embeddings", (CLIP_RETRIEVAL,)),
    Mirror("https://the-eye.eu/public/AI/cah/laion400m-met-release/laion400m-embeddings", (THE_EYE,)),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A mirror that answers, its layout, and what one file of each kind takes there, in bytes."""

    base: str
    layout: Layout
    sizes: Mapping[Kind, int]

    def address(self, kind: Kind, number: int) -> str:
        """Where a file is, for people."""
        return shown(_below(self.base, self.layout.path(kind, number)))


def mirror(address: str) -> Mirror:
    """The mirror at a base URL or in a folder of this machine.

    Raises:
        UsageError: it is an address of no kind we know.
    """
    address = address.strip()
    if not address:
        raise UsageError("an empty address names no place to download from; give an address or a folder")
    try:
        scheme = urlsplit(address).scheme
    except ValueError as error:
        raise UsageError(f"{shown(address)!r} is no address to download from: {error}") from error
    if scheme in ("http", "https"):
        web.check_address(address)
    elif "://" not in address:
        address = Path(address).expanduser().absolute().as_uri()
    elif scheme in storage.STORES:
        storage.check_address(address)
        folder, query, _ = address.partition("?")
        if query:
            raise UsageError(f"{shown(folder)!r} came with a query, which no folder of a store has; leave it out")
    elif scheme != "file":
        known = ", ".join(f"{name}://" for name in ("https", "http", *objects.SCHEMES))
        raise UsageError(
            f"{shown(address)!r} is no address to download from; it must be a folder or begin with {known}"
        )
    return Mirror(_below(address, ""))


def _below(base: str, name: str) -> str:
    """The address of a file below `base`, whose query, which may be a key to all its files, stays at the end."""
    parts = urlsplit(base)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{name}".rstrip("/"), fragment="").geturl()


def peek(base: str, name: str, *, patience: float, pace: Pace) -> Peek:
    """The length and the first bytes of a file below `base`, or why they are not shown.

    Raises:
        DownloadFailed: the place cannot be reached.
    """
    if urlsplit(base).scheme in ("http", "https"):
        return web.peek(_below(base, name), patience=patience, pace=pace)
    return objects.peek(base, name, patience=patience, pace=pace)


def receive(
    base: str,
    name: str,
    part: Part,
    *,
    promised: Callable[[Path], int | None],
    patience: float,
    pace: Pace,
    progress: ProgressCallback | None,
) -> None:
    """Bring `part` to the full length of a file below `base`.

    Raises:
        DownloadFailed: it cannot be had from there.
        Stopped: `pace` has been told to stop.
        OSError: it cannot be written.
    """
    label = part.target.name
    if urlsplit(base).scheme in ("http", "https"):
        web.receive(
            _below(base, name), part, label=label, promised=promised, patience=patience, pace=pace, progress=progress
        )
    else:
        objects.receive(base, name, part, label=label, patience=patience, pace=pace, progress=progress)


def probe(mirror: Mirror, numbers: Sequence[int], kinds: Sequence[Kind], look: Callable[[str, str], Peek]) -> Place:
    """In which of its layouts the mirror has shards: it is asked for one of `numbers` after the other until it has one.

    Raises:
        DownloadFailed: it cannot be reached, which Busy caused, or has none of them.
    """
    refusal = ""
    for number in dict.fromkeys((numbers[0], numbers[len(numbers) // 2], numbers[-1], *numbers)):
        for layout in mirror.layouts:
            seen = look(mirror.base, layout.path("image", number))
            if reason := why_not("image", seen):
                refusal = refusal or f"{layout.path('image', number)}: {reason}"
                continue
            sizes: dict[Kind, int] = {"image": seen.size or 0}
            for kind in kinds:
                if kind != "image":
                    sizes[kind] = look(mirror.base, layout.path(kind, number)).size or 0
            return Place(mirror.base, layout, sizes)
    raise DownloadFailed(mirror.base, refusal)


def why_not(kind: Kind, seen: Peek) -> str:
    """Why what was seen is no file of this kind; empty if it is one."""
    if seen.refusal or seen.head.startswith(_MAGIC[kind]):
        return seen.refusal
    return f"it is no {FILES[kind].rpartition('.')[2]} file, it begins with {seen.head[:12]!r}"


class Places:
    """The mirrors in their order, each probed when it is first needed, and again later if it was busy. For threads."""

    def __init__(self, mirrors: Sequence[Mirror], look: Callable[[Mirror], Place]) -> None:
        self._mirrors = mirrors
        self._look = look
        self._known: dict[int, Place] = {}
        #: Why those that were probed in vain are no places, and until when they are not probed again.
        self._refused: dict[int, tuple[DownloadFailed, float]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._mirrors)

    def __getitem__(self, position: int) -> Place:
        """The place at `position`.

        Raises:
            DownloadFailed: it does not answer.
        """
        with self._lock:
            if position in self._known:
                return self._known[position]
            if position in self._refused and time.monotonic() < self._refused[position][1]:
                raise self._refused[position][0]
            try:
                self._known[position] = self._look(self._mirrors[position])
            except DownloadFailed as error:
                until = time.monotonic() + REST_SECONDS if isinstance(error.__cause__, Busy) else math.inf
                self._refused[position] = error, until
                raise
            return self._known[position]

    def first(self) -> Place:
        """The first place that answers.

        Raises:
            DownloadFailed: none does.
        """
        reasons = []
        for position in range(len(self)):
            try:
                return self[position]
            except DownloadFailed as error:
                reasons.append(f"{error.url}: {error.reason}")
        raise DownloadFailed("shards", "; ".join(reasons), advice="name a place that has them with --base-url")
