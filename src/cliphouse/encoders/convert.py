"""Checkpoints to encoders: read the weights, write the two ONNX files, check what came out."""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliphouse.encoders import BUILT_IN, graph, store
from cliphouse.encoders.checkpoint import read_checkpoint
from cliphouse.encoders.onnx import OnnxEncoder
from cliphouse.encoders.specs import MODELS, ModelSpec
from cliphouse.errors import (
    DownloadFailed,
    IncompleteWeights,
    InvalidCheckpoint,
    MissingExtra,
    PrecisionTooLow,
    UsageError,
    WeightsNotStored,
)
from cliphouse.files import Part, locked, sum_of
from cliphouse.types import Progress, ProgressCallback
from cliphouse.web import download

#: How far our answer may be from PyTorch's in any number of a unit vector.
TOLERANCE = 1e-5
#: Ends the names of int8 variants.
INT8 = "-int8"
_BATCH = 32
_ELSEWHERE = "name a mirror with --base-url, or convert a file you have: cliphouse encoder export NAME --from FILE"


def fetch(
    spec: ModelSpec,
    *,
    base_url: str | None = None,
    keep: bool = False,
    sums: Sequence[str] = (),
    unverified: bool = False,
    progress: ProgressCallback | None = None,
) -> store.Stored:
    """Download the checkpoint of `spec` as its publisher offers it, and make it an encoder in the home folder.

    `base_url` is a mirror that has the same files under their own names. Files without a published sha256 must have one
    of `sums`, or else the one that the hub declares, or may be anything with `unverified`; `made["checked"]` says which
    it was. The checkpoint is removed afterwards unless `keep`.

    Raises:
        DownloadFailed: it cannot be had, or another process fetches it; what came is kept for the next try.
        ChecksumMismatch: it is not the published file.
        InvalidCheckpoint: it does not hold the model.
        WeightsNotStored: the disk is full, or the home folder cannot be written.
    """
    if spec.checkpoint is None:
        raise UsageError(f"nobody publishes a checkpoint of {spec.name!r}")
    published = spec.checkpoint.sha256
    if published and sums and published not in sums:
        raise UsageError(f"the published sha256 of {spec.name!r} is {published}; leave --sha256 out")
    _need_onnx()
    store.check_place(store.home() / spec.name)
    folder = store.home() / "downloads"
    with store.writing(folder), locked(folder / f"{spec.name}.lock") as mine:
        if not mine:
            raise DownloadFailed(spec.checkpoint.url, "another process is fetching it", advice="wait until it is done")
        files, found, checked = [], {}, {}
        for wanted in (spec.checkpoint, spec.tokenizer_file):
            if wanted is None:
                continue
            url = wanted.url if base_url is None else f"{base_url.rstrip('/')}/{wanted.file}"
            target = folder / f"{spec.name}-{wanted.file}"
            accept = [wanted.sha256] if wanted.sha256 else list(sums)
            how = "sha256 as published" if wanted.sha256 else "sha256 as given"
            if target.is_file() and accept and (known := sum_of(target)) in accept:
                found[url] = known
            else:
                with store.writing(Part(target).path):
                    receipt = download(
                        url, target, accept=accept, unverified=unverified, elsewhere=_ELSEWHERE, progress=progress
                    )
                found[url] = receipt.sha256
                if not accept:
                    how = f"{receipt.declared} as the hub declares" if receipt.declared else "not verified"
            checked[url] = how
            files.append(target)
        origin = {"from": found, "checked": checked}
        encoder = convert(spec, files[0], *files[1:], origin=origin, progress=progress)
        if not keep:
            for file in files:
                file.unlink()
    return encoder


def spec_of(spec: ModelSpec | None, checkpoint: Path, name: str | None = None) -> ModelSpec:
    """What the weights in `checkpoint` are: `spec`, or for None the model with the file's sum; called `name`, if any.

    Raises:
        UsageError: the name belongs to other weights, or the file to another model.
        InvalidCheckpoint: there is no such file.
    """
    if not checkpoint.is_file():
        raise InvalidCheckpoint(checkpoint, "there is no such file")
    found = sum_of(checkpoint)
    known = next((each for each in MODELS.values() if each.checkpoint and each.checkpoint.sha256 == found), None)
    command = "cliphouse encoder export"
    spec = spec or known
    if spec is None:
        raise UsageError(
            f"{checkpoint} is no checkpoint whose sum is known; say which model it is: "
            f"{command} NAME --from {checkpoint} (NAME: {', '.join(MODELS)})"
        )
    if known and known.name != spec.name:
        raise UsageError(
            f"{checkpoint} holds the weights of {known.name}, not {spec.name}; "
            f"run: {command} {known.name} --from {checkpoint}"
        )
    if name is not None:
        _check_name(name)
        return dataclasses.replace(spec, name=name)
    if spec.checkpoint and spec.checkpoint.sha256 and spec.checkpoint.sha256 != found:
        raise UsageError(
            f"{checkpoint} is not the published {spec.name} (sha256 {found[:16]}..., published "
            f"{spec.checkpoint.sha256[:16]}...); give other weights a name of their own: "
            f"{command} {spec.name} --from {checkpoint} --name OTHER"
        )
    return spec


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UsageError(f"{name!r} is no name for an encoder; use letters, digits and - . _ after a letter or digit")
    if name.removesuffix(INT8) in {*MODELS, *BUILT_IN, "downloads"}:
        raise UsageError(f"{name!r} is the name of a known encoder; give other weights another one")


