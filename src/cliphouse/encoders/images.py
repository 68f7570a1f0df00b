"""Pictures to pixels, exactly as open_clip prepares them: other pixels would be other vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cliphouse.encoders.decode import MAX_PIXELS
from cliphouse.encoders.specs import ModelSpec
from cliphouse.errors import InvalidImage

if TYPE_CHECKING:
    from PIL.Image import Image


def pixels(image: Image, spec: ModelSpec) -> NDArray[np.float32]:
    """`image` as the model wants it: float32 (3, size, size), normalised.

    Resized and cut in its own mode and made RGB last, as open_clip's transform does; the other order gives other
    pixels for palettes and transparency.

    Raises:
        InvalidImage: the picture is so narrow that resizing it would take more than MAX_PIXELS.
    """
    from PIL.Image import Resampling

    side, (width, height) = spec.image_size, image.size
    if spec.resize == "squash":
        wanted = (side, side)
    elif width <= height:
        wanted = (side, int(side * height / width))
    else:
        wanted = (int(side * width / height), side)
    if wanted[0] * wanted[1] > MAX_PIXELS:
        raise InvalidImage(f"{width} x {height}", "the picture is too narrow to be resized")
    if image.size != wanted:
        image = image.resize(wanted, Resampling.BICUBIC)
    left, top = round((wanted[0] - side) / 2), round((wanted[1] - side) / 2)
    square = image.crop((left, top, left + side, top + side)).convert("RGB")
    values: NDArray[np.float32] = np.asarray(square, dtype=np.uint8).astype(np.float32)
    values /= np.float32(255)
    values -= np.array(spec.mean, np.float32)
    values /= np.array(spec.std, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))
