"""SVG to pixels: 128 pixels square with alpha, plain or re-inked in black like a line drawing."""

from __future__ import annotations

import argparse
import io
import multiprocessing
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image

from training import clipart, emoji
from training.emoji import Drawing
from training.fetch import WORK

SIZE = 128
Style = Literal["plain", "inked", "outline"]
#: Vendors drawn flat enough for black contours to look drawn; unseen OpenMoji is drawn so.
INKED = ("twemoji", "fluent-emoji-flat", "emojione", "noto", "noto-v1", "fxemoji")
OUTLINED = ("twemoji", "fluent-emoji-flat", "emojione")
_SHAPES = "path,circle,rect,ellipse,polygon,polyline,line"
_INK_WIDTHS = (0.018, 0.026, 0.034)
_NUMBER = re.compile(r"\s*([\d.]+)")
_TRIMMED_TO = 0.96


def render(drawing: Drawing, style: Style = "plain") -> NDArray[np.uint8] | None:
    """The picture as RGBA, centred on a transparent square; None if it cannot be drawn or shows nothing."""
    svg = drawing.svg if style == "plain" else _inked(drawing, style)
    trim = drawing.source == clipart.SOURCE
    try:
        image = _rasterise(svg, SIZE * 2 if trim else SIZE)
    except (ValueError, OSError):
        return None
    if trim:
        bounds = image.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
        if bounds is None:
            return None
        image = image.crop(bounds)
        room = SIZE * _TRIMMED_TO / max(image.size)
        image = image.resize([max(1, round(side * room)) for side in image.size], Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (SIZE, SIZE), (255, 255, 255, 0))
    canvas.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
    pixels = np.asarray(canvas)
    return pixels if pixels[..., 3].max() > 0 else None


def render_all(drawings: Sequence[Drawing], style: Style = "plain") -> tuple[list[str], NDArray[np.uint8]]:
    """Keys and pixels of all that can be drawn, on two processes."""
    with multiprocessing.Pool(2) as pool:
        pixels = pool.starmap(render, ((drawing, style) for drawing in drawings), chunksize=32)
    drawn = [(drawing.key, image) for drawing, image in zip(drawings, pixels, strict=True) if image is not None]
    return [key for key, _ in drawn], np.stack([image for _, image in drawn])


def on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGBA pictures composed onto white, as RGB."""
    alpha = pixels[..., 3:].astype(np.uint16)
    return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def rendered(name: str, work: Path) -> tuple[list[str], NDArray[np.uint8]]:
    """A rendering made by this module's command: keys and RGBA pixels, memory-mapped."""
    keys = (work / "rendered" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return keys, np.load(work / "rendered" / f"{name}.npy", mmap_mode="r")


def _rasterise(svg: str, size: int) -> Image.Image:
    width, height = _frame(svg)
    framed = _with_view_box(svg, width, height)
    wide = width >= height
    png = resvg_py.svg_to_bytes(svg_string=framed, width=size if wide else None, height=None if wide else size)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    if max(image.size) > size:
        image.thumbnail((size, size), Image.Resampling.LANCZOS)
    return image


def _frame(svg: str) -> tuple[float, float]:
    """The width and height that the root element states, or those of its view box."""
    root = _root(svg)
    box = re.search(r'viewBox\s*=\s*["\']\s*[-\d.e]+[\s,]+[-\d.e]+[\s,]+([\d.e]+)[\s,]+([\d.e]+)', root)
    if box:
        return float(box.group(1)), float(box.group(2))
    sides = []
    for side in ("width", "height"):
        stated = re.search(rf'\s{side}\s*=\s*["\']([^"\']*)', root)
        number = _NUMBER.match(stated.group(1)) if stated else None
        sides.append(_pixels(float(number.group(1)), stated.group(1)) if stated and number else 0.0)
    return sides[0] or 1.0, sides[1] or 1.0


def _pixels(length: float, stated: str) -> float:
    """A length in user units, at the 90 dots an inch of the programs that drew the clip arts."""
    units = {"mm": 90 / 25.4, "cm": 90 / 2.54, "in": 90.0, "pt": 1.25, "pc": 15.0}
    return length * next((factor for unit, factor in units.items() if stated.strip().endswith(unit)), 1.0)


def _with_view_box(svg: str, width: float, height: float) -> str:
    """The document with a view box and no physical size: resvg refuses sizes in units without one."""
    root = _root(svg)
    fixed = re.sub(r'\s(width|height)\s*=\s*("[^"]*"|\'[^\']*\')', "", root)
    if "viewBox" not in fixed:
        fixed = fixed.replace("<svg", f'<svg viewBox="0 0 {width} {height}"', 1)
    fixed = fixed.replace("<svg", f'<svg width="{width}" height="{height}"', 1)
    return svg.replace(root, fixed, 1)


def _root(svg: str) -> str:
    found = re.search(r"<svg\b[^>]*>", svg)
    if found is None:
        raise ValueError("no svg element")
    return found.group(0)


def _inked(drawing: Drawing, style: Style) -> str:
    """The document with a black contour round every shape; "outline" also paints the shapes white."""
    width = max(_frame(drawing.svg)) * _INK_WIDTHS[zlib.crc32(drawing.key.encode()) % len(_INK_WIDTHS)]
    fill = "fill:#fff;fill-opacity:1;" if style == "outline" else ""
    css = f"{_SHAPES}{{{fill}stroke:#111;stroke-width:{width:.3f};stroke-linejoin:round;stroke-linecap:round}}"
    root = _root(drawing.svg)
    return drawing.svg.replace(root, f"{root}<style>{css}</style>", 1)


def _save(name: str, drawings: Iterable[Drawing], style: Style, work: Path) -> None:
    target = work / "rendered" / f"{name}.npy"
    if target.exists():
        return
    wanted = list(drawings)
    keys, pixels = render_all(wanted, style)
    target.parent.mkdir(exist_ok=True)
    target.with_suffix(".txt").write_text("\n".join(keys) + "\n", encoding="utf-8")
    np.save(target, pixels)
    print(f"{name}: {len(keys)} of {len(wanted)} drawn", flush=True)


def main() -> None:
    """Render every vendor and the clip arts into the work folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=WORK)
    work: Path = parser.parse_args().work
    known = emoji.concepts(work)
    for source in (*emoji.TRAINED, *emoji.UNSEEN):
        _save(source, emoji.drawings(source, known, work), "plain", work)
    for source in INKED:
        _save(f"{source}-inked", emoji.drawings(source, known, work), "inked", work)
    for source in OUTLINED:
        _save(f"{source}-outline", emoji.drawings(source, known, work), "outline", work)
    _save(clipart.SOURCE, (art.drawing for art in clipart.clip_arts(work)), "plain", work)


if __name__ == "__main__":
    main()
