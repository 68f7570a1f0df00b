"""Laws that hold whatever the input."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cliphouse import Collection, IndexConfig, SearchParams
from cliphouse.measures import recall_at_k
from cliphouse.pipeline.native import integers, strings, varint
from cliphouse.pipeline.plan import parse_shards, pending
from cliphouse.types import MAX_SHARD, Shard, shard_ranges
from cliphouse.vectors import bfloat16_words, query_vector, round_to_bfloat16, rounding_error
from tests.data import cosine_distances, random_unit, write_shard

NUMBERS = st.sets(st.integers(0, MAX_SHARD), max_size=40)
finite = st.floats(-(2.0**100), 2.0**100, width=32)


@given(NUMBERS)
def test_shard_ranges_round_trip(numbers: set[int]) -> None:
    if numbers:
        assert parse_shards(shard_ranges(numbers)) == sorted(numbers)


@given(NUMBERS, NUMBERS)
def test_a_plan_covers_each_shard_once(wanted: set[int], done: set[int]) -> None:
    shards = [
        Shard(number=number, image_embeddings=Path("i"), text_embeddings=None, metadata=Path("m"))
        for number in sorted(wanted)
    ]
    todo = [shard.number for shard in pending(shards, done)]
    assert sorted(todo) == todo
    assert len(set(todo)) == len(todo)
    assert set(todo) | (wanted & done) == wanted
    assert not set(todo) & done


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=finite))
def test_bfloat16_rounds_to_the_nearest_and_to_even_between_two(values: np.ndarray) -> None:
    rounded = round_to_bfloat16(values)
    assert (round_to_bfloat16(rounded) == rounded).all()
    words = bfloat16_words(values).astype(np.int64)
    for value, word, near in zip(values.tolist(), words.tolist(), rounded.tolist(), strict=True):
        for other in (word - 1, word + 1):
            if other & 0x7FFF > 0x7F7F or other < 0 or other > 0xFFFF:
                continue  # infinite, NaN, or past the sign
            (neighbour,) = struct.unpack("<f", struct.pack("<I", other << 16))
            gap, other_gap = abs(near - value), abs(neighbour - value)
            assert gap < other_gap or (gap == other_gap and (word % 2 == 0 or near == neighbour))


@given(st.integers(0, 2**31), st.integers(2, 300))
def test_rounding_moves_no_distance_further_than_said(seed: int, dim: int) -> None:
    query, rows = random_unit(1, dim, seed)[0] * 7, random_unit(200, dim, seed + 1)
    moved = np.abs(cosine_distances(rows, query) - cosine_distances(rows, round_to_bfloat16(query))).max()
    assert moved <= rounding_error(query)


@given(st.lists(st.one_of(st.none(), st.text(max_size=400))))
def test_strings_are_encoded_as_length_and_bytes(texts: list[str | None]) -> None:
    data = [(text or "").encode("utf-8", "surrogatepass") for text in texts]
    expected = b"".join(varint(len(item)) + item for item in data)
    array = pa.array([None if text is None else item for text, item in zip(texts, data, strict=True)], pa.binary())
    assert bytes(strings(array, len(texts))) == expected
    padded = pa.concat_arrays([pa.array([b"before"], pa.binary()), array])
    assert strings(padded.slice(1), len(texts)) == expected


@given(st.lists(st.one_of(st.none(), st.integers(-(2**40), 2**40), st.floats())))
def test_integers_fit_or_become_zero(values: list[float | None]) -> None:
    array = pa.array([None if value is None else float(value) for value in values], pa.float64())
    got = np.frombuffer(integers(array, len(values)), "<i4").tolist()
    for value, stored in zip(values, got, strict=True):
        fits = value is not None and abs(value) < 2**31 and value == value
        assert stored == (int(value) if fits else 0)


@given(hnp.arrays(np.float32, st.integers(2, 40), elements=st.floats(-1e3, 1e3, width=32)))
def test_a_query_vector_is_taken_in_every_shape_or_refused(values: np.ndarray) -> None:
    if np.abs(values).max() < 1e-10:  # of another length, or none: test_search has those
        return
    for form in (values, values[None], values.tolist(), values.astype(np.float64)):
        assert query_vector(form, dim=len(values), owner="x").tolist() == values.tolist()


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """2000 indexed rows with hard captions, for laws about search."""
    place = tmp_path_factory.mktemp("laws")
    vectors = random_unit(2000, 24, seed=4)
    write_shard(place / "in", captions=["x"] * 2000, images=vectors, with_text=False)
    with Collection.open(place / "db") as collection:
        collection.load(place / "in")
        collection.build_index(config=IndexConfig(m=8, ef_construction=16))
        yield collection


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), k=st.integers(1, 60), ef=st.integers(1, 60), modulus=st.integers(1, 200))
def test_an_index_is_never_better_than_an_exact_search(
    noisy: Collection, seed: int, k: int, ef: int, modulus: int
) -> None:
    query = random_unit(1, 24, seed)[0]
    where = None if modulus < 40 else f"id % {modulus} = 0"
    exact = noisy.search(query, k=k, exact=True, where=where)
    found = noisy.search(query, k=k, ef_search=ef, where=where)
    assert len(found) == len(exact)
    assert all(near.distance <= far.distance + 1e-6 for near, far in zip(exact, found, strict=True))
    assert len({hit.id for hit in found}) == len(found)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), k=st.integers(1, 80), offset=st.integers(0, 40), modulus=st.integers(1, 9))
def test_an_exact_search_is_what_numpy_says_and_its_recall_is_one(
    noisy: Collection, seed: int, k: int, offset: int, modulus: int
) -> None:
    query = random_unit(1, 24, seed)[0] * 3
    stored = round_to_bfloat16(random_unit(2000, 24, seed=4).astype(np.float16).astype(np.float32))
    true = cosine_distances(stored, query)
    passing = np.flatnonzero(np.arange(2000) % modulus == 0)
    nearest = np.sort(true[passing])[offset : offset + k]
    params = SearchParams(k=k, offset=offset, where=f"id % {modulus} = 0", exact=True)
    hits = noisy.search_with(query, params=params)
    assert len({hit.id for hit in hits}) == len(hits) == len(nearest)
    assert all(hit.id % modulus == 0 for hit in hits)
    assert [hit.distance for hit in hits] == pytest.approx(nearest, abs=1e-6)
    assert recall_at_k(true[[hit.id for hit in hits]], nearest, k=len(nearest)) == 1
