"""Which process an attempt belongs to, so that another on the same machine can tell whether it is still alive."""

from __future__ import annotations

import os
import re
import socket
from functools import cache
from pathlib import Path

_FORM = re.compile(r".*, process (\d+) \[(.+) (\d+)\]")


def holder() -> str:
    """The name of this process, for people and for other processes."""
    name = f"{socket.gethostname()}, process {os.getpid()}"
    return f"{name} [{place} {begun}]" if (place := _place()) and (begun := _begun(os.getpid())) else name


def is_gone(name: str) -> bool:
    """Whether a holder is known to have ended; of other machines and containers nothing is known."""
    match = _FORM.fullmatch(name)
    if match is None or match[2] != _place():
        return False
    number = int(match[1])
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's
        pass
    begun = _begun(number)
    return begun is not None and begun != match[3]


def in_words(name: str) -> str:
    """A holder without what only processes read."""
    return name.partition(" [")[0]


def _begun(number: int) -> str | None:
    """When a process began, in ticks since boot; "" if it has ended and was not yet buried, None if nobody says."""
    try:
        # After the name, which may hold anything, come the state and 18 more before the start.
        state, *fields = Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return "" if state in "ZX" else fields[18]


@cache
def _place() -> str:
    """One boot of one machine, and one container's numbering of processes; "" where neither has a name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""
