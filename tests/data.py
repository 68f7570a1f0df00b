"""Small shards that mean something: captions and colours by the test encoder, so that tests know which row is first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliphouse.encoders.words import WordEncoder

ENCODER = WordEncoder()
CAPTIONS = (
    "a red car parked",
    "red car",
    "blue sky over the sea",
    "a green tree",
    "two yellow birds",
    "black cat on a sofa",
    "white horse",
    "a bowl of orange soup",
)


def write_shard(
    directory: Path,
    number: int = 0,
    captions: Sequence[str] = CAPTIONS,
    *,
    images: NDArray[np.floating] | None = None,
    texts: NDArray[np.floating] | None = None,
    with_text: bool = True,
    dtype: str = "float16",
    folders: bool = False,
    digits: int = 1,
    columns: dict[str, Any] | None = None,
) -> Path:
    """Write one shard and return `directory`. Without vectors given, both embeddings are those of the captions."""
    encoded = ENCODER.encode_texts(captions) if images is None or (texts is None and with_text) else None
    name = f"{number:0{digits}d}"
    places = {"img_emb": "img_emb", "text_emb": "text_emb", "metadata": "metadata"} if folders else {}
    for folder in ("img_emb", "text_emb", "metadata"):
        (directory / places.get(folder, "")).mkdir(parents=True, exist_ok=True)
    image = encoded if images is None else images
    np.save(directory / places.get("img_emb", "") / f"img_emb_{name}.npy", image.astype(dtype))
    if with_text:
        text = encoded if texts is None else texts
        np.save(directory / places.get("text_emb", "") / f"text_emb_{name}.npy", text.astype(dtype))
    rows = len(captions)
    table = {
        "image_path": [f"{row:09d}" for row in range(rows)],
        "caption": list(captions),
        "NSFW": ["UNLIKELY"] * rows,
        "similarity": [0.3 + row / 1000 for row in range(rows)],
        "LICENSE": ["?"] * rows,
        "url": [f"https://example.com/{number}/{row}.jpg" for row in range(rows)],
        "key": [f"{row:09d}" for row in range(rows)],
        "width": [256 * (row + 1) for row in range(rows)],
        "height": [200] * rows,
        "original_width": [512 * (row + 1) for row in range(rows)],
        "original_height": [400] * rows,
    } | (columns or {})
    table = {name: values for name, values in table.items() if values is not None}
    pq.write_table(pa.table(table), directory / places.get("metadata", "") / f"metadata_{name}.parquet")
    return directory


def random_unit(rows: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors without meaning, float32, shape (rows, dim)."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def clustered(rows: int, dim: int, seed: int = 0, centres: int = 30) -> NDArray[np.float32]:
    """Vectors that lie in clusters, of many lengths, float32, shape (rows, dim)."""
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((centres, dim))
    vectors = middles[rng.integers(0, centres, rows)] + 0.4 * rng.standard_normal((rows, dim))
    return (vectors * rng.uniform(0.5, 2, (rows, 1))).astype(np.float32)


def cosine_distances(vectors: NDArray[np.floating], query: NDArray[np.floating]) -> NDArray[np.float64]:
    """The distance of every row to the query, in double precision."""
    rows, one = vectors.astype(np.float64), query.astype(np.float64)
    return 1 - rows @ one / (np.linalg.norm(rows, axis=1) * np.linalg.norm(one))
