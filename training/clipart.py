"""Drawings of the Open Clip Art Library: which are worth having, and what their files say they show."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.emoji import Drawing

SOURCE = "openclipart"
_ROOT = "packages/openclipart-svg/usr/share/openclipart/svg"
#: Icon themes, generated shapes, and parts of pictures.
_LEFT_OUT = re.compile(
    r"theme|^shapes/|^special/|^computer/(buttons|icons)|/led/|cardbacks|/cards/(bordered|simple|white)|duplicates"
    r"|^logos|semaphore|jigsaw"
)
#: Words that file names and keyword lists carry and that say nothing about the picture.
# fmt: off
_NOISE = frozenset(
    [
        "hash",
        "0x",
        "clipart",
        "clip",
        "art",
        "svg",
        "unsorted",
        "ganson",
        "bw",
        "b/w",
        "color",
        "colour",
        "coloured",
        "outline",
        "contour",
        "remix",
        "architetto",
        "francesco",
        "rollandin",
        "image",
        "images",
        "picture",
        "drawing",
        "cliparts",
        "various",
        "by",
        "symbol",
        "icon",
        "icons",
        "sign",
        "signs_and_symbols",
        "inkscape",
        "openclipart",
        "united_nations_member",
        "subnational",
        "lineart",
        "line",
        "coloring",
        "public",
        "domain",
        "none",
    ]
)
# fmt: on
_GENERIC_TITLE = re.compile(
    r"aiga|various clip|theme|symbol signs|road signs|boating rules|creation day|blueman|@|https?:|untitled|no title"
    r"|^\W*$|clipart$|^(new|drawing|path|layer)\b|^card$|gold-|illustration$|lineart|^sallite$|^stick man$",
    re.IGNORECASE,
)
#: One clip art in fifty tests: its title and picture are never trained on.
_HOLDOUT_SHARE = 40
_MAX_BYTES = 1_500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipArt:
    """A clip art: where it lies, its caption and keywords, and who drew it."""

    drawing: Drawing
    caption: str
    keywords: tuple[str, ...]
    author: str
    held_out: bool


def clip_arts(work: Path) -> Iterator[ClipArt]:
    """Every clip art that has a caption, in the order of paths."""
    root = work / _ROOT
    for path in sorted(root.rglob("*.svg")):
        place = path.relative_to(root).with_suffix("").as_posix()
        if path.is_symlink() or _LEFT_OUT.search(place) or path.stat().st_size > _MAX_BYTES:
            continue
        svg = path.read_text(encoding="utf-8", errors="replace")
        work_record = _first(r"<(?:cc:)?Work.*?</(?:cc:)?Work>", svg)
        author = _text(_first(r"<dc:creator>.*?<dc:title>(.*?)</dc:title>", work_record))
        caption = _caption(_text(_first(r"<dc:title>(.*?)</dc:title>", work_record)), path.stem, author, place)
        if not caption:
            continue
        listed = [_text(found).lower() for found in re.findall(r"<rdf:li>(.*?)</rdf:li>", work_record, re.DOTALL)]
        names = set(re.findall(r"\w+", author.lower()))
        keywords = dict.fromkeys(
            word.replace("_", " ")
            for word in listed
            if re.fullmatch(r"[a-z][a-z _-]{2,30}", word) and word not in _NOISE and not names & set(word.split())
        )
        if "flags/" in place and "flag" not in caption:
            caption = f"flag: {caption}"
        yield ClipArt(
            drawing=Drawing(key=f"{SOURCE}/{place}", source=SOURCE, group=f"{SOURCE}/{caption}", svg=svg),
            caption=caption,
            keywords=tuple(word for word in keywords if word != caption),
            author=author,
            held_out=_digest(caption) % _HOLDOUT_SHARE == 0,
        )


def _caption(title: str, stem: str, author: str, place: str) -> str:
    """What the picture shows: its title, or its file name where the title names a collection."""
    title = re.sub(r"^Clipart by .*? - ", "", title).strip()
    plain = title if title and not _GENERIC_TITLE.search(title) and len(title) < 60 else stem
    if "Clipart by" in title or "/cards/" in place:
        plain = stem
    words = re.findall(r"[a-z]+(?:'[a-z]+)?", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain).replace("_", " ").lower())
    names = re.findall(r"[a-z]+", author.lower())
    if plain == stem:
        words = [word for word in words if not any(len(word) > 1 and name.startswith(word) for name in names)]
    kept = [word for word in words if word not in _NOISE and (len(word) > 1 or word == "a")]
    while kept and kept[0] in {"a", "an", "the"}:
        kept = kept[1:]
    return " ".join(dict.fromkeys(kept))[:80] if any(len(word) > 2 for word in kept) else ""


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.DOTALL)
    return (found.group(found.lastindex or 0)) if found else ""


def _text(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"held out: {text}".encode()).digest()[:8], "big")
