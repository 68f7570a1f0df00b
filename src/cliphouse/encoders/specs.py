"""The encoders known by name, as a table: all that must be said of a model besides its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Activation = Literal["quick_gelu", "gelu", "gelu_tanh"]

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_OPEN_CLIP = "https://github.com/mlfoundations/open_clip/releases/download/v0.2-weights"
_HUB = "https://huggingface.co"

#: The encoder behind LAION's 512-dimensional shards: what 512-dimensional data is taken for when nobody names one.
LAION_ENCODER = "clip-vit-b32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A published file. Without `sha256` the sum that the hub itself declares is checked: no other was to be had."""

    url: str
    sha256: str | None = None

    @property
    def file(self) -> str:
        """The file's own name."""
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A CLIP-like model: how a text becomes tokens, a picture pixels, and both vectors of `dim` numbers.

    `architecture` is open_clip's name of the network. `resize` is "crop" (short side to `image_size`, then the middle)
    or "squash" (both sides). `causal` text towers see only what stands before a token, so a batch is cut at its longest
    text; the others are padded to `context_length`. `space` is the encoder whose vectors these can be compared with.
    """

    name: str
    dim: int
    license: str
    source: str
    architecture: str = ""
    checkpoint: Download | None = None
    tokenizer: Literal["clip", "siglip"] = "clip"
    tokenizer_file: Download | None = None
    context_length: int = 77
    image_size: int = 224
    mean: tuple[float, float, float] = _CLIP_MEAN
    std: tuple[float, float, float] = _CLIP_STD
    resize: Literal["crop", "squash"] = "crop"
    activation: Activation = "gelu"
    causal: bool = True
    norm_epsilon: float = 1e-5
    space: str = ""


def _vit_b32(name: str, source: str, checkpoint: Download, activation: Activation = "gelu") -> ModelSpec:
    architecture = "ViT-B-32-quickgelu" if activation == "quick_gelu" else "ViT-B-32"
    return ModelSpec(
        name=name,
        dim=512,
        license="MIT",
        source=source,
        architecture=architecture,
        checkpoint=checkpoint,
        activation=activation,
    )


def _siglip(name: str, source: str, repository: str, dim: int, image_size: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        dim=dim,
        license="Apache-2.0",
        source=source,
        architecture="ViT-B-16-SigLIP" if image_size == 224 else f"ViT-B-16-SigLIP-{image_size}",
        checkpoint=Download(url=f"{_HUB}/{repository}/resolve/main/open_clip_model.safetensors"),
        tokenizer="siglip",
        tokenizer_file=Download(url=f"{_HUB}/{repository}/resolve/main/tokenizer.json"),
        context_length=64,
        image_size=image_size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        resize="squash",
        causal=False,
        norm_epsilon=1e-6,
    )


MODELS: Mapping[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        # OpenAI's and LAION-400M's use x * sigmoid(1.702 x); with the exact GELU they would run, and answer wrongly.
        _vit_b32(
            LAION_ENCODER,
            "OpenAI CLIP ViT-B/32, the encoder of LAION-400M",
            # The folder's name is the file's sha256, as OpenAI's own loader has it.
            Download(
                url="https://openaipublic.azureedge.net/clip/models/"
                "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
                sha256="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
            ),
            "quick_gelu",
        ),
        _vit_b32(
            "openclip-vit-b32-laion400m",
            "open_clip ViT-B/32 trained on LAION-400M, 32 epochs",
            Download(
                url=f"{_OPEN_CLIP}/vit_b_32-quickgelu-laion400m_e32-46683a32.pt",
                sha256="46683a32721d5c68911153698992361285d20ca690bb4f317c11e45c03d798fa",
            ),
            "quick_gelu",
        ),
        _vit_b32(
            "openclip-vit-b32-laion2b-e16",
            "open_clip ViT-B/32 trained on LAION-2B, 16 epochs",
            Download(
                url=f"{_OPEN_CLIP}/vit_b_32-laion2b_e16-af8dbd0c.pth",
                sha256="af8dbd0c4bf1654db018a2a70fd839c3a6e79d2fdac33303f06d0d8aae16a65c",
            ),
        ),
        _vit_b32(
            "openclip-vit-b32-laion2b",
            "open_clip ViT-B/32 trained on LAION-2B, 34 billion samples",
            Download(url=f"{_HUB}/laion/CLIP-ViT-B-32-laion2B-s34B-b79K/resolve/main/open_clip_model.safetensors"),
        ),
        _vit_b32(
            "openclip-vit-b32-datacomp",
            "open_clip ViT-B/32 trained on DataComp-XL, 13 billion samples",
            Download(url=f"{_HUB}/laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K/resolve/main/open_clip_model.safetensors"),
        ),
        _siglip("siglip-vit-b16", "Google SigLIP ViT-B/16 trained on WebLI", "timm/ViT-B-16-SigLIP", 768, 224),
        _siglip(
            "siglip-vit-b16-384",
            "Google SigLIP ViT-B/16 trained on WebLI, 384 pixels",
            "timm/ViT-B-16-SigLIP-384",
            768,
            384,
        ),
    )
}
