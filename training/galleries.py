"""The picture sets that test, each with a caption a picture and whether anything like it was trained on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from training import clipart, emoji, render
from training.pictures import DEMO

_STAMPS = "packages/tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
#: Letters, numbers, coins and signs: their captions name marks, not things.
_STAMP_MARKS = ("symbols", "money", "coins")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Pictures with their keys and captions. `held_out` and `flags` mark pictures by position."""

    name: str
    keys: list[str]
    captions: list[str]
    images: list[Image.Image]
    held_out: list[bool]
    flags: list[bool]


def vendor(name: str, work: Path) -> Gallery:
    """A vendor's emoji, by code point."""
    known = emoji.concepts(work)
    keys, pixels = render.rendered(name, work)
    drawn = [known[key.rpartition("/")[2]] for key in keys]
    return Gallery(
        name=name,
        keys=[concept.code for concept in drawn],
        captions=[concept.label for concept in drawn],
        images=[Image.fromarray(image) for image in pixels],
        held_out=[concept.held_out for concept in drawn],
        flags=[concept.is_flag for concept in drawn],
    )


def clip_arts(work: Path) -> Gallery:
    """Every clip art; the keys are titles, so any picture of a title is right for it."""
    arts = {art.drawing.key: art for art in clipart.clip_arts(work)}
    keys, pixels = render.rendered(clipart.SOURCE, work)
    return Gallery(
        name=clipart.SOURCE,
        keys=[arts[key].drawing.group for key in keys],
        captions=[arts[key].caption for key in keys],
        images=[Image.fromarray(image) for image in pixels],
        held_out=[arts[key].held_out for key in keys],
        flags=["/flags/" in key for key in keys],
    )


def stamps(work: Path) -> Gallery:
    """Tux Paint's captioned stamps, a third of them photographs; `flags` marks letters, coins and signs."""
    root = work / _STAMPS
    paths = [path for path in sorted(root.rglob("*.png")) if path.with_suffix(".txt").exists()]
    captions = [path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[0].strip(" .!") for path in paths]
    return Gallery(
        name="tuxpaint",
        keys=captions,
        captions=captions,
        images=[Image.open(path) for path in paths],
        held_out=[True] * len(paths),
        flags=[any(mark in path.relative_to(root).parts for mark in _STAMP_MARKS) for path in paths],
    )


def demo(pack: Path = DEMO / "pictures.parquet") -> tuple[Gallery, list[str]]:
    """The demo's pictures, and the keywords of each."""
    rows = pq.read_table(pack).to_pylist()
    gallery = Gallery(
        name="demo",
        keys=[row["key"] for row in rows],
        captions=[row["caption"] for row in rows],
        images=[Image.open(io.BytesIO(row["webp"])) for row in rows],
        held_out=[False] * len(rows),
        flags=[False] * len(rows),
    )
    return gallery, [row["keywords"] for row in rows]


def positions(marks: Sequence[bool], *, wanted: bool = True) -> list[int]:
    """Where the marks are as wanted."""
    return [position for position, mark in enumerate(marks) if mark is wanted]
