"""The files that make `encode_text` and `encode_image` functions of a ClickHouse server."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cliphouse.encoders import BUILT_IN, LAION_ENCODER, MODELS, known_dim
from cliphouse.errors import UnknownEncoder, UsageError

SCRIPT = "cliphouse_encode"
#: Every file says who wrote it, and only such a file is written over.
_MARK = "written by: cliphouse udf export"
_TIMEOUT_SECONDS = 300

_FUNCTION = """\
<!-- {mark} -->
<functions>
    <function>
        <type>executable_pool</type>
        <name>encode_{kind}</name>
        <return_type>Array(Float32)</return_type>
        <argument>
            <type>Nullable(String)</type>
            <name>{argument}</name>
        </argument>
        <format>RowBinary</format>
        <send_chunk_header>true</send_chunk_header>
        <command>{script} {kind}</command>
        <!-- Each process holds a model of its own. -->
        <pool_size>{pool_size}</pool_size>
        <!-- The first call starts Python and loads the model; later, answers come a batch at a time. -->
        <command_read_timeout>{timeout_ms}</command_read_timeout>
        <command_write_timeout>{timeout_ms}</command_write_timeout>
        <!-- Seconds: how long a query waits for a free process. -->
        <max_command_execution_time>{timeout}</max_command_execution_time>
        <!-- What cannot be encoded becomes the error of the query; the process stays. -->
        <stderr_reaction>throw</stderr_reaction>
        <deterministic>{deterministic}</deterministic>
    </function>
</functions>
"""

_SCRIPT = """\
#!/bin/sh
# {mark}
exec {command} "$@"
"""

_README = """\
1. Copy `*_function.xml` to the server's configuration directory, which names them as `<user_defined_executable_functions_config>*_function.xml</user_defined_executable_functions_config>` (the default), and `user_scripts/{script}` to its `user_scripts_path`; the server's user must be able to run it and `{python}`.
2. Run `SYSTEM RELOAD FUNCTIONS`, then `SELECT encode_text('a dog and a cat')`: the first call loads {encoder}, later ones find it loaded.
3. `ORDER BY cosineDistance(text_embedding, encode_text('a dog and a cat')) LIMIT 10` calls it once and uses a vector index; `encode_image('/path')` opens files below {allowed}. <!-- {mark} -->
"""  # noqa: E501


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What the exported functions run: which encoder, by which Python, in how many processes, over which pictures.

    The server's user has a cache folder of its own, so an encoder with files is best given by its folder.
    """

    encoder: str = LAION_ENCODER
    allow: Sequence[Path] = ()
    python: Path = Path(sys.executable)
    pool_size: int = 2

    def __post_init__(self) -> None:
        if known_dim(self.encoder) is None:
            raise UnknownEncoder(self.encoder, [*BUILT_IN, *MODELS])
        if self.pool_size < 1:
            raise UsageError(f"the pool needs at least one process, got {self.pool_size}")


def files(export: Export) -> dict[str, str]:
    """What to write, by path below the directory. Pure: nothing is read or written."""
    allow = [str(Path(os.path.abspath(directory))) for directory in export.allow]  # noqa: PTH100  # links stay links
    # -P: or the server's working directory would come before the installed packages.
    python = os.path.abspath(export.python) if export.python.parent != Path() else str(export.python)  # noqa: PTH100
    command = [python, "-P", "-m", "cliphouse.udf_worker", "--encoder", export.encoder]
    command += [word for directory in allow for word in ("--allow", directory)]
    functions = {
        f"encode_{kind}_function.xml": _FUNCTION.format(
            mark=_MARK,
            kind=kind,
            argument=argument,
            script=SCRIPT,
            pool_size=export.pool_size,
            timeout=_TIMEOUT_SECONDS,
            timeout_ms=_TIMEOUT_SECONDS * 1000,
            deterministic=deterministic,
        )
        for kind, argument, deterministic in (("text", "text", "true"), ("image", "path", "false"))
    }
    readme = _README.format(
        mark=_MARK,
        script=SCRIPT,
        python=python,
        encoder=export.encoder,
        allowed=", ".join(f"`{directory}`" for directory in allow) or "no directory: export again with `--allow`",
    )
    script = _SCRIPT.format(mark=_MARK, command=shlex.join(command))
    return {**functions, f"user_scripts/{SCRIPT}": script, "README.md": readme}


def write(directory: Path, export: Export) -> list[Path]:
    """Write the files below `directory`, over those of an earlier export; return their paths.

    Raises:
        UsageError: one of the names is taken by something else; then nothing is written.
    """
    contents = {directory / name: text for name, text in files(export).items()}
    for path in contents:
        if path.exists() and _MARK.encode() not in path.read_bytes():
            raise UsageError(f"{path} is not from an earlier export; choose an empty or a new directory")
    for path, text in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (directory / "user_scripts" / SCRIPT).chmod(0o755)
    return list(contents)
