"""Seeded pictures in every mode that a file can bring, for comparing preparations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I", "I;16", "F")
SIZES = (
    (1, 1), (2, 3), (1, 224), (224, 1), (17, 400), (400, 17), (223, 224), (224, 224), (225, 224), (224, 300),
    (300, 224), (100, 100), (449, 451), (640, 480), (480, 641), (1000, 333),
)  # fmt: skip


def pictures() -> Iterator[tuple[str, Image.Image]]:
    """A name and a picture for each mode and size, the same everywhere."""
    for mode in MODES:
        for width, height in SIZES:
            yield f"{mode} {width}x{height}", picture(mode, width, height)


def picture(mode: str, width: int, height: int) -> Image.Image:
    """Coarse noise over a gradient, with transparency and a palette where the mode has them."""
    random = np.random.default_rng([width, height])
    coarse = random.integers(0, 256, (-(-height // 9), -(-width // 9), 4)).repeat(9, 0).repeat(9, 1)[:height, :width]
    slope = np.linspace(0, 255, height * width).reshape(height, width, 1)
    values = ((coarse + slope) / 2).astype(np.uint8)
    if mode in ("I", "I;16", "F"):
        deep = values[:, :, 0].astype(np.int32) * 257
        kinds = {"I": np.int32, "I;16": np.uint16, "F": np.float32}
        return Image.fromarray(deep.astype(kinds[mode]))
    colour = Image.fromarray(values, "RGBA") if mode not in ("P", "1") else Image.fromarray(values[:, :, :3], "RGB")
    if mode == "P":
        indexed = colour.quantize(64)
        indexed.info["transparency"] = 3
        return indexed
    if mode == "PA":
        return colour.convert("RGB").quantize(64).convert("PA")
    if mode == "La":
        return colour.convert("LA").convert("La")
    if mode in ("RGBA", "RGBa", "LA"):
        return colour if mode == "RGBA" else colour.convert(mode)
    return colour.convert("RGB").convert(mode)
