"""Where encoders are put, under which name, and what is made of folders and samples that are not as they should be."""

from __future__ import annotations

import builtins
import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cliphouse.encoders import convert, load_encoder, specs, store
from cliphouse.errors import (
    ChecksumMismatch,
    IncompleteWeights,
    MissingExtra,
    PrecisionTooLow,
    UsageError,
    WeightsNotStored,
)
from tests.conftest import Outcome
from tests.encoders import tiny
from tests.oracles.pictures import picture


@pytest.fixture
def known(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tiny model in the table, with its sum, and a home of its own."""
    monkeypatch.setenv(store.HOME_VARIABLE, str(tmp_path / "home"))
    sha256 = hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    checkpoint = specs.Download(url="https://nowhere.invalid/tiny.safetensors", sha256=sha256)
    spec = dataclasses.replace(tiny.CLIP, checkpoint=checkpoint)
    monkeypatch.setitem(specs.MODELS, spec.name, spec)  # type: ignore[arg-type]


@pytest.mark.usefixtures("known")
def test_a_folder_of_the_users_is_never_replaced(
    tiny_checkpoint: Path, tmp_path: Path, cliphouse: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(out: object) -> Outcome:
        return cliphouse("encoder", "export", "--from", tiny_checkpoint, "--no-verify", "--out", out)

    for name in ("thesis.txt", "tokenizer.json"):
        documents = tmp_path / name.split(".")[0]
        documents.mkdir()
        (documents / name).write_text("years of work")
        refused = export(documents)
        assert refused.code == 2
        assert f"holds other things than an encoder ({name})" in refused.err
        assert (documents / name).read_text() == "years of work"
    assert "is a file; name a folder" in export(tiny_checkpoint).err
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "is the folder you are in" in export(".").err
    (tmp_path / "empty").mkdir()
    for target in ("../empty", "../empty", "new"):  # empty, an encoder, and nothing
        assert export(target).code == 0
        assert store.open_folder(Path(target)).spec.name == "tiny-clip"
    Path("new/notes.txt").write_text("mine")
    assert export("new").code == 2
    assert Path("new/notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("known")
def test_other_weights_do_not_get_a_known_name(
    tiny_checkpoint: Path, tmp_path: Path, cliphouse: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import save_file

    save_file(tiny.clip_weights(7), tmp_path / "mine.safetensors")

    def export(name: str, file: Path, *more: str) -> Outcome:
        return cliphouse("encoder", "export", name, "--from", file, "--no-verify", *more)

    refused = export("tiny-clip", tmp_path / "mine.safetensors")
    assert refused.code == 2
    assert "is not the published tiny-clip" in refused.err
    assert "--name OTHER" in refused.err
    for name in ("clip-vit-b32", "clip-vit-b32-int8", "tiny-clip", "test-words", "../up", ".hidden", "a b", ""):
        assert export("tiny-clip", tmp_path / "mine.safetensors", "--name", name).code == 2
    assert not (tmp_path / "home").exists()
    assert export("tiny-clip", tmp_path / "mine.safetensors", "--name", "mine").out.startswith("mine is ready")
    assert load_encoder("mine").name == "mine"
    other = dataclasses.replace(tiny.CLIP, name="other", activation="gelu")
    monkeypatch.setitem(specs.MODELS, "other", other)  # type: ignore[arg-type]
    for more in ((), ("--name", "mine")):
        wrong = export("other", tiny_checkpoint, *more)
        assert wrong.code == 2
        assert "holds the weights of tiny-clip, not other; run: cliphouse encoder export tiny-clip" in wrong.err
    assert export("tiny-clip", tiny_checkpoint).code == 0
    assert "there is no such file" in export("tiny-clip", tmp_path / "absent.pt").err


def test_what_killed_conversions_left_is_removed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    left = [tmp_path / f".made.{process.pid}", tmp_path / f".made.{process.pid}.old"]
    other = [tmp_path / ".made.1", tmp_path / ".made.notes", tmp_path / f".mine.{process.pid}"]
    for folder in (*left, *other):
        folder.mkdir()
    convert.convert(tiny.CLIP, tiny_checkpoint, target=tmp_path / "made")
    assert {path.name for path in tmp_path.iterdir()} == {"made", *(path.name for path in other)}


def test_an_encoder_stays_until_the_new_one_is_whole(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = convert.convert(tiny.CLIP, tiny_checkpoint, target=tmp_path / "made")
    rename = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if Path(target) == made.folder and not self.name.endswith(".old"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(WeightsNotStored, match="No space left"):
        convert.convert(tiny.CLIP, tiny_checkpoint, target=made.folder)
    store.verify(store.open_folder(made.folder))
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_damaged_encoders_are_named(tiny_encoder: store.Stored, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in tiny_encoder.folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    cut = copy("cut")
    (cut / "text.onnx").write_bytes((cut / "text.onnx").read_bytes()[:1000])
    with pytest.raises(IncompleteWeights, match=r"text\.onnx has 1,000 of .* bytes; fetch or export it again"):
        load_encoder(str(cut))
    lacking = copy("lacking")
    (lacking / "image.onnx").unlink()
    with pytest.raises(IncompleteWeights, match=r"image\.onnx is missing"):
        load_encoder(str(lacking))
    (copy("bad") / "encoder.json").write_text("{")
    with pytest.raises(IncompleteWeights, match=r"encoder\.json cannot be used"):
        load_encoder(str(tmp_path / "bad"))
    with pytest.raises(IncompleteWeights, match=r"it has no encoder\.json"):
        load_encoder(str(tmp_path))
    changed = copy("changed")
    content = bytearray((changed / "image.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (changed / "image.onnx").write_bytes(content)
    with pytest.raises(ChecksumMismatch, match=r"image\.onnx"):
        store.verify(store.open_folder(changed))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer": "siglip"}, r"tokenizer\.json"),
        ({"tokenizer": "other"}, "tokenizer is 'other', not 'clip' or 'siglip'"),
        ({"image_size": "64"}, "image_size is '64', not a whole number above 0"),
        ({"image_size": 0}, "image_size is 0"),
        ({"dim": True}, "dim is True"),
        ({"dim": None}, "dim is None"),
        ({"mean": [1, 2]}, "mean is"),
        ({"std": 1}, "std is"),
        ({"std": ["a", "b", "c"]}, "std is"),
        ({"causal": "yes"}, "causal is 'yes', not true or false"),
        ({"name": 7}, "name is 7, not a text"),
        ({"norm_epsilon": float("nan")}, "norm_epsilon"),
        ({"checkpoint": "x"}, "checkpoint"),
    ],
)
def test_facts_of_a_wrong_kind_are_named(
    tiny_encoder: store.Stored, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    folder = Path(shutil.copytree(tiny_encoder.folder, tmp_path / "copy"))
    facts = json.loads((folder / store.MANIFEST).read_text())
    facts["model"] |= change
    (folder / store.MANIFEST).write_text(json.dumps(facts))
    with pytest.raises(IncompleteWeights, match=words):
        load_encoder(str(folder))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "sub/file", "..", ""])
def test_files_of_a_manifest_lie_in_its_folder(tiny_encoder: store.Stored, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny_encoder.folder, tmp_path / "copy"))
    facts = json.loads((folder / store.MANIFEST).read_text())
    facts["files"][name] = {"size": 1, "sha256": ""}
    (folder / store.MANIFEST).write_text(json.dumps(facts))
    with pytest.raises(IncompleteWeights, match="no plain file name"):
        store.open_folder(folder)


def test_a_sample_may_hold_files_that_are_no_pictures(
    tiny_encoder: store.Stored, tmp_path: Path, cliphouse: Callable[..., Outcome], caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(tiny_encoder.folder, tmp_path / "tiny-clip"))
    images = tmp_path / "images"
    images.mkdir()
    (images / "a-note.txt").write_text("no picture")
    (images / "broken.png").write_bytes(b"no picture")
    for number in range(40):
        picture("RGB", 40 + number, 50).save(images / f"{number}.png")
    captions = tmp_path / "captions.txt"
    captions.write_text("a dog\na cat\n")
    quantize = ("encoder", "quantize", folder, "--images", images, "--captions", captions, "--min-cosine", "0.9")
    done = cliphouse(*quantize)
    assert done.code == 0, done.err
    assert "tiny-clip-int8 is ready" in done.out
    assert done.err == "skipped 1 files that are no whole picture\n"
    assert not caplog.records
    assert store.open_folder(tmp_path / "tiny-clip-int8").made["sample"] == {"texts": 2, "images": 40}
    captions.write_bytes("Caf\u00e9".encode("latin-1"))
    refused = cliphouse(*quantize)
    assert refused.code == 2
    assert "captions.txt is not UTF-8" in refused.err


def test_a_cosine_that_is_no_number_does_not_pass(
    tiny_encoder: store.Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(tiny_encoder.folder, tmp_path / "tiny-clip"))
    monkeypatch.setattr(convert, "_mean_cosine", lambda *_: float("nan"))
    with pytest.raises(PrecisionTooLow):
        convert.quantize(store.open_folder(folder), ["a dog"], [picture("RGB", 40, 50)], min_cosine=0.9)
    assert not (tmp_path / "tiny-clip-int8").exists()


def test_quantizing_needs_onnx_runtime(tiny_encoder: store.Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("onnxruntime"):
            raise ModuleNotFoundError(name=name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtra, match="pip install"):
        convert.quantize(tiny_encoder, ["a dog"], [picture("RGB", 40, 50)], min_cosine=0.9)


def test_a_variant_that_cannot_be_written_is_one_error(
    tiny_encoder: store.Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime.quantization

    def fail(*_: object, **__: object) -> None:
        raise ValueError("Wire format was corrupt")

    made = store.open_folder(Path(shutil.copytree(tiny_encoder.folder, tmp_path / "tiny-clip")))
    sample = (["a dog"], [picture("RGB", 40, 50)])
    monkeypatch.setattr(onnxruntime.quantization, "quantize_dynamic", fail)
    with pytest.raises(IncompleteWeights, match=r"cannot round text\.onnx \(Wire format was corrupt\)"):
        convert.quantize(made, *sample, min_cosine=0.9)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    with pytest.raises(WeightsNotStored, match="No space left"):
        convert.quantize(made, *sample, min_cosine=0.9)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-clip"]


def test_an_absent_tokenizer_is_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        convert.convert(tiny.SIGLIP, tiny_checkpoint, tmp_path / "absent.json", target=tmp_path / "made")
