"""Pictures from strangers: limits before work."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import pytest
from PIL import Image

from cliphouse.errors import InvalidImage
from cliphouse.service.settings import Settings
from cliphouse.service.uploads import from_base64, picture

SMALL = Settings(max_upload=100_000, max_pixels=1_000_000)


def encoded(kind: str, size: tuple[int, int] = (8, 4), **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, kind, **options)
    return out.getvalue()


def png_that_says(width: int, height: int) -> bytes:
    """A header of any size, and few pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP"])
def test_what_browsers_make_is_taken(kind: str) -> None:
    assert picture(encoded(kind), SMALL).size == (8, 4)


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "JPEG2000", "EPS", "PDF"])
def test_rarer_kinds_are_not(kind: str) -> None:
    with pytest.raises(InvalidImage, match="that was sent"):
        picture(encoded(kind, (32, 32)), SMALL)


def test_exif_turns_it_and_the_first_frame_counts() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert picture(encoded("JPEG", exif=exif), SMALL).size == (4, 8)
    out = io.BytesIO()
    frames = [Image.new("RGB", (8, 4), colour) for colour in ("blue", "red", "green")]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    assert picture(out.getvalue(), SMALL).convert("RGB").getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run\n",
        encoded("PNG")[:-30],
        encoded("JPEG", (64, 64))[:200],
        png_that_says(1, 2**31 - 1),
        b"GIF89a" + b"\xff" * 40,
        b"RIFF\xff\xff\xff\xffWEBPVP8X" + b"\xff" * 40,
    ],
)
def test_what_is_broken_or_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage, match="that was sent"):
        picture(data, SMALL)


def test_sizes_are_known_before_anything_is_decoded() -> None:
    with pytest.raises(InvalidImage, match="50,000 x 50,000 pixels, the limit is 1,000,000"):
        picture(png_that_says(50_000, 50_000), SMALL)
    with pytest.raises(InvalidImage, match=r"larger than 97\.7 KiB"):
        picture(b"\0" * 100_001, SMALL)
    with pytest.raises(InvalidImage, match="larger than"):
        from_base64("A" * 140_000, SMALL)


def test_base64_comes_as_browsers_and_people_write_it() -> None:
    data = encoded("PNG")
    text = base64.b64encode(data).decode()
    assert from_base64(text, SMALL) == data
    assert from_base64(f"data:image/png;base64,{text}", SMALL) == data
    assert from_base64(base64.encodebytes(data).decode(), SMALL) == data
    whole = b"\1" * 100_000
    assert from_base64(base64.b64encode(whole).decode(), SMALL) == whole


@pytest.mark.parametrize("text", ["A", "????", "data:text/html,x", "é", "AA=A", "\0\0\0\0", "A" * 5])
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidImage, match="not base64"):
        from_base64(text, SMALL)
