"""Answers as people want to see them: one row of pictures for each question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from cliphouse import Collection

CELL, LABEL, ACROSS = 140, 26, 8


def write_sheet(path: Path, db: str, questions: Sequence[str]) -> None:
    """Search for each question and draw the first eight pictures of its answer beside each other."""
    font = ImageFont.load_default(size=15)
    sheet = Image.new("RGB", (ACROSS * CELL, len(questions) * (CELL + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    with Collection.open(db) as collection:
        for row, question in enumerate(questions):
            top = row * (CELL + LABEL)
            draw.text((8, top + 5), question, fill="black", font=font)
            for column, hit in enumerate(collection.search(question, k=ACROSS, columns=("image_path",))):
                with Image.open(hit.image_path) as picture:
                    sheet.paste(picture, (column * CELL + 6, top + LABEL))
    sheet.save(path)
