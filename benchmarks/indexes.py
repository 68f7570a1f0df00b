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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import facts, laion_like, truth
from benchmarks.files import HERE, read_parameters, read_through, say, write_result
from benchmarks.index_figures import TARGETS, judged, measured
from benchmarks.index_peers import SYSTEMS
from benchmarks.index_systems import Effort, Source
from benchmarks.index_work import KINDS
from benchmarks.measures import latency_summary, percentile
from benchmarks.report import newest_results
from benchmarks.watch import watch

PACKAGES = ("numpy", "pyarrow")  # besides those of the systems
#: What decides the figures of every system, and of ours besides.
_SOURCES = tuple(
    f"benchmarks/{name}.py"
    for name in ("index_peers", "index_systems", "index_work", "laion_like", "load_systems", "measures", "truth")
)
_OUR_SOURCES = ("src/cliphouse/**/*.py",)
#: Disk that a system needs, in bytes a row: its table while it is merged, and its index.
_ROW_BYTES = 4_000
_SAMPLE_SECONDS = 0.5
#: What `--mixed` allows to differ between outcomes. Others answered another question.
_MIXABLE = frozenset({"machine", "sources", "packages"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to measure: `systems` over `shards` shards of `rows` rows drawn with `seed`, searched for `k` results.

    `queries` texts and as many pictures, drawn with `query_seed` and after `warm_up` others of each, are asked with
    each of `efforts[system]`, in each of `rounds` rounds. The first `filter_queries` texts are also asked under each of
    `filters`, which is the name of a column and what its values must be below. `options[system]` are those of the
    build. A system is compared with others at `recall`, and at those of `recalls`. `targets` are bounds for the
    figures in `index_figures.TARGETS`; `growth` is told from the newest result of the run `grown_from`. `small_rows`
    are searched to see what a system takes without an index. `left_out` says what the run does not measure and why.
    """

    name: str
    kind: Literal["indexes"]
    title: str
    rows: int
    shards: int
    seed: int
    dim: int
    k: int
    queries: int
    query_seed: int
    warm_up: int
    rounds: int
    recall: float
    recalls: Sequence[float]
    small_rows: int
    filter_queries: int
    filters: Mapping[str, Mapping[str, Any]]
    systems: Sequence[str]
    options: Mapping[str, Mapping[str, Any]]
    efforts: Mapping[str, Sequence[Effort]]
    targets: Mapping[str, float]
    left_out: Sequence[str]
    grown_from: str = ""

    def __post_init__(self) -> None:
        if self.kind != "indexes":
            raise ValueError(f"this measures runs of the kind 'indexes', not {self.kind!r}")
        if unknown := [name for name in self.systems if name not in SYSTEMS]:
            raise ValueError(f"there is no system {', '.join(unknown)}; the systems are {', '.join(SYSTEMS)}")
        if without := [name for name in self.systems if not self.efforts.get(name)]:
            raise ValueError(f"[efforts] says nothing of {', '.join(without)}")
        if unknown := [name for name in self.targets if name not in TARGETS]:
            raise ValueError(f"there is no target {', '.join(unknown)}; the targets are {', '.join(TARGETS)}")
        if self.query_seed == self.seed:
            raise ValueError("query_seed must differ from seed: queries are not rows of the shards")
        if self.filter_queries > self.queries:
            raise ValueError(f"filter_queries ({self.filter_queries}) is over queries ({self.queries})")

    def where(self, name: str) -> str:
        """The condition of a filter, as SQL."""
        return f"{self.filters[name]['column']} < {self.filters[name]['below']}"


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

    def execute(self) -> dict[str, dict[str, Any]]:
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
        for name in self.run.systems:
            self._built(name)
        outcomes = {f"{name}-build": self._kept(name, "build") for name in self.run.systems}
        for number in range(self.run.rounds):
            shift = number % len(self.run.systems)
            for name in (*self.run.systems[shift:], *self.run.systems[:shift]):
                outcomes[f"{name}-search-{number}"] = self._searched(name, number)
        return {name: outcome for name, outcome in outcomes.items() if outcome}

    def clean(self) -> None:
        """Remove databases and inputs; the outcomes stay."""
        for name in ("databases", "jobs", "small"):
            shutil.rmtree(self.place / name, ignore_errors=True)

    def _built(self, name: str) -> None:
        """Build a system, unless it was and is there, or is not needed any more."""
        database = self.place / "databases" / name
        searches = [self._kept(name, phase) for phase in self._phases[1:]]
        if self._kept(name, "build") and (database.exists() or all(searches)):
            return
        shutil.rmtree(database, ignore_errors=True)
        for phase in self._phases:
            self._path(name, phase).unlink(missing_ok=True)
        say(f"building {name}")
        told = {"place": str(database), "options": self.run.options.get(name, {})}
        self._measure(name, "build", told, self._watched)

    def _searched(self, name: str, number: int) -> dict[str, Any]:
        if kept := self._kept(name, f"search-{number}"):
            return kept
        say(f"round {number + 1} of {self.run.rounds}: {name}")
        database = self.place / "databases" / name
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
    ) -> dict[str, Any]:
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
            "started": _now(),
            "load_average_before": os.getloadavg()[0],
        }
        outcome["told"] = carry_out(job)
        outcome |= {"ended": _now(), "load_average_after": os.getloadavg()[0]}
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

    def _path(self, name: str, phase: str) -> Path:
        return self.place / "outcomes" / f"{name}-{phase}.json"

    def _kept(self, name: str, phase: str) -> dict[str, Any] | None:
        """The outcome that is there, if there is one.

        Raises:
            ValueError: it was measured on another machine, from other sources, or with other parameters.
        """
        path = self._path(name, phase)
        if not path.exists():
            return None
        outcome: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        now = self._stamp(name, phase)
        different = [each for each, value in now.items() if outcome["stamp"].get(each) != value]
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
        if not self.source.small.exists():
            laion_like.write_shards(self.source.small, rows=run.small_rows, shards=1, seed=run.seed)
        wanted = json.dumps([self.data, run.k, run.queries, run.query_seed, run.warm_up, dict(run.filters)])
        wanted = hashlib.sha256(wanted.encode()).hexdigest()
        if inputs.exists() and digest.exists() and digest.read_text() == wanted:
            return
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
    """A sum over the files that decide what a system does and how it is measured."""
    digest = hashlib.sha256()
    for pattern in (*_SOURCES, *(_OUR_SOURCES if ours else ())):
        for path in sorted(root.glob(pattern)):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def describe(run: Run, name: str, outcomes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One system's part of the result: what its processes told, all rounds together."""
    system, built = SYSTEMS[name], outcomes[f"{name}-build"]
    rounds = [outcomes[f"{name}-search-{number}"] for number in range(run.rounds)]
    efforts = []
    for number, effort in enumerate(run.efforts[name]):
        told = [each["told"]["efforts"][number] for each in rounds]
        filters = {each: summed([one["filters"][each] for one in told]) for each in told[0]["filters"]}
        kinds = {kind: summed([one[kind] for one in told]) for kind in KINDS}
        efforts.append({"effort": dict(effort), **kinds, "filters": filters})
    circumstances = ("phase", "commit", "dirty", "started", "ended", "load_average_before", "load_average_after")
    return {
        "name": name,
        "label": system.label,
        "note": system.note,
        "options": run.options.get(name, {}),
        "build": built["told"],
        "efforts": efforts,
        "memory": [each["told"]["memory"] for each in rounds],
        "measured": [{each: outcome[each] for each in circumstances} for outcome in (built, *rounds)],
    }


def summed(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same queries of several rounds as one: percentiles of all latencies, and the median of each round."""
    latencies = [latency for each in rounds for latency in each["latencies_ms"]]
    paths: dict[str, int] = {}
    for each in rounds:
        for path, count in each["paths"].items():
            paths[path] = paths.get(path, 0) + count
    return {
        "recall": sum(each["recall"] for each in rounds) / len(rounds),
        **latency_summary(latencies),
        "round_p50_ms": [percentile(each["latencies_ms"], 50) for each in rounds],
        "calls": len(latencies),
        "paths": paths,
    }


def assemble(
    bench: Bench, outcomes: Mapping[str, Mapping[str, Any]], smaller: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The result of the run, of the outcomes of all its systems; `smaller` is that of a run of fewer rows."""
    run = bench.run
    with np.load(bench.place / "inputs.npz") as inputs:
        shares = {name: float(inputs[name].mean()) for name in run.filters}
    builds = [outcomes[f"{name}-build"]["told"]["version"] for name in run.systems if SYSTEMS[name].ours]
    packages = dict.fromkeys((*PACKAGES, *(package for name in run.systems for package in SYSTEMS[name].packages)))
    taken = [_seconds(outcome) for outcome in outcomes.values()]
    result: dict[str, Any] = {
        "run": run.name,
        "kind": run.kind,
        "date": _now(),
        **facts.commit(),
        "machine": facts.machine(),
        "versions": facts.versions(builds[0] if builds else "not in this run", tuple(packages)),
        "parameters": asdict(run),
        "data": bench.data,
        "filters": {name: {"where": run.where(name), "share": share} for name, share in shares.items()},
        "systems": [describe(run, name, outcomes) for name in run.systems],
        "mixed": sorted(bench.differences),
        "process": {
            "seconds": sum(taken),
            "load_average_before": max(each["load_average_before"] for each in outcomes.values()),
            "load_average_after": max(each["load_average_after"] for each in outcomes.values()),
        },
    }
    result["targets"] = judged(run.targets, measured(result, smaller))
    if smaller:
        result["grown_from"] = {name: smaller[name] for name in ("run", "commit", "date")}
    return result


def smaller_result(run: Run, directories: Iterable[Path]) -> Mapping[str, Any] | None:
    """The newest result of the run of fewer rows, in the first directory that has one."""
    for directory in directories:
        for _, result in newest_results(directory):
            if run.grown_from and result["run"] == run.grown_from:
                return result
    return None


def check_room(run: Run, scratch: Path) -> None:
    """Raises ValueError if `scratch` has not the room for the databases of all systems."""
    needed, free = len(run.systems) * run.rows * run.shards * _ROW_BYTES, shutil.disk_usage(scratch).free
    if free < needed:
        raise ValueError(
            f"{scratch} has {free / 1e9:.1f} GB free, and {len(run.systems)} systems need {needed / 1e9:.1f} GB; "
            "choose another disk with --scratch"
        )


def _command(job: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.index_work", str(job)]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _seconds(outcome: Mapping[str, Any]) -> float:
    started, ended = (datetime.fromisoformat(outcome[name]) for name in ("started", "ended"))
    return (ended - started).total_seconds()


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
    result = assemble(bench, bench.execute(), smaller_result(run, (out, HERE / "results")))
    say(f"wrote {write_result(result, out)} after {time.perf_counter() - started:.0f} s")
    if not options.keep:
        bench.clean()


if __name__ == "__main__":
    main()
