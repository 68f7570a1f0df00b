"""Search, as a user sees it, on every kind of engine."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cliphouse import Collection, IndexConfig, SearchParams
from cliphouse.errors import (
    DimensionMismatch,
    EncoderMismatch,
    InvalidFilter,
    InvalidImage,
    InvalidVector,
    UnknownCollection,
    UnknownItem,
    UsageError,
)
from tests.data import CAPTIONS, ENCODER, cosine_distances, random_unit, write_shard


def test_the_caption_with_most_shared_words_comes_first(collection: Collection) -> None:
    hits = collection.search("red car", k=2)
    assert [hit.caption for hit in hits] == ["red car", "a red car parked"]
    assert hits[0].distance == pytest.approx(0, abs=1e-3)


def test_a_hit_has_the_columns_of_its_own_row(collection: Collection) -> None:
    hit = collection.search("white horse", k=1, columns=("width", "shard", "row", "license"))[0]
    row = CAPTIONS.index("white horse")
    assert (hit.id, hit.url, hit.NSFW) == (row, f"https://example.com/0/{row}.jpg", "UNLIKELY")
    assert hit.similarity == pytest.approx(0.3 + row / 1000)
    assert (hit.width, hit.shard, hit.row, hit.license) == (256 * (row + 1), 0, row, "")
    with pytest.raises(AttributeError, match="height"):
        _ = hit.height


def test_pictures_are_found_by_their_colour(collection: Collection, tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 30), (30, 150, 50))
    picture.save(tmp_path / "leaf.png")
    assert collection.search(picture, k=1)[0].caption == "a green tree"
    assert collection.search(tmp_path / "leaf.png", k=1)[0].caption == "a green tree"


def test_a_row_finds_itself_and_the_text_column_is_searched_on_request(collection: Collection) -> None:
    assert collection.search(like=3, k=1)[0].id == 3
    assert collection.search(like=3, k=1, column="text")[0].id == 3
    assert collection.search("black cat", k=1, column="text")[0].caption == "black cat on a sofa"


def test_a_filter_gives_k_hits_whenever_k_rows_match(collection: Collection) -> None:
    collection.build_index(config=IndexConfig(m=16, ef_construction=32))
    for where, count in (("width >= 1024", 5), ("width = 256", 1), ("width < 0", 0), ("id IN (5, 6) -- two", 2)):
        assert len(collection.search("red car", k=5, where=where)) == count


def test_exact_and_indexed_search_agree_on_few_rows(collection: Collection) -> None:
    exact = collection.search("a car", k=8, exact=True)
    collection.build_index(config=IndexConfig(m=16, ef_construction=32))
    indexed = collection.search("a car", k=8)
    assert (exact.plan.path, indexed.plan.path) == ("exact", "hnsw")
    assert [(hit.id, round(hit.distance, 5)) for hit in indexed] == [(hit.id, round(hit.distance, 5)) for hit in exact]


def test_results_convert_to_arrow_and_pandas(collection: Collection) -> None:
    hits = collection.search("red car", k=3, columns=("height",))
    table = hits.to_arrow()
    assert table.column_names == ["id", "distance", "url", "caption", "NSFW", "similarity", "height"]
    assert table.column("caption").to_pylist() == [hit.caption for hit in hits]
    assert hits.to_pandas()["height"].tolist() == [200, 200, 200]
    empty = collection.search("red car", where="id < 0", columns=("height",)).to_arrow()
    assert (empty.num_rows, empty.column_names) == (0, table.column_names)
    assert len({*hits, *hits}) == 3


@pytest.mark.parametrize("storage", ["bfloat16", "float32"])
@pytest.mark.parametrize("dim", [2, 7, 512])
def test_exact_search_agrees_with_numpy(db: str, tmp_path: Path, dim: int, storage: str) -> None:
    vectors = random_unit(3000, dim).astype(np.float16)
    write_shard(tmp_path / "in", captions=["x"] * 3000, images=vectors, texts=vectors)
    query = random_unit(1, dim, seed=9)[0]
    with Collection.open(db) as collection:
        collection.load(tmp_path / "in", storage=storage)
        hits = collection.search(query, k=20, exact=True)
    truth = cosine_distances(vectors, query)
    tolerance = 5e-3 if storage == "bfloat16" else 1e-5
    assert [hit.distance for hit in hits] == pytest.approx(np.sort(truth)[:20], abs=tolerance)
    assert [hit.distance for hit in hits] == pytest.approx(truth[[hit.id for hit in hits]], abs=tolerance)
    if storage == "float32" and dim == 512:
        assert [hit.id for hit in hits] == np.argsort(truth)[:20].tolist()


def test_the_fast_exact_path_gives_what_the_plain_one_gives_even_among_many_twins(db: str, tmp_path: Path) -> None:
    """More equal rows than the short list holds: which of them rounding favours must not show."""
    vectors = np.repeat(random_unit(20, 64), 100, axis=0)
    write_shard(tmp_path / "in", captions=["x"] * 2000, images=vectors, texts=vectors, dtype="float32")
    with Collection.open(db) as collection:
        collection.load(tmp_path / "in")
        for seed in range(5):
            query = random_unit(1, 64, seed=seed)[0]
            hits = collection.search(query, k=10)
            plain = collection.sql(
                "SELECT id FROM laion ORDER BY cosineDistance(image_embedding, {q:Array(Float32)}), id LIMIT 10",
                {"q": query},
            )
            assert [hit.id for hit in hits] == plain.column("id").to_pylist()


def test_the_vectors_themselves_come_back_on_request(collection: Collection) -> None:
    for exact in (True, False):
        hit = collection.search("red car", k=1, exact=exact, columns=("image_embedding",))[0]
        assert np.array(hit.image_embedding) == pytest.approx(ENCODER.encode_texts(["red car"])[0], abs=0.01)
        collection.build_index(config=IndexConfig(m=16, ef_construction=32))


def test_repeated_searches_give_the_same_answer_from_the_cache(collection: Collection) -> None:
    answers = [[(hit.id, hit.distance) for hit in collection.search("a red bird", k=8)] for _ in range(4)]
    assert answers == [answers[0]] * 4


def test_k_reaches_ten_thousand(db: str, tmp_path: Path) -> None:
    vectors = random_unit(12_000, 8)
    write_shard(tmp_path / "in", captions=["x"] * 12_000, images=vectors, with_text=False, dtype="float32")
    with Collection.open(db) as collection:
        collection.load(tmp_path / "in")
        hits = collection.search(vectors[5], k=10_000)
        assert len(hits) == len({hit.id for hit in hits}) == 10_000
        assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
        with pytest.raises(UsageError, match="10000"):
            collection.search(vectors[5], k=10_001)


def test_ties_are_ordered_by_id(db: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "in", captions=["same words"] * 30)
    with Collection.open(db, encoder="test-words") as collection:
        collection.load(tmp_path / "in")
        assert [hit.id for hit in collection.search("same words", k=5)] == [0, 1, 2, 3, 4]


def test_eight_threads_search_at_once(collection: Collection) -> None:
    def first(number: int) -> str:
        return collection.search(CAPTIONS[number % len(CAPTIONS)], k=1)[0].caption

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(first, range(80)))
    assert found == [CAPTIONS[number % len(CAPTIONS)] for number in range(80)]


def test_a_query_of_another_dimension_is_refused_with_both_values(collection: Collection) -> None:
    with pytest.raises(DimensionMismatch, match=r"3 dimensions.*'laion' holds 256") as caught:
        collection.search([1.0, 2.0, 3.0])
    assert (caught.value.given, caught.value.expected) == (3, 256)


def test_a_query_of_another_encoder_is_refused_with_both_names(collection: Collection) -> None:
    other = Collection(collection.engine, encoder="clip-vit-b32")
    with pytest.raises(EncoderMismatch, match=r"test-words.*clip-vit-b32"):
        other.search("red car")
    with pytest.raises(EncoderMismatch):
        other.search(like=1)
    with pytest.raises(EncoderMismatch):
        other.search(ENCODER.encode_texts(["red car"])[0])


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e25])
def test_the_length_of_a_query_does_not_matter(collection: Collection, scale: float) -> None:
    vector = ENCODER.encode_texts(["white horse"])[0].astype(np.float64)
    hit = collection.search(vector * scale, k=1)[0]
    assert (hit.caption, hit.distance) == ("white horse", pytest.approx(0, abs=1e-3))


@pytest.mark.parametrize(
    ("query", "error", "words"),
    [
        (np.ones(256, dtype=complex), InvalidVector, "complex"),
        (np.full(256, np.nan), InvalidVector, "NaN"),
        (np.zeros(256), InvalidVector, "all zeros"),
        (np.ones((2, 256)), InvalidVector, r"shape \(2, 256\)"),
        ("?!", InvalidVector, "no word"),
        (Path("absent.png"), InvalidImage, "absent.png"),
        (None, UsageError, "one thing"),
    ],
)
def test_queries_without_a_direction_are_refused(
    collection: Collection, query: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        collection.search(query)


def test_a_malformed_filter_is_named_and_nothing_else_is_blamed(collection: Collection) -> None:
    for where in ("width >=", "no_such_column = 1", "width = 'wide", "1) OR (1"):
        with pytest.raises(InvalidFilter) as caught:
            collection.search("red car", where=where)
        assert where in str(caught.value)
        assert "\n" not in str(caught.value)


def test_unknown_rows_columns_and_collections_are_named(collection: Collection) -> None:
    with pytest.raises(UnknownItem, match="12345"):
        collection.search(like=12345)
    with pytest.raises(UnknownItem):
        collection.search(like=2**64 + 5)
    with pytest.raises(UsageError, match=r"no column colour; it has: id, url"):
        collection.search("red", columns=("colour",))
    with pytest.raises(UnknownCollection, match="'absent'"):
        Collection(collection.engine, "absent").search("red")
    with pytest.raises(UsageError, match="not a valid name"):
        Collection(collection.engine, "laion; DROP TABLE laion")


def test_a_statement_prints_as_a_script_that_gives_the_same_rows(collection: Collection) -> None:
    from cliphouse import statements

    query, plan = collection.statement("red car", params=SearchParams(k=3))
    assert plan.path == "exact"
    lines: list[bytes] = []
    with collection.engine.session() as session:
        for statement in statements.split(query.script()):
            form = "TabSeparated" if statements.takes_format(statement) else None
            session.run(statement, lines.append, parameters={}, format=form)
    ids = [int(line.split(b"\t")[0]) for line in b"".join(lines).splitlines()]
    assert ids == [hit.id for hit in collection.search("red car", k=3)]


def test_a_table_changed_by_somebody_else_is_looked_at_again(collection: Collection) -> None:
    collection.search("red car", k=1)
    other = Collection(collection.engine, encoder="test-words")
    other.sql("ALTER TABLE laion RENAME COLUMN license TO licence")
    assert collection.search("red car", k=1, columns=("licence",))[0].licence == ""
    other.sql("DROP TABLE laion")
    with pytest.raises(UnknownCollection):
        collection.search("red car", k=1)


def test_twins_that_fill_the_short_list_are_searched_again_in_full(db: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "in", captions=["same words"] * 200)
    with Collection.open(db, encoder="test-words") as collection:
        collection.load(tmp_path / "in")
        assert collection.search("same words", k=5).plan.rescanned
        assert not collection.search("same words", k=5, where="id < 4").plan.rescanned


def test_embeddings_leave_as_parquet_when_they_are_cast(collection: Collection) -> None:
    chunks: list[bytes] = []
    query = "SELECT id, image_embedding::Array(Float32) AS v FROM laion ORDER BY id"
    with collection.engine.session() as session:
        session.run(query, chunks.append, parameters={}, format="Parquet")
    table = pq.read_table(io.BytesIO(b"".join(chunks)))
    assert np.array(table.column("v").to_pylist()) == pytest.approx(ENCODER.encode_texts(CAPTIONS), abs=0.01)
