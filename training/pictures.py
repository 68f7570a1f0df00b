"""Make the demo's picture pack, its query pictures and their attributions: `python -m training.pictures`."""

from __future__ import annotations

import argparse
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from training import clipart, emoji, render
from training.fetch import WORK, package

DEMO = Path(__file__).resolve().parent.parent / "demo"
#: Drawn in full; Twemoji draws what one of these lacks.
WHOLE = ("noto", "fluent-emoji")
FILLING = "twemoji"
#: Queries by picture: the vendor's own drawing is not in the pack, other vendors' are.
QUERIES = {"bicycle": "1f6b2", "sunflower": "1f33b"}
_QUALITY = 82
_SAME_CAPTION = 4
#: Mean difference of two 16 x 16 miniatures below which the later picture repeats the earlier one.
_REPEATS_BELOW = 9.0
_MINIATURE = 16
_INK_SHARES = (0.03, 0.995)
_LONGEST_SIDE_RATIO = 4.0
#: What titles say of the series that a clip art belongs to, and clip arts that are schemes or parts of a series.
_SERIES = re.compile(r"\b(aiga|rpg map elements?|md|aj|openc|etiquette|sibmission|illustration|stylized)\b")
_LEFT_OUT = ("blueman", "stick", "connector", "pinout", "knot illustration", "led ", "flowchart", "iconset", "scheme")


@dataclass(frozen=True, slots=True)
class Picture:
    """One row of the pack."""

    key: str
    webp: bytes
    caption: str
    keywords: str
    source: str
    license: str
    attribution: str


def pack(work: Path) -> list[Picture]:
    """Every picture of the pack, emoji first."""
    return [*_emoji(work), *_clip_arts(work)]


def webp(pixels: NDArray[np.uint8]) -> bytes:
    """An RGBA picture on white, as WebP."""
    buffer = io.BytesIO()
    Image.fromarray(render.on_white(pixels[None])[0]).save(buffer, "WEBP", quality=_QUALITY, method=6)
    return buffer.getvalue()


def _emoji(work: Path) -> Iterator[Picture]:
    known = emoji.concepts(work)
    drawn: Counter[str] = Counter()
    for source in (*WHOLE, FILLING):
        keys, pixels = render.rendered(source, work)
        for key, image in zip(keys, pixels, strict=True):
            concept = known[key.rpartition("/")[2]]
            if source == FILLING and (drawn[concept.code] == len(WHOLE) or concept.code in QUERIES.values()):
                continue
            drawn[concept.code] += 1
            origin = package(source)
            words = ", ".join(concept.keywords)
            yield Picture(key, webp(image), concept.label, words, source, origin.license, origin.attribution)


def _clip_arts(work: Path) -> Iterator[Picture]:
    arts = {art.drawing.key: art for art in clipart.clip_arts(work)}
    keys, pixels = render.rendered(clipart.SOURCE, work)
    captions: Counter[str] = Counter()
    seen: list[NDArray[np.float32]] = []
    for key, image in zip(keys, pixels, strict=True):
        art = arts[key]
        small = _miniature(image)
        caption = " ".join(_SERIES.sub("", art.caption).split())
        if not caption or any(word in caption for word in _LEFT_OUT) or captions[caption] == _SAME_CAPTION:
            continue
        if not _is_presentable(image) or (seen and np.abs(np.stack(seen) - small).mean(axis=1).min() < _REPEATS_BELOW):
            continue
        captions[caption] += 1
        seen.append(small)
        origin = package("openclipart-svg")
        author = f"{art.author}, {origin.attribution}" if art.author else origin.attribution
        words = ", ".join(art.keywords)
        yield Picture(key, webp(image), caption, words, art.drawing.source, origin.license, author)


def _miniature(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    image = Image.fromarray(render.on_white(pixels[None])[0]).resize((_MINIATURE, _MINIATURE), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32).ravel()


def _is_presentable(pixels: NDArray[np.uint8]) -> bool:
    """Whether something is drawn that is neither a sliver nor one flat colour."""
    rgb = render.on_white(pixels[None])[0].astype(np.int16)
    ink = (rgb < 245).any(axis=2)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if len(rows) == 0:
        return False
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    if not _INK_SHARES[0] < ink.mean() or max(height, width) > _LONGEST_SIDE_RATIO * min(height, width):
        return False
    return bool(rgb[ink].std(axis=0).max() > 12 or ink.mean() < _INK_SHARES[1] / 2)


def write(pictures: Sequence[Picture], demo: Path, work: Path) -> None:
    """Write the pack, the query pictures and the page of attributions."""
    table = pa.Table.from_pylist([asdict(picture) for picture in pictures])
    pq.write_table(table, demo / "pictures.parquet", compression="zstd", row_group_size=2000)
    (demo / "queries").mkdir(exist_ok=True)
    known = emoji.concepts(work)
    drawings = {drawing.group: drawing for drawing in emoji.drawings(FILLING, known, work)}
    for name, code in QUERIES.items():
        pixels = render.render(drawings[code])
        assert pixels is not None
        Image.fromarray(pixels).save(demo / "queries" / f"{name}.png", optimize=True)
    (demo / "PICTURES.md").write_text(attributions(pictures), encoding="utf-8")


def attributions(pictures: Sequence[Picture]) -> str:
    """Who drew what, under which licence."""
    library = package("openclipart-svg").attribution
    rows = Counter(
        (picture.source, picture.license, library if picture.source == clipart.SOURCE else picture.attribution)
        for picture in pictures
    )
    lines = [
        "# Demo pictures",
        "",
        f"`pictures.parquet` holds {len(pictures):,} drawings of {render.SIZE} pixels, rendered from SVG onto white",
        "and stored as WebP. Each row has its own `license` and `attribution`.",
        "Written by `python -m training.pictures`.",
        "",
        "| source | pictures | licence | by |",
        "| --- | ---: | --- | --- |",
        *(f"| {source} | {count:,} | {licence} | {by} |" for (source, licence, by), count in rows.items()),
        "",
        "Captions and keywords of emoji: Unicode CLDR (Unicode License v3) through emojibase (MIT); emojilib (MIT).",
        "Captions of clip arts: their own titles or file names; the authors are named in each row.",
        "",
        "Licences: [CC-BY-4.0](https://creativecommons.org/licenses/by/4.0/),",
        "[Apache-2.0](https://www.apache.org/licenses/LICENSE-2.0), [MIT](https://opensource.org/license/mit).",
        "Changes made: every drawing was rendered at 128 pixels and put on white.",
        "",
        f"`queries/` holds {' and '.join(f'`{name}.png`' for name in QUERIES)}, drawn by",
        f"{package(FILLING).attribution} ({package(FILLING).license}); these two drawings are not in the pack.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Make the pack from the renderings in the work folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=WORK)
    work: Path = parser.parse_args().work
    pictures = pack(work)
    write(pictures, DEMO, work)
    size = (DEMO / "pictures.parquet").stat().st_size
    print(f"{len(pictures)} pictures, {size / 1e6:.1f} MB", dict(Counter(picture.source for picture in pictures)))


if __name__ == "__main__":
    main()
