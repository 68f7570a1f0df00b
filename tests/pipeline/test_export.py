"""Rows written back: what is in the files, what loading them gives, what is refused; on every kind of engine."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cliphouse import Collection, Progress
from cliphouse.errors import InvalidFilter, UsageError
from cliphouse.pipeline import export
from tests.data import CAPTIONS, random_unit, write_shard

SHARD = 100_000_000
ROWS = "SELECT * EXCEPT (shard, row) REPLACE (image_embedding::Array(Float32) AS image_embedding, text_embedding::Array(Float32) AS text_embedding) FROM {} ORDER BY id"  # noqa: E501


def rows_of(collection: Collection) -> list[dict[str, object]]:
    table = collection.sql(ROWS.format(collection.name))
    return table.to_pylist()


def test_shards_come_back_as_they_were_stored(db: str, tmp_path: Path) -> None:
    odd = ["tab\there", "", "naïve ☃", "x" * 1000, "a,b\nc", "null", "0", "ü" * 70]
    columns = {"md5": ["0" * 32] * 8, "width": [None] * 8, "similarity": [0.5] * 7 + [7.0]}
    first = {"images": random_unit(8, 256), "texts": random_unit(8, 256, 1), "dtype": "float32"}
    write_shard(tmp_path / "in", 3, odd, columns=columns, **first)
    write_shard(tmp_path / "in", 12, images=random_unit(8, 256), with_text=False)
    with Collection.open(db, encoder="test-words") as source:
        source.load(tmp_path / "in")
        seen: list[Progress] = []
        report = source.export(tmp_path / "out", shards="3,12", form="npy", progress=seen.append)
        names = ["cliphouse.json", "img_emb_12.npy", "img_emb_3.npy", "metadata_12.parquet", "metadata_3.parquet"]
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*names, "text_emb_3.npy"]
        assert sorted(path.name for path in report.files) == [*names, "text_emb_3.npy"]
        assert (report.rows, seen[-1].done, seen[-1].total) == (16, 16, 16)
        assert "LICENSE" in pq.read_schema(tmp_path / "out" / "metadata_3.parquet").names
        with_copy = Collection(source.engine, "copy")
        with_copy.load(tmp_path / "out")
        assert rows_of(with_copy) == rows_of(source)
        assert with_copy.info().encoder == "test-words"


def test_a_condition_becomes_a_parquet_file_with_everything(collection: Collection, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert collection.export(out, where="width >= 1536").rows == 3
    table = pq.read_table(out)
    assert table.column("id").to_pylist() == [5, 6, 7]
    assert table.to_pylist() == rows_of(collection)[5:]
    assert str(table.schema.field("image_embedding").type.value_type) == "float"


def test_results_are_in_the_order_of_the_search_with_their_distances(collection: Collection, tmp_path: Path) -> None:
    hits = collection.search("red car", k=4)
    collection.export(tmp_path / "hits.parquet", hits=hits)
    table = pq.read_table(tmp_path / "hits.parquet")
    assert table.column_names[:2] == ["id", "distance"]
    assert table.column("id").to_pylist() == [hit.id for hit in hits]
    assert table.column("distance").to_pylist() == pytest.approx([hit.distance for hit in hits])
    assert table.column("caption").to_pylist() == [CAPTIONS[hit.id] for hit in hits]
    collection.export(tmp_path / "hits", hits=hits, form="npy")
    vectors = np.load(tmp_path / "hits" / "img_emb_0.npy")
    assert vectors.tolist() == table.column("image_embedding").to_pylist()


def test_rows_with_and_without_text_embeddings_go_apart(tmp_path: Path) -> None:
    write_shard(tmp_path / "in", 0, images=random_unit(8, 24), texts=random_unit(8, 24))
    write_shard(tmp_path / "in", 1, images=random_unit(8, 24), with_text=False)
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in")
        assert collection.export(tmp_path / "out", where="row < 3", form="npy").rows == 6
        assert np.load(tmp_path / "out" / "text_emb_0.npy").shape == (3, 24)
        assert np.load(tmp_path / "out" / "img_emb_1.npy").shape == (3, 24)
        assert not (tmp_path / "out" / "text_emb_1.npy").exists()


def test_a_table_in_many_pages_and_shards_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = random_unit(100, 16, seed=2)
    write_shard(tmp_path / "in", 0, [str(row) for row in range(100)], images=vectors, with_text=False, dtype="float32")
    monkeypatch.setattr(export, "_PAGE_BYTES", 8 * 16 * 7)
    monkeypatch.setattr(export, "_SHARD_ROWS", 40)
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in", storage="float32")
        collection.export(tmp_path / "all.parquet", where="true")
        collection.export(tmp_path / "out", where="id % 2 = 0 OR id > 50", form="npy")
        collection.export(tmp_path / "hits.parquet", hits=collection.search(vectors[0], k=30))
    assert pq.read_table(tmp_path / "all.parquet").column("caption").to_pylist() == [str(row) for row in range(100)]
    shards = [np.load(tmp_path / "out" / f"img_emb_{number}.npy") for number in range(2)]
    assert [len(each) for each in shards] == [40, 35]
    wanted = [row for row in range(100) if row % 2 == 0 or row > 50]
    assert (np.concatenate(shards) == vectors[wanted]).all()
    assert pq.read_metadata(tmp_path / "hits.parquet").num_rows == 30


@pytest.mark.parametrize("shards", [range(150_001), range(1, 60_000, 2)], ids=["a range", "no two neighbours"])
def test_more_shards_may_be_named_than_a_statement_holds(tmp_path: Path, shards: range) -> None:
    for number in (1, 2, 40_001):
        write_shard(tmp_path / "in", number, ["x"] * 8, images=random_unit(8, 16), with_text=False)
    wanted = [number for number in (1, 2, 40_001) if number in shards]
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in")
        assert collection.export(tmp_path / "out.parquet", shards=shards, where="row < 5").rows == 5 * len(wanted)
        assert collection.export(tmp_path / "out", shards=shards, form="npy").rows == 8 * len(wanted)
        report = collection.delete(shards=shards)
        assert (report.rows, report.again) == (8 * len(wanted), tuple(wanted))
        assert collection.status().shards == tuple({1, 2, 40_001} - set(wanted))
    assert set((tmp_path / "out").glob("img_emb_*")) == {tmp_path / "out" / f"img_emb_{each}.npy" for each in wanted}


def test_float16_is_what_numpy_makes_of_the_stored_vectors(embedded: Collection, tmp_path: Path) -> None:
    embedded.export(tmp_path / "half", shards="0", form="npy", dtype="float16")
    embedded.export(tmp_path / "whole", shards="0", form="npy")
    half, whole = (np.load(tmp_path / name / "text_emb_0.npy") for name in ("half", "whole"))
    assert (half.dtype, whole.dtype) == (np.float16, np.float32)
    assert (half == whole.astype(np.float16)).all()


def test_nothing_is_replaced_without_force_and_nothing_half_written_stays(
    embedded: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, shards = tmp_path / "out.parquet", tmp_path / "out"
    embedded.export(out, where="id < 2")
    embedded.export(shards, where="id < 2", form="npy")
    for place, form in ((out, "parquet"), (shards, "npy")):
        with pytest.raises(UsageError, match="--force"):
            embedded.export(place, where="true", form=form)
    before = {path: path.read_bytes() for path in [out, *shards.iterdir()]}

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    for place, form in ((out, "parquet"), (shards, "npy")):
        with pytest.raises(KeyboardInterrupt):
            embedded.export(place, where="true", form=form, force=True, progress=interrupt)
    assert {path: path.read_bytes() for path in [out, *shards.iterdir()]} == before
    assert embedded.export(out, where="true", force=True).rows == 8
    assert embedded.export(shards, where="true", form="npy", force=True).rows == 8
    assert len(np.load(shards / "img_emb_0.npy")) == 8


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "say which rows"),
        ({"where": "no_such_column"}, "no_such_column"),
        ({"where": " "}, "the condition is empty; for every row write: true"),
        ({"shards": "7-8"}, "no such rows in shards 7-8"),
        ({"where": "true", "dtype": "float16"}, "--format npy"),
        ({"where": "true", "out": "out.csv"}, "does not end in .parquet"),
        ({"where": "true", "out": io.BytesIO(), "form": "npy"}, "cannot be streamed"),
    ],
)
def test_what_cannot_be_is_refused(
    embedded: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UsageError, InvalidFilter), match=message):
        embedded.export(**{"out": "out.parquet"} | how)
    assert not (tmp_path / "out.parquet").exists()


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), modulus=st.integers(1, 9), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_export_and_load_is_the_identity_on_what_is_stored(
    embedded: Collection, tmp_path_factory: pytest.TempPathFactory, seed: int, modulus: int, scale: float
) -> None:
    place = tmp_path_factory.mktemp("identity")
    vectors = random_unit(20, 16, seed) * scale
    write_shard(place / "in", 0, ["x"] * 20, images=vectors, texts=vectors[::-1], dtype="float32")
    source, copy = Collection(embedded.engine, "source"), Collection(embedded.engine, "copy")
    for each in (source, copy):
        each.sql(f"DROP TABLE IF EXISTS {each.name} SYNC")
    source.load(place / "in")
    source.delete(where=f"id % {modulus} = 0 AND id > 0")
    source.export(place / "out", shards="0", form="npy")
    copy.load(place / "out")
    kept = [dict(row, id=at) for at, row in enumerate(rows_of(source))]
    assert rows_of(copy) == kept


def test_the_command_writes_files_and_streams(
    embedded: Collection, cliphouse: Callable[..., object], tmp_path: Path
) -> None:
    embedded.close()
    place = tmp_path / "db"
    done = cliphouse("export", tmp_path / "a.parquet", "--like", 3, "-k", 2, "--where", "id > 0", "--db", place)
    assert "wrote 2 rows" in done.out
    assert pq.read_table(tmp_path / "a.parquet").column("id")[0].as_py() == 3
    assert "wrote 8 rows" in cliphouse("export", tmp_path / "b", "--format", "npy", "--shards", "0", "--db", place).out
    assert cliphouse("export", tmp_path / "b", "--format", "npy", "--shards", "0", "--db", place).code == 2
    assert cliphouse("export", tmp_path / "c.parquet", "--db", place).code == 2
    empty = cliphouse("export", tmp_path / "c.parquet", "--where", " ", "--db", place)
    assert (empty.code, "--where is empty" in empty.err, "delete" in empty.err) == (2, True, False)
    command = [sys.executable, "-m", "cliphouse", "export", "-", "--where", "id < 3", "--db", str(place)]
    shown = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    assert pq.read_table(io.BytesIO(shown.stdout)).column("id").to_pylist() == [0, 1, 2]
