"""Measure the encoders and write the result.

    python -m benchmarks.encoders [RUN] [--out DIR] [--scratch DIR]

RUN is a name in benchmarks/runs or the path of a TOML file. Each system runs in a process of its own, and only one of
them works at a time: in each round every system does all tasks, and the order of the systems shifts by one from round
to round, so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks import cold_start, encoder_inputs, facts
from benchmarks.encoder_setup import set_up
from benchmarks.encoder_systems import INT8, SYSTEMS, TASKS, Places, Task, Vectors, Worker
from benchmarks.files import HERE, read_parameters, say, write_result
from cliphouse.encoders import MODELS
from cliphouse.encoders.store import HOME_VARIABLE
from cliphouse.encoders.tokenizers import clip_tokenizer
from cliphouse.measures import latency_summary

PACKAGES = ("onnxruntime", "onnx", "torch", "torchvision", "open_clip_torch", "numpy", "pillow", "chdb", "chdb-core")
_ONE_AT_A_TIME = ("text", "picture")
_MS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to measure: the model of `encoder`, with weights drawn from `seed`, on `threads` threads.

    In each of `rounds` rounds, after one that is not counted, every system makes `calls[task]` calls: of one text or
    picture, or of `batch`. Texts are drawn once and asked once; `pictures` JPEG files of `width` x `height` are taken
    in turn. `sample` texts and pictures are used to compare the systems' vectors, and to make the int8 variant.
    `cold["starts"]` processes of each system start from nothing and search a collection of `cold["rows"]` rows, with
    `cold["searches"]` more searches after the first. `left_out` says what the run does not measure and why.
    """

    name: str
    kind: Literal["encoders"]
    title: str
    encoder: str
    seed: int
    threads: int
    rounds: int
    batch: int
    pictures: int
    width: int
    height: int
    sample: int
    calls: Mapping[Task, int]
    cold: Mapping[str, int]
    left_out: Sequence[str]

    def __post_init__(self) -> None:
        if self.kind != "encoders":
            raise ValueError(f"this measures runs of the kind 'encoders', not {self.kind!r}")
        for name, keys, wanted in (
            ("calls", self.calls, TASKS),
            ("cold", self.cold, ("starts", "rows", "searches")),
        ):
            if set(keys) != set(wanted) or min(keys.values()) < 1:
                raise ValueError(f"[{name}] must give each of {', '.join(wanted)}, 1 or more; got {dict(keys)}")

    def size(self, task: Task) -> int:
        """Texts or pictures in one call."""
        return 1 if task in _ONE_AT_A_TIME else self.batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything that is encoded."""

    sample: list[str]
    text: list[str]
    texts: list[str]
    pictures: list[bytes]
    cold: list[str]

    @classmethod
    def draw(cls, run: Run) -> Inputs:
        """The inputs of `run`; all captions differ."""
        sizes = {
            "sample": run.sample,
            "text": (1 + run.rounds) * run.calls["text"],
            "texts": (1 + run.rounds) * run.calls["texts"] * run.batch,
            "cold": 1 + run.cold["searches"],
        }
        drawn = iter(encoder_inputs.captions(sum(sizes.values()), run.seed))
        parts = {name: [next(drawn) for _ in range(size)] for name, size in sizes.items()}
        files = encoder_inputs.pictures(run.pictures, run.seed, width=run.width, height=run.height)
        return cls(pictures=files, **parts)

    def calls(self, run: Run, task: Task, number: int) -> list[list[Any]]:
        """What is asked in round `number`: the same of every system."""
        pool: list[Any] = {"text": self.text, "texts": self.texts}.get(task) or self.pictures
        size, count = run.size(task), run.calls[task]
        starts = range(number * count * size, (number + 1) * count * size, size)
        return [[pool[index % len(pool)] for index in range(start, start + size)] for start in starts]


def execute(run: Run, scratch: Path | None = None) -> dict[str, Any]:
    """The result of `run`; all it needs is made in `scratch`, or where the system keeps such things, and removed."""
    started, load_before = time.perf_counter(), os.getloadavg()
    date, commit = datetime.now(UTC).isoformat(timespec="seconds"), facts.commit()
    inputs = Inputs.draw(run)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="encoders-") as directory:
        places = Places.under(Path(directory), run.encoder, MODELS[run.encoder].architecture)
        say("making weights, encoders and a collection")
        made = in_its_own_process(run, places, inputs)
        encoded = measure(run, places, inputs)
        cold = measure_cold_starts(run, places, inputs.cold)
    return {
        "run": run.name,
        "kind": run.kind,
        "date": date,
        **commit,
        "machine": facts.machine(),
        "versions": facts.versions(made.pop("ClickHouse"), PACKAGES),
        "parameters": asdict(run),
        "inputs": {
            "mean_words": float(np.mean([len(text.split()) for text in inputs.text])),
            "mean_tokens": float(np.mean([2 + len(clip_tokenizer().encode(text)) for text in inputs.text])),
            "mean_jpeg_bytes": float(np.mean([len(file) for file in inputs.pictures])),
        },
        "made": made,
        "agreement": encoded["agreement"],
        "systems": [
            {
                "name": system.name,
                "label": system.label,
                "note": system.note,
                "threads": encoded["threads"][system.name],
                "peak_memory_bytes": encoded["peak_memory_bytes"][system.name],
                "tasks": {
                    task: describe(latencies, run.size(task)) for task, latencies in encoded[system.name].items()
                },
                "cold": describe_cold(cold[system.name]),
            }
            for system in SYSTEMS.values()
        ],
        "process": {
            "seconds": time.perf_counter() - started,
            "load_average_before": load_before[0],
            "load_average_after": os.getloadavg()[0],
        },
    }


def in_its_own_process(run: Run, places: Places, inputs: Inputs) -> dict[str, Any]:
    """`set_up`, in a process that ends with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        sample = inputs.pictures[: run.sample]
        return pool.submit(set_up, places, inputs.sample, sample, seed=run.seed, rows=run.cold["rows"]).result()


