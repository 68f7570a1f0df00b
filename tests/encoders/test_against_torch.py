"""The true networks at random weights: our export against open_clip on PyTorch, where both are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

if importlib.util.find_spec("open_clip") is None:
    pytest.skip("open_clip and torch are not installed", allow_module_level=True)

from cliphouse.encoders import convert
from cliphouse.encoders.specs import MODELS
from cliphouse.errors import InvalidCheckpoint
from tests.encoders import tiny
from tests.oracles.open_clip import open_clip, torch


@pytest.fixture
def checkpoint(tmp_path: Path, name: str) -> Path:
    """Random weights of the network called `name`, as open_clip saves them."""
    torch.manual_seed(20211)
    network = open_clip.create_model(MODELS[name].architecture).eval()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 1:  # open_clip starts biases at 0 and scales at 1, where a mistake would not show
                weight.add_(torch.randn_like(weight) * 0.05)
    torch.save(network.state_dict(), tmp_path / "random.pt")
    return tmp_path / "random.pt"


@pytest.mark.parametrize("name", ["clip-vit-b32", "openclip-vit-b32-laion2b", "siglip-vit-b16"])
def test_our_export_answers_as_open_clip_does(name: str, checkpoint: Path, tmp_path: Path) -> None:
    pieces = tiny.sentence_pieces(tmp_path / "pieces.json") if MODELS[name].tokenizer == "siglip" else None
    made = convert.convert(MODELS[name], checkpoint, pieces, target=tmp_path / "encoder", verify=True)
    assert 0 < made.made["torch_difference"] <= 1e-5


@pytest.mark.parametrize("name", ["clip-vit-b32"])
def test_the_wrong_activation_is_found_out(name: str, checkpoint: Path, tmp_path: Path) -> None:
    made = convert.convert(MODELS[name], checkpoint, target=tmp_path / "encoder")
    with pytest.raises(InvalidCheckpoint, match="differ from PyTorch"):
        convert.compare_with_torch(convert.OnnxEncoder(made), checkpoint, MODELS["openclip-vit-b32-laion2b"])
