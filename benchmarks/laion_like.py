"""Shards in the LAION-400M layout, drawn from the statistics of real CLIP ViT-B/32 embeddings.

    python -m benchmarks.laion_like OUT_DIR --rows 1000448 [--shards 1] [--seed 1]

Shard N is img_emb_N.npy and text_emb_N.npy (float16, rows x 512, unit length) and metadata_N.parquet with the columns
of the real files. One seed draws the same vectors wherever NumPy and its BLAS round alike.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

DIM = 512
DATA = Path(__file__).resolve().parent / "data"
_STATISTICS = DATA / "clip_vitb32_statistics.npz"
_BLOCK_ROWS = 50_000
_CLUSTERS, _COARSE_CLUSTERS = 12_000, 300
_CLUSTER_SEED = 20210820

_NOUNS = (
    "cat dog car tree house lamp chair shoe ring cake beach boat horse guitar watch dress bottle bridge flower bird"
)
_COLOURS = "red blue green black white yellow silver golden pink brown"
_STYLES = "vintage modern handmade cute large tiny wooden shiny antique cartoon"
_LICENSES = ["?", "", "https://creativecommons.org/licenses/by/4.0/"]


def cached(rows: int, seed: int, shards: int = 1) -> Path:
    """The directory with `shards` shards of `rows` rows each, drawn now if it is not there yet."""
    directory = DATA / (f"{rows}-seed{seed}" if shards == 1 else f"{shards}x{rows}-seed{seed}")
    if not directory.exists():
        part = directory.with_name(directory.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        write_shards(part, rows=rows, shards=shards, seed=seed)
        part.replace(directory)
    return directory


def write_shards(directory: Path, *, rows: int, shards: int, seed: int) -> None:
    """Draw shards 0 to `shards` - 1, of `rows` rows each, into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        images, texts, similarity, cluster = _draw(rows, _shard_seed(seed, shard))
        np.save(directory / f"img_emb_{shard}.npy", images)
        np.save(directory / f"text_emb_{shard}.npy", texts)
        del images, texts
        table = _metadata(rows, shard, _shard_seed(seed, shard), similarity, cluster)
        pq.write_table(table, directory / f"metadata_{shard}.parquet")


def text_queries(count: int, seed: int) -> NDArray[np.float32]:
    """`count` text embeddings of a shard of their own, stored as float16 like all others and given as float32.

    With another seed than a collection's shards they are captions of pictures the collection does not hold, drawn from
    the same distribution.
    """
    _, texts, _, _ = _draw(count, _shard_seed(seed, 0))
    return texts.astype(np.float32)


def image_queries(count: int, seed: int) -> NDArray[np.float32]:
    """`count` image embeddings of a shard of their own, as `text_queries`: pictures the collection does not hold."""
    images, _, _, _ = _draw(count, _shard_seed(seed, 0))
    return images.astype(np.float32)


def _shard_seed(seed: int, shard: int) -> int:
    return seed * 1000 + shard


def _draw(
    rows: int, seed: int
) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.float64], NDArray[np.int64]]:
    """Image and text embeddings, their cosine, and the cluster of each row. The order of the draws is the data."""
    with np.load(_STATISTICS) as statistics:
        basis = statistics["image_residual_basis"].astype(np.float32)
        image_axis, text_axis = _unit(statistics["image_mean"]), _unit(statistics["text_mean"])
    centres = _centres()
    rng = np.random.default_rng(seed)
    weight = 1 / np.arange(1, len(centres) + 1) ** 0.7
    cluster = rng.choice(len(centres), rows, p=weight / weight.sum())
    images, texts = np.empty((rows, DIM), np.float16), np.empty((rows, DIM), np.float16)
    similarity = np.empty(rows)
    for start in range(0, rows, _BLOCK_ROWS):
        stop = min(rows, start + _BLOCK_ROWS)
        size = stop - start
        latent = 0.72 * centres[cluster[start:stop]] + 0.69 * rng.standard_normal((size, DIM), dtype=np.float32)
        image = _unit(0.78 * image_axis + 0.62 * _unit(latent @ basis.T))
        noise = rng.standard_normal((size, DIM), dtype=np.float32)
        text = _unit(0.80 * text_axis + 0.60 * _unit((0.45 * latent + 0.89 * noise) @ basis.T))
        twin = rng.random(size) < 0.15  # near duplicates of other rows
        source = rng.integers(0, size, size)
        shift = rng.standard_normal((int(twin.sum()), DIM), dtype=np.float32) * (0.15 / DIM**0.5)
        image[twin] = _unit(image[source[twin]] + shift)
        images[start:stop], texts[start:stop] = image, text
        similarity[start:stop] = (image * text).sum(1)
    return images, texts, similarity, cluster


def _centres() -> NDArray[np.float32]:
    """Cluster centres in the latent space, two levels deep: the same for every shard and seed."""
    rng = np.random.default_rng(_CLUSTER_SEED)
    top = rng.standard_normal((_COARSE_CLUSTERS, DIM), dtype=np.float32)
    centres: NDArray[np.float32] = 0.6 * top[rng.integers(0, _COARSE_CLUSTERS, _CLUSTERS)]
    centres += 0.8 * rng.standard_normal((_CLUSTERS, DIM), dtype=np.float32)
    return centres


def _unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _metadata(
    rows: int, shard: int, seed: int, similarity: NDArray[np.float64], cluster: NDArray[np.int64]
) -> pa.Table:
    rng = np.random.default_rng(seed + 1)
    styles, colours, nouns = _words(_STYLES, cluster * 7), _words(_COLOURS, cluster * 3), _words(_NOUNS, cluster)
    numbers = np.arange(rows).astype(str).astype(object)
    columns = {
        "image_path": [f"{row // 10_000:05d}{row % 10_000:04d}" for row in range(rows)],
        "caption": (styles + " " + colours + " " + nouns + " number " + numbers).tolist(),
        "NSFW": rng.choice(["UNLIKELY", "UNSURE", "NSFW"], rows, p=[0.93, 0.05, 0.02]).tolist(),
        "similarity": similarity.tolist(),
        "LICENSE": rng.choice(_LICENSES, rows, p=[0.9, 0.05, 0.05]).tolist(),
        "url": [f"https://images{row % 97}.example.com/{shard}/{row}.jpg?w=1&h=2" for row in range(rows)],
        "key": [f"{row:09d}" for row in range(rows)],
        "shard_id": [shard] * rows,
        "status": ["success"] * rows,
        "width": rng.integers(64, 4000, rows).tolist(),
        "height": rng.integers(64, 4000, rows).tolist(),
        "exif": ["{}"] * rows,
        "original_width": rng.integers(64, 39_580, rows).tolist(),
        "original_height": rng.integers(64, 4000, rows).tolist(),
    }
    return pa.table(columns).append_column("error_message", pa.nulls(rows))


def _words(words: str, numbers: NDArray[np.int64]) -> Any:
    """One word a row, as an array of objects, which `+` joins."""
    choice = np.array(words.split(), object)
    return choice[numbers % len(choice)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw shards in the LAION-400M layout.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    write_shards(options.out, rows=options.rows, shards=options.shards, seed=options.seed)


if __name__ == "__main__":
    main()