def measure(run: Run, places: Places, inputs: Inputs) -> dict[str, Any]:
    """For each system the latencies in ms of each task, its threads and memory; and how far vectors are apart."""
    with ExitStack() as stack:
        workers: list[Worker] = []
        for system in SYSTEMS.values():
            say(f"loading {system.label}")
            workers.append(stack.enter_context(Worker(system, places, run.threads)))
        threads = {worker.system.name: worker.threads for worker in workers}
        if set(threads.values()) != {run.threads}:
            raise ValueError(f"the run wants {run.threads} threads for each system, and they take {threads}")
        vectors = {
            worker.system.name: worker.vectors(inputs.sample, inputs.pictures[: run.sample]) for worker in workers
        }
        latencies: dict[str, dict[Task, list[float]]] = {name: {task: [] for task in TASKS} for name in threads}
        for number in range(1 + run.rounds):
            say(f"round {number} of {run.rounds}" if number else "warming up")
            shift = number % len(workers)
            for worker in (*workers[shift:], *workers[:shift]):
                for task in TASKS:
                    taken = worker.ask(task, inputs.calls(run, task, number))
                    if number:
                        latencies[worker.system.name][task] += taken
        memory = {worker.system.name: worker.finish() for worker in workers}
    return {**latencies, "threads": threads, "peak_memory_bytes": memory, "agreement": agreement(vectors, run.sample)}


def agreement(vectors: Mapping[str, Vectors], texts: int) -> dict[str, float]:
    """The largest difference in any number between cliphouse's and open_clip's vectors, `texts` of them of texts."""
    apart = np.abs(vectors["cliphouse"] - vectors["open_clip"]).max(axis=1)
    return {"text_difference": float(apart[:texts].max()), "image_difference": float(apart[texts:].max())}


def measure_cold_starts(run: Run, places: Places, captions: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """What each start told of itself, by system; the systems take turns, and each begins with one uncounted start."""
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in SYSTEMS}
    order = list(SYSTEMS)
    for number in range(1 + run.cold["starts"]):
        say(f"cold start {number} of {run.cold['starts']}" if number else "cold start, not counted")
        shift = number % len(order)
        for name in (*order[shift:], *order[:shift]):
            found = start_cold(name, places, captions, run.threads)
            if number:
                told[name].append(found)
    return told


def start_cold(name: str, places: Places, captions: Sequence[str], threads: int) -> dict[str, Any]:
    """Start a process of system `name`: seconds to its first answer, and what it told of itself."""
    encoder, path = {
        "cliphouse": ("", places.database),
        "cliphouse_int8": (places.encoder + INT8, places.database),
        "open_clip": (places.architecture, places.checkpoint),
    }[name]
    command = [sys.executable, "-m", "benchmarks.cold_start", name, encoder, str(path), str(threads)]
    environment = {**os.environ, HOME_VARIABLE: str(places.home)}
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=HERE.parent, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018  # they are pipes
        process.stdin.write(json.dumps(list(captions)))
        process.stdin.close()
        first = process.stdout.readline()
        seconds = time.perf_counter() - start
        rest = process.stdout.read()
    if process.returncode or not first:
        raise RuntimeError(f"the fresh process of {name} failed; its own message is above")
    answers: dict[str, Any] = json.loads(first) | (json.loads(rest) if rest else {})
    return {"seconds": seconds, **answers}


def describe(latencies_ms: Sequence[float], size: int) -> dict[str, Any]:
    """One task of one system; the rate is by the median."""
    summary = latency_summary(latencies_ms)
    return {
        **summary,
        "items_per_second": size * _MS / summary["p50_ms"],
        "calls": len(latencies_ms),
        "latencies_ms": [round(each, 4) for each in latencies_ms],
    }


def describe_cold(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All starts of one system: medians of the whole and of its stages, and the searches after the first."""
    seconds = [each["seconds"] for each in told]
    stages = {name: float(np.median([each["stages"][name] for each in told])) for name in cold_start.STAGES}
    before = float(np.median([each["seconds"] - sum(each["stages"].values()) for each in told]))
    searches = {
        name.removesuffix("_ms"): describe([taken for each in told for taken in each[name]], 1)
        for name in ("new_ms", "repeated_ms")
        if name in told[0]
    }
    return {
        "median_s": float(np.median(seconds)),
        "seconds": [round(each, 4) for each in seconds],
        "stages_s": {"python": before, **stages},
        "searches": searches,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the encoders and write the result.")
    parser.add_argument("run", nargs="?", default="encoders", help="a name in benchmarks/runs, or a TOML file")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where the result goes")
    parser.add_argument("--scratch", type=Path, help="where models and a database are made and removed; 2 GB")
    options = parser.parse_args()
    run = Run(**read_parameters(options.run))
    say(f"wrote {write_result(execute(run, options.scratch), options.out)}")


if __name__ == "__main__":
    main()
