"""What the ONNX files answer, against what open_clip on PyTorch answered with the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cliphouse.encoders import convert, store
from cliphouse.encoders.onnx import OnnxEncoder
from cliphouse.errors import InvalidCheckpoint, PrecisionTooLow, UsageError
from tests.encoders import tiny
from tests.oracles.pictures import picture

ORACLES = Path(__file__).parents[1] / "oracles"


def test_clip_towers_answer_as_torch_does(tiny_encoder: store.Stored) -> None:
    oracle = json.loads((ORACLES / "tiny_clip.json").read_text())
    encoder = OnnxEncoder(tiny_encoder)
    assert encoder.encode_texts(oracle["texts"]) == pytest.approx(np.array(oracle["text"]), abs=1e-5)
    assert encoder.encode_pixels(tiny.pixels(tiny.CLIP)) == pytest.approx(np.array(oracle["image"]), abs=1e-5)


def test_siglip_towers_answer_as_torch_does(tmp_path: Path) -> None:
    oracle = json.loads((ORACLES / "tiny_siglip.json").read_text())
    save_file(tiny.siglip_weights(), tmp_path / "siglip.safetensors")
    pieces = tiny.sentence_pieces(tmp_path / "tokenizer.json")
    made = convert.convert(tiny.SIGLIP, tmp_path / "siglip.safetensors", pieces, target=tmp_path / "siglip")
    encoder = OnnxEncoder(made)
    tokens = np.array(oracle["tokens"], dtype=np.int64)
    assert encoder.encode_tokens(tokens) == pytest.approx(np.array(oracle["text"]), abs=1e-5)
    assert encoder.encode_pixels(tiny.pixels(tiny.SIGLIP)) == pytest.approx(np.array(oracle["image"]), abs=1e-5)


def test_siglip_texts_are_canonical_and_padded_to_the_context(tmp_path: Path) -> None:
    save_file(tiny.siglip_weights(), tmp_path / "siglip.safetensors")
    pieces = tiny.sentence_pieces(tmp_path / "tokenizer.json")
    encoder = OnnxEncoder(
        convert.convert(tiny.SIGLIP, tmp_path / "siglip.safetensors", pieces, target=tmp_path / "siglip")
    )
    tokens = encoder.tokens(["A_Dog!", "a dog", "x" * 99])
    assert tokens.shape == (3, tiny.SIGLIP.context_length)
    assert (tokens[0] == tokens[1]).all()
    assert tokens[0, -1] == 1, "the end mark pads"


def test_a_text_has_one_vector_whatever_stands_beside_it(tiny_encoder: store.Stored) -> None:
    encoder = OnnxEncoder(tiny_encoder)
    texts = ["a dog!", "!", "", "a cat " * 60, "a dog!", *(f"number {count} " * (count % 9) for count in range(90))]
    together = encoder.encode_texts(texts)
    alone = np.concatenate([encoder.encode_texts([text]) for text in texts])
    assert together == pytest.approx(alone, abs=1e-5)
    assert together[0] == pytest.approx(together[4], abs=1e-6)


def test_nothing_to_encode_gives_nothing(tiny_encoder: store.Stored) -> None:
    encoder = OnnxEncoder(tiny_encoder)
    assert encoder.encode_texts([]).shape == (0, 32)
    assert encoder.encode_images([]).shape == (0, 32)


def test_pictures_in_a_batch_and_alone_are_the_same(tiny_encoder: store.Stored) -> None:
    encoder = OnnxEncoder(tiny_encoder)
    pictures = [picture(mode, 90 + number, 70) for number, mode in enumerate(["RGB", "L", "P", "RGBA"] * 9)]
    together = encoder.encode_images(pictures)
    alone = np.concatenate([encoder.encode_images([each]) for each in pictures])
    assert together == pytest.approx(alone, abs=1e-5)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-6)


def test_another_architecture_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    weights = tiny.clip_weights()
    del weights["visual.ln_post.weight"]
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(InvalidCheckpoint, match=r"no weight 'visual\.ln_post\.weight'"):
        convert.convert(tiny.CLIP, tmp_path / "other.safetensors", target=tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["other.safetensors"]


def test_int8_is_kept_only_if_it_answers_alike_on_the_sample(tiny_encoder: store.Stored, tmp_path: Path) -> None:
    texts, pictures = ["a dog", "a cat on a mat"], [picture("RGB", 80, 90), picture("L", 64, 64)]
    with pytest.raises(PrecisionTooLow, match=r"mean cosine of 0\.9\d+ to full precision, 1\.0 is wanted"):
        convert.quantize(tiny_encoder, texts, pictures, min_cosine=1.0)
    with pytest.raises(UsageError, match="at least one caption"):
        convert.quantize(tiny_encoder, [], pictures, min_cosine=0.9)
    assert not tiny_encoder.folder.with_name("tiny-clip-int8").exists()

    made, cosines = convert.quantize(tiny_encoder, texts, pictures, min_cosine=0.95)
    assert (made.spec.name, made.spec.space) == ("tiny-clip-int8", "tiny-clip")
    assert made.size < tiny_encoder.size
    assert all(0.95 <= cosine < 1 for cosine in cosines.values())
    full, small = OnnxEncoder(tiny_encoder).encode_texts(texts), OnnxEncoder(made).encode_texts(texts)
    assert (full * small).sum(axis=1).mean() == pytest.approx(cosines["text"])
