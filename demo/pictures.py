"""The demo's pictures: shapes in one or two colours, with captions, and their embeddings as LAION-layout shards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from cliphouse.encoders.words import COLOURS, WordEncoder

SIZE = 128
SIZES = {"small": 0.22, "large": 0.42}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
ROWS_PER_SHARD = 100


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn picture and what it shows."""

    path: Path
    caption: str


def draw_all(directory: Path) -> list[Picture]:
    """Every shape in every colour and size on white, and each colour's square on every other colour."""
    directory.mkdir(parents=True)
    colours = [name for name in COLOURS if name != "white"]
    pictures = []
    for size, colour, shape in product(SIZES, colours, SHAPES):
        pictures.append(_draw(directory, f"a {size} {colour} {shape}", shape, SIZES[size], colour, "white"))
    for front, back in product(colours, colours):
        if front != back:
            pictures.append(_draw(directory, f"a {front} square on {back}", "square", 0.3, front, back))
    return pictures


def write_shards(directory: Path, pictures: Sequence[Picture]) -> int:
    """Embed the pictures by their pixels and the captions by their words, into numbered shards; return how many."""
    directory.mkdir(parents=True)
    encoder = WordEncoder()
    starts = range(0, len(pictures), ROWS_PER_SHARD)
    for number, start in enumerate(starts):
        rows = pictures[start : start + ROWS_PER_SHARD]
        images = encoder.encode_images([Image.open(picture.path) for picture in rows])
        texts = encoder.encode_texts([picture.caption for picture in rows])
        np.save(directory / f"img_emb_{number}.npy", images.astype(np.float16))
        np.save(directory / f"text_emb_{number}.npy", texts.astype(np.float16))
        metadata = {
            "image_path": [str(picture.path) for picture in rows],
            "caption": [picture.caption for picture in rows],
            "url": [picture.path.resolve().as_uri() for picture in rows],
            "NSFW": ["UNLIKELY"] * len(rows),
            "similarity": (images * texts).sum(axis=1).tolist(),
            "width": [SIZE] * len(rows),
            "height": [SIZE] * len(rows),
        }
        pq.write_table(pa.table(metadata), directory / f"metadata_{number}.parquet")
    return len(starts)


def _draw(directory: Path, caption: str, shape: str, radius: float, colour: str, background: str) -> Picture:
    image = Image.new("RGB", (SIZE, SIZE), COLOURS[background])
    draw, middle, reach = ImageDraw.Draw(image), SIZE / 2, SIZE * radius
    box = (middle - reach, middle - reach, middle + reach, middle + reach)
    fill = COLOURS[colour]
    if shape == "circle":
        draw.ellipse(box, fill=fill)
    elif shape == "square":
        draw.rectangle(box, fill=fill)
    elif shape == "ring":
        draw.ellipse(box, outline=fill, width=int(reach / 3))
    elif shape == "cross":
        draw.rectangle((middle - reach / 4, box[1], middle + reach / 4, box[3]), fill=fill)
        draw.rectangle((box[0], middle - reach / 4, box[2], middle + reach / 4), fill=fill)
    else:
        corners = 3 if shape == "triangle" else 10
        points = [
            (
                middle
                + reach * (0.45 if corner % 2 and shape == "star" else 1) * math.sin(2 * math.pi * corner / corners),
                middle
                - reach * (0.45 if corner % 2 and shape == "star" else 1) * math.cos(2 * math.pi * corner / corners),
            )
            for corner in range(corners)
        ]
        draw.polygon(points, fill=fill)
    path = directory / f"{caption.replace(' ', '-')}.png"
    image.save(path)
    return Picture(path, caption)
