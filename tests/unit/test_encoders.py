from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliphouse import Encoder, load_encoder
from cliphouse.encoders import SPECS, open_image
from cliphouse.errors import EncoderUnavailable, InvalidImage, UnknownEncoder


def test_every_encoder_that_runs_keeps_the_contract() -> None:
    for spec in SPECS.values():
        if spec.build is None:
            with pytest.raises(EncoderUnavailable, match=spec.name):
                load_encoder(spec.name)
            continue
        encoder = load_encoder(spec.name)
        assert isinstance(encoder, Encoder)
        assert (encoder.name, encoder.dim) == (spec.name, spec.dim)
        pictures = [Image.new(mode, (5, 7)) for mode in ("RGB", "L", "RGBA", "P")]
        for vectors in (encoder.encode_texts(["a dog", "b"]), encoder.encode_images(pictures)):
            assert vectors.dtype == np.float32
            assert vectors.shape[1] == spec.dim
            assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)


def test_an_unknown_encoder_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnknownEncoder, match=r"'clip-vit-x'.*clip-vit-b32, test-words"):
        load_encoder("clip-vit-x")


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("RGB", (300, 300), "red").save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:600])
    for name, words in (
        ("absent.png", "No such file"),
        ("text.png", "not a picture"),
        ("cut.jpg", "(?i)truncated"),
        ("", "director"),
    ):
        with pytest.raises(InvalidImage, match=words):
            open_image(tmp_path / name)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (2000, 2000)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InvalidImage, match="bomb"):
        open_image(tmp_path / "bomb.png")
