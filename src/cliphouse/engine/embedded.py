"""What the engine needs when it runs inside this process: a directory of its own and a share of the memory."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import secrets
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from cliphouse.errors import CliphouseError, DirectoryInUse, StorageError, StorageFull, UnknownDatabase, UsageError

#: Shares of the machine's memory. chDB's own defaults are 5 GiB for each cache and 90 % for the whole, whatever the
#: machine; ours leave room for the user's process and favour the two caches that vector search lives on.
_SHARES = {
    "max_server_memory_usage": 0.80,
    "vector_similarity_index_cache_size": 0.30,
    "uncompressed_cache_size": 0.25,
    "mark_cache_size": 0.05,
    "index_mark_cache_size": 0.02,
    "primary_index_cache_size": 0.02,
}
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


#: What may lie in a directory without making it somebody else's: an engine or an `add` that was killed before there was
#: a table leaves these.
_BEFORE_TABLES = {"lost+found", "tmp", "status", "cliphouse-add"}


def machine_memory_bytes() -> int:
    """Memory this process may use: the machine's, or its container's where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        try:
            total = min(total, int(Path(path).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return total


def process_memory_bytes() -> int:
    """Memory that this process holds now; where the system does not tell, the most that it has held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def server_options(memory_bytes: int) -> dict[str, str]:
    """Server settings for an engine on a machine of this size."""
    options = {name: str(int(share * memory_bytes)) for name, share in _SHARES.items()}
    # Graphs are read as a whole and used again: let nearly all of the cache protect what was used twice.
    options["vector_similarity_index_cache_size_ratio"] = "0.99"
    options["max_build_vector_similarity_index_thread_pool_size"] = "0"  # all cores
    return options


def prepare_directory(path: Path, *, create: bool) -> None:
    """Make sure that an engine can open `path`, and say plainly why where it cannot.

    chDB reports each of these with an empty message, or by filling a directory that holds something else.

    Raises:
        UnknownDatabase: there is nothing at `path` and `create` is False.
        UsageError: `path` is a file, or a directory of other things.
        DirectoryInUse: another process has it open.
        StorageError: it cannot be written to.
    """
    try:
        if not path.exists():
            if not create:
                raise UnknownDatabase(str(path))
            path.mkdir(parents=True)
        if not path.is_dir():
            raise UsageError(f"{path} is a file; --db takes a directory")
        entries = {entry.name for entry in path.iterdir()} - _BEFORE_TABLES
    except OSError as error:
        raise StorageError(f"cannot create or read {path}: {error.strerror}; choose another --db") from error
    if entries and not entries & {"metadata", "store", "data", "user_defined"}:
        raise UsageError(f"{path} holds other files and no database; choose an empty or a new directory as --db")
    holder = directory_holder(path)
    if holder is not None and holder != os.getpid():
        raise DirectoryInUse(path, holder or None)
    try:
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"\0" * 4096)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFull(str(path)) from error
        raise StorageError(
            f"cannot write to {path}: {error.strerror}; an embedded database needs a writable directory"
        ) from error


def directory_holder(path: Path) -> int | None:
    """The process that has `path` open (0 if it does not say which), or None.

    An engine holds a lock on the file `status` and writes its process id there; a dead engine's lock is gone.
    """
    try:
        with (path / "status").open("rb") as status:
            try:
                fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                match = re.search(rb"PID: (\d+)", status.read(200))
                return int(match.group(1)) if match else 0
    except OSError:
        return None
    return None


class _Failures:
    """What functions raised on purpose inside queries, until the query that failed asks for it.

    The engine passes on the text of an exception and nothing else, so a key travels in the text. A failure that no
    query reports, such as one in a pass of the analyser, is forgotten when newer ones come.
    """

    _KEPT = 256

    def __init__(self) -> None:
        self._by_key: dict[str, CliphouseError] = {}
        self._lock = threading.Lock()

    def keep(self, error: CliphouseError) -> str:
        """Keep `error`; the text to give the engine in its place."""
        key = secrets.token_hex(8)
        with self._lock:
            self._by_key[key] = error
            if len(self._by_key) > self._KEPT:
                self._by_key.pop(next(iter(self._by_key)))
        return f"[failure {key}] {error}"

    def take(self, message: str) -> CliphouseError | None:
        """The failure whose text is in an engine's message."""
        match = re.search(r"\[failure (\w+)\]", message)
        with self._lock:
            return self._by_key.pop(match.group(1), None) if match else None


failures = _Failures()


def register_function(name: str, function: Callable[[str], bytes]) -> None:
    """Make `function` callable in SQL as `name(String)`; the bytes it returns arrive as a String.

    Functions belong to the process, not to a connection, and can be registered once. A `CliphouseError` that one raises
    comes out of the query as it is.
    """
    import chdb
    from chdb.sqltypes import STRING

    def guarded(value: str) -> bytes:
        try:
            return function(value)
        except CliphouseError as error:
            raise RuntimeError(failures.keep(error)) from error

    chdb.create_function(name, guarded, [STRING], STRING)
