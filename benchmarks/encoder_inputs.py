"""What is encoded: captions and pictures, drawn from a seed; nothing is downloaded."""

from __future__ import annotations

import io

import numpy as np

#: Captions have this many words, each number as often as any other.
FEWEST_WORDS, MOST_WORDS = 3, 15
JPEG_QUALITY = 90

# The parts of a caption, separated by |; some may be empty.
_OPENINGS = (
    "|||a photo of|a photograph of|a painting of|a close up of|black and white picture of|stock photo of|poster of|"
    "vintage postcard of|illustration of|two friends and|a view of|an old woman with|a little boy holding"
)
_ARTICLES = "a|the|my|her|his|our|another|every|one|this"
_QUALITIES = (
    "red|blue|green|yellow|white|black|golden|tiny|huge|wooden|rusty|shiny|antique|modern|handmade|sleeping|running|"
    "broken|striped|colourful|Scandinavian|Victorian|snowy|abandoned|fluffy|waterproof|hand-painted|18th-century"
)
_NOUNS = (
    "dog|cat|horse|car|bicycle|fishing boat|sofa|kitchen table|teapot|wedding cake|guitar|wrist watch|leather handbag|"
    "mountain lake|lighthouse|bridge|street market|football player|ballet dancer|owl|hummingbird|steam locomotive|"
    "castle|bookshelf|laptop|birthday card|pair of shoes|bowl of noodles|sunflower|map of Europe|T-shirt|chandelier"
)
_PLACES = (
    "||in the snow|on the beach|on a wooden table|in front of a brick wall|under a cloudy sky|at night|in the rain|"
    "in Paris, France|next to the river|in the middle of a crowded street|on white background|"
    "at the edge of the forest|during the summer holidays|in my grandmother's garden"
)
_ENDINGS = (
    "||| - size 42|, seen from above|, free shipping|, oil on canvas|, 1920x1080 wallpaper| (2014)|, isolated|"
    " by an unknown artist| with a reflection in the water| for sale at a reasonable price|!"
)


def captions(count: int, seed: int) -> list[str]:
    """`count` different captions as people write them below pictures: 3 to 15 words."""
    random = np.random.default_rng(seed)
    found: dict[str, None] = {}  # in the order they were drawn
    while len(found) < count:
        words = int(random.integers(FEWEST_WORDS, MOST_WORDS + 1))
        caption = _caption(random)
        while len(caption.split()) != words or caption in found:
            caption = _caption(random)
        found[caption] = None
    return list(found)


def pictures(count: int, seed: int, *, width: int, height: int) -> list[bytes]:
    """`count` different JPEG files: soft colours over a gradient, with the grain of a camera."""
    from PIL import Image
    from PIL.Image import Resampling

    random = np.random.default_rng(seed)
    slope = np.linspace(0, 255, width)[None, :, None] * np.linspace(0, 1, height)[:, None, None]
    files = []
    for _ in range(count):
        coarse = random.integers(0, 256, (height // 40, width // 40, 3), dtype=np.uint8)
        soft = np.asarray(Image.fromarray(coarse).resize((width, height), Resampling.BICUBIC), np.float64)
        grain = random.normal(0, 6, (height, width, 3))
        values = np.clip((soft + slope) / 2 + grain, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(values).save(file, "JPEG", quality=JPEG_QUALITY)
        files.append(file.getvalue())
    return files


def _caption(random: np.random.Generator) -> str:
    def one(choices: str) -> str:
        each = choices.split("|")
        return each[int(random.integers(len(each)))]

    qualities = [one(_QUALITIES) for _ in range(int(random.integers(3)))]
    parts = [one(_OPENINGS), one(_ARTICLES), *qualities, one(_NOUNS), one(_PLACES)]
    return " ".join(part for part in parts if part) + one(_ENDINGS)
