"""The real CLIP ViT-B/32, where somebody has fetched it: what others recorded must come out of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cliphouse.encoders import store
from cliphouse.encoders.onnx import OnnxEncoder
from tests.conftest import ENCODERS_OF_THE_USER

#: Qdrant/clip-ViT-B-32-text for "hello world", as the tests of fastembed have it (rounded to four digits there).
HELLO_WORLD = (0.0083, 0.0103, -0.0138, 0.0199, -0.0069)
#: Rows that clip-retrieval wrote with this encoder, in float16; not ours to redistribute.
SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "clip_retrieval_sample"


@pytest.fixture(scope="module")
def clip() -> OnnxEncoder:
    folder = ENCODERS_OF_THE_USER / "clip-vit-b32"
    if not (folder / store.MANIFEST).exists():
        pytest.skip("the weights of clip-vit-b32 are not here; cliphouse encoder fetch clip-vit-b32 brings them")
    return OnnxEncoder(store.open_folder(folder))


def test_a_text_has_the_vector_that_others_recorded(clip: OnnxEncoder) -> None:
    assert clip.encode_texts(["hello world"])[0, :5] == pytest.approx(HELLO_WORLD, abs=2e-4)


def test_captions_have_the_vectors_that_clip_retrieval_wrote(clip: OnnxEncoder) -> None:
    if not SAMPLE.exists():
        pytest.skip("the sample is in ../shared, which is not here")
    captions = pq.read_table(SAMPLE / "metadata" / "metadata_0.parquet")["caption"].to_pylist()
    written = np.load(SAMPLE / "text_emb" / "text_emb_0.npy").astype(np.float32)
    cosines = (clip.encode_texts(captions) * written).sum(axis=1)
    assert cosines.min() > 0.999
