"""What the encoder run measures with: a checkpoint of random weights, the encoders made of it, a small collection.

It runs in a process of its own, so that the memory it takes is nobody else's.
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import laion_like
from benchmarks.encoder_systems import Places, open_clip


def set_up(places: Places, texts: list[str], pictures: list[bytes], *, seed: int, rows: int) -> dict[str, Any]:
    """Fill `places`; `texts` and `pictures` are the sample for int8. What is to be told of it, for the result."""
    from PIL import Image

    from cliphouse import Collection
    from cliphouse.encoders import MODELS, convert
    from cliphouse.encoders.store import HOME_VARIABLE

    os.environ[HOME_VARIABLE] = str(places.home)
    places.home.mkdir(parents=True)
    save_random_weights(places, seed)
    encoder = convert.convert(
        MODELS[places.encoder], places.checkpoint, target=places.home / places.encoder, verify=True
    )
    sample = [Image.open(io.BytesIO(picture)) for picture in pictures]
    small, _ = convert.quantize(encoder, texts, sample, min_cosine=-1)
    with (
        tempfile.TemporaryDirectory(dir=places.home.parent) as shards,
        Collection.open(places.database) as collection,
    ):
        laion_like.write_shards(Path(shards), rows=rows, shards=1, seed=seed)
        collection.load(shards)
        status = collection.status()
    return {
        "ClickHouse": status.engine_version,
        "collection": {"rows": status.rows, "dim": status.dim, "storage": status.storage},
        "torch_difference": encoder.made["torch_difference"],
        "int8": dict(small.made),
        "file_bytes": {
            **{file: each.size for file, each in encoder.files.items()},
            **{f"int8 {file}": each.size for file, each in small.files.items()},
            "checkpoint": places.checkpoint.stat().st_size,
        },
    }


def save_random_weights(places: Places, seed: int) -> None:
    """A checkpoint of the architecture as open_clip initialises it, with biases and scales off their start."""
    oracle = open_clip()
    torch = oracle.torch
    torch.manual_seed(seed)
    network = oracle.open_clip.create_model(places.architecture)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.05)
    torch.save(network.state_dict(), places.checkpoint)
