"""What training reads: every picture in several disguises, as frozen lower features and as a coarse colour layout."""

from __future__ import annotations

import argparse
import multiprocessing
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from training import clipart, emoji, lite0, render
from training.fetch import WORK

LAYOUT = 8
LOWER_CHANNELS = 80
#: Disguises a picture, the first of them plain, by how it is drawn.
_VIEWS = {"plain": 6, "inked": 3, "outline": 2, clipart.SOURCE: 5}
_BATCH = 16
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_GREY_SHARE, _TINTED_SHARE, _BLURRED_SHARE, _POSTERISED_SHARE, _FLIPPED_SHARE = 0.08, 0.25, 0.12, 0.1, 0.3


@dataclass(frozen=True, slots=True)
class Cache:
    """Lower features (rows x 80 x 64), layouts (rows x 192), and each row's rendering and picture key."""

    lower: NDArray[np.float16]
    layout: NDArray[np.float16]
    renderings: list[str]
    keys: list[str]


def layout(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The mean colour of each of 8 x 8 squares, from -1 to 1: n x 3 x 8 x 8, flattened."""
    count, side = rgb.shape[0], rgb.shape[1] // LAYOUT
    squares = rgb.reshape(count, LAYOUT, side, LAYOUT, side, 3).mean(axis=(2, 4), dtype=np.float32)
    return normalise(squares.transpose(0, 3, 1, 2).reshape(count, -1))


def normalise(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels of 0 to 255 as the network wants them."""
    return (pixels - np.float32(lite0.MEAN)) / np.float32(lite0.STD)


def session(model: Path, *, threads: int = 1) -> ort.InferenceSession:
    """The ONNX model on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def disguised(
    pixels: NDArray[np.uint8], rng: np.random.Generator, *, is_flag: bool, may_flip: bool
) -> NDArray[np.uint8]:
    """The RGBA picture turned, scaled, shifted and recoloured at random, composed onto some background, as RGB."""
    image = Image.fromarray(pixels)
    if may_flip and rng.random() < _FLIPPED_SHARE:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = rng.uniform(-0.2, 0.2) * (0.4 if is_flag else 1.0)
    scale = rng.uniform(0.85, 1.3)
    aspect = rng.uniform(0.92, 1.08)
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    centre = render.SIZE / 2
    x, y = centre + rng.uniform(-6, 6), centre + rng.uniform(-6, 6)
    across = (cos * aspect, sin, x - cos * aspect * centre - sin * centre)
    down = (-sin, cos / aspect, y + sin * centre - cos / aspect * centre)
    image = image.transform(
        image.size, Image.Transform.AFFINE, (*across, *down), Image.Resampling.BILINEAR, fillcolor=(255, 255, 255, 0)
    )
    if rng.random() < _BLURRED_SHARE:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.6)))
    rgba = np.asarray(image, dtype=np.float32)
    colours = _recoloured(rgba[..., :3], rng, is_flag=is_flag)
    ground = np.full(3, 255.0, dtype=np.float32)
    if rng.random() < _TINTED_SHARE:
        ground = rng.uniform(150, 255, 3).astype(np.float32)
    alpha = rgba[..., 3:] / 255.0
    composed: NDArray[np.uint8] = np.clip(colours * alpha + ground * (1.0 - alpha), 0, 255).astype(np.uint8)
    return composed


def _recoloured(rgb: NDArray[np.float32], rng: np.random.Generator, *, is_flag: bool) -> NDArray[np.float32]:
    strength = 0.5 if is_flag else 1.0
    saturation = 0.0 if not is_flag and rng.random() < _GREY_SHARE else 1 + rng.uniform(-0.5, 0.5) * strength
    mix = np.eye(3, dtype=np.float32) * saturation + (1 - saturation) * _LUMA[:, None]
    mix += rng.normal(0, 0.06 * strength, (3, 3)).astype(np.float32)
    contrast, lift = 1 + rng.uniform(-0.25, 0.2), rng.uniform(-20, 40) * strength
    mixed = (rgb @ mix - 128.0) * contrast + 128.0 + lift
    if rng.random() < _POSTERISED_SHARE:
        step = 255.0 / rng.integers(2, 5)
        mixed = np.round(mixed / step) * step
    changed: NDArray[np.float32] = mixed.astype(np.float32)
    return changed


def renderings() -> list[tuple[str, int]]:
    """Every rendering that trains, with its number of disguises."""
    plain = [(source, _VIEWS["plain"]) for source in emoji.TRAINED]
    inked = [(f"{source}-inked", _VIEWS["inked"]) for source in render.INKED]
    outlined = [(f"{source}-outline", _VIEWS["outline"]) for source in render.OUTLINED]
    return [*plain, *inked, *outlined, (clipart.SOURCE, _VIEWS[clipart.SOURCE])]


def load(work: Path) -> Cache:
    """The cache that this module's command made, memory-mapped."""
    folder = work / "features"
    rows = [line.split("\t") for line in (folder / "rows.tsv").read_text(encoding="utf-8").splitlines()]
    return Cache(
        np.load(folder / "lower.npy", mmap_mode="r"),
        np.load(folder / "layout.npy"),
        [rendering for rendering, _ in rows],
        [key for _, key in rows],
    )


@dataclass(frozen=True, slots=True)
class _Task:
    rendering: str
    key: str
    row: int
    views: int
    is_flag: bool
    may_flip: bool


def _tasks(work: Path) -> Iterator[_Task]:
    """One task a picture that may train; held-out concepts and clip arts have none."""
    known = emoji.concepts(work)
    held_out = {art.drawing.key for art in clipart.clip_arts(work) if art.held_out}
    for rendering, views in renderings():
        for row, key in enumerate(render.rendered(rendering, work)[0]):
            concept = known.get(key.rpartition("/")[2]) if rendering != clipart.SOURCE else None
            if key in held_out or (concept is not None and concept.held_out):
                continue
            is_flag = concept.is_flag if concept is not None else "/flags/" in key
            yield _Task(rendering, key, row, views, is_flag, rendering == clipart.SOURCE and not is_flag)


def _compute(work: Path, tasks: Sequence[_Task]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Features of all views of the tasks' pictures, in order. Random numbers depend on the picture only."""
    model = session(work / "lower.onnx")
    lowers, layouts = [], []
    for start in range(0, len(tasks), _BATCH):
        views = []
        for task in tasks[start : start + _BATCH]:
            pixels = render.rendered(task.rendering, work)[1][task.row]
            rng = np.random.default_rng(zlib.crc32(f"{task.rendering} {task.key}".encode()))
            views.append(render.on_white(pixels[None])[0])
            views += [
                disguised(pixels, rng, is_flag=task.is_flag, may_flip=task.may_flip) for _ in range(task.views - 1)
            ]
        rgb = np.stack(views)
        layouts.append(layout(rgb).astype(np.float16))
        planes = normalise(np.ascontiguousarray(rgb.transpose(0, 3, 1, 2), dtype=np.float32))
        for part in range(0, len(planes), _BATCH):
            lower = model.run(None, {"pixels": planes[part : part + _BATCH]})[0]
            lowers.append(lower.reshape(len(lower), LOWER_CHANNELS, -1).astype(np.float16))
    return np.concatenate(lowers), np.concatenate(layouts)


def export_lower(work: Path) -> None:
    """Write the frozen lower half as ONNX."""
    lower = lite0.Lower(lite0.pretrained(work)).eval()
    torch.onnx.export(
        lower,
        (torch.zeros(1, 3, render.SIZE, render.SIZE),),
        work / "lower.onnx",
        input_names=["pixels"],
        output_names=["lower"],
        dynamic_axes={"pixels": {0: "n"}, "lower": {0: "n"}},
        dynamo=False,
    )


def main() -> None:
    """Compute the cache of every picture that trains, on two processes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=WORK)
    work: Path = parser.parse_args().work
    export_lower(work)
    tasks = list(_tasks(work))
    parts = [tasks[start : start + 256] for start in range(0, len(tasks), 256)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        computed = []
        for number, part in enumerate(pool.imap(partial(_compute, work), parts)):
            computed.append(part)
            print(f"{number + 1} of {len(parts)}", flush=True)
    folder = work / "features"
    folder.mkdir(exist_ok=True)
    np.save(folder / "lower.npy", np.concatenate([lower for lower, _ in computed]))
    np.save(folder / "layout.npy", np.concatenate([colours for _, colours in computed]))
    rows = [f"{task.rendering}\t{task.key}" for task in tasks for _ in range(task.views)]
    (folder / "rows.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
