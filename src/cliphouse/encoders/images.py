"""Pictures from files to pixels, exactly as open_clip prepares them: other pixels would be other vectors."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cliphouse.encoders.specs import ModelSpec
from cliphouse.errors import InvalidImage

if TYPE_CHECKING:
    from PIL.Image import Image

#: A picture with more pixels is refused before it is decoded: Pillow's own limit for what may be a decompression bomb.
MAX_PIXELS = 89_478_485


def open_image(source: str | Path | bytes, name: str = "", *, max_pixels: int = MAX_PIXELS) -> Image:
    """The picture in a local file or in bytes: decoded, first frame, turned as its EXIF orientation says, in its mode.

    `name` is what an error calls it; by default its path.

    Raises:
        InvalidImage: it is missing, empty, no picture, cut off, or has more than `max_pixels`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = name or (f"{len(source)} bytes" if isinstance(source, bytes) else str(source))
    try:
        if not (len(source) if isinstance(source, bytes) else os.stat(source).st_size):  # noqa: PTH116  # str or Path
            raise InvalidImage(name, "the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd EXIF or a large size: we decide about both
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise InvalidImage(
                        name, f"{width} x {height} pixels are too many to decode safely ({max_pixels:,})"
                    )
                image.load()
                turned = ImageOps.exif_transpose(image)
                return turned.copy() if turned is image else turned
    except UnidentifiedImageError:
        raise InvalidImage(name, "it is not a picture that Pillow knows") from None
    except Image.DecompressionBombError:
        raise InvalidImage(name, f"it has too many pixels to decode safely (over {2 * MAX_PIXELS:,})") from None
    except MemoryError:
        raise InvalidImage(name, "there is not enough memory to decode it") from None
    # Decoders raise what they like on broken files: SyntaxError, struct.error and IndexError among them.
    except (OSError, ValueError, SyntaxError, ArithmeticError, LookupError, TypeError, EOFError) as error:
        raise InvalidImage(name, getattr(error, "strerror", None) or str(error) or type(error).__name__) from error


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
