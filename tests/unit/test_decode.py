"""What a picture's header costs: it is measured before Pillow takes memory for its pixels."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cliphouse.encoders import open_image
from cliphouse.encoders.decode import suffixes
from cliphouse.errors import InvalidImage

#: Opens the file; says how many MiB that took, and why it cannot. `getrusage` would count the parent's memory.
_PEAK = """
import re, sys
from pathlib import Path
from PIL import Image
from cliphouse.encoders.decode import open_header
from cliphouse.errors import InvalidImage
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
Image.init()
before = peak()
try:
    open_header(Path(sys.argv[1]), max_pixels=1_000_000)
except InvalidImage as error:
    print((peak() - before) // 1024, error.reason)
"""


def _icon() -> bytes:
    """An icon that says 16 by 16, around a PNG of 8000 by 8000."""
    out = io.BytesIO()
    Image.new("L", (8000, 8000)).save(out, "PNG")
    picture = out.getvalue()
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(picture), 22) + picture


def _gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    """A frame that is to be cleared when its time is over: Pillow prepares that when it opens the file."""
    control = b"!\xf9\x04\x08\0\0\0\0" + b"!\xfe\x02hi\0"
    head = struct.pack("<HHBBB", *screen, 0x80, 1, 0) + bytes(6)
    return b"GIF89a" + head + control + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x08\x01\0\0;"


@pytest.mark.parametrize("name", ["x.ico", "x.png", "x.tga"])
def test_an_icon_is_no_picture_and_costs_no_memory(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(_icon())
    said = subprocess.run([sys.executable, "-c", _PEAK, tmp_path / name], capture_output=True, text=True, check=True)
    taken, reason = said.stdout.strip().split(" ", 1)
    assert reason == "not a picture: an icon"
    assert int(taken) < 40
    assert not {".ico", ".icns"} & suffixes()


@pytest.mark.parametrize(("screen", "frame"), [((12_000, 12_000), (12_000, 12_000)), ((9, 9), (12_000, 12_000))])
def test_a_gif_is_measured_before_its_background_is_filled(
    tmp_path: Path, screen: tuple[int, int], frame: tuple[int, int]
) -> None:
    (tmp_path / "x.gif").write_bytes(_gif(screen, frame))
    said = subprocess.run([sys.executable, "-c", _PEAK, tmp_path / "x.gif"], capture_output=True, text=True, check=True)
    taken, reason = said.stdout.strip().split(" ", 1)
    assert reason.startswith("too large: 12,000 x 12,000 pixels")
    assert int(taken) < 40


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"save_all": True, "append_images": 1}])
def test_a_webp_is_measured_before_its_canvas_is_made(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = Image.new("RGB", (70, 50), "red")
    if "append_images" in options:
        options = options | {"append_images": [Image.new("RGB", (70, 50), "blue")]}
    picture.save(tmp_path / "x.webp", **options)
    assert open_image(tmp_path / "x.webp", max_pixels=3500).size == (70, 50)

    def never(*_: Any) -> Any:
        raise AssertionError("opened")

    monkeypatch.setitem(Image.OPEN, "WEBP", (never, Image.OPEN["WEBP"][1]))
    with pytest.raises(InvalidImage, match="too large: 70 x 50 pixels"):
        open_image(tmp_path / "x.webp", max_pixels=3499)
