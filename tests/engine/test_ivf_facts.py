"""Lists are compared with the collection by all that rows hold, and nobody reads rows twice for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cliphouse import Collection, IndexConfig, SearchParams, TuningOptions, facts, ivf, search
from cliphouse.facts import Known, Seen
from cliphouse.lists import contents, copied
from tests.data import clustered
from tests.lists import DIM, IVF, ROWS, assert_like_exact, everywhere, fill, state_of, tables

#: Everything of a row but one column.
REPLACED = """
INSERT INTO laion (id, url, caption, similarity, width, height, image_embedding, text_embedding)
SELECT id, url, {caption}, {similarity}, width, height, {vector}, text_embedding FROM before WHERE id = 40
"""


@pytest.mark.parametrize("missing", ["0.5", "NULL"])
@pytest.mark.parametrize("changed", ["caption", "vector"])
def test_a_row_that_is_replaced_is_found_as_it_is_now(
    here: Collection, vectors: np.ndarray, missing: str, changed: str
) -> None:
    """Its id is the same, and its similarity, or it has none."""
    here.sql(f"ALTER TABLE laion UPDATE similarity = {missing} WHERE 1 SETTINGS mutations_sync = 2")
    here.build_index(config=IVF)
    here.sql("CREATE TABLE before ENGINE = Memory AS SELECT * FROM laion WHERE id IN (40, 41)")
    here.sql("DELETE FROM laion WHERE id = 40")
    other = "(SELECT any(image_embedding) FROM before WHERE id = 41)"
    values = {"caption": "caption", "similarity": "similarity", "vector": "image_embedding"}
    values[changed] = {"caption": "'new'", "vector": other}[changed]
    here.sql(REPLACED.format(**values))
    wanted = "new" if changed == "caption" else "40"
    for _ in range(2):
        near = here.search(vectors[41 if changed == "vector" else 40], k=2)
        assert (near[0].id, near[0].caption) == (40, wanted)
        here.build_index(config=IVF)
        assert state_of(here) == ("ready", ROWS, ROWS)
        assert_like_exact(here, vectors[39:42])


@pytest.mark.parametrize("how", ["TRUNCATE TABLE laion; INSERT INTO laion SELECT * FROM other", "REPLACE PARTITION"])
def test_a_collection_that_is_embedded_anew_under_the_same_ids_is_found_as_it_is_now(
    lists: Collection, vectors: np.ndarray, how: str
) -> None:
    lists.search(vectors[0])
    lists.sql("CREATE TABLE other AS laion")
    lists.sql(
        "INSERT INTO other (id, url, caption, similarity, image_embedding) "
        "SELECT id, url, 'again', similarity, arrayMap(x -> -toFloat32(x), image_embedding) FROM laion"
    )
    if how == "REPLACE PARTITION":
        how = "ALTER TABLE laion REPLACE PARTITION tuple() FROM other"
    for statement in how.split("; "):
        lists.sql(statement)
    hits = lists.search(-vectors[3], k=1)
    assert (hits[0].id, hits[0].caption, hits.plan.path) == (3, "again", "exact")
    assert state_of(lists) == ("empty", 0, ROWS)
    assert lists.build_index(config=IVF).state == "ready"
    assert everywhere(lists, -vectors[3])[0].caption == "again"
    assert_like_exact(lists, vectors[:3])


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts whose rows were read to know what they hold."""
    found: list[str] = []
    read = facts._read

    def seen(engine: object, table: str, content: str, condition: str, parts: Sequence[facts._Part]) -> object:
        found.extend(f"{table} {part.name}" for part in parts)
        return read(engine, table, content, condition, parts)

    monkeypatch.setattr(facts, "_read", seen)
    return found


def test_another_process_reads_no_rows_to_trust_the_lists(
    tmp_path: Path, vectors: np.ndarray, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "_SETTLED_SECONDS", -60)  # files that were written just now count as old
    with Collection.open(tmp_path / "db") as first:
        first.load(fill(tmp_path / "in", 0, vectors))
        first.build_index(config=IVF)
        assert [name.partition(" ")[0] for name in read] == ["laion", next(t for t in tables(first) if "_ivf_" in t)]
        for change in (
            lambda: None,
            lambda: first.delete(ids=[5, 6]),
            lambda: first.sql("DELETE FROM laion WHERE id = 0 OR id = 1999"),
            lambda: first.delete(where=f"id < 30 OR id = {ROWS - 2}"),
            lambda: first.sql("DELETE FROM laion WHERE id = 31"),
            lambda: first.build_index(config=IndexConfig(m=4, ef_construction=8)),
        ):
            change()
            read.clear()
            with Collection.open(tmp_path / "db") as second:
                second.search(vectors[3])
            assert read == []
        assert first.build_index(config=IVF).state == "ready"
        assert_like_exact(first, vectors[28:32])
        first.load(fill(tmp_path / "more", 1, vectors[:20]))
        with Collection.open(tmp_path / "db") as second:
            second.search(vectors[3])
        assert len(set(read)) == 1, "the new part alone"


