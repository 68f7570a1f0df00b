from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="needs the extra [clip]")
from safetensors.numpy import save_file

from cliphouse.encoders import convert, store
from tests.encoders import tiny


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_file(tiny.clip_weights(), path)
    return path


@pytest.fixture(scope="session")
def tiny_encoder(tiny_checkpoint: Path) -> store.Stored:
    """A whole encoder of the true architecture, made by the converter that users run."""
    return convert.convert(tiny.CLIP, tiny_checkpoint, target=tiny_checkpoint.with_name("tiny-clip"))
