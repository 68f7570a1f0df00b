"""The encoders that are measured, each in a process of its own: two runtimes in one would fight over the cores."""

from __future__ import annotations

import io
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks import facts

Vectors = NDArray[np.float32]
#: One text or picture, a batch of texts or pictures, and a batch of pictures that were prepared before.
Task = Literal["text", "texts", "picture", "pictures", "tower"]
TASKS: tuple[Task, ...] = ("text", "texts", "picture", "pictures", "tower")
_TEXT_TASKS = ("text", "texts")

INT8 = "-int8"  # what `convert.quantize` adds to an encoder's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What all systems are made of: a checkpoint, the encoders made of it, and a database with a collection."""

    encoder: str
    architecture: str
    checkpoint: Path
    home: Path
    database: Path

    @classmethod
    def under(cls, directory: Path, encoder: str, architecture: str) -> Places:
        """The places in `directory`, whether they are filled or not."""
        return cls(
            encoder=encoder,
            architecture=architecture,
            checkpoint=directory / "random.pt",
            home=directory / "encoders",
            database=directory / "database",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A system ready to run. `texts` takes strings and `pictures` JPEG files; `tower` takes what `prepare` gives."""

    threads: int
    texts: Callable[[Sequence[str]], Vectors]
    pictures: Callable[[Sequence[bytes]], Vectors]
    prepare: Callable[[Sequence[bytes]], Any]
    tower: Callable[[Any], Vectors]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One way to encode; `load` is called in the process that runs it."""

    name: str
    label: str
    note: str
    load: Callable[[Places, int], Loaded]


def load_cliphouse(places: Places, threads: int, *, variant: str = "") -> Loaded:
    """The encoder as users have it, on its own defaults: `Loaded.threads` says how many threads it took."""
    from cliphouse.encoders import images, load_encoder, open_image
    from cliphouse.encoders.onnx import OnnxEncoder

    del threads
    encoder = load_encoder(str(places.home / f"{places.encoder}{variant}"))
    if not isinstance(encoder, OnnxEncoder):
        raise TypeError(f"{places.encoder} does not run on ONNX Runtime")
    spec = encoder._stored.spec
    before = _threads_alive()
    encoder.encode_texts(["a dog"])  # loads the text tower, whose threads join the caller's
    return Loaded(
        threads=1 + _threads_alive() - before,
        texts=encoder.encode_texts,
        pictures=lambda files: encoder.encode_images([open_image(file) for file in files]),
        prepare=lambda files: np.stack([images.pixels(open_image(file), spec) for file in files]),
        tower=encoder.encode_pixels,
    )


def _threads_alive() -> int:
    """Threads of this process, Python's and all others: what Linux counts."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def load_int8(places: Places, threads: int) -> Loaded:
    """The variant of cliphouse's encoder that `convert.quantize` made."""
    return load_cliphouse(places, threads, variant=INT8)


def load_open_clip(places: Places, threads: int) -> Loaded:
    """open_clip as its README uses it, in inference mode; a batch is decoded and prepared in as many threads."""
    from concurrent.futures import ThreadPoolExecutor

    from PIL import Image

    oracle = open_clip()
    torch = oracle.torch
    torch.set_num_threads(threads)
    network, _, transform = oracle.open_clip.create_model_and_transforms(
        places.architecture, pretrained=str(places.checkpoint)
    )
    network.eval()
    tokenize = oracle.open_clip.get_tokenizer(places.architecture)
    pool = ThreadPoolExecutor(threads)

    def prepared(file: bytes) -> Any:
        return transform(Image.open(io.BytesIO(file)))

    def prepare(files: Sequence[bytes]) -> Any:
        return torch.stack([prepared(files[0])] if len(files) == 1 else list(pool.map(prepared, files)))

    def texts(given: Sequence[str]) -> Vectors:
        with torch.inference_mode():
            vectors: Vectors = network.encode_text(tokenize(list(given)), normalize=True).numpy()
        return vectors

    def tower(pixels: Any) -> Vectors:
        with torch.inference_mode():
            vectors: Vectors = network.encode_image(pixels, normalize=True).numpy()
        return vectors

    return Loaded(
        threads=torch.get_num_threads(),
        texts=texts,
        pictures=lambda files: tower(prepare(files)),
        prepare=prepare,
        tower=tower,
    )


def open_clip() -> Any:
    """The module whose `open_clip` and `torch` are those packages, also where torchvision does not fit torch."""
    return import_module("tests.oracles.open_clip")


SYSTEMS: Mapping[str, System] = {
    system.name: system
    for system in (
        System(
            name="cliphouse",
            label="cliphouse",
            note="the encoder as `load_encoder` gives it, float32 on ONNX Runtime; texts end at their last token, "
            "pictures of a batch are decoded one after the other and prepared in threads",
            load=load_cliphouse,
        ),
        System(
            name="cliphouse_int8",
            label="cliphouse, int8",
            note="its variant with 8-bit weights, made by `cliphouse encoder quantize`: another trade, since its "
            "vectors differ; how much they do cannot be told from random weights",
            load=load_int8,
        ),
        System(
            name="open_clip",
            label="open_clip",
            note="open_clip on eager PyTorch, float32, in inference mode; texts are computed at all 77 tokens, "
            "pictures of a batch are decoded and prepared in threads",
            load=load_open_clip,
        ),
    )
}


def timed(loaded: Loaded, task: Task, calls: Sequence[Sequence[Any]]) -> list[float]:
    """How long each call took, in ms: from texts or JPEG files to unit vectors, or for "tower" from prepared pixels."""
    run: Callable[[Any], Any] = loaded.tower
    if task != "tower":
        run = loaded.texts if task in _TEXT_TASKS else loaded.pictures
    latencies = []
    for given in calls:
        items = loaded.prepare(given) if task == "tower" else given
        start = time.perf_counter()
        run(items)
        latencies.append((time.perf_counter() - start) * 1000)
    return latencies


def serve(connection: Connection, name: str, places: Places, threads: int) -> None:
    """Answer orders until None comes: a task with its calls, or "vectors" with texts and pictures."""
    loaded = SYSTEMS[name].load(places, threads)
    connection.send(loaded.threads)
    while (order := connection.recv()) is not None:
        task, given = order
        if task == "vectors":
            texts, pictures = given
            connection.send(np.concatenate([loaded.texts(texts), loaded.pictures(pictures)]))
        else:
            connection.send(timed(loaded, task, given))
    connection.send(facts.peak_memory_bytes())


class Worker:
    """A system in a process of its own, asked one order at a time."""

    def __init__(self, system: System, places: Places, threads: int) -> None:
        self.system = system
        context = multiprocessing.get_context("spawn")
        self._connection, its_own = context.Pipe()
        self._process = context.Process(target=serve, args=(its_own, system.name, places, threads), daemon=True)
        self._process.start()
        its_own.close()  # so that its death is seen here
        self.threads = int(self._receive())

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()

    def ask(self, task: Task, calls: Sequence[Sequence[Any]]) -> list[float]:
        """The latency of each call, in ms."""
        self._connection.send((task, calls))
        latencies: list[float] = self._receive()
        return latencies

    def vectors(self, texts: Sequence[str], pictures: Sequence[bytes]) -> Vectors:
        """The vectors of `texts`, then of `pictures`."""
        self._connection.send(("vectors", (texts, pictures)))
        vectors: Vectors = self._receive()
        return vectors

    def finish(self) -> int:
        """End it; the most memory it held, in bytes."""
        self._connection.send(None)
        peak = int(self._receive())
        self._process.join()
        return peak

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            raise RuntimeError(f"the process of {self.system.label} ended early; its own message is above") from None
