"""Emoji concepts, and the pictures that each vendor draws for them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.fetch import package

#: Vendors that train, and the icon set whose names are joined only where they are a concept's label.
TRAINED = (
    "twemoji",
    "noto",
    "noto-v1",
    "fluent-emoji",
    "fluent-emoji-flat",
    "fluent-emoji-high-contrast",
    "fxemoji",
    "emojione",
    "emojione-monotone",
    "streamline-emojis",
    "circle-flags",
    "icon-park",
)
#: Vendors that only test: their licence is share-alike, and no model here has seen them.
UNSEEN = ("openmoji", "emojione-v1")
#: Of ten emoji that are no flag one trains nothing, whoever drew it, nor do its label and keywords as its own.
_HOLDOUT_SHARE = 10
_COMPONENTS_GROUP = 2
_SKIN_TONE = re.compile(r"-1f3f[b-f]")
_TYPE_SUFFIX = re.compile(r"-\d$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """What an emoji code point means, whoever draws it."""

    code: str
    label: str
    keywords: tuple[str, ...]
    is_flag: bool
    held_out: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One picture as SVG, and where it comes from. `group` is shared by pictures of the same thing."""

    key: str
    source: str
    group: str
    svg: str


def concepts(work: Path) -> dict[str, Concept]:
    """Every emoji by lower-case code point, without skin tones and components, with its English words."""
    packages = work / "packages"
    records = json.loads((packages / "emojibase-data/en/data.json").read_text(encoding="utf-8"))
    words = json.loads((packages / "emojilib/dist/emoji-en-US.json").read_text(encoding="utf-8"))
    found = {}
    for record in records:
        if record.get("group", _COMPONENTS_GROUP) == _COMPONENTS_GROUP:
            continue
        code = record["hexcode"].lower()
        listed = [*record.get("tags", ()), *(word.replace("_", " ") for word in words.get(record["emoji"], ()))]
        label = record["label"]
        is_flag = label.startswith("flag: ")
        found[code] = Concept(
            code=code,
            label=label,
            keywords=tuple(dict.fromkeys(word for word in map(_clean, listed) if word and word != label)),
            is_flag=is_flag,
            held_out=not is_flag and _digest(code) % _HOLDOUT_SHARE == 0,
        )
    return found


def drawings(source: str, known: Mapping[str, Concept], work: Path) -> Iterator[Drawing]:
    """The pictures of one vendor whose names can be joined to a concept; one a concept, the first by name."""
    folder = work / "packages" / package(source).folder
    icons = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    names = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
    if names:
        joined = {_bare(code): name for code, name in names.items() if not _SKIN_TONE.search(code)}
        by_code = {_bare(code): code for code in known}
        pairs = {by_code[bare]: name for bare, name in joined.items() if bare in by_code}
    else:
        pairs = _join_by_name(source, icons, known, work)
    for code, name in sorted(pairs.items()):
        svg = _svg(icons, name)
        if svg:
            yield Drawing(key=f"{source}/{code}", source=source, group=code, svg=svg)


def _join_by_name(source: str, icons: Mapping[str, Any], known: Mapping[str, Concept], work: Path) -> dict[str, str]:
    slugs: dict[str, str] = {}
    shortcodes = work / "packages/emojibase-data/en/shortcodes"
    if source != "icon-park":
        for file in ("cldr.json", "emojibase.json", "joypixels.json", "github.json"):
            for code, short in json.loads((shortcodes / file).read_text(encoding="utf-8")).items():
                for name in [short] if isinstance(short, str) else short:
                    slugs.setdefault(_slug(name), code.lower())
    slugs |= {_slug(concept.label): code for code, concept in known.items()}
    pairs: dict[str, str] = {}
    for name in sorted({*icons["icons"], *icons.get("aliases", {})}):
        code = _flag_code(name) if source == "circle-flags" else slugs.get(_slug(_TYPE_SUFFIX.sub("", name)), "")
        if code in known:
            pairs.setdefault(code, name)
    return pairs


def _svg(icons: Mapping[str, Any], name: str) -> str:
    """The icon as a document of its own; an alias is followed, one that turns or mirrors its parent is left out."""
    alias = icons.get("aliases", {}).get(name)
    if alias is not None:
        return "" if set(alias) - {"parent", "hidden"} else _svg(icons, alias["parent"])
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="#000" '
        f'width="{width}" height="{height}" viewBox="{box}">{icon["body"]}</svg>'
    )


def _flag_code(region: str) -> str:
    return "-".join(f"{0x1F1E6 + ord(letter) - ord('a'):x}" for letter in region) if len(region) == 2 else ""


def _bare(code: str) -> str:
    """A code point sequence without the variation selectors that vendors write or leave out."""
    return code.lower().replace("-fe0f", "")


def _slug(name: str) -> str:
    """Letters and digits only; EmojiTwo's `flag-for-x` and `flag-for-flag-x` are CLDR's `flag: x`."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"^flag-for-(flag-)?", "flag-", name.lower()).replace("’", ""))


def _clean(word: str) -> str:
    """A keyword in lower case, without emoticons and other marks."""
    return word.lower().strip() if re.fullmatch(r"[\w’' .&-]{2,}", word) else ""


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"held out: {text}".encode()).digest()[:8], "big")
