"""Measure vector indexes, cliphouse's and others', and write the result.

    python -m benchmarks.indexes [RUN] [--data DIR] [--out DIR] [--scratch DIR] [--systems a,b] [--rows N] [--mixed]

RUN is a name in benchmarks/runs or the path of a TOML file. Every system is built in a process of its own, and then
asked in one, in rounds whose order shifts by one; nothing else works meanwhile. What each process told is kept in
SCRATCH/RUN, so that a run that was stopped goes on there. What was measured on another machine, or from other
sources, is not put together with the rest, unless `--mixed` allows it, and then the result says so. A result of some
systems or other rows only is written only where `--out` says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import facts, laion_like, truth
from benchmarks.files import HERE, read_parameters, read_through, say, write_result
from benchmarks.index_peers import SYSTEMS
from benchmarks.index_result import PACKAGES, Outcome, assemble, now, smaller_result
from benchmarks.index_run import Run
from benchmarks.index_systems import Source
from benchmarks.index_work import KINDS
from benchmarks.watch import watch

#: What decides the figures of every system, and of ours besides.
SOURCES = (
    *(
        f"benchmarks/{name}.py"
        for name in ("index_peers", "index_systems", "index_work", "laion_like", "load_systems", "truth", "watch")
    ),
    "src/cliphouse/measures.py",
    "src/cliphouse/vectors.py",
)
OUR_SOURCES = ("benchmarks/systems.py", "src/cliphouse/**/*.py")
#: Disk that a system needs, in bytes a row: its table while it is merged, and its index.
_ROW_BYTES = 4_000
_SAMPLE_SECONDS = 0.5
#: What `--mixed` allows to differ between outcomes. Others answered another question.
_MIXABLE = frozenset({"machine", "sources", "packages"})


class Bench:
    """One run at work in a directory `place`, where inputs, databases and outcomes are kept until it is complete."""

    def __init__(self, run: Run, data: Path, place: Path, *, mixed: bool = False) -> None:
        self.run, self.place, self.mixed = run, place, mixed
        self.source = Source(directory=data.resolve(), rows=run.rows, shards=run.shards, small=place / "small")
        self.data: dict[str, Any] = {}
        self.differences: set[str] = set()
        self._phases = ("build", *(f"search-{number}" for number in range(run.rounds)))
        for name in ("outcomes", "jobs", "databases"):
            (place / name).mkdir(parents=True, exist_ok=True)

    def execute(self) -> dict[str, Outcome]:
        """All outcomes by the name of their file: those that are there, and those that are measured now.

        Raises:
            ValueError: the data are not those of the run, or an outcome was measured in another way.
        """
        self._check_shapes()
        say(f"{self.run.name}: reading {self.source.directory}")
        self.data = facts.data_files(self.source.directory)
        for name in self.run.systems:  # first, so that nothing is measured in vain
            for phase in self._phases:
                self._kept(name, phase)
        self._draw_inputs()
        outcomes = {f"{name}-build": self._built(name) for name in self.run.systems}
        for number in range(self.run.rounds):
            shift = number % len(self.run.systems)
            for name in (*self.run.systems[shift:], *self.run.systems[:shift]):
                outcomes[f"{name}-search-{number}"] = self._searched(name, number)
        return outcomes

    def shares(self) -> dict[str, float]:
        """The share of the rows that each filter lets through."""
        with np.load(self.place / "inputs.npz") as inputs:
            return {name: float(inputs[name].mean()) for name in self.run.filters}

    def clean(self) -> None:
        """Remove the databases; what was told of them stays."""
        for name in ("databases", "jobs"):
            shutil.rmtree(self.place / name, ignore_errors=True)

    def _built(self, name: str) -> Outcome:
        """Build a system, unless it was and is there, or all its searches were made."""
        if shared := SYSTEMS[name].shares:
            return self._built(shared)
        database = self._database(name)
        asked = [each for each in self.run.systems if name in (each, SYSTEMS[each].shares)]
        searches = [self._kept(each, phase) for each in asked for phase in self._phases[1:]]
        kept = self._kept(name, "build")
        if kept and (database.exists() or all(searches)):
            return kept
        shutil.rmtree(database, ignore_errors=True)
        for each, phase in product(asked, self._phases):
            self._path(each, phase).unlink(missing_ok=True)
        say(f"building {name}")
        told = {"place": str(database), "options": self.run.options.get(name, {})}
        return self._measure(name, "build", told, self._watched)

    def _searched(self, name: str, number: int) -> Outcome:
        """Ask a system in one round, unless it was asked."""
        if kept := self._kept(name, f"search-{number}"):
            return kept
        say(f"round {number + 1} of {self.run.rounds}: {name}")
        database = self._database(name)
        for path in database.rglob("*"):
            if path.is_file():
                read_through(path)
        told = {
            "place": str(database),
            "k": self.run.k,
            "round": number,
            "inputs": str(self.place / "inputs.npz"),
            "efforts": self.run.efforts[name],
            "filter_queries": self.run.filter_queries,
            "filters": {each: {"where": self.run.where(each)} for each in self._filters(name)},
        }
        return self._measure(name, f"search-{number}", told, self._ran)

    def _filters(self, name: str) -> Iterable[str]:
        return self.run.filters if SYSTEMS[name].filters else ()

    def _measure(
        self, name: str, phase: str, told: Mapping[str, Any], carry_out: Callable[[Path], dict[str, Any]]
    ) -> Outcome:
        """Carry out one job, and keep what comes of it, with when and in what circumstances it was."""
        job = self.place / "jobs" / f"{name}-{phase}.json"
        wanted = {"phase": phase.partition("-")[0], "system": name, "source": asdict(self.source), **told}
        job.write_text(json.dumps(wanted, default=str), encoding="utf-8")
        os.sync()  # nothing is left to write that another one has written
        outcome: dict[str, Any] = {
            "system": name,
            "phase": phase,
            "stamp": self._stamp(name, phase),
            **facts.commit(),
            "started": now(),
            "load_average_before": os.getloadavg()[0],
        }
        outcome["told"] = carry_out(job)
        outcome |= {"ended": now(), "load_average_after": os.getloadavg()[0]}
        part = self._path(name, phase).with_suffix(".part")
        part.write_text(json.dumps(outcome) + "\n", encoding="utf-8")
        part.replace(self._path(name, phase))
        return outcome

    def _watched(self, job: Path) -> dict[str, Any]:
        """What a build tells, and what its process took, seen from outside."""
        seen = watch(_command(job), every=_SAMPLE_SECONDS, cwd=HERE.parent)
        took = {"peak_bytes": seen.peak_rss, "peak_anon_bytes": seen.peak_anon, "cpu_seconds": seen.cpu_seconds}
        return {**json.loads(seen.output.splitlines()[-1]), **took}

    def _ran(self, job: Path) -> dict[str, Any]:
        """What a search tells; nobody watches, so that nothing else works."""
        done = subprocess.run(_command(job), cwd=HERE.parent, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{job.stem} failed with {done.returncode}: {' '.join(done.stderr.splitlines()[-3:])}")
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told

    def _database(self, name: str) -> Path:
        return self.place / "databases" / (SYSTEMS[name].shares or name)

    def _path(self, name: str, phase: str) -> Path:
        return self.place / "outcomes" / f"{name}-{phase}.json"

    def _kept(self, name: str, phase: str) -> Outcome | None:
        """The outcome that is there, if there is one.

        Raises:
            ValueError: it was measured on another machine, from other sources, or with other parameters.
        """
        path = self._path(name, phase)
        if not path.exists():
            return None
        outcome: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        stamp = self._stamp(name, phase)
        different = [each for each, value in stamp.items() if outcome["stamp"].get(each) != value]
        if different and not (self.mixed and set(different) <= _MIXABLE):
            advice = ", or take it as it is with --mixed" if set(different) <= _MIXABLE else ""
            raise ValueError(
                f"{path} was measured with other {', '.join(different)}; remove it to measure again{advice}"
            )
        self.differences |= {f"{name}-{phase}: other {each}" for each in different}
        return outcome

    def _stamp(self, name: str, phase: str) -> dict[str, Any]:
        """What must be the same for two outcomes to belong together, as it is now."""
        run, system = self.run, SYSTEMS[name]
        asked: dict[str, Any] = {"options": run.options.get(name, {})}
        if phase != "build":
            asked |= {each: getattr(run, each) for each in ("k", "queries", "query_seed", "warm_up", "small_rows")}
            asked |= {"efforts": run.efforts[name]}
            if system.filters:
                asked |= {"filters": run.filters, "filter_queries": run.filter_queries}
        stamp = {
            "machine": facts.machine(),
            "data": self.data,
            "sources": sources_digest(HERE.parent, ours=system.ours),
            "packages": {package: version(package) for package in (*PACKAGES, *system.packages)},
            "parameters": asked,
        }
        plain: dict[str, Any] = json.loads(json.dumps(stamp))  # as it will be read
        return plain

    def _check_shapes(self) -> None:
        for shard in range(self.run.shards):
            shape, wanted = self.source.images(shard).shape, (self.run.rows, self.run.dim)
            if shape != wanted:
                raise ValueError(f"shard {shard} of {self.source.directory} has the shape {shape}; {wanted} is wanted")

    def _draw_inputs(self) -> None:
        """The small shard, and queries with their true distances, unless they are there already."""
        run, inputs, digest = self.run, self.place / "inputs.npz", self.place / "inputs.json"
        wanted = json.dumps([self.data, run.k, run.queries, run.query_seed, run.warm_up, run.small_rows])
        wanted = hashlib.sha256(f"{wanted} {run.filter_queries} {run.filters}".encode()).hexdigest()
        if inputs.exists() and digest.exists() and digest.read_text() == wanted:
            return
        laion_like.write_shards(self.source.small, rows=run.small_rows, shards=1, seed=run.seed)
        drawn = {
            "text": laion_like.text_queries(run.warm_up + run.queries, run.query_seed),
            "image": laion_like.image_queries(run.warm_up + run.queries, run.query_seed),
        }
        arrays: dict[str, Any] = {"warm_up": np.concatenate([drawn[kind][: run.warm_up] for kind in KINDS])}
        arrays |= {kind: drawn[kind][run.warm_up :] for kind in KINDS}
        say("finding the true neighbours")
        for kind in KINDS:
            arrays[f"{kind}_truth"] = true_distances(self.source, arrays[kind], k=run.k)
        for name in run.filters:
            arrays[name] = self._passing(name)
            arrays[f"{name}_truth"] = true_distances(
                self.source, arrays["text"][: run.filter_queries], k=run.k, allowed=arrays[name]
            )
        np.savez(inputs, **arrays)
        digest.write_text(wanted)

    def _passing(self, name: str) -> Any:
        """Which rows the filter of this name lets through."""
        column, below = self.run.filters[name]["column"], self.run.filters[name]["below"]
        shards = [
            pq.read_table(self.source.directory / f"metadata_{shard}.parquet", columns=[column])[column]
            for shard in range(self.run.shards)
        ]
        return np.concatenate([pc.fill_null(pc.less(values, below), False).to_numpy() for values in shards])


def true_distances(source: Source, queries: Any, *, k: int, allowed: Any = None) -> Any:
    """The true distances of the `k` nearest rows of each query, nearest first, among those `allowed`.

    Raises:
        ValueError: fewer than `k` rows are allowed.
    """
    nearest = []
    for shard in range(source.shards):
        images = source.images(shard)
        if allowed is not None:
            images = images[allowed[shard * source.rows : (shard + 1) * source.rows]]
        if len(images):
            nearest.append(truth.nearest(images, queries, k=min(k, len(images))).distances)
    distances = np.sort(np.concatenate(nearest, axis=1), axis=1)[:, :k] if nearest else np.empty((len(queries), 0))
    if distances.shape[1] < k:
        raise ValueError(f"a filter lets {distances.shape[1]} rows through, and {k} are looked for")
    return distances


def sources_digest(root: Path, *, ours: bool) -> str:
    """A sum over the files that decide what a system does and how it is measured.

    Raises:
        ValueError: one of them is not there.
    """
    return facts.sources_digest(root, (*SOURCES, *(OUR_SOURCES if ours else ())))


def check_room(run: Run, scratch: Path) -> None:
    """Raises ValueError if `scratch` has not the room for the databases of all systems."""
    systems = [name for name in run.systems if not SYSTEMS[name].shares]
    needed, free = len(systems) * run.rows * run.shards * _ROW_BYTES, shutil.disk_usage(scratch).free
    if free < needed:
        raise ValueError(
            f"{scratch} has {free / 1e9:.1f} GB free, and {len(systems)} systems need {needed / 1e9:.1f} GB; "
            "choose another disk with --scratch"
        )


def _command(job: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.index_work", str(job)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure vector indexes and write the result.")
    parser.add_argument("run", nargs="?", default="indexes-1m", help="a name in benchmarks/runs, or a TOML file")
    parser.add_argument("--data", type=Path, help="a directory with the shards; drawn and kept if not given")
    parser.add_argument("--out", type=Path, help="where the result goes; benchmarks/results if all was measured")
    parser.add_argument("--scratch", type=Path, default=laion_like.DATA, help="where databases are made and removed")
    parser.add_argument("--systems", help="some of the run's systems, with commas between; all by default")
    parser.add_argument("--rows", type=int, help="rows of a shard, if not those of the run")
    parser.add_argument("--mixed", action="store_true", help="take outcomes as they are, and say so in the result")
    parser.add_argument("--keep", action="store_true", help="keep the databases")
    options = parser.parse_args()
    if options.out is None and (options.systems or options.rows):
        parser.error("a result of some systems or rows is no result of the run; say where it may go with --out DIR")
    run = Run(**read_parameters(options.run))
    run = replace(
        run,
        systems=options.systems.split(",") if options.systems else run.systems,
        rows=options.rows or run.rows,
    )
    check_room(run, options.scratch)
    data = options.data or laion_like.cached(run.rows, run.seed, run.shards)
    out = options.out or HERE / "results"
    started = time.perf_counter()
    bench = Bench(run, data, options.scratch / run.name, mixed=options.mixed)
    result = assemble(
        run,
        bench.execute(),
        data=bench.data,
        shares=bench.shares(),
        mixed=bench.differences,
        smaller=smaller_result(run, (out, HERE / "results")),
    )
    say(f"wrote {write_result(result, out)} after {time.perf_counter() - started:.0f} s")
    if not options.keep:
        bench.clean()


if __name__ == "__main__":
    main()
