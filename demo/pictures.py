"""The demo's pictures, out of their package and into a folder as people keep them: files, and captions in a table."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

PACKAGE = Path(__file__).parent / "pictures.parquet"


def unpack(folder: Path) -> int:
    """Write each picture to `folder` under its key, and `captions.parquet` beside them; return how many there are."""
    package = pq.read_table(PACKAGE)
    files = [f"{key}.webp" for key in package["key"].to_pylist()]
    for parent in {(folder / file).parent for file in files}:
        parent.mkdir(parents=True, exist_ok=True)
    for file, picture in zip(files, package["webp"].to_pylist(), strict=True):
        (folder / file).write_bytes(picture)
    captions = package.drop_columns(["webp", "key"]).append_column("file", [files])
    pq.write_table(captions, folder / "captions.parquet")
    return len(files)
