"""A CLIP and a SigLIP small enough for tests: the true architectures, narrow and shallow, with seeded weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliphouse.encoders.specs import ModelSpec

WIDTH, LAYERS, PATCH, VOCABULARY = 128, 2, 32, 49408

CLIP = ModelSpec(name="tiny-clip", dim=32, license="none", source="tests", image_size=64, activation="quick_gelu")
SIGLIP = ModelSpec(
    name="tiny-siglip",
    dim=WIDTH,
    license="none",
    source="tests",
    tokenizer="siglip",
    context_length=16,
    image_size=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    resize="squash",
    causal=False,
    norm_epsilon=1e-6,
)

Weights = dict[str, NDArray[Any]]


def clip_weights(seed: int = 0) -> Weights:
    """What open_clip's CLIP of this size holds, by name."""
    fill = _Filler(seed)
    width, patches = WIDTH, (CLIP.image_size // PATCH) ** 2
    weights = {
        "positional_embedding": fill(77, width),
        "text_projection": fill(width, CLIP.dim),
        "token_embedding.weight": fill(VOCABULARY, width),
        "visual.class_embedding": fill(width),
        "visual.positional_embedding": fill(patches + 1, width),
        "visual.proj": fill(width, CLIP.dim),
        "visual.conv1.weight": fill(width, 3, PATCH, PATCH),
        **fill.norm("visual.ln_pre", width),
        **fill.norm("visual.ln_post", width),
        **fill.norm("ln_final", width),
    }
    for tower in ("", "visual."):
        weights |= fill.blocks(f"{tower}transformer.resblocks", width)
    return weights


def siglip_weights(seed: int = 0) -> Weights:
    """What open_clip's SigLIP of this size holds: its own text tower, timm's picture tower."""
    fill = _Filler(seed)
    width, patches = WIDTH, (SIGLIP.image_size // PATCH) ** 2
    trunk = "visual.trunk"
    weights = {
        "text.positional_embedding": fill(SIGLIP.context_length, width),
        "text.token_embedding.weight": fill(1000, width),
        **fill.norm("text.ln_final", width),
        **fill.linear("text.text_projection", width, width),
        **fill.blocks("text.transformer.resblocks", width),
        f"{trunk}.pos_embed": fill(1, patches, width),
        f"{trunk}.patch_embed.proj.weight": fill(width, 3, PATCH, PATCH),
        f"{trunk}.patch_embed.proj.bias": fill(width),
        **fill.norm(f"{trunk}.norm", width),
        f"{trunk}.attn_pool.latent": fill(1, 1, width),
        **fill.linear(f"{trunk}.attn_pool.q", width, width),
        **fill.linear(f"{trunk}.attn_pool.kv", width, 2 * width),
        **fill.linear(f"{trunk}.attn_pool.proj", width, width),
        **fill.norm(f"{trunk}.attn_pool.norm", width),
        **fill.linear(f"{trunk}.attn_pool.mlp.fc1", width, 4 * width),
        **fill.linear(f"{trunk}.attn_pool.mlp.fc2", 4 * width, width),
    }
    for number in range(LAYERS):
        block = f"{trunk}.blocks.{number}"
        weights |= fill.norm(f"{block}.norm1", width) | fill.norm(f"{block}.norm2", width)
        weights |= fill.linear(f"{block}.attn.qkv", width, 3 * width)
        weights |= fill.linear(f"{block}.attn.proj", width, width)
        weights |= fill.linear(f"{block}.mlp.fc1", width, 4 * width)
        weights |= fill.linear(f"{block}.mlp.fc2", 4 * width, width)
    return weights


class _Filler:
    """Seeded numbers of a size that keeps activations near one."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> NDArray[np.float32]:
        return self._random.normal(0, 0.1, shape).astype(np.float32)

    def norm(self, name: str, width: int) -> Weights:
        return {f"{name}.weight": 1 + self(width), f"{name}.bias": self(width)}

    def linear(self, name: str, inputs: int, outputs: int) -> Weights:
        return {f"{name}.weight": self(outputs, inputs), f"{name}.bias": self(outputs)}

    def blocks(self, name: str, width: int) -> Weights:
        weights: Weights = {}
        for number in range(LAYERS):
            block = f"{name}.{number}"
            weights |= self.norm(f"{block}.ln_1", width) | self.norm(f"{block}.ln_2", width)
            weights[f"{block}.attn.in_proj_weight"] = self(3 * width, width)
            weights[f"{block}.attn.in_proj_bias"] = self(3 * width)
            weights |= self.linear(f"{block}.attn.out_proj", width, width)
            weights |= self.linear(f"{block}.mlp.c_fc", width, 4 * width)
            weights |= self.linear(f"{block}.mlp.c_proj", 4 * width, width)
        return weights


def pixels(spec: ModelSpec, count: int = 2) -> NDArray[np.float32]:
    """Seeded pictures as the towers take them."""
    shape = (count, 3, spec.image_size, spec.image_size)
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def sentence_pieces(path: Path) -> Path:
    """A tokenizer.json of SigLIP's kind (Unigram pieces, the end mark added) that knows letters only."""
    pieces = [
        ["<pad>", 0.0],
        ["</s>", 0.0],
        ["<unk>", 0.0],
        ["▁", -2.0],
        *([letter, -3.0] for letter in "abcdefghijklmnopqrstuvwxyz"),
    ]
    special = [
        {
            "id": number,
            "content": text,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for number, text in enumerate(["<pad>", "</s>", "<unk>"])
    ]
    template = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
    }
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    document = {
        "version": "1.0",
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": metaspace,
        "post_processor": template,
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": False},
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    return path