def convert(
    spec: ModelSpec,
    checkpoint: Path,
    tokenizer_file: Path | None = None,
    *,
    target: Path | None = None,
    verify: bool = False,
    origin: Mapping[str, Any] | None = None,
    progress: ProgressCallback | None = None,
) -> store.Stored:
    """Make the encoder `spec` of a checkpoint, at `target` or under its name in the home folder.

    `origin` is what its manifest is to say of where the checkpoint came from: by default its own name and sum. With
    `verify` the two networks are compared with open_clip's own on PyTorch, and kept only if they agree.

    Raises:
        InvalidCheckpoint: the file cannot be read, is not of this architecture, or PyTorch disagrees.
        MissingExtra: the package onnx is not installed, or with `verify` torch and open_clip.
    """
    onnx = _need_onnx()
    if verify:
        _need_torch()
    if spec.tokenizer == "siglip" and tokenizer_file is None:
        raise UsageError(f"{spec.name!r} also needs its tokenizer.json; name it with --tokenizer")
    if tokenizer_file is not None and not tokenizer_file.is_file():
        raise UsageError(f"there is no file {tokenizer_file}; name the model's tokenizer.json with --tokenizer")

    steps = [0]

    def say() -> None:
        if progress:
            progress(Progress(label=f"converting {spec.name}", done=steps[0], total=4, unit="steps"))
        steps[0] += 1

    made: dict[str, Any] = {}

    def write(folder: Path) -> None:
        say()
        weights = read_checkpoint(checkpoint)
        say()
        onnx.save(graph.text_tower(spec, weights), folder / store.TEXT_MODEL)
        say()
        onnx.save(graph.image_tower(spec, weights), folder / store.IMAGE_MODEL)
        if tokenizer_file is not None:
            (folder / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
        say()
        encoder = OnnxEncoder(store.Stored(folder=folder, spec=spec, files={}, made={}))
        _try(encoder)
        if verify:
            made["torch_difference"] = compare_with_torch(encoder, checkpoint, spec)
        made.update(origin or {"from": {checkpoint.name: sum_of(checkpoint)}})
        say()

    return store.install(spec, made, target or store.home() / spec.name, write)


def _try(encoder: OnnxEncoder) -> None:
    """Ask both towers once: a wrong shape shows here and not at a user's first query."""
    from PIL import Image

    vectors = encoder.encode_texts(["a dog and a cat"]), encoder.encode_images([Image.new("RGB", (640, 480))])
    for tower, found in zip(("text", "image"), vectors, strict=True):
        if not np.isfinite(found).all():
            raise InvalidCheckpoint("the file", f"its {tower} tower answers with numbers that are not finite")


def compare_with_torch(encoder: OnnxEncoder, checkpoint: Path, spec: ModelSpec) -> float:
    """The largest difference in any number between `encoder` and open_clip's own network with the same weights.

    Raises:
        MissingExtra: torch and open_clip are not installed.
        InvalidCheckpoint: open_clip does not take the weights, or the difference is above TOLERANCE.
    """
    open_clip, torch = _need_torch()
    weights = {name: torch.from_numpy(np.array(value)) for name, value in read_checkpoint(checkpoint).items()}
    network = open_clip.create_model(spec.architecture, precision="fp32").eval()
    own = network.state_dict()
    try:
        network.load_state_dict({name: value.float() for name, value in weights.items() if name in own}, strict=False)
    except RuntimeError as error:
        raise InvalidCheckpoint(checkpoint, f"open_clip's {spec.architecture} does not take it ({error})") from error
    random = np.random.default_rng(0)
    texts = ["a dog and a cat", "", "a " * 200, "a photograph of a red car in the snow"]
    pictures = random.normal(size=(2, 3, spec.image_size, spec.image_size)).astype(np.float32)
    tokens = encoder.tokens(texts)
    padded = np.zeros((len(texts), spec.context_length), np.int64)
    padded[:, : tokens.shape[1]] = tokens
    with torch.no_grad():
        theirs = (
            network.encode_text(torch.from_numpy(padded), normalize=True).numpy(),
            network.encode_image(torch.from_numpy(pictures), normalize=True).numpy(),
        )
    ours = encoder.encode_texts(texts), encoder.encode_pixels(pictures)
    worst = max(float(np.abs(mine - other).max()) for mine, other in zip(ours, theirs, strict=True))
    if not worst <= TOLERANCE:
        raise InvalidCheckpoint(checkpoint, f"the ONNX files differ from PyTorch by {worst:.1e} (at most {TOLERANCE})")
    return worst


def quantize(
    encoder: store.Stored, texts: Sequence[str], pictures: Sequence[Any], *, min_cosine: float
) -> tuple[store.Stored, dict[str, float]]:
    """An int8 variant of `encoder` beside it, called NAME-int8, if it answers alike on the user's own sample.

    Weights are rounded to 8 bits per output channel and inputs while it runs (ONNX Runtime's dynamic quantization of
    matrix products). Returns the variant and the mean cosines of its text and image vectors to full precision.

    Raises:
        PrecisionTooLow: a mean cosine is below `min_cosine`; nothing is kept.
        UsageError: the sample has no text or no picture.
    """
    _need_onnx()
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ModuleNotFoundError:
        raise MissingExtra("an int8 variant is made by ONNX Runtime: pip install 'cliphouse[clip]'") from None
    if not texts or not pictures:
        raise UsageError("the sample needs at least one caption and one picture of your own data")
    name = f"{encoder.spec.name}{INT8}"
    target = encoder.folder.resolve().with_name(name)
    store.check_place(target)
    spec = dataclasses.replace(encoder.spec, name=name, space=encoder.spec.space or encoder.spec.name)
    full = OnnxEncoder(encoder)
    reference = {"text": full.encode_texts(texts), "image": _image_vectors(full, pictures)}
    cosines: dict[str, float] = {}

    def write(folder: Path) -> None:
        for model in (store.TEXT_MODEL, store.IMAGE_MODEL):
            try:
                with _no_warnings():
                    quantize_dynamic(
                        encoder.folder / model,
                        folder / model,
                        per_channel=True,
                        weight_type=QuantType.QInt8,
                        op_types_to_quantize=["MatMul", "Gemm"],
                    )
            except OSError:
                raise
            except Exception as error:  # it reads again what it wrote, and a full disk shows as a broken file
                if shutil.disk_usage(folder).free < (encoder.folder / model).stat().st_size:
                    raise WeightsNotStored(target, "No space left on device") from error
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise IncompleteWeights(encoder.folder, f"ONNX Runtime cannot round {model} ({reason})") from error
        for extra in encoder.files.keys() - {store.TEXT_MODEL, store.IMAGE_MODEL}:
            (folder / extra).write_bytes((encoder.folder / extra).read_bytes())
        small = OnnxEncoder(store.Stored(folder=folder, spec=spec, files={}, made={}))
        found = {"text": small.encode_texts(texts), "image": _image_vectors(small, pictures)}
        for what, vectors in found.items():
            cosines[what] = _mean_cosine(vectors, reference[what])
            if not cosines[what] >= min_cosine:  # also what is no number
                raise PrecisionTooLow(name, what=what, cosine=cosines[what], wanted=min_cosine)

    made = {"from": {encoder.spec.name: encoder.files[store.TEXT_MODEL].sha256}, "mean_cosine": cosines}
    made["sample"] = {"texts": len(texts), "images": len(pictures)}
    return store.install(spec, made, target, write), cosines


def _image_vectors(encoder: OnnxEncoder, pictures: Sequence[Any]) -> NDArray[np.float32]:
    """The vectors of pictures that may be opened as they are taken, so that few are held at a time."""
    batches = (pictures[start : start + _BATCH] for start in range(0, len(pictures), _BATCH))
    return np.concatenate([encoder.encode_images(batch) for batch in batches])


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Keep ONNX Runtime's advice about preparing graphs from the root logger, where it would also set up printing."""
    root, quiet, before = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(quiet)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
        root.removeHandler(quiet)


def _mean_cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float((one * other).sum(axis=1).mean())


def _need_onnx() -> Any:
    try:
        import onnx
    except ModuleNotFoundError:
        raise MissingExtra("converting weights needs the package onnx: pip install 'cliphouse[clip]'") from None
    return onnx


def _need_torch() -> tuple[Any, Any]:
    try:
        import open_clip
        import torch
    except (ImportError, RuntimeError) as error:  # a torchvision made for another torch raises RuntimeError
        raise MissingExtra(
            f"checking an export against PyTorch needs torch and open_clip ({error}); install them with: "
            "pip install 'cliphouse[torch]', or leave the check out with --no-verify"
        ) from None
    return open_clip, torch
