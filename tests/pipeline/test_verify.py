"""The table beside its files: what is the same, what differs and how it is said; on every kind of engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cliphouse import Collection, LoadOptions, Progress
from cliphouse.reports import Difference, VerifyReport
from tests.data import random_unit, write_shard

SHARD = 100_000_000


def said(report: VerifyReport) -> list[tuple[int | None, str]]:
    return [(each.shard, each.what) for each in report.differences]


def test_what_was_loaded_is_the_same(db: str, tmp_path: Path) -> None:
    odd = ["tab\there", "", "naïve ☃", "x" * 1000, "a,b\nc", "null", "0", "ü" * 70]
    write_shard(tmp_path / "in", 0, odd, images=random_unit(8, 24), texts=random_unit(8, 24, 1), dtype="float32")
    write_shard(tmp_path / "in", 1, images=random_unit(8, 24), with_text=False, columns={"url": [None] * 8})
    seen: list[Progress] = []
    with Collection.open(db) as collection:
        collection.load(tmp_path / "in")
        report = collection.verify(tmp_path / "in", progress=seen.append)
        exact = Collection(collection.engine, "exact")
        exact.load(tmp_path / "in", storage="float32")
        assert exact.verify(tmp_path / "in").same
    assert report.same
    assert [(check.files, check.ledger, check.table, check.sampled) for check in report.shards] == [(8, 8, 8, 8)] * 2
    assert [step.label for step in seen] == ["shard 0 (1 of 2)", "shard 1 (2 of 2)"]


def test_rows_that_are_gone_on_purpose_are_no_difference(collection: Collection, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("https://example.com/0/2.jpg\n")
    collection.delete(ids=[0, 5])
    collection.deny(tmp_path / "list")
    report = collection.verify(shards)
    assert report.same
    assert (report.shards[0].deleted, report.shards[0].table) == (3, 5)


def test_rows_that_are_gone_otherwise_are_named(embedded: Collection, shards: Path) -> None:
    embedded.sql("DELETE FROM laion WHERE id IN (3, 4)")
    report = embedded.verify(shards)
    assert said(report) == [(0, "rows"), (0, "row 3"), (0, "row 4")]
    assert report.different == report.shards[0].differences == 3


def test_values_that_differ_are_named(embedded: Collection, shards: Path) -> None:
    table = "SELECT * REPLACE (concat(caption, '!') AS caption) FROM laion WHERE id = 6"
    embedded.sql(f"INSERT INTO laion {table}")
    embedded.sql("DELETE FROM laion WHERE id = 6 AND caption NOT LIKE '%!'")
    (difference,) = embedded.verify(shards).differences
    assert difference == Difference(0, "row 6: caption", "'white horse'", "'white horse!'")
    vectors = np.load(shards / "img_emb_0.npy")
    vectors[2, 7] = 0.25
    np.save(shards / "img_emb_0.npy", vectors)
    report = embedded.verify(shards)
    assert (0, "row 2: image_embedding") in said(report)
    assert (0, "the files") in said(report), "they are not those that were loaded"


def test_repeated_and_stray_rows_are_found(embedded: Collection, shards: Path) -> None:
    embedded.sql("INSERT INTO laion SELECT * FROM laion WHERE id = 1")
    embedded.sql(f"INSERT INTO laion SELECT * REPLACE (id + {5 * SHARD} AS id) FROM laion WHERE caption LIKE 'blue%'")
    embedded.sql("INSERT INTO laion SELECT * REPLACE (-1 AS id) FROM laion WHERE caption LIKE 'blue%'")
    embedded.sql("INSERT INTO laion SELECT * REPLACE (100 AS id) FROM laion WHERE caption LIKE 'blue%'")
    report = embedded.verify(shards)
    assert said(report) == [(0, "rows"), (0, "ids"), (0, "ids"), (5, "the ledger"), (None, "ids")]
    assert "rows repeat one: 1" in report.differences[2].table


def test_files_that_are_bad_or_unknown_are_named(embedded: Collection, shards: Path) -> None:
    write_shard(shards, 1)
    write_shard(shards, 2)
    (shards / "img_emb_2.npy").write_bytes(b"\x93NUMPY")
    report = embedded.verify(shards)
    assert said(report) == [(1, "the ledger"), (1, "rows"), (2, "the files")]
    assert embedded.verify(shards, shards="0").same


def test_a_sample_is_the_seeds_and_reads_the_right_rows_of_every_row_group(tmp_path: Path) -> None:
    rows = 500
    vectors = random_unit(rows, 16, seed=1)
    write_shard(tmp_path / "in", 0, [f"caption {row}" for row in range(rows)], images=vectors, with_text=False)
    place = tmp_path / "in" / "metadata_0.parquet"
    pq.write_table(pq.read_table(place), place, row_group_size=37)
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in")
        assert collection.verify(tmp_path / "in", sample=60, seed=3).shards[0].sampled == 60
        assert collection.verify(tmp_path / "in", sample=60).same
        table = pq.read_table(place)
        captions = [f"{caption}?" for caption in table.column("caption").to_pylist()]
        at = table.column_names.index("caption")
        pq.write_table(table.set_column(at, "caption", pa.array(captions)), place, row_group_size=37)
        first, again, other = (said(collection.verify(tmp_path / "in", sample=60, seed=seed)) for seed in (0, 0, 1))
        assert first == again != other
        assert collection.verify(tmp_path / "in", sample=60).different == 61


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("NSFW = 'NSFW'", "row 2: NSFW"),
        ("width = 7", "row 2: width"),
        ("similarity = 0.9", "row 2: similarity"),
        ("similarity = NULL", "row 2: similarity"),
        ("key = 'x'", "row 2: key"),
        ("image_embedding = text_embedding", None),
    ],
)
def test_every_column_is_compared(embedded: Collection, shards: Path, change: str, what: str | None) -> None:
    embedded.sql(f"ALTER TABLE laion UPDATE {change} WHERE id = 2 SETTINGS mutations_sync = 2")
    assert said(embedded.verify(shards)) == ([(0, what)] if what else [])


def test_computed_similarities_and_kept_rows_are_no_difference(tmp_path: Path) -> None:
    images = random_unit(9, 16, 1)
    images[3] = np.nan
    columns = {"similarity": [None, 6016.0, *[0.3] * 7]}
    write_shard(tmp_path / "in", 0, ["x"] * 9, images=images, texts=random_unit(9, 16, 2), columns=columns)
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in", options=LoadOptions(on_bad_row="keep", similarity="recompute"))
        assert collection.verify(tmp_path / "in", checksums=True).same


def test_sums_of_files_are_compared_where_the_ledger_has_them(embedded: Collection, shards: Path) -> None:
    assert embedded.verify(shards, checksums=True).same
    path = shards / "text_emb_0.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert (0, "the text file's checksum") in said(embedded.verify(shards, sample=0, checksums=True))
    embedded.sql("ALTER TABLE laion_shards UPDATE checksums = map() WHERE 1 SETTINGS mutations_sync = 2")
    assert "checksum" not in str(said(embedded.verify(shards, sample=0, checksums=True)))


def test_files_that_fail_on_the_way_do_not_end_the_comparison(tmp_path: Path) -> None:
    for number in (0, 1):
        write_shard(tmp_path / "in", number, with_text=False)
    with Collection.open(tmp_path / "db", encoder="test-words") as collection:
        collection.load(tmp_path / "in")
        table = pq.read_table(tmp_path / "in" / "metadata_0.parquet")
        at = table.column_names.index("caption")
        pq.write_table(table.set_column(at, "caption", pa.array([["a"]] * 8)), tmp_path / "in" / "metadata_0.parquet")
        report = collection.verify(tmp_path / "in")
    assert (0, "the files") in said(report)
    assert [check.differences > 0 for check in report.shards] == [True, False]


def test_the_command_says_what_differs_and_leaves_with_3(embedded: Collection, cliphouse, tmp_path: Path) -> None:
    embedded.close()
    place = tmp_path / "db"
    good = cliphouse("verify", tmp_path / "shards", "--db", place)
    assert (good.code, "the table is what the files say; 8 rows compared" in good.out) == (0, True)
    cliphouse("sql", "DELETE FROM laion WHERE id = 3", "--db", place)
    bad = cliphouse("verify", tmp_path / "shards", "--db", place)
    assert bad.code == 3
    assert "differs from the files in 2 places: shard 0, rows: 8 in the files, 0 left out, 0 deleted: 8" in bad.err
    assert "shard 0, row 3: is there in the files, is missing in the table" in bad.err
    assert len(bad.err.splitlines()) == 1
