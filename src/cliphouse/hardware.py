"""The machine that this runs on, as the cost model sees one."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from cliphouse.cost_model import Hardware, measured_hardware
from cliphouse.engine import machine_memory_bytes

_PROBE_BYTES = 256 * 2**20
_BLOCK = 4 * 2**20


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> Hardware:
    """The cores and the memory here, with a disk as fast as that of the machine the cost model was measured on."""
    return replace(measured_hardware(), cores=usable_cores(), memory_bytes=machine_memory_bytes())


def detect(directory: Path) -> tuple[Hardware, bool]:
    """The machine this runs on, with the disk that holds `directory`, and whether that disk was measured.

    256 MiB are written and read there, and removed. A disk that has not the room, or may not be written to, is as
    `machine` takes it to be.
    """
    try:
        write, read = disk_speed(_existing(directory))
    except OSError:
        return machine(), False
    return replace(machine(), disk_write=write, disk_read=read), True


def disk_speed(directory: Path, size: int = _PROBE_BYTES) -> tuple[float, float]:
    """Bytes a second that go to the disk under `directory`, and that come from it, past the page cache where the
    system allows that.

    Raises:
        OSError: there is no room, or nothing may be written.
    """
    block = os.urandom(_BLOCK)
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        start = time.perf_counter()
        for _ in range(size // _BLOCK):
            file.write(block)
        os.fsync(file.fileno())
        written = time.perf_counter()
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        begun = time.perf_counter()
        while file.read(_BLOCK):
            pass
        return size / (written - start), size / (time.perf_counter() - begun)


def _existing(directory: Path) -> Path:
    """The directory, or the nearest one above it that is there."""
    absolute = directory.absolute()
    return next(each for each in (absolute, *absolute.parents) if each.is_dir())
