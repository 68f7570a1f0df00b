"""Checkpoints as PyTorch and safetensors write them, read without PyTorch."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def _archive(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(ORACLES / "state_dict.pt") as whole, zipfile.ZipFile(path, "w") as archive:
        for name in whole.namelist():
            archive.writestr(name, pickled if name.endswith("/data.pkl") else whole.read(name))
    return path


def _pickled() -> bytes:
    with zipfile.ZipFile(ORACLES / "state_dict.pt") as archive:
        return next(archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))


_CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8)


@given(changes=_CHANGES)
@settings(max_examples=500, deadline=None)
def test_a_damaged_pickle_is_one_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    damaged = bytearray(_pickled())
    for place, value in changes:
        damaged[place % len(damaged)] = value
    with suppress(InvalidCheckpoint):
        read_checkpoint(_archive(tmp_path_factory.getbasetemp() / "damaged.pt", bytes(damaged)))


@given(changes=_CHANGES)
@settings(max_examples=200, deadline=None)
def test_a_damaged_archive_is_one_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    damaged = bytearray((ORACLES / "state_dict.pt").read_bytes())
    for place, value in changes:
        damaged[place % len(damaged)] = value
    path = tmp_path_factory.getbasetemp() / "damaged-archive.pt"
    path.write_bytes(damaged)
    with suppress(InvalidCheckpoint):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02}\x8d" + b"\xff" * 7 + b"\x7f.",  # a text longer than memory
        b"\x80\x02" + b"(" * 5 + b"0.",
        b"\x80\x02}q\x00X\x01\0\0\0ah\x00s.",  # a dictionary in itself
        b"\x80\x02cbuiltins\ngetattr\n)R.",
        b"",
    ],
)
def test_pickles_that_go_nowhere_are_no_checkpoint(tmp_path: Path, pickled: bytes) -> None:
    with pytest.raises(InvalidCheckpoint):
        read_checkpoint(_archive(tmp_path / "odd.pt", pickled))


def _safetensors(path: Path, kind: str, raw: bytes, shape: list[int]) -> Path:
    header = {
        "token_embedding.weight": {"dtype": kind, "shape": shape, "data_offsets": [0, len(raw)]},
        "half": {"dtype": "F16", "shape": [2], "data_offsets": [len(raw), len(raw) + 4]},
        "yes": {"dtype": "BOOL", "shape": [1], "data_offsets": [len(raw) + 4, len(raw) + 5]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw + np.array([0.5, -2], "<f2").tobytes() + b"\x01")
    return path


def test_bfloat16_of_safetensors_is_widened(tmp_path: Path) -> None:
    raw = np.array([1.5, -3.0, 0.0, 2.0**100], "<f4").view("<u2")[1::2].tobytes()
    weights = read_checkpoint(_safetensors(tmp_path / "brain.safetensors", "BF16", raw, [2, 2]))
    assert weights["token_embedding.weight"].dtype == np.float32
    assert weights["token_embedding.weight"].tolist() == [[1.5, -3.0], [0.0, 2.0**100]]
    assert weights["half"].tolist() == [0.5, -2.0]
    assert weights["yes"].tolist() == [True]


def test_numbers_that_nobody_trains_with_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match=r"its numbers are F8_E4M3; float32, float16 or bfloat16"):
        read_checkpoint(_safetensors(tmp_path / "small.safetensors", "F8_E4M3", bytes(4), [4]))
