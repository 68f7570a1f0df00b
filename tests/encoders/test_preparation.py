"""Tokens and pixels are open_clip's own, to the last bit: as recorded, and as it says where it is installed."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cliphouse.encoders.images import pixels
from cliphouse.encoders.specs import MODELS
from cliphouse.encoders.tokenizers import clip_tokenizer
from cliphouse.errors import InvalidImage
from tests.oracles.pictures import pictures
from tests.oracles.texts import texts

ORACLES = Path(__file__).parents[1] / "oracles"
CLIP = MODELS["clip-vit-b32"]


def test_tokens_are_those_of_open_clip() -> None:
    recorded = [json.loads(line) for line in gzip.decompress((ORACLES / "tokens.jsonl.gz").read_bytes()).splitlines()]
    rows = clip_tokenizer().batch(texts(), 77)
    assert len(recorded) == len(rows) == 4000
    for text, row, oracle in zip(texts(), rows, recorded, strict=True):
        assert row[: len(oracle)].tolist() == oracle, repr(text)
        assert not row[len(oracle) :].any(), repr(text)


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_pixels_are_those_of_open_clip_in_every_mode_and_size(resize: str) -> None:
    recorded = json.loads((ORACLES / "prepared.json").read_text())["shortest" if resize == "crop" else resize]
    spec = dataclasses.replace(CLIP, resize=resize)
    differing = []
    for name, picture in pictures():
        try:
            found = hashlib.sha256(pixels(picture, spec).tobytes()).hexdigest()
        except ValueError as error:
            found = f"{type(error).__name__}: {error}"
        if found != recorded[name]:
            differing.append(name)
    assert differing == []


def test_a_batch_is_cut_at_its_longest_text_and_a_text_at_the_context() -> None:
    rows = clip_tokenizer().batch(["a dog", "a dog and a cat"], 77)
    assert rows.shape == (2, 7)
    cut = clip_tokenizer().batch(["word " * 200], 77)
    assert cut.shape == (1, 77)
    assert cut[0, -1] == 49407


def test_a_sliver_that_would_be_blown_up_is_refused() -> None:
    with pytest.raises(InvalidImage, match="too narrow"):
        pixels(Image.new("L", (1, 60_000)), CLIP)


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="open_clip and torch are not installed")
@settings(max_examples=2000, deadline=None)
@given(st.text(max_size=120))
def test_tokens_are_those_of_open_clip_for_any_text(text: str) -> None:
    from tests.oracles.open_clip import open_clip

    oracle = open_clip.tokenizer.tokenize([text]).numpy()
    ours = np.zeros_like(oracle)
    row = clip_tokenizer().batch([text], 77)
    ours[:, : row.shape[1]] = row
    assert (ours == oracle).all()
