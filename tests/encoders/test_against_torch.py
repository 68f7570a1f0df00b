"""The true ViT-B/32 at random weights: our export against open_clip on PyTorch, where both are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

if importlib.util.find_spec("open_clip") is None:
    pytest.skip("open_clip and torch are not installed", allow_module_level=True)

from cliphouse.encoders import convert
from cliphouse.encoders.specs import MODELS
from cliphouse.errors import InvalidCheckpoint
from tests.oracles.open_clip import open_clip, torch


@pytest.mark.parametrize("name", ["clip-vit-b32", "openclip-vit-b32-laion2b"])
def test_vit_b32_at_random_weights(name: str, tmp_path: Path) -> None:
    torch.manual_seed(20211)
    spec = MODELS[name]
    network = open_clip.create_model(spec.architecture).eval()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 1:  # open_clip starts biases at 0 and scales at 1, where a mistake would not show
                weight.add_(torch.randn_like(weight) * 0.05)
    checkpoint = tmp_path / "random.pt"
    torch.save(network.state_dict(), checkpoint)
    made = convert.convert(spec, checkpoint, target=tmp_path / "encoder", verify=True)
    assert 0 < made.made["torch_difference"] <= 1e-5

    other = MODELS["openclip-vit-b32-laion2b" if name == "clip-vit-b32" else "clip-vit-b32"]
    with pytest.raises(InvalidCheckpoint, match="differ from PyTorch"):
        convert.compare_with_torch(convert.OnnxEncoder(made), checkpoint, other)
