from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data import random_unit, write_shard
from tests.download.server import Shelf, serving

IMAGE, TEXT, METADATA = "img_emb_0.npy", "text_emb_0.npy", "metadata_0.parquet"
ROWS = 600
SHARDS = 4


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of 600 rows in clip-retrieval's folders; each npy file has 76,928 bytes."""
    directory = tmp_path_factory.mktemp("source")
    for number in range(SHARDS):
        captions = [f"picture {row} of shard {number}" for row in range(ROWS)]
        images, texts = random_unit(ROWS, 64, 2 * number), random_unit(ROWS, 64, 2 * number + 1)
        write_shard(directory, number, captions, images=images, texts=texts, folders=True)
    return directory


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rest between attempts."""
    monkeypatch.setattr("cliphouse.pace.PAUSE", 0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def shelf(source: Path, impatient: None) -> Iterator[Shelf]:
    """Those shards on the web."""
    with serving(source) as served:
        yield served


@pytest.fixture
def second(source: Path, impatient: None) -> Iterator[Shelf]:
    """A second mirror of them."""
    with serving(source) as served:
        yield served


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def files(directory: Path) -> dict[str, bytes]:
    """All files below a directory, by their path in it."""
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def shards_of(source: Path, *numbers: int, text: bool = True) -> dict[str, bytes]:
    """The files of these shards, as `files` gives them."""
    return {
        name: content
        for name, content in files(source).items()
        if int(Path(name).stem.rpartition("_")[2]) in numbers and (text or "text" not in name)
    }
