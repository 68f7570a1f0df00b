"""Answers as people want to see them: one row of pictures for each question."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CELL, HEAD, FOOT, MARGIN = 128, 34, 34, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was asked, a text or a picture, and the files and captions that came, nearest first."""

    question: str | Path
    pictures: Sequence[tuple[Path, str]]


def write_sheet(path: Path, answers: Sequence[Answer], *, across: int) -> None:
    """Draw the first `across` pictures of every answer beside each other, with their captions."""
    large, small = ImageFont.load_default(size=20), ImageFont.load_default(size=12)
    row = HEAD + CELL + FOOT + MARGIN
    sheet = Image.new("RGB", (across * (CELL + MARGIN) + MARGIN, len(answers) * row + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for number, answer in enumerate(answers):
        top, left = number * row + MARGIN, MARGIN
        if isinstance(answer.question, Path):
            draw.text((left, top), "like this picture:", fill="black", font=large)
            _paste(sheet, answer.question, left + 180, top - 6, HEAD + 2)
        else:
            draw.text((left, top), answer.question, fill="black", font=large)
        for picture, caption in answer.pictures[:across]:
            _paste(sheet, picture, left, top + HEAD, CELL)
            lines = textwrap.wrap(caption, 20, max_lines=2, placeholder="...")
            draw.multiline_text((left, top + HEAD + CELL + 2), "\n".join(lines), fill="#555", font=small)
            left += CELL + MARGIN
    sheet.save(path)


def _paste(sheet: Image.Image, file: Path, left: int, top: int, side: int) -> None:
    with Image.open(file) as picture:
        shown = picture.convert("RGBA")
        shown.thumbnail((side, side))
        sheet.paste(shown, (left + (side - shown.width) // 2, top + (side - shown.height) // 2), shown)
