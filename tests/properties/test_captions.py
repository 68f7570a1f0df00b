"""Captions and identifiers survive the whole way, whatever they hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliphouse import Collection
from cliphouse.types import MAX_SHARD, ROWS_PER_SHARD
from tests.crash.conftest import CRASHES
from tests.data import random_unit, write_shard


@settings(max_examples=CRASHES or 10, deadline=None)
@given(
    number=st.integers(0, MAX_SHARD),
    captions=st.lists(st.text(st.characters(codec="utf-8"), max_size=60), min_size=1, max_size=20),
)
def test_captions_and_ids_round_trip(
    tmp_path_factory: pytest.TempPathFactory, number: int, captions: list[str]
) -> None:
    place = tmp_path_factory.mktemp("captions")
    write_shard(place / "in", number, captions, images=random_unit(len(captions), 4), with_text=False)
    with Collection.open("chdb://memory") as collection:
        collection.load(place / "in")
        hits = collection.search([1, 0, 0, 0], k=len(captions))
        assert sorted((hit.id - number * ROWS_PER_SHARD, hit.caption) for hit in hits) == list(enumerate(captions))
