"""One picture from a file or from bytes: safely, upright, its first frame, in its own mode."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cliphouse.errors import InvalidImage

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

#: A picture with more is refused before it is decoded. Pillow's own warning limit: a quarter of a gigabyte in colour.
MAX_PIXELS = 89_478_485
#: Formats that Pillow decodes by itself and knows by their first bytes (TGA has none and is tried last). The others it
#: only recognises, or hands to programs that strangers' files should not reach (EPS to Ghostscript, WMF to Windows).
#: Icons (ICO, ICNS) are left out: they hold pictures of any size, which Pillow decodes before it tells that size.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "JPEG2000"),
    *("PPM", "PSD", "QOI", "DDS", "SGI", "SUN", "PCX", "TGA"),
)
#: What icons begin with; TGA, which has no first bytes of its own, might take them for its own.
_ICONS = (b"\0\0\1\0", b"icns")
#: A picture of `w` by `h` takes this many bytes a pixel while it waits: Pillow keeps colour in four.
_BYTES_PER_PIXEL = 4


@cache
def suffixes() -> frozenset[str]:
    """The file name endings of pictures, in lower case, with their dot."""
    from PIL import Image

    registered = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in registered.items() if kind in (*_FORMATS, "MPO"))


@dataclass(slots=True)
class OpenImage:
    """A picture whose header is read and whose pixels are not."""

    name: str
    image: ImageFile
    file: IO[bytes]

    @property
    def decoded_bytes(self) -> int:
        """Memory that its pixels will take."""
        return self.image.width * self.image.height * _BYTES_PER_PIXEL

    def decode(self) -> Image:
        """The pixels, turned as EXIF asks, in the picture's own mode; closes the file.

        Raises:
            InvalidImage: the file is broken.
        """
        from PIL import ImageOps

        try:
            self.image.load()
        except Exception as error:  # a decoder fed with anything fails with anything
            raise InvalidImage(self.name, f"broken: {_line(error)}") from error
        finally:
            self.file.close()
        try:
            upright: Image = ImageOps.exif_transpose(self.image)
        except Exception:  # noqa: BLE001  # a broken tag leaves a good picture, as viewers show it
            return self.image.copy()
        return upright

    def close(self) -> None:
        """Let the file go without decoding it."""
        self.file.close()


def open_header(
    data: bytes | Path, *, max_pixels: int = MAX_PIXELS, name: str = "", formats: Sequence[str] = _FORMATS
) -> OpenImage:
    """Read the header of the picture in `data`, whatever its name says it is, if it is of one of the formats.

    This looks formats up as `Image.open` does, but measures before Pillow's process-wide limit can warn or refuse, so
    that each job has its own limit, in any number of threads.

    Raises:
        InvalidImage: it is missing, empty, no picture, broken, or has more than `max_pixels`.
    """
    name = name or (str(data) if isinstance(data, Path) else "picture")
    try:
        if isinstance(data, Path):
            file: IO[bytes] = io.BytesIO() if data.is_fifo() else data.open("rb")  # a pipe would keep us waiting
        else:
            file = io.BytesIO(data)
    except (OSError, ValueError) as error:
        raise InvalidImage(name, f"cannot be opened: {_line(error)}") from error
    try:
        image = _identify(file, max_pixels, name, formats)
        _measure(image.size, max_pixels, name)
    except InvalidImage:
        file.close()
        raise
    except Exception as error:  # a decoder fed with anything fails with anything
        file.close()
        raise InvalidImage(name, f"broken: {_line(error)}") from error
    return OpenImage(name, image, file)


def open_image(
    data: bytes | str | Path, *, max_pixels: int = MAX_PIXELS, name: str = "", formats: Sequence[str] = _FORMATS
) -> Image:
    """The picture in bytes or in a local file: its first frame, upright, in its own mode.

    Raises:
        InvalidImage: it is missing, empty, no picture, broken, or has more than `max_pixels`.
    """
    source = Path(data) if isinstance(data, str) else data
    with quiet():
        return open_header(source, max_pixels=max_pixels, name=name, formats=formats).decode()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Pillow from warning about each odd tag: a picture counts, or is refused with a reason."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _measure(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if width * height > max_pixels:
        raise InvalidImage(name, f"too large: {width:,} x {height:,} pixels, the limit is {max_pixels:,} in all")


def _identify(file: IO[bytes], max_pixels: int, name: str, formats: Sequence[str]) -> ImageFile:
    from PIL import Image

    prefix = file.read(16)
    if not prefix:
        raise InvalidImage(name, "empty file")
    if prefix.startswith(_ICONS):
        raise InvalidImage(name, "not a picture: an icon")
    Image.init()
    looked_like = ""
    for kind in formats:
        if kind not in Image.OPEN:  # a Pillow built without it
            continue
        factory, accept = Image.OPEN[kind]
        try:
            accepted = not accept or accept(prefix)
            if not accepted or isinstance(accepted, str):
                continue
            for size in _sizes(kind, file):
                _measure(size, max_pixels, name)
            file.seek(0)
            return factory(file, Path(name).name)
        except (SyntaxError, IndexError, TypeError, KeyError, struct.error):  # as Image.open: not one of its own
            looked_like = looked_like or (kind if accept else "")
    raise InvalidImage(name, f"broken: not a whole {looked_like}" if looked_like else "not a picture that Pillow knows")


def _sizes(kind: str, file: IO[bytes]) -> Iterator[tuple[int, int]]:
    """The sizes that the header tells, where Pillow takes memory for the pixels before it lets us ask."""
    file.seek(0)
    if kind == "WEBP":
        yield from _webp_sizes(file.read(30))
    elif kind == "GIF":
        yield from _gif_sizes(file)


def _webp_sizes(head: bytes) -> Iterator[tuple[int, int]]:
    """The canvas, as any of the three kinds of first chunk gives it."""
    bits = int.from_bytes(head[21:25], "little")
    if head[12:16] == b"VP8X":
        yield int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    elif head[12:16] == b"VP8L":
        yield (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        yield int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def _gif_sizes(file: IO[bytes]) -> Iterator[tuple[int, int]]:
    """The screen, and the first frame, which may be larger."""
    head = file.read(13)
    yield struct.unpack_from("<HH", head, 6)
    if head[10] & 0x80:
        file.read(6 << (head[10] & 7))
    while (block := file.read(1)) and block != b";":
        if block == b",":
            left, top, width, height = struct.unpack("<HHHH", file.read(8))
            yield left + width, top + height
            return
        if block == b"!":
            file.read(1)
            while (length := file.read(1)) and file.read(length[0]):
                pass


def _line(error: BaseException) -> str:
    lines = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()
    return lines[0]
