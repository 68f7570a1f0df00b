"""Several builders of one index at once, and what is left of those that ended badly."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from cliphouse import Collection, Progress, attempts, holder
from cliphouse.errors import IndexBusy, NotEnoughSpace, UsageError
from cliphouse.lists import create_building
from cliphouse.pipeline import claim
from cliphouse.types import IvfConfig
from tests.data import clustered
from tests.lists import DIM, IVF, ROWS, assert_like_exact, copies, fill, interrupted, tables

on_server = pytest.mark.parametrize("db", ["server"], indirect=True)


@pytest.fixture
def vectors() -> np.ndarray:
    return clustered(ROWS, DIM, seed=3)


@pytest.fixture
def filled(db: str, tmp_path: Path, vectors: np.ndarray) -> Iterator[Collection]:
    """2000 rows without an index."""
    with Collection.open(db) as collection:
        collection.load(fill(tmp_path / "in", 0, vectors))
        yield collection


@contextmanager
def held(db: str, stage: str) -> Iterator[Future[object]]:
    """A builder that waits at a stage, in a thread and a collection of its own, until this ends."""
    there, go_on = threading.Event(), threading.Event()

    def wait(progress: Progress) -> None:
        if progress.label.endswith(stage):
            there.set()
            assert go_on.wait(60)

    def build() -> object:
        with Collection.open(db) as mine:
            return mine.build_index(config=IVF, progress=wait)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(build)
        try:
            assert there.wait(60)
            yield future
        finally:
            go_on.set()


def assert_right(collection: Collection, vectors: np.ndarray, rows: int = ROWS) -> None:
    """Ready, every row once, nothing left over."""
    (state,) = collection.status().indexes
    assert (state.state, state.rows_indexed) == ("ready", rows)
    assert copies(collection, "_row_exists") == rows
    assert len([name for name in tables(collection) if "_ivf_" in name or "_building_" in name]) == 2
    assert_like_exact(collection, vectors[:3])
    for row in (7, 400, 1999):  # in the cluster where it is looked for
        assert collection.search(vectors[row], kind="ivf", nprobe=2, k=1)[0].id == row


@pytest.mark.parametrize("stage", ["sampling", "assigning"])
def test_a_second_builder_is_told_who_is_at_it(filled: Collection, db: str, vectors: np.ndarray, stage: str) -> None:
    with held(db, stage) as building:
        before = tables(filled)
        for config in (IVF, IvfConfig(nlist=20)):
            with pytest.raises(
                IndexBusy, match=r", process \d+ is building image_ivf of 'laion', and said so \d+ s ago"
            ):
                filled.build_index(config=config)
        with pytest.raises(IndexBusy, match="leave it to that builder"):
            filled.drop_index(kind="ivf")
        assert tables(filled) == before
        (state,) = filled.status().indexes
        assert state.state == "building"
        assert filled.build_index("text", IVF).state == "ready"
    building.result()
    filled.drop_index("text", "ivf")
    assert_right(filled, vectors)


def test_of_two_that_take_in_new_rows_one_does(
    filled: Collection, db: str, tmp_path: Path, vectors: np.ndarray
) -> None:
    filled.build_index(config=IVF)
    more = clustered(300, DIM, seed=8)
    filled.load(fill(tmp_path / "in", 1, more))
    with held(db, "assigning") as building:
        with pytest.raises(IndexBusy):
            filled.build_index(config=IVF)
        assert filled.search(more[3], k=1)[0].id == 100_000_003
    building.result()
    assert_right(filled, vectors, ROWS + 300)


@on_server
def test_many_that_begin_at_the_same_moment_end_with_one_index(
    filled: Collection, db: str, vectors: np.ndarray
) -> None:
    crowd = 3
    gate = threading.Barrier(crowd)

    def build(_: int) -> bool:
        with Collection.open(db) as mine:
            gate.wait()
            with suppress(IndexBusy):
                mine.build_index(config=IVF)
                return True
            return False

    with ThreadPoolExecutor(crowd) as pool:
        assert any(pool.map(build, range(crowd)))
    assert_right(filled, vectors)


@on_server
@pytest.mark.parametrize("stage", ["sampling", "training", "assigning"])
def test_a_builder_that_was_given_up_does_no_harm_when_it_wakes(
    filled: Collection, db: str, vectors: np.ndarray, stage: str
) -> None:
    with held(db, stage) as sleeper:
        (sign,) = (name for name in tables(filled) if "_building_" in name)
        filled.sql(f"DROP TABLE {sign} SYNC")  # as one does that waited for its sign of life in vain
        assert filled.build_index(config=IVF).state == "ready"
    with pytest.raises(IndexBusy):
        sleeper.result()
    assert_right(filled, vectors)


@on_server
def test_a_builder_that_died_holds_up_nobody_on_its_machine(filled: Collection, vectors: np.ndarray) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    gone = re.sub(r"process \d+", f"process {ended.pid}", holder.holder())
    interrupted(filled, "assigning")
    filled.engine.command(create_building("laion_building_image_0badc0de_0", gone))
    (state,) = filled.status().indexes
    assert state.state == "empty"
    assert filled.build_index(config=IVF).state == "ready"
    assert_right(filled, vectors)


@on_server
def test_a_builder_elsewhere_is_waited_for(
    filled: Collection, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = "laion_building_image_0badc0de_0"
    filled.engine.command(create_building(sign, "elsewhere, process 7"))
    filled.engine.command(f"INSERT INTO {sign} SELECT now()")
    with pytest.raises(IndexBusy, match=r"elsewhere, process 7 is building .*, run the same command again in \d+ s"):
        filled.build_index(config=IVF)
    monkeypatch.setattr(attempts, "LEASE_SECONDS", -1)
    assert filled.build_index(config=IVF).state == "ready"
    assert_right(filled, vectors)


@on_server
def test_a_builder_goes_on_saying_that_it_lives(filled: Collection, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "_BEAT_SECONDS", 0.01)
    with held(db, "assigning") as building:
        (sign,) = (name for name in tables(filled) if "_building_" in name)
        for _ in range(1000):
            if filled.sql(f"SELECT count() AS n FROM {sign}").column("n").to_pylist()[0] > 3:
                break
        else:
            pytest.fail("no sign of life came")
    building.result()


# -- builds that are broken off, and refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "ADD COLUMN tag String DEFAULT if(id < 1000, 'a', 'b')",
        "ADD COLUMN tag String ALIAS if(id < 1000, 'a', 'b')",
        "DROP COLUMN license, ADD COLUMN tag String DEFAULT if(id < 1000, 'a', 'b')",
    ],
    ids=["stored", "alias", "other"],
)
def test_a_build_that_was_broken_off_is_begun_anew_where_the_columns_are_others(
    filled: Collection, vectors: np.ndarray, change: str
) -> None:
    interrupted(filled, "merging")
    begun = {name for name in tables(filled) if "_ivf_" in name}
    filled.sql(f"ALTER TABLE laion {change}")
    assert filled.build_index(config=IVF).state == "ready"
    assert not begun & set(tables(filled))
    hits = filled.search(vectors[0], where="tag = 'b'", columns=["tag"])
    assert (hits.plan.path, {hit.more["tag"] for hit in hits}) == ("ivf", {"b"})
    assert_right(filled, vectors)


def test_a_build_of_another_number_of_clusters_drops_the_one_that_was_broken_off(filled: Collection) -> None:
    interrupted(filled, "assigning")
    begun = {name for name in tables(filled) if "_ivf_" in name}
    with pytest.raises(UsageError, match="too few for 1,500 clusters"):
        filled.build_index(config=IvfConfig(nlist=1500))
    interrupted(filled, "sampling", IvfConfig(nlist=20))
    assert not begun & set(tables(filled))


def test_odd_columns_are_left_out_of_the_lists(filled: Collection, vectors: np.ndarray) -> None:
    for column in (
        "`my-col` UInt32 DEFAULT id",
        "exif Nested(width UInt32, height UInt32)",
        "`ivf_cluster` String DEFAULT 'mine'",
        "twice UInt64 ALIAS `my-col` * 2",
        "sides UInt64 ALIAS length(exif.width)",
        "t Array(BFloat16) ALIAS text_embedding",
        "dims UInt64 ALIAS length(t)",
        "caption_t String ALIAS upper(caption)",
    ):
        filled.sql(f"ALTER TABLE laion ADD COLUMN {column}")
    assert filled.build_index(config=IVF).state == "ready"
    hits = filled.search(vectors[17], columns=["caption_t"])
    assert (hits.plan.path, hits[0].more["caption_t"]) == ("ivf", "17")
    for where in ("`my-col` = 17", "twice = 34", "empty(exif.width) AND id = 17", f"dims = {DIM}"):
        hits = filled.search(vectors[17], where=where, k=1)
        assert (hits.plan.path, hits[0].id) == ("exact", 17), where
    assert filled.search(vectors[17], columns=["ivf_cluster"])[0].more == {"ivf_cluster": "mine"}
    assert_like_exact(filled, vectors[:2], columns=("caption_t",))


def _free(collection: Collection) -> int:
    found = collection.sql("SELECT unreserved_space AS free FROM system.disks").column("free")
    return int(found.to_pylist()[0])


def test_room_that_a_build_has_taken_already_is_not_asked_for_again(small_disk: Path, tmp_path: Path) -> None:
    vectors = clustered(3000, 512, seed=3)
    copy, ballast = 3000 * 512 * 2, small_disk / "ballast"
    with Collection.open(small_disk / "db") as collection:
        collection.load(fill(tmp_path / "in", 0, vectors))

        def leave(size: int) -> None:
            ballast.unlink(missing_ok=True)
            ballast.write_bytes(bytes(_free(collection) - size))

        leave(int(1.5 * copy))
        before = tables(collection)
        with pytest.raises(
            NotEnoughSpace, match=r"building image_ivf over 3,000 rows needs about 5.9 MiB in .*are free;"
        ):
            collection.build_index(config=IVF)
        assert tables(collection) == before
        assert collection.status().indexes == ()
        ballast.unlink()
        interrupted(collection, "merging")
        leave(int(1.7 * copy))
        assert collection.build_index(config=IVF).state == "ready"
