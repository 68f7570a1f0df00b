"""A folder of shards that `embed` fills: in clip-retrieval's layout, each shard whole or not there at all."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliphouse.errors import EncoderMismatch, ShardError, StorageError, StorageFull, UsageError
from cliphouse.pipeline.items import as_text
from cliphouse.pipeline.plan import MARK, SKIPPED, discover, encoder_of, plan
from cliphouse.types import Encoder, Shard

#: What every shard's metadata holds, as LAION's do; more columns follow where the source had more.
SCHEMA = pa.schema(
    [
        ("image_path", pa.string()),
        ("caption", pa.string()),
        ("url", pa.string()),
        ("key", pa.string()),
        ("NSFW", pa.string()),
        ("similarity", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("license", pa.string()),
    ]
)


class EmbedFolder:
    """The folder, held by one process; `number` is that of the next shard."""

    def __init__(self, path: Path, skipped: IO[str], number: int) -> None:
        self.path = path
        self.number = number
        self._skipped = skipped

    @classmethod
    @contextmanager
    def open(cls, path: Path, encoder: Encoder, source: str, *, disposable: bool = False) -> Iterator[EmbedFolder]:
        """The folder at `path`, made if it is not there, locked while it is open.

        A `disposable` one loses its shards if they are of another encoder.

        Raises:
            EncoderMismatch: it holds embeddings of another encoder.
            UsageError: it is no folder, holds what `embed` did not write, or another process is at work in it.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise UsageError(f"cannot use {path} as a folder for shards: {error.strerror}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"another process embeds into {path}; wait for it, or use another folder") from None
            except OSError:  # a file system without locks
                pass
            stored = encoder_of(path)
            if disposable and stored not in (None, encoder.name):
                for shard in plan(path) if discover(path)["image"] else ():
                    remove(shard)
            if stored is None and (foreign := _foreign(path)):
                raise UsageError(f"{path} holds {foreign}, which `cliphouse embed` did not write; use an empty folder")
            finished = discover(path)["image"]
            if finished and stored != encoder.name:
                raise EncoderMismatch(collection=str(path), stored=stored or "", given=encoder.name, kind="folder")
            if stored is not None:
                _tidy(path)
            facts = {"cliphouse": 1, "encoder": encoder.name, "dim": encoder.dim, "source": source}
            with replacing(path / MARK) as file:
                file.write(json.dumps(facts, indent=2).encode() + b"\n")
            with (path / SKIPPED).open("w", encoding="utf-8") as skipped:
                yield cls(path, skipped, max(finished, default=-1) + 1)
        finally:
            os.close(handle)

    def shards(self) -> list[Shard]:
        """The shards that are finished."""
        return plan(self.path) if discover(self.path)["image"] else []

    def skip(self, path: str, reason: str) -> None:
        """List a picture that could not be embedded. The list is that of the last run: each run tries them again."""
        line = json.dumps({"image_path": path, "reason": reason}, ensure_ascii=False)
        self._skipped.write(as_text(line) + "\n")
        self._skipped.flush()

    def write(
        self,
        images: Sequence[NDArray[np.float16]],
        texts: Sequence[NDArray[np.float16]] | None,
        rows: Sequence[Mapping[str, Any]],
    ) -> Shard:
        """Write the next shard; row i of each argument is of one picture.

        The image embeddings come into place last, for by them a shard is found: before that there is none, and its
        number is used again.
        """
        name = str(self.number)
        image = self.path / "img_emb" / f"img_emb_{name}.npy"
        text = self.path / "text_emb" / f"text_emb_{name}.npy"
        metadata = self.path / "metadata" / f"metadata_{name}.parquet"
        if texts is not None:
            with replacing(text) as file:
                np.save(file, np.stack(texts))
        with replacing(metadata) as file:
            pq.write_table(metadata_table(rows), file)
        with replacing(image) as file:
            np.save(file, np.stack(images))
        shard = Shard(
            number=self.number,
            image_embeddings=image,
            text_embeddings=None if texts is None else text,
            metadata=metadata,
        )
        self.number += 1
        return shard


def _foreign(path: Path) -> str:
    """Something in a folder without our mark that is not ours; what is hidden, systems put anywhere."""
    names = (entry.name for entry in os.scandir(path) if not entry.name.startswith("."))
    return min((name for name in names if name != f"{MARK}.part"), default="")


def _tidy(path: Path) -> None:
    """Remove what killed runs left: files half written, and those of shards that have no image embeddings."""
    files = discover(path)
    for folder in ("img_emb", "text_emb", "metadata"):
        for part in path.glob(f"{folder}/*.part"):
            part.unlink(missing_ok=True)
    for kind in ("text", "metadata"):
        for number in files[kind].keys() - files["image"].keys():
            files[kind][number].unlink(missing_ok=True)


def paths_in(shard: Shard) -> list[str]:
    """The paths of a shard's pictures.

    Raises:
        ShardError: its metadata cannot be read.
    """
    try:
        table = pq.read_table(shard.metadata, columns=["image_path"])
        return [str(path) for path in table.column("image_path").to_pylist()]
    except (OSError, KeyError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise ShardError(
            f"cannot read {shard.metadata}: {reason}; remove this shard's files, and embed again", shard=shard.number
        ) from error


def remove(shard: Shard) -> None:
    """Delete a shard's files, so that at no moment a part of it looks like a shard."""
    for path in (shard.image_embeddings, shard.text_embeddings, shard.metadata):
        if path is not None:
            path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that comes into place as `path` when the block succeeds, and is on disk then.

    Raises:
        StorageError: it cannot be written; `StorageFull` if there is no room.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFull(str(path.parent)) from error
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def metadata_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The rows as columns: those of SCHEMA, and what else any row has."""
    known = {name.lower() for name in SCHEMA.names}
    columns = {each.name: pa.array([row.get(each.name) for row in rows], each.type) for each in SCHEMA}
    for name in dict.fromkeys(name for row in rows for name in row if name.lower() not in known):
        columns[as_text(name)] = _column([row.get(name) for row in rows])
    return pa.table(columns)


def plain(value: Any) -> Any:
    """`value` as a column holds it: numbers, truth and text as they are, other things as JSON."""
    return value if value is None or isinstance(value, (bool, int, float)) else _text(value)


def _column(values: Sequence[Any]) -> pa.Array:
    """The values in their own type if they share one of the simple ones, else as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds in ({bool}, {float}) or (kinds == {int} and all(abs(each or 0) < 2**63 for each in values)):
        return pa.array(values)
    return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _text(value: Any) -> str:
    return as_text(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False))
