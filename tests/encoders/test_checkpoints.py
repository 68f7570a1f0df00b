"""Checkpoints as PyTorch and safetensors write them, read without PyTorch."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cliphouse.encoders.checkpoint import read_checkpoint
from cliphouse.errors import InvalidCheckpoint

ORACLES = Path(__file__).parents[1] / "oracles"


@pytest.mark.parametrize("name", ["state_dict.pt", "training.pt"])
def test_a_state_dict_of_pytorch(name: str) -> None:
    weights = read_checkpoint(ORACLES / name)
    table = np.arange(24.0, dtype=np.float32).reshape(4, 6)
    assert (weights["token_embedding.weight"] == table).all()
    assert (weights["view"] == table.T[1:4, ::2]).all(), "a transposed, strided view"
    assert weights["half"].tolist() == [0.5, -2.0]
    assert weights["brain"].tolist() == [1.5, -3.0]
    assert weights["long"].tolist() == [[1, 2], [3, 4]]
    assert weights["scalar"] == np.float32(4.6052)
    assert weights["parameter"].tolist() == [1, 1, 1]


def test_a_torchscript_archive_as_openai_publishes_it() -> None:
    weights = read_checkpoint(ORACLES / "torchscript.pt")
    assert weights["token_embedding.weight"].dtype == np.float16
    assert weights["token_embedding.weight"].tolist()[1] == [0.375, 0.5, 0.625]
    assert weights["attn.in_proj_weight"].shape == (3, 4)


def test_files_that_are_no_checkpoint_are_named(tmp_path: Path) -> None:
    whole = (ORACLES / "state_dict.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.pt").write_text("<html>404</html>")
    (tmp_path / "cut.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    for name, words in (
        ("absent.pt", "no such file"),
        ("cut.pt", "cut off"),
        ("page.pt", "neither"),
        ("cut.safetensors", "(?i)header"),
        ("other.zip", r"no data\.pkl"),
    ):
        with pytest.raises(InvalidCheckpoint, match=words):
            read_checkpoint(tmp_path / name)


def test_nothing_in_a_checkpoint_can_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    stream = io.BytesIO()
    pickle.dump({"token_embedding.weight": Evil()}, stream)
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", stream.getvalue())
    with pytest.raises(InvalidCheckpoint):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
