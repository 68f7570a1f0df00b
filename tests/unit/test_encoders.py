from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliphouse import Encoder, load_encoder
from cliphouse.encoders import BUILT_IN, MODELS, open_image
from cliphouse.errors import EncoderUnavailable, InvalidImage, UnknownEncoder, UsageError


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_encoder_that_comes_along_keeps_the_contract(name: str) -> None:
    encoder = load_encoder(name)
    assert isinstance(encoder, Encoder)
    assert (encoder.name, encoder.dim) == (name, BUILT_IN[name].dim)
    pictures = [Image.new(mode, (5, 7)) for mode in ("RGB", "L", "RGBA", "P")]
    for vectors in (encoder.encode_texts(["a dog", "b"]), encoder.encode_images(pictures)):
        assert vectors.dtype == np.float32
        assert vectors.shape[1] == encoder.dim
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_without_weights_one_line_names_the_three_ways_to_get_them(name: str) -> None:
    ways = rf"encoder fetch {name}.*encoder export {name} --from FILE.*--encoder FOLDER"
    with pytest.raises(EncoderUnavailable, match=ways) as caught:
        load_encoder(name)
    assert "\n" not in str(caught.value)


def test_an_unknown_encoder_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnknownEncoder, match=r"'clip-vit-x'.*clip-vit-b32.*test-words"):
        load_encoder("clip-vit-x")


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_gpu_is_not_promised_by_what_runs_on_the_processor(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EncoderUnavailable, match="CUDA was asked for"):
        load_encoder(name, "cuda")
    monkeypatch.setenv("CLIPHOUSE_DEVICE", "cuda")
    with pytest.raises(EncoderUnavailable, match="leave --device out"):
        load_encoder(name)
    monkeypatch.setenv("CLIPHOUSE_DEVICE", "tpu")
    with pytest.raises(UsageError, match="device must be cpu or cuda"):
        load_encoder(name)


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


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    with pytest.raises(InvalidImage, match=r"too large: 30,000 x 30,000"):
        open_image(tmp_path / "bomb.png")
    Image.new("1", (20, 30)).save(tmp_path / "small.png")
    with pytest.raises(InvalidImage, match="too large: 20 x 30"):
        open_image(tmp_path / "small.png", max_pixels=599)


def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), "red")
    picture.paste("blue", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    picture.save(tmp_path / "turned.png", exif=exif)
    turned = open_image(tmp_path / "turned.png")
    assert turned.size == (20, 40)
    assert turned.getpixel((10, 5)) == (0, 0, 255)