def test_what_is_known_of_parts_is_what_they_hold(
    lists: Collection, tmp_path: Path, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is deleted, a shard's first and last rows among them, and whatever is merged."""
    monkeypatch.setattr(facts, "_SETTLED_SECONDS", -60)
    lists.load(fill(tmp_path / "more", 1, vectors[:20]))
    columns = copied(ivf.columns_of(lists.engine, "laion"), "image_embedding")
    content = contents(columns, "image_embedding")
    known: Known = {}
    for change in (
        "DELETE FROM laion WHERE id = 7",
        "DELETE FROM laion WHERE id < 5 OR id = 1999",
        "DELETE FROM laion WHERE id >= 100000000",
        "OPTIMIZE TABLE laion FINAL",
        "DELETE FROM laion WHERE id BETWEEN 3 AND 50",
        "ALTER TABLE laion APPLY DELETED MASK SETTINGS mutations_sync = 2",
    ):
        lists.sql(change)
        found = facts.of_table(lists.engine, "laion", content, "true", known)
        assert facts.total(found) == facts.total(facts.of_table(lists.engine, "laion", content, "true", {}))
        seen = Seen(content, found, [])
        assert facts.unpacked(facts.packed(seen.known)) == seen.known
        known = {**known, **seen.known}


def test_many_deletions_leave_the_lists_in_use(
    lists: Collection, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine forgets mutations; those that were seen to be harmless need not be feared when they are forgotten."""
    remembered = ivf._mutations
    monkeypatch.setattr(ivf, "_MUTATIONS_KEPT", 3)
    monkeypatch.setattr(ivf, "_mutations", lambda *given: sorted(remembered(*given))[-3:])
    for number in range(8):
        lists.delete(ids=[number])
    stages: list[str] = []
    for number in range(8, 12):
        lists.sql(f"DELETE FROM laion WHERE id = {number}")
        if number % 2:
            lists.build_index(config=IVF, progress=lambda step: stages.append(step.label))
    assert stages
    assert not [stage for stage in stages if stage.endswith("training")]
    assert lists.search(vectors[50]).plan.path == "ivf"
    assert state_of(lists) == ("ready", ROWS - 12, ROWS - 12)


def test_what_was_tuned_belongs_to_one_graph(here: Collection, tmp_path: Path, vectors: np.ndarray) -> None:
    def tuned() -> float | None:
        (state,) = here.status().indexes
        return state.tuned

    config = IndexConfig(m=8, ef_construction=32)
    here.build_index(config=config)
    here.tune(TuningOptions(sample=10, recall=0.5))
    assert tuned() == 0.5
    here.sql("ALTER TABLE laion DROP INDEX image_index")
    here.build_index(config=IndexConfig(m=16, ef_construction=32))
    assert tuned() is None
    here.sql("ALTER TABLE laion DROP INDEX image_index")
    here.build_index(config=config)
    assert tuned() == 0.5
    here.sql("DROP TABLE laion SYNC")
    here.sql("DROP TABLE laion_shards SYNC")
    here.load(fill(tmp_path / "in", 0, vectors))
    here.build_index(config=config)
    assert tuned() is None
    assert here.search_with(vectors[0], params=SearchParams(k=3)).plan.effort == 256


def test_what_was_tuned_stays_with_the_old_lists_until_new_ones_serve(here: Collection, tmp_path: Path) -> None:
    here.build_index(config=IVF)
    here.tune(TuningOptions(sample=10, recall=0.5))
    here.load(fill(tmp_path / "more", 1, clustered(ROWS + 1, DIM, seed=4)))
    seen: list[float | None] = []
    here.build_index(config=IVF, progress=lambda _: seen.append(here.status().indexes[0].tuned))
    assert set(seen) == {0.5}
    assert here.status().indexes[0].tuned is None


@pytest.mark.parametrize("note", ["newer", "[1]", "{", '{"nlist": 3}'])
def test_a_note_of_a_newer_client_is_read_as_far_as_it_is_understood(
    lists: Collection, vectors: np.ndarray, note: str
) -> None:
    (before,) = lists.sql("SELECT note FROM laion_indexes WHERE topic = 'ready'").column("note").to_pylist()
    newer = json.dumps(json.loads(before) | {"colour": "green"}) if note == "newer" else note
    for topic in ("ready", "facts", "tuned"):
        lists.sql(
            "INSERT INTO laion_indexes (column, kind, topic, note) "
            f"SELECT 'image_embedding', 'ivf', '{topic}', '{newer}'"
        )
    assert lists.search(vectors[3], k=1)[0].id == 3
    assert [state.state for state in lists.status().indexes] == (["ready"] if note == "newer" else [])
    assert lists.build_index(config=IVF).state == "ready"


def test_the_filters_that_are_remembered_are_not_without_end(
    lists: Collection, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_SHARES_KEPT", 3)
    for number in range(6):
        lists.search(vectors[0], where=f"id != {number}")
    (known,) = lists._searcher._ready.lists.values()
    assert list(known.shares) == [f"id != {number}" for number in (3, 4, 5)]
