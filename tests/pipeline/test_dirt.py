"""Dirt: rows and shards that are not as they should be, what each policy does with them, and what the reports say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cliphouse import Collection, LoadOptions, embed
from cliphouse.errors import InvalidEmbedding, InvalidRow, ShardError, UsageError
from tests.conftest import Outcome
from tests.data import cosine_distances, random_unit, write_shard
from tests.pictures import draw_folder

DIM = 32
ROWS = 40
#: Rows with a vector that has no direction, by the column.
BAD_IMAGE, BAD_TEXT = {3: np.nan, 7: np.inf, 11: 0.0}, {11: 0.0, 13: np.nan}
DIRTY: dict[str, Any] = {
    "caption": [None if row == 5 else "" if row == 6 else f"caption {row}" for row in range(ROWS)],
    "url": [None if row == 8 else f"https://example.com/{row}" for row in range(ROWS)],
    "NSFW": [None if row == 1 else "MAYBE" if row == 2 else "UNLIKELY" for row in range(ROWS)],
    "similarity": [{20: None, 21: 6016.0, 22: np.nan}.get(row, 0.25) for row in range(ROWS)],
    "LICENSE": [None if row == 30 else "" if row == 31 else "?" if row == 32 else "CC0" for row in range(ROWS)],
    "original_width": [None if row == 33 else 39_580 for row in range(ROWS)],
    "error_message": [None] * ROWS,
}


@pytest.fixture
def images() -> np.ndarray:
    vectors = random_unit(ROWS, DIM, seed=1)
    vectors[17] *= 3
    return vectors


@pytest.fixture
def dirty(tmp_path: Path, images: np.ndarray) -> Path:
    """A shard with dirt of every kind."""
    texts = random_unit(ROWS, DIM, seed=2)
    vectors = images.copy()
    for row, value in BAD_IMAGE.items():
        vectors[row] = value
    for row, value in BAD_TEXT.items():
        texts[row] = value
    return write_shard(tmp_path / "in", 4, ["x"] * ROWS, images=vectors, texts=texts, dtype="float32", columns=DIRTY)


def _rows(collection: Collection) -> list[int]:
    return collection.sql("SELECT row FROM laion ORDER BY id").column("row").to_pylist()


def test_rows_without_a_direction_are_left_out_and_the_others_keep_their_places(
    db: str, dirty: Path, images: np.ndarray
) -> None:
    with Collection.open(db) as collection:
        report = collection.load(dirty)
        gone = BAD_IMAGE.keys() | BAD_TEXT.keys()
        assert _rows(collection) == [row for row in range(ROWS) if row not in gone]
        assert (report.rows_read, report.rows, dict(report.left_out)) == (ROWS, ROWS - 4, {"vector": 4})
        assert dict(report.kept) == {"norm": 1, "caption": 2, "url": 1, "nsfw": 2, "similarity": 3}
        for row in (0, 12, 39):
            hit = collection.search(images[row], k=1, columns=("row",))[0]
            assert (hit.row, hit.caption) == (row, f"caption {row}")


def test_the_values_that_dirt_becomes(db: str, dirty: Path) -> None:
    with Collection.open(db) as collection:
        collection.load(dirty)
        found = collection.sql(
            "SELECT row, url, caption, NSFW, similarity, license, original_width FROM laion ORDER BY id"
        ).to_pylist()
        rows = {each.pop("row"): each for each in found}
        mean = collection.sql("SELECT avg(similarity) AS mean FROM laion").column("mean").to_pylist()
    assert (rows[1]["NSFW"], rows[2]["NSFW"], rows[0]["NSFW"]) == ("UNTAGGED", "MAYBE", "UNLIKELY")
    assert (rows[5]["caption"], rows[6]["caption"], rows[8]["url"]) == ("", "", "")
    assert [rows[row]["similarity"] for row in (19, 20, 21, 22)] == [0.25, None, None, None]
    assert mean == [0.25], "unknown similarities do not spoil an average"
    assert [rows[row]["license"] for row in (29, 30, 31, 32)] == ["CC0", "", "", ""]
    assert (rows[33]["original_width"], rows[34]["original_width"]) == (0, 39_580)


def test_similarities_are_computed_again_where_they_are_no_cosines(db: str, dirty: Path) -> None:
    with Collection.open(db) as collection:
        collection.load(dirty, options=LoadOptions(similarity="recompute"))
        found = collection.sql("SELECT row, similarity FROM laion WHERE row IN (19, 20, 21, 22)").to_pylist()
    texts = random_unit(ROWS, DIM, seed=2)
    images = random_unit(ROWS, DIM, seed=1)
    for each in found:
        row = each["row"]
        expected = 0.25 if row == 19 else 1 - cosine_distances(images[row : row + 1], texts[row])[0]
        assert each["similarity"] == pytest.approx(expected, abs=1e-6)


def test_a_shard_without_the_column_gets_similarities_when_they_are_asked_for(tmp_path: Path) -> None:
    vectors = random_unit(5, 8)
    write_shard(tmp_path / "in", 0, ["x"] * 5, images=vectors, texts=vectors, columns={"similarity": None})
    with Collection.open(tmp_path / "db") as collection:
        report = collection.load(tmp_path / "in", options=LoadOptions(similarity="recompute"))
        found = collection.sql("SELECT similarity FROM laion").column("similarity").to_pylist()
    assert found == pytest.approx([1] * 5, abs=1e-5)
    assert report.kept == {}


def test_kept_rows_have_their_good_half_and_exact_search_passes_over_the_bad_one(
    db: str, dirty: Path, images: np.ndarray
) -> None:
    with Collection.open(db) as collection:
        report = collection.load(dirty, options=LoadOptions(on_bad_row="keep"))
        assert (report.rows, report.left_out, report.kept["vector"]) == (ROWS, {}, 4)
        assert collection.info().gaps
        hits = collection.search(images[0], k=100, columns=("row",))
        assert {hit.row for hit in hits} == set(range(ROWS)) - BAD_IMAGE.keys()
        assert all(np.isfinite(hit.distance) for hit in hits)
        by_text = collection.search(images[0], k=100, column="text", columns=("row",))
        assert {hit.row for hit in by_text} == set(range(ROWS)) - BAD_TEXT.keys()
        with pytest.raises(UsageError, match="3 of 40 rows have no image_embedding") as caught:
            collection.build_index()
        assert str(caught.value).endswith('cliphouse delete --where "empty(image_embedding)" --purge')


def test_rows_without_an_embedding_do_not_enter_an_index(tmp_path: Path, dirty: Path) -> None:
    write_shard(tmp_path / "good", 0, ["x"] * 9, images=random_unit(9, DIM), texts=random_unit(9, DIM))
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "good")
        collection.build_index()
        with pytest.raises(UsageError, match="image_embedding has an index that needs one in every row"):
            collection.load(dirty, options=LoadOptions(on_bad_row="keep"))
        assert collection.load(dirty).rows == ROWS - 4


@pytest.mark.parametrize(
    ("policy", "error", "words"),
    [
        ("fail", InvalidEmbedding, r"img_emb_4.npy row 3 holds NaN or infinite values; mend"),
        ("norm=fail", InvalidEmbedding, r"img_emb_4.npy row 17 has length 3 instead of 1"),
        ("caption=fail", InvalidRow, r"metadata_4.parquet row 5 has the caption None; mend that row, or keep"),
        ("url=fail", InvalidRow, "row 8 has the url None"),
        ("nsfw=fail", InvalidRow, "row 1 has the nsfw None"),
        ("skip,nsfw=skip,similarity=fail", InvalidRow, "row 20 has the similarity None"),
    ],
)
def test_a_kind_of_dirt_can_end_the_load(
    tmp_path: Path, dirty: Path, policy: str, error: type[Exception], words: str
) -> None:
    with Collection.open(tmp_path / "db") as collection:
        with pytest.raises(error, match=words) as caught:
            collection.load(dirty, options=LoadOptions(on_bad_row=policy))
        assert "\n" not in str(caught.value)
        assert not collection.exists()


def test_each_kind_of_dirt_can_be_left_out(tmp_path: Path, dirty: Path) -> None:
    policy = "norm=skip,caption=skip,url=skip,similarity=skip,nsfw=skip"
    with Collection.open(tmp_path / "db") as collection:
        report = collection.load(dirty, options=LoadOptions(on_bad_row=policy))
        assert dict(report.left_out) == {"vector": 4, "norm": 1, "caption": 2, "url": 1, "nsfw": 2, "similarity": 3}
        gone = {1, 2, 3, 5, 6, 7, 8, 11, 13, 17, 20, 21, 22}
        assert _rows(collection) == [row for row in range(ROWS) if row not in gone]
        assert report.rows == report.rows_read - sum(report.left_out.values()) == len(_rows(collection))


@pytest.mark.parametrize("wrong", ["drop", "caption=drop", "captions=skip", "=skip", "skip,", ""])
def test_a_policy_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="is no policy for bad rows; write keep, skip, fail, or KIND=POLICY"):
        LoadOptions(on_bad_row=wrong)


FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "fortran order": np.asfortranarray,
    "big-endian float16": lambda array: array.astype(">f2"),
    "big-endian float32": lambda array: array.astype(">f4"),
    "float64": lambda array: array.astype(np.float64),
    "big-endian fortran float64": lambda array: np.asfortranarray(array.astype(">f8")),
}


@pytest.mark.parametrize("form", FORMS)
def test_npy_files_of_every_form_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr("cliphouse.pipeline.enter._BLOCK_BYTES", 10 * DIM * 4)
    vectors = random_unit(ROWS, DIM).astype(np.float16)
    write_shard(tmp_path / "in", 0, ["x"] * ROWS, images=vectors, texts=-vectors)
    for name in ("img_emb_0.npy", "text_emb_0.npy"):
        path = tmp_path / "in" / name
        np.save(path, FORMS[form](np.load(path)))
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in", storage="float32")
        found = collection.sql("SELECT image_embedding AS i, text_embedding AS t FROM laion ORDER BY id")
    assert np.array(found.column("i").to_pylist(), np.float16).tolist() == vectors.tolist()
    assert np.array(found.column("t").to_pylist(), np.float16).tolist() == (-vectors).tolist()


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int64, np.float64])
def test_numbers_of_other_widths_are_read(tmp_path: Path, kind: type) -> None:
    columns = {"width": np.array([100, 7], kind), "original_height": np.array([3, 120], kind)}
    write_shard(tmp_path / "in", 0, ["a", "b"], images=random_unit(2, 8), with_text=False, columns=columns)
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in")
        found = collection.sql("SELECT width, original_height FROM laion ORDER BY id").to_pylist()
    assert [tuple(row.values()) for row in found] == [(100, 3), (7, 120)]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Shards 0 and 3 are good; 1 is cut short, 2 has a caption too few, 5 a vector of another length, 6 no metadata."""
    folder = tmp_path / "mixed"
    for number in (0, 1, 2, 3, 6):
        write_shard(folder, number, ["x"] * 9, images=random_unit(9, DIM, number), with_text=False)
    write_shard(folder, 5, ["x"] * 9, images=random_unit(9, DIM + 1), with_text=False)
    (folder / "img_emb_1.npy").write_bytes((folder / "img_emb_1.npy").read_bytes()[:-50])
    np.save(folder / "img_emb_2.npy", random_unit(10, DIM))
    (folder / "metadata_6.parquet").unlink()
    return folder


