"""A CLIP model's two towers as ONNX graphs, written straight from the numbers of a checkpoint: no torch is needed.

The networks are those of Radford et al. 2021 (https://arxiv.org/abs/2103.00020) and, for SigLIP, of Zhai et al. 2023
(https://arxiv.org/abs/2303.15343), under the names that OpenAI's and open_clip's checkpoints give their weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cliphouse.encoders.specs import Activation, ModelSpec
from cliphouse.errors import InvalidCheckpoint

if TYPE_CHECKING:
    import onnx

Weights = Mapping[str, NDArray[Any]]

_OPSET = 17  # the first with LayerNormalization; every ONNX Runtime since 1.13 reads it
_HEAD = 64  # every CLIP and SigLIP ViT has heads of 64 channels
_BLOCKED = -1e9  # added to the score of a token that must not be seen; exp() of it is 0


def text_tower(spec: ModelSpec, weights: Weights) -> onnx.ModelProto:
    """Token ids, int64 (n, length), to unit vectors, float32 (n, dim).

    The length is free up to the context: a causal model's answer does not depend on what follows the end of the text.

    Raises:
        InvalidCheckpoint: a weight is missing or has another shape.
    """
    graph = _Graph("text", _Part(weights, "text." if "text.token_embedding.weight" in weights else ""))
    part = graph.part
    width = part["token_embedding.weight"].shape[1]
    tokens = graph.input("tokens", "INT64", ["n", "length"])
    length = graph.slice(graph("Shape", tokens), 1, 2)
    positions = graph.head(graph.constant(part["positional_embedding"]), length)
    x = graph("Add", graph("Gather", graph.constant(part["token_embedding.weight"]), tokens), positions)
    mask = None
    if spec.causal:
        upper = np.triu(np.full((spec.context_length,) * 2, _BLOCKED, np.float32), 1)
        mask = graph.head(graph.head(graph.constant(upper), length), length, axis=1)
    for block in range(part.layers("transformer.resblocks")):
        x = graph.block(x, part.at(f"transformer.resblocks.{block}"), width // _HEAD, spec, mask)
    # Only the end of the text is looked at, so only that one is normalised and projected.
    if spec.causal:
        end = graph("ArgMax", tokens, axis=1, keepdims=1)  # its id is the largest
        index = graph("Unsqueeze", end, graph.ints(2))
        shape = graph("Concat", graph("Shape", end), graph.ints(width), axis=0)
        x = graph("GatherElements", x, graph("Expand", index, shape), axis=1)
    else:
        x = graph.slice(x, -1, np.iinfo(np.int64).max, axis=1)
    x = graph.norm(graph("Squeeze", x, graph.ints(1)), part, "ln_final", spec.norm_epsilon)
    if "text_projection" in part:
        projection = part["text_projection"]
        return graph.finish(graph("MatMul", x, graph.constant(projection)), projection.shape[1], spec.dim)
    projection = part["text_projection.weight"]
    return graph.finish(graph.linear(x, projection, part["text_projection.bias"]), len(projection), spec.dim)


def image_tower(spec: ModelSpec, weights: Weights) -> onnx.ModelProto:
    """Pixels, float32 (n, 3, size, size) as preprocessed, to unit vectors, float32 (n, dim).

    Raises:
        InvalidCheckpoint: a weight is missing or has another shape.
    """
    return _siglip_image(spec, weights) if "visual.trunk.pos_embed" in weights else _clip_image(spec, weights)


def _clip_image(spec: ModelSpec, weights: Weights) -> onnx.ModelProto:
    graph = _Graph("image", _Part(weights, "visual."))
    part = graph.part
    width = part["conv1.weight"].shape[0]
    x = graph.patches(graph.pixels(spec), part["conv1.weight"], None)
    batch = graph.slice(graph("Shape", x), 0, 1)
    start = graph.constant(part["class_embedding"].reshape(1, 1, width))
    x = graph("Concat", graph("Expand", start, graph("Concat", batch, graph.ints(1, width), axis=0)), x, axis=1)
    x = graph.norm(graph("Add", x, graph.constant(part["positional_embedding"])), part, "ln_pre", spec.norm_epsilon)
    last = part.layers("transformer.resblocks") - 1
    for block in range(last + 1):
        # Only the first row is looked at in the end, so the last block makes no other.
        inner = part.at(f"transformer.resblocks.{block}")
        x = graph.block(x, inner, width // _HEAD, spec, first_only=block == last)
    x = graph.norm(graph("Squeeze", x, graph.ints(1)), part, "ln_post", spec.norm_epsilon)
    projection = part["proj"]
    return graph.finish(graph("MatMul", x, graph.constant(projection)), projection.shape[1], spec.dim)


#: timm's names of what a block holds, by the names that CLIP gives them.
_TIMM = {
    "ln_1": "norm1",
    "attn.in_proj_weight": "attn.qkv.weight",
    "attn.in_proj_bias": "attn.qkv.bias",
    "attn.out_proj": "attn.proj",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def _siglip_image(spec: ModelSpec, weights: Weights) -> onnx.ModelProto:
    graph = _Graph("image", _Part(weights, "visual.trunk."))
    part = graph.part
    width = part["pos_embed"].shape[2]
    x = graph.patches(graph.pixels(spec), part["patch_embed.proj.weight"], part["patch_embed.proj.bias"])
    x = graph("Add", x, graph.constant(part["pos_embed"]))
    for block in range(part.layers("blocks")):
        x = graph.block(x, part.at(f"blocks.{block}", _TIMM), width // _HEAD, spec)
    x = graph.norm(x, part, "norm", spec.norm_epsilon)
    # One learned query looks at all patches (the "map" head of SigLIP).
    pool = part.at("attn_pool")
    batch = graph.slice(graph("Shape", x), 0, 1)
    latent = graph.constant(pool["latent"] @ pool["q.weight"].T + pool["q.bias"])
    q = graph("Expand", latent, graph("Concat", batch, graph.ints(1, width), axis=0))
    k, v = graph.split(graph.linear(x, pool["kv.weight"], pool["kv.bias"]), 2)
    x = graph.attention(q, k, v, width // _HEAD)
    x = graph.linear(x, pool["proj.weight"], pool["proj.bias"])
    inner = graph.norm(x, pool, "norm", spec.norm_epsilon)
    x = graph("Add", x, graph.mlp(inner, pool, ("mlp.fc1", "mlp.fc2"), spec.activation))
    return graph.finish(graph("Squeeze", x, graph.ints(1)), width, spec.dim)


class _Part:
    """The weights under a prefix, as float32, under the names that CLIP gives them."""

    def __init__(self, weights: Weights, prefix: str, names: Mapping[str, str] | None = None) -> None:
        self._weights, self._prefix, self._names = weights, prefix, names or {}

    def _full(self, name: str) -> str:
        for ours, theirs in self._names.items():
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
                break
        return self._prefix + name

    def __contains__(self, name: str) -> bool:
        return self._full(name) in self._weights

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if name not in self:
            raise InvalidCheckpoint("the file", f"it has no weight {self._full(name)!r}")
        return np.asarray(self._weights[self._full(name)], dtype=np.float32)

    def at(self, name: str, names: Mapping[str, str] | None = None) -> _Part:
        return _Part(self._weights, f"{self._prefix}{name}.", names)

    def layers(self, name: str) -> int:
        """How many numbered parts there are under `name`."""
        prefix = f"{self._prefix}{name}."
        numbers = {key.removeprefix(prefix).split(".")[0] for key in self._weights if key.startswith(prefix)}
        if not numbers:
            raise InvalidCheckpoint("the file", f"it has no weights {prefix}*")
        return len(numbers)


class _Graph:
    """A graph under construction; a value is the name of what made it."""

    def __init__(self, name: str, part: _Part) -> None:
        import onnx

        self.part = part
        self._helper, self._types = onnx.helper, onnx.TensorProto
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._constants: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{op}_{len(self._nodes)}_{number}" for number in range(outputs)]
        self._nodes.append(self._helper.make_node(op, list(inputs), names, name=names[0], **attributes))
        return names[0] if outputs == 1 else names

    def input(self, name: str, kind: str, shape: Sequence[int | str]) -> str:
        value = self._helper.make_tensor_value_info(name, getattr(self._types, kind), shape)
        self._inputs.append(value)
        return name

    def pixels(self, spec: ModelSpec) -> str:
        return self.input("pixels", "FLOAT", ["n", 3, spec.image_size, spec.image_size])

    def constant(self, array: NDArray[Any]) -> str:
        import onnx

        name = f"constant_{len(self._constants)}"
        self._constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def slice(self, x: str, start: int, stop: int, axis: int = 0) -> str:
        return str(self("Slice", x, self.ints(start), self.ints(stop), self.ints(axis)))

    def head(self, x: str, length: str, axis: int = 0) -> str:
        """The first `length` of `x`, a length known only when it runs."""
        return str(self("Slice", x, self.ints(0), length, self.ints(axis)))

    def split(self, x: str, parts: int) -> list[str]:
        return list(self("Split", x, outputs=parts, axis=-1))

    def norm(self, x: str, part: _Part, name: str, epsilon: float) -> str:
        scale, bias = self.constant(part[f"{name}.weight"]), self.constant(part[f"{name}.bias"])
        return str(self("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon))

    def linear(self, x: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        return str(self("Add", self("MatMul", x, self.constant(weight.T)), self.constant(bias)))

    def patches(self, pixels: str, kernel: NDArray[np.float32], bias: NDArray[np.float32] | None) -> str:
        """The picture cut in squares, each projected: (n, patches, width)."""
        inputs = [self.constant(kernel)] + ([] if bias is None else [self.constant(bias)])
        x = self("Conv", pixels, *inputs, strides=list(kernel.shape[2:]))
        flat = self("Reshape", x, self.ints(0, kernel.shape[0], -1))
        return str(self("Transpose", flat, perm=[0, 2, 1]))

    def attention(self, q: str, k: str, v: str, heads: int, mask: str | None = None) -> str:
        """Scaled dot-product attention; `q` comes scaled by the caller's weights or is scaled here."""

        def by_head(x: str, order: list[int]) -> str:
            return str(self("Transpose", self("Reshape", x, self.ints(0, 0, heads, _HEAD)), perm=order))

        scaled = self("Mul", q, self.constant(np.array(_HEAD**-0.5, np.float32)))
        scores = self("MatMul", by_head(scaled, [0, 2, 1, 3]), by_head(k, [0, 2, 3, 1]))
        if mask is not None:
            scores = self("Add", scores, mask)
        mixed = self("MatMul", self("Softmax", scores, axis=-1), by_head(v, [0, 2, 1, 3]))
        return str(self("Reshape", self("Transpose", mixed, perm=[0, 2, 1, 3]), self.ints(0, 0, heads * _HEAD)))

    def block(
        self, x: str, part: _Part, heads: int, spec: ModelSpec, mask: str | None = None, *, first_only: bool = False
    ) -> str:
        """One residual block: attention, then a two-layer network, each on the normalised input.

        With `first_only` it answers with the first row alone, which still looks at all of them.
        """
        inner = asking = self.norm(x, part, "ln_1", spec.norm_epsilon)
        if first_only:
            x, asking = self.slice(x, 0, 1, axis=1), self.slice(inner, 0, 1, axis=1)
        weight, bias = part["attn.in_proj_weight"], part["attn.in_proj_bias"]
        width = weight.shape[1]
        q = self.linear(asking, weight[:width], bias[:width])
        k, v = self.split(self.linear(inner, weight[width:], bias[width:]), 2)
        mixed = self.attention(q, k, v, heads, mask)
        x = self("Add", x, self.linear(mixed, part["attn.out_proj.weight"], part["attn.out_proj.bias"]))
        inner = self.norm(x, part, "ln_2", spec.norm_epsilon)
        return str(self("Add", x, self.mlp(inner, part, ("mlp.c_fc", "mlp.c_proj"), spec.activation)))

    def mlp(self, x: str, part: _Part, names: tuple[str, str], activation: Activation) -> str:
        first, second = names
        x = self.linear(x, part[f"{first}.weight"], part[f"{first}.bias"])
        return self.linear(self._activate(x, activation), part[f"{second}.weight"], part[f"{second}.bias"])

    def _activate(self, x: str, activation: Activation) -> str:
        def number(value: float) -> str:
            return self.constant(np.array(value, np.float32))

        if activation == "quick_gelu":
            return str(self("Mul", x, self("Sigmoid", self("Mul", x, number(1.702)))))
        if activation == "gelu":
            bell = self("Add", self("Erf", self("Div", x, number(2**0.5))), number(1))
        else:  # gelu_tanh
            cube = self("Mul", self("Mul", self("Mul", x, x), x), number(0.044715))
            bell = self("Add", self("Tanh", self("Mul", self("Add", x, cube), number((2 / np.pi) ** 0.5))), number(1))
        return str(self("Mul", self("Mul", x, bell), number(0.5)))

    def finish(self, x: str, width: int, dim: int) -> onnx.ModelProto:
        """The model whose answer is `x`, `width` numbers a row, each row scaled to length one."""
        if width != dim:
            raise InvalidCheckpoint("the file", f"its {self._name} vectors have {width} dimensions, not {dim}")
        length = self("ReduceL2", x, axes=[-1], keepdims=1)
        self._nodes.append(self._helper.make_node("Div", [x, length], ["embedding"], name="embedding"))
        answer = self._helper.make_tensor_value_info("embedding", self._types.FLOAT, ["n", dim])
        graph = self._helper.make_graph(self._nodes, self._name, self._inputs, [answer], self._constants)
        opsets = [self._helper.make_opsetid("", _OPSET)]
        return self._helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="cliphouse")
