"""Pictures in the colours that the test encoder knows, and broken ones, as files of any kind."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cliphouse import embed
from cliphouse.encoders.words import COLOURS
from cliphouse.pipeline.plan import plan
from cliphouse.types import Shard


def draw(path: Path, colour: str = "red", size: tuple[int, int] = (24, 16), **options: Any) -> Path:
    """A picture of one colour; the ending of `path` says of which kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOURS[colour]).save(path, **options)
    return path


def draw_folder(folder: Path, count: int, *, captions: bool = True) -> Path:
    """Pictures of all colours in turn, each with its caption: 00.png with 00.txt, and so on."""
    names = list(COLOURS)
    for number in range(count):
        colour = names[number % len(names)]
        draw(folder / f"{number:02d}.png", colour)
        if captions:
            (folder / f"{number:02d}.txt").write_text(f"number{number} {colour}")
    return folder


def data(colour: str = "red", kind: str = "JPEG", size: tuple[int, int] = (24, 16)) -> bytes:
    """A picture of one colour as bytes."""
    out = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour]).save(out, kind)
    return out.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG file that says it is `width` by `height`, in a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """A tar with these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def img2dataset(place: Path, layout: str, colours: Mapping[str, str]) -> Path:
    """What img2dataset writes for these keys and colours, one more that it could not download, the table reversed."""
    place.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "url": f"https://example.com/{key}.jpg",
            "caption": f"something {colour}",
            "key": key,
            "status": "success",
            "error_message": None,
            "width": 24,
            "height": 16,
            "original_width": 240,
            "original_height": 160,
            "exif": "{}",
            "NSFW": "UNLIKELY",
            "LICENSE": "?",
            "similarity": 0.3,
        }
        for key, colour in reversed(colours.items())
    ]
    lost = rows[0] | {"key": "000009999", "status": "failed_to_download", "error_message": "HTTP Error 404: Not Found"}
    columns = pa.Table.from_pylist([lost, *rows])
    if layout == "parquet":
        pictures = [None, *(data(colours[str(row["key"])]) for row in rows)]
        columns = columns.append_column("jpg", pa.array(pictures, pa.binary()))
    pq.write_table(columns, place / "00000.parquet")
    (place / "00000_stats.json").write_text('{"count": 3}')
    files = {}
    for row in rows:
        files |= {
            f"{row['key']}.jpg": data(colours[str(row["key"])]),
            f"{row['key']}.json": json.dumps(row).encode(),
            f"{row['key']}.txt": str(row["caption"]).encode(),
        }
    if layout == "webdataset":
        write_tar(place / "00000.tar", files)
    elif layout == "files":
        (place / "00000").mkdir()
        for name, content in files.items():
            (place / "00000" / name).write_bytes(content)
    return place


def rows_of(shards: list[Shard]) -> list[dict[str, Any]]:
    """The metadata of all shards, row by row."""
    return [row for shard in shards for row in pq.read_table(shard.metadata).to_pylist()]


def embed_words(src: Any, out: Path, **options: Any) -> tuple[Any, dict[str, dict[str, Any]]]:
    """The report, and the metadata by key."""
    report = embed(src, out, encoder="test-words", **options)
    return report, {row["key"]: row for row in rows_of(plan(out))}


def skipped(out: Path) -> dict[str, str]:
    """Why pictures were skipped, by file name."""
    lines = map(json.loads, (out / "skipped.jsonl").read_text().splitlines())
    return {Path(line["image_path"]).name: line["reason"] for line in lines}