def test_bad_shards_are_passed_over_listed_and_taken_in_when_they_are_mended(db: str, mixed: Path) -> None:
    options = LoadOptions(on_bad_shard="skip")
    with Collection.open(db) as collection:
        report = collection.load(mixed, options=options)
        assert (report.loaded, report.rows, sorted(report.quarantined)) == ((0, 3), 18, [1, 2, 5, 6])
        for number, words in {1: "is cut short", 2: "row counts differ", 5: "33 dimensions", 6: "has no meta"}.items():
            assert words in report.quarantined[number]
        status = collection.status()
        assert (status.shards, status.quarantined) == ((0, 3), report.quarantined)
        write_shard(mixed, 1, ["x"] * 9, images=random_unit(9, DIM, 1), with_text=False)
        again = collection.load(mixed, options=options)
        assert (again.loaded, again.skipped, sorted(again.quarantined)) == ((1,), (0, 3), [2, 5, 6])
        assert sorted(collection.status().quarantined) == [2, 5, 6]
        assert collection.status().rows == 27


def test_a_shard_that_turns_out_bad_on_the_way_is_passed_over_whole(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for number in (0, 1, 2):
        vectors = random_unit(9, DIM)
        vectors[8] = np.nan if number == 1 else vectors[8]
        write_shard(folder, number, ["x"] * 9, images=vectors, with_text=False)
    with Collection.open(tmp_path / "db") as collection:
        report = collection.load(folder, options=LoadOptions(on_bad_shard="skip", on_bad_row="fail", workers=2))
        assert (report.loaded, list(report.quarantined)) == ((0, 2), [1])
        assert collection.sql("SELECT DISTINCT shard FROM laion ORDER BY shard").column("shard").to_pylist() == [0, 2]


def test_with_no_good_shard_there_is_no_collection(tmp_path: Path) -> None:
    folder = write_shard(tmp_path / "in")
    (folder / "img_emb_0.npy").write_bytes(b"not npy")
    with Collection.open(tmp_path / "db") as collection:
        with pytest.raises(ShardError, match="is not an npy file"):
            collection.load(folder, options=LoadOptions(on_bad_shard="skip"))
        assert not collection.exists()


def test_the_command_reports_dirt_and_leaves_with_3(
    tmp_path: Path, mixed: Path, dirty: Path, cliphouse: Callable[..., Outcome]
) -> None:
    db = tmp_path / "db"
    first = cliphouse("load", mixed, "--db", db, "--on-bad-shard", "skip")
    assert first.code == 3
    assert "loaded 18 rows of shards 0,3" in first.out
    assert "passed over shard 1: " in first.err
    assert "then run the same command with --shards 1-2,5-6" in first.err
    second = cliphouse("load", dirty, "--db", db)
    assert second.code == 0
    assert "left out 4 of 40 rows: 4 vector" in second.out
    assert "kept though not as they should be: 3 similarity, 2 caption, 2 nsfw, 1 norm, 1 url" in second.out
    shown = cliphouse("status", "--db", db).out
    assert "4 vector" in shown
    assert "shard 2: row counts differ" in " ".join(shown.split())
    assert cliphouse("load", dirty, "--db", db, "--on-bad-row", "keep,size=skip").code == 2


def test_several_workers_bring_in_what_one_would(db: str, tmp_path: Path) -> None:
    for number in range(7):
        captions = [f"{number}-{row}" for row in range(50)]
        write_shard(tmp_path / "in", number, captions, images=random_unit(50, 8, number), with_text=False)
    with Collection.open(db) as collection:
        report = collection.load(tmp_path / "in", options=LoadOptions(workers=3))
        assert (report.loaded, report.rows) == (tuple(range(7)), 350)
        rows = collection.sql("SELECT id, caption FROM laion ORDER BY id").to_pylist()
    assert [(row["id"], row["caption"]) for row in rows] == [
        (number * 100_000_000 + row, f"{number}-{row}") for number in range(7) for row in range(50)
    ]


def test_what_our_own_shards_lack_is_no_dirt_unless_it_is_asked_for(tmp_path: Path) -> None:
    draw_folder(tmp_path / "in", 3, captions=False)
    embed(tmp_path / "in", tmp_path / "shards", encoder="test-words")
    metadata = tmp_path / "shards" / "metadata" / "metadata_0.parquet"
    table = pq.read_table(metadata)
    tags = pa.array([None, "MAYBE", "NSFW"])
    pq.write_table(table.set_column(table.column_names.index("NSFW"), "NSFW", tags), metadata)
    with Collection.open(tmp_path / "db") as collection:
        assert collection.load(tmp_path / "shards").kept == {"nsfw": 1}
        found = collection.sql("SELECT NSFW, caption FROM laion ORDER BY id").to_pylist()
        assert [tuple(row.values()) for row in found] == [("UNTAGGED", ""), ("MAYBE", ""), ("NSFW", "")]
        strict = Collection(collection.engine, "strict")
        report = strict.load(tmp_path / "shards", options=LoadOptions(on_bad_row="nsfw=skip,caption=skip"))
        assert (report.rows, report.left_out) == (0, {"caption": 3})
        added = Collection(collection.engine, "added", encoder="test-words")
        added.add(tmp_path / "in")
        assert added.status().kept == {}


def test_a_blank_tag_and_laions_word_for_none_are_no_dirt(tmp_path: Path) -> None:
    columns = {"NSFW": ["", "UNTAGGED", None, "NSFW", "MAYBE"]}
    write_shard(tmp_path / "in", 0, ["x"] * 5, images=random_unit(5, 8), with_text=False, columns=columns)
    with Collection.open(tmp_path / "db") as collection:
        assert collection.load(tmp_path / "in").kept == {"nsfw": 2}
        found = collection.sql("SELECT NSFW FROM laion ORDER BY id").column("NSFW").to_pylist()
    assert found == ["UNTAGGED", "UNTAGGED", "UNTAGGED", "NSFW", "MAYBE"]


def test_computed_similarities_are_computed_before_they_are_judged(tmp_path: Path, dirty: Path) -> None:
    options = LoadOptions(similarity="recompute", on_bad_row="skip,similarity=skip")
    with Collection.open(tmp_path / "db") as collection:
        report = collection.load(dirty, options=options)
    assert dict(report.left_out) == {"vector": 4}
    assert "similarity" not in report.kept


def test_an_npy_header_that_is_garbage_is_a_broken_shard(tmp_path: Path, mixed: Path) -> None:
    path = mixed / "img_emb_3.npy"
    content = path.read_bytes()
    path.write_bytes(content[:10] + b"(((" + content[13:])
    with Collection.open(tmp_path / "db") as collection:
        report = collection.load(mixed, options=LoadOptions(on_bad_shard="skip"))
    assert report.loaded == (0,)
    assert "img_emb_3.npy is not an npy file: its header cannot be read" in report.quarantined[3]


def test_a_shard_without_its_text_embeddings_is_said_and_how_to_bring_them_in(
    tmp_path: Path, cliphouse: Callable[..., Outcome]
) -> None:
    for number in (0, 1):
        write_shard(tmp_path / "in", number, with_text=number == 0)
    arguments = ("load", tmp_path / "in", "--db", tmp_path / "db", "--encoder", "test-words")
    assert "shards 1 have no text embeddings" in cliphouse(*arguments).out
    write_shard(tmp_path / "in", 1)
    late = cliphouse(*arguments)
    assert late.code == 3
    assert "loaded without text embeddings, and now there are some" in late.err
    assert "cliphouse delete --shard 1" in late.err
    assert cliphouse("delete", "--shards", "1", "--yes", "--db", tmp_path / "db").code == 0
    assert "have no text" not in cliphouse(*arguments).out


@pytest.mark.parametrize("name", ["laion_shards", "x_deleted", "x_denied", "photos_loading_2024", "a" * 91])
def test_names_that_tables_beside_a_collection_have_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be a collection|is too long"):
        Collection.open(tmp_path / "db", name=name)
