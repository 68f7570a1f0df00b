"""Ask open_clip on PyTorch, and keep its answers in this folder: `python -m tests.oracles.record`.

Run in an environment with torch and open_clip (see `.ci/run`); the tests compare with what it wrote.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import warnings
from pathlib import Path

import numpy as np

from tests.encoders import tiny
from tests.oracles.open_clip import open_clip, torch
from tests.oracles.pictures import pictures
from tests.oracles.texts import texts

HERE = Path(__file__).parent


def tokens() -> None:
    rows = open_clip.tokenizer.tokenize(texts()).numpy()
    lines = [json.dumps(row[: int(row.nonzero()[0].max()) + 1].tolist()) for row in rows]
    (HERE / "tokens.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def prepared() -> None:
    answers = {}
    for resize in ("shortest", "squash"):
        transform = open_clip.image_transform(224, is_train=False, resize_mode=resize)
        found = {}
        for name, picture in pictures():
            try:
                found[name] = hashlib.sha256(transform(picture).numpy().tobytes()).hexdigest()
            except ValueError as error:  # modes that Pillow itself does not resize
                found[name] = f"{type(error).__name__}: {error}"
        answers[resize] = found
    (HERE / "prepared.json").write_text(json.dumps(answers, indent=1) + "\n")


def towers() -> None:
    vision = {"image_size": 64, "layers": tiny.LAYERS, "width": tiny.WIDTH, "patch_size": tiny.PATCH}
    text = {"context_length": 77, "vocab_size": tiny.VOCABULARY, "width": tiny.WIDTH, "heads": 2, "layers": tiny.LAYERS}
    clip = open_clip.CLIP(tiny.CLIP.dim, vision, text, quick_gelu=True).eval()
    weights = {name: torch.from_numpy(value) for name, value in tiny.clip_weights().items()}
    left = clip.load_state_dict(weights, strict=False)
    assert left.unexpected_keys == [], left
    assert set(left.missing_keys) <= {"logit_scale", "attn_mask"}, left
    sentences = ["a dog and a cat", "", "a photograph of a red car in the snow", "word " * 100]
    with torch.no_grad():
        answers = {
            "texts": sentences,
            "text": clip.encode_text(open_clip.tokenizer.tokenize(sentences), normalize=True).tolist(),
            "image": clip.encode_image(torch.from_numpy(tiny.pixels(tiny.CLIP)), normalize=True).tolist(),
        }
    (HERE / "tiny_clip.json").write_text(json.dumps(answers) + "\n")

    vision = {
        "image_size": 64, "timm_model_name": "vit_base_patch16_siglip_224", "timm_model_pretrained": False,
        "timm_pool": "map", "timm_proj": "none",
    }  # fmt: skip
    text = {
        "context_length": 16, "vocab_size": 1000, "width": tiny.WIDTH, "heads": 2, "layers": tiny.LAYERS,
        "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
    }  # fmt: skip
    import timm

    siglip = open_clip.CustomTextCLIP(tiny.SIGLIP.dim, vision, text, init_logit_bias=-10).eval()
    trunk = timm.create_model(
        "vit_base_patch16_siglip_224",
        img_size=64,
        embed_dim=tiny.WIDTH,
        depth=tiny.LAYERS,
        num_heads=2,
        num_classes=0,
        patch_size=32,
    )
    siglip.visual.trunk = trunk.eval()
    left = siglip.load_state_dict({k: torch.from_numpy(v) for k, v in tiny.siglip_weights().items()}, strict=False)
    assert left.unexpected_keys == [], left
    assert set(left.missing_keys) <= {"logit_scale", "logit_bias"}, left
    ids = np.random.default_rng(3).integers(2, 900, (3, 16))
    with torch.no_grad():
        answers = {
            "tokens": ids.tolist(),
            "text": siglip.encode_text(torch.from_numpy(ids), normalize=True).tolist(),
            "image": siglip.encode_image(torch.from_numpy(tiny.pixels(tiny.SIGLIP)), normalize=True).tolist(),
        }
    (HERE / "tiny_siglip.json").write_text(json.dumps(answers) + "\n")


class Inner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.in_proj_weight = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4).half())

    def forward(self, x):
        return x @ self.in_proj_weight


class Outer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = torch.nn.Embedding(5, 3).half()
        self.token_embedding.weight.data = torch.arange(15.0).reshape(5, 3).half() / 8
        self.attn = Inner()

    def forward(self, x):
        return self.attn(self.token_embedding(x))


def archives() -> None:
    """Small files as PyTorch writes them: a state dict, a training checkpoint, and TorchScript as OpenAI's is."""
    table = torch.arange(24.0).reshape(4, 6)
    state = {
        "token_embedding.weight": table,
        "view": table.t()[1:4, ::2],
        "half": torch.tensor([0.5, -2.0]).half(),
        "brain": torch.tensor([1.5, -3.0]).bfloat16(),
        "long": torch.tensor([[1, 2], [3, 4]]),
        "scalar": torch.tensor(4.6052),
        "parameter": torch.nn.Parameter(torch.ones(3)),
    }
    torch.save(state, HERE / "state_dict.pt")
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 32, "name": "x", "state_dict": wrapped, "optimizer": {"lr": 1e-4}}, HERE / "training.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Outer(), torch.tensor([1, 2])).save(str(HERE / "torchscript.pt"))


if __name__ == "__main__":
    tokens()
    prepared()
    towers()
    archives()
