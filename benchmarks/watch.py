"""Run a command and watch, from outside, what it takes: time, memory, processor, bytes read and written, disk.

It looks at /proc, so it works on Linux alone. Nothing is asked of the command, which may start processes of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
#: The disk is asked less often than memory: it means walking the directory.
_DISK_SECONDS = 1.0
_BLOCK = 512  # what st_blocks counts in, on any file system


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory at one moment, in bytes, of the process and all it started; `anon` is without mapped files.

    Pages that two processes share count in both.
    """

    seconds: float
    rss: int
    anon: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What a command took, from the start of its process to the end of it.

    `started` is in seconds since 1970. `peak_rss` is never less than the kernel's own mark for the first process, so
    that a peak between two samples counts. `io` is what the process and those it waited for read and wrote:
    `rchar` and `wchar` by system calls, `read_bytes` and `write_bytes` from and to the disk. `peak_disk` is the most
    that the watched directory took.
    """

    seconds: float
    started: float
    cpu_seconds: float
    peak_rss: int
    peak_anon: int
    peak_disk: int
    io: Mapping[str, int]
    samples: Sequence[Sample]
    output: str

    def as_json(self, *, points: int) -> dict[str, Any]:
        """As plain values, without the output, and with the samples thinned to `points`; memory in them is in MB."""
        kept = thinned(self.samples, points)
        return {
            **{name: value for name, value in asdict(self).items() if name not in ("samples", "output")},
            "timeline": {
                "seconds": [round(each.seconds, 2) for each in kept],
                "rss_mb": [round(each.rss / 1e6, 1) for each in kept],
                "anon_mb": [round(each.anon / 1e6, 1) for each in kept],
            },
        }


def watch(
    command: Sequence[str],
    *,
    every: float,
    directory: Path | None = None,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Watched:
    """Run `command` to its end, sampling memory `every` so many seconds, and the disk that `directory` takes.

    Raises:
        RuntimeError: the command failed, and its last words are in the message; or this is not Linux.
    """
    if not (_PROC / "self" / "status").exists():
        raise RuntimeError("there is no /proc to watch a command in; loading is measured on Linux")
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started, start = time.time(), time.perf_counter()
        process = subprocess.Popen(
            list(command), cwd=cwd, env=environment, stdout=out, stderr=err, start_new_session=True
        )
        sampler = _Sampler(process.pid, start, every, directory)
        try:
            sampler.start()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and /proc still knows it
            seconds = time.perf_counter() - start
            cpu_seconds, io = _cpu_seconds(process.pid), _io(process.pid)
        finally:
            sampler.stop()
            _end(process)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} failed with {process.returncode}: {_tail(err)}")
        out.seek(0)
        return Watched(
            seconds=seconds,
            started=started,
            cpu_seconds=cpu_seconds,
            peak_rss=max([sampler.high_water, *(each.rss for each in sampler.samples)]),
            peak_anon=max((each.anon for each in sampler.samples), default=0),
            peak_disk=max([sampler.peak_disk, disk_bytes(directory) if directory else 0]),
            io=io,
            samples=tuple(sampler.samples),
            output=out.read(),
        )


def thinned(samples: Sequence[Sample], points: int) -> list[Sample]:
    """At most `points` of the samples, which stand for equally many each and hold the most memory among them."""
    if len(samples) <= points:
        return list(samples)
    edges = [len(samples) * number // points for number in range(points + 1)]
    groups = [samples[start:stop] for start, stop in pairwise(edges)]
    return [
        Sample(group[-1].seconds, max(each.rss for each in group), max(each.anon for each in group)) for group in groups
    ]


def disk_bytes(directory: Path) -> int:
    """What the files below `directory` take on disk; one that has two names counts once."""
    return sum({(found.st_dev, found.st_ino): found.st_blocks * _BLOCK for found in _stats(directory)}.values())


class _Sampler(threading.Thread):
    def __init__(self, session: int, start: float, every: float, directory: Path | None) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self.high_water = self.peak_disk = 0
        self._session, self._begun, self._every, self._directory = session, start, every, directory
        self._ended = threading.Event()
        self._ours: dict[int, bool] = {}

    def run(self) -> None:
        disk_due = self._begun
        while not self._ended.is_set():
            self._look()
            if self._directory and time.perf_counter() >= disk_due:
                self.peak_disk = max(self.peak_disk, disk_bytes(self._directory))
                disk_due = time.perf_counter() + _DISK_SECONDS
            self._ended.wait(self._every)

    def stop(self) -> None:
        self._ended.set()
        if self.is_alive():
            self.join()

    def _look(self) -> None:
        alive = [int(each.name) for each in _PROC.iterdir() if each.name.isdecimal()]
        # A process cannot join a session later on, so one look at each is enough.
        self._ours = {pid: self._ours[pid] if pid in self._ours else _session(pid) == self._session for pid in alive}
        now, rss, anon = time.perf_counter() - self._begun, 0, 0
        for pid in (pid for pid, ours in self._ours.items() if ours):
            sizes = memory(pid)
            rss, anon = rss + sizes.get("VmRSS", 0), anon + sizes.get("RssAnon", 0)
            if pid == self._session:
                self.high_water = max(self.high_water, sizes.get("VmHWM", 0))
        if rss:  # none is left of a process that has just ended
            self.samples.append(Sample(now, rss, anon))


def _end(process: subprocess.Popen[Any]) -> None:
    """Leave nothing of the command behind, whether it ended or this program is being stopped."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _fields(pid: int) -> list[str]:
    """Of /proc/PID/stat, what stands behind the name of the program; empty if the process is gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _session(pid: int) -> int | None:
    fields = _fields(pid)
    return int(fields[3]) if fields else None


def _cpu_seconds(pid: int) -> float:
    """In user and system mode, with the processes it waited for."""
    return sum(int(ticks) for ticks in _fields(pid)[11:15]) / _TICKS


def memory(pid: int) -> dict[str, int]:
    """The sizes in /proc/PID/status, in bytes: VmRSS, RssAnon, VmHWM and others; empty if the process is gone."""
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return {}
    return {
        name: int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in lines)
        if value.endswith("kB")
    }


def _io(pid: int) -> dict[str, int]:
    wanted = ("rchar", "wchar", "read_bytes", "write_bytes")
    try:
        lines = (_PROC / str(pid) / "io").read_text().splitlines()
    except OSError:  # some containers hide it
        return dict.fromkeys(wanted, 0)
    found = dict(line.split(": ") for line in lines)
    return {name: int(found[name]) for name in wanted}


def _stats(directory: Path) -> Iterator[os.stat_result]:
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return  # files come and go while we look
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _stats(Path(entry.path))
            else:
                yield entry.stat(follow_symlinks=False)
        except OSError:
            continue


def _tail(file: Any) -> str:
    file.seek(0)
    return " ".join(file.read().splitlines()[-3:])
