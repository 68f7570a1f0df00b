"""A shard as one parquet file is the same shard as its npy files: the same rows, bytes and counts go to the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliphouse.pipeline import merged
from cliphouse.pipeline.dirt import Cleaner, Tally
from cliphouse.pipeline.native import block
from cliphouse.pipeline.read import open_shard
from cliphouse.schema import EMBEDDING_COLUMNS, INSERT_COLUMNS, METADATA_COLUMNS
from cliphouse.types import LoadOptions, MergedShard, Shard
from tests.data import random_unit

DIM = 4
COLUMNS = {column: METADATA_COLUMNS[column][0] if column in METADATA_COLUMNS else "" for column in INSERT_COLUMNS}


def _poured(shard: Shard | MergedShard, rows: int, options: LoadOptions) -> tuple[bytes, Tally]:
    opened = open_shard(shard)
    cleaner = Cleaner(opened, options, "bfloat16")
    pieces = [
        bytes(piece)
        for batch in map(cleaner.clean, opened.batches(rows))
        for piece in block(batch, shard=shard.number, storage="bfloat16", columns=COLUMNS)
    ]
    return b"".join(pieces), cleaner.tally


@st.composite
def _holes(draw: st.DrawFn, rows: int, *, text: bool, kind: str) -> dict[int, str]:
    """Fewer than half of the rows, whose embedding is not whole, and what is wrong with it.

    A list of a fixed size has no other fault than to be null, or to hold one. A text embedding that is null or empty
    is none, which an npy file cannot say.
    """
    faults = {"element"} if kind == "fixed_size_list" else {"element", "short", "long"}
    if not text:
        faults |= {"null"} if kind == "fixed_size_list" else {"null", "empty"}
    faulty = st.sampled_from(sorted(faults))
    return draw(st.dictionaries(st.integers(0, rows - 1), faulty, max_size=(rows - 1) // 2))


def _column(vectors: np.ndarray, holes: dict[int, str], kind: str) -> pa.Array:
    broken: dict[str, Any] = {
        "null": lambda _: None,
        "element": lambda one: [*one[:2], None, *one[3:]],
        "short": lambda one: one[:-1],
        "long": lambda one: [*one, 1.0],
        "empty": lambda _: [],
    }
    rows = [broken[holes[row]](list(one)) if row in holes else list(one) for row, one in enumerate(vectors)]
    value = pa.from_numpy_dtype(vectors.dtype)
    types = {"list": pa.list_(value), "large_list": pa.large_list(value), "fixed_size_list": pa.list_(value, DIM)}
    return pa.array(rows, types[kind])


@settings(max_examples=25, deadline=None)
@given(data=st.data(), rows=st.integers(4, 40))
def test_the_same_rows_in_either_layout(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, rows: int
) -> None:
    place: Path = tmp_path_factory.mktemp("merged")
    dtype = data.draw(st.sampled_from(["float16", "float32", "float64"]), "dtype")
    kind = data.draw(st.sampled_from(["list", "large_list", "fixed_size_list"]), "list type")
    metadata = pa.table(
        {
            "URL": data.draw(st.lists(st.none() | st.text(max_size=9), min_size=rows, max_size=rows), "urls"),
            "TEXT": pa.array(
                [None if row % 5 == 4 else f"caption {row % 3}" for row in range(rows)]
            ).dictionary_encode(),
            "similarity": [None if row % 7 == 6 else row / 40 for row in range(rows)],
        }
    )
    table = metadata
    for name, file, seed in (("image_embedding", "img_emb", 1), ("text_embedding", "text_emb", 2)):
        vectors = random_unit(rows, DIM, seed).astype(dtype)
        holes = data.draw(_holes(rows, text=file == "text_emb", kind=kind), f"holes of {name}")
        table = table.append_column(name, _column(vectors, holes, kind))
        vectors[list(holes)] = np.nan
        np.save(place / f"{file}_3.npy", vectors)
    pq.write_table(metadata, place / "metadata_3.parquet")
    row_group = data.draw(st.integers(1, rows), "row group")
    pq.write_table(table, place / "merged_3.parquet", row_group_size=row_group)

    at_a_time = data.draw(st.integers(1, 15), "rows at a time")
    options = LoadOptions(on_bad_row=data.draw(st.sampled_from(["skip", "keep"]), "policy"))
    npy = Shard(
        number=3,
        image_embeddings=place / "img_emb_3.npy",
        text_embeddings=place / "text_emb_3.npy",
        metadata=place / "metadata_3.parquet",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merged, "_PIECE_NUMBERS", DIM * data.draw(st.integers(1, 7), "rows decoded at a time"))
        one = MergedShard(number=3, location=str(place / "merged_3.parquet"))
        assert _poured(one, at_a_time, options) == _poured(npy, at_a_time, options)


def test_every_column_of_the_table_is_compared() -> None:
    assert set(COLUMNS) >= {*EMBEDDING_COLUMNS, "url", "caption", "similarity"}
