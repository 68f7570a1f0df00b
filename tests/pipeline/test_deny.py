"""The deny list: in no answer, not loaded, counted; on every kind of engine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliphouse import Collection, IndexConfig
from cliphouse.errors import UsageError
from cliphouse.pipeline import deny
from tests.data import random_unit, write_shard
from tests.pipeline.test_delete import ids_of


def url(row: int, shard: int = 0) -> str:
    return f"https://example.com/{shard}/{row}.jpg"


def digest(kind: str, text: str) -> str:
    return hashlib.new(kind, text.encode()).hexdigest()


@pytest.fixture
def hashed(tmp_path: Path) -> Path:
    """A shard of eight rows with the hashes of their pictures."""
    columns = {kind: [digest(kind, f"picture {row}").upper() for row in range(8)] for kind in ("md5", "sha256")}
    return write_shard(tmp_path / "hashed", columns=columns)


def test_urls_and_hashes_of_urls_and_pictures_are_denied(db: str, hashed: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    entries = [url(0), digest("md5", url(1)), digest("sha256", url(2)).upper()]
    entries += [digest("md5", "picture 3"), digest("sha256", "picture 4"), url(5) + "x", digest("md5", "nothing")]
    listed.write_text("# opt-outs\n\n" + "\r\n".join(entries))
    with Collection.open(db, encoder="test-words") as collection:
        collection.load(hashed)
        report = collection.deny(listed)
        assert (report.entries, report.changed, report.rows) == (7, 7, 5)
        assert ids_of(collection) == [5, 6, 7]
        assert collection.denied() == {"url": 2, "md5": 3, "sha256": 2}
        assert collection.deny(listed).changed == 0


def test_what_is_denied_is_not_loaded(db: str, hashed: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"{url(0)}\n{digest('md5', 'picture 3')}\n")
    with Collection.open(db, encoder="test-words") as collection:
        assert collection.deny(tmp_path / "list").rows == 0
        collection.load(hashed)
        assert ids_of(collection) == [1, 2, 4, 5, 6, 7]
        write_shard(tmp_path / "more", 1, columns={"url": [url(0)] * 8})
        collection.load(tmp_path / "more")
        assert len(ids_of(collection)) == 6
        assert collection.load(tmp_path / "more").skipped == (1,)


def test_a_denied_row_is_in_no_answer_and_comes_back_only_by_loading_again(tmp_path: Path) -> None:
    vectors = random_unit(600, 24, seed=2)
    write_shard(tmp_path / "in", 0, ["x"] * 600, images=vectors, with_text=False)
    (tmp_path / "list").write_text(url(17))
    with Collection.open(tmp_path / "db") as collection:
        collection.load(tmp_path / "in")
        collection.build_index(config=IndexConfig(m=16, ef_construction=64))
        collection.deny(tmp_path / "list")

        def answers() -> list[bool]:
            searches = ({}, {"exact": True}, {"where": "width > 0"}, {"where": "width > 0", "exact": True})
            return [17 in [hit.id for hit in collection.search(vectors[17], k=5, **how)] for how in searches]

        assert answers() == [False] * 4
        collection.load(tmp_path / "in")
        assert answers() == [False] * 4
        collection.delete(shards="0")
        collection.load(tmp_path / "in")
        assert answers() == [False] * 4
        assert collection.deny(tmp_path / "list", remove=True).changed == 1
        collection.load(tmp_path / "in")
        assert answers() == [False] * 4
        collection.delete(shards="0")
        collection.load(tmp_path / "in")
        assert answers() == [True] * 4


def read(path: Path) -> list[deny.Entry]:
    return [entry for some in deny.entries(path) for entry in some]


def test_tables_are_lists_too(tmp_path: Path) -> None:
    md5, sha256 = digest("md5", "a"), digest("sha256", "a")
    pq.write_table(pa.table({"URL": ["http://a/", None], "MD5": [None, md5], "n": [1, 2]}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text(f'hash,n\n{md5},1\n"{sha256}",2\n')
    (tmp_path / "c.tsv").write_text('n\turl\n1\thttp://a/?b="c,d"\n')
    assert read(tmp_path / "a.parquet") == [("url", "http://a/"), ("md5", md5)]
    assert read(tmp_path / "b.csv") == [("md5", md5), ("sha256", sha256)]
    assert read(tmp_path / "c.tsv") == [("url", 'http://a/?b="c,d"')]


def test_a_column_of_a_table_may_be_empty_for_long_and_look_like_numbers(tmp_path: Path) -> None:
    md5, number = digest("md5", "a"), "1" * 32
    for name, comma in (("a.csv", ","), ("b.tsv", "\t")):
        # More than a reader looks at before it settles what the columns are.
        empty = f"{'x' * 200}{comma}{comma}\n" * 10_000
        (tmp_path / name).write_text(
            f"n{comma}url{comma}MD5\n1{comma}{comma}{number}\n{empty}2{comma}http://a/{comma}{md5}\n"
        )
        assert sorted(read(tmp_path / name)) == [("md5", md5), ("md5", number), ("url", "http://a/")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "http://a/\nperhaps\n", "line 2 has 'perhaps', which is not a url, an md5 or a sha256"),
        ("a.txt", "0" * 40, "which is not"),
        ("a.csv", "link\nhttp://a/\n", "has none of the columns url, md5, sha256, hash; it has: link"),
        ("a.csv", f"md5\n{'0' * 64}\n", "which is not an md5"),
        ("a.parquet", "no parquet", "cannot read the list"),
        ("a.txt", None, "cannot read the list"),
    ],
)
def test_a_list_that_is_none_changes_nothing(
    embedded: Collection, tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        embedded.deny(tmp_path / name)
    assert sum(embedded.denied().values()) == 0


hashes = st.binary(min_size=16, max_size=16)


@settings(deadline=None)
@given(
    listed=st.sets(st.sampled_from(["a", "b", "c", "d", "e"])),
    urls=st.lists(st.sampled_from(["", "a", "b", "c", "f", None]), min_size=1),
    pictures=st.sampled_from(["d", "e", "f", "", None]),
    alike=hashes,
)
def test_the_loader_leaves_out_what_is_listed_and_nothing_else(
    listed: set[str], urls: list[str | None], pictures: str | None, alike: bytes
) -> None:
    digests = [hashlib.md5(text.encode()).digest() for text in listed]
    # Others that begin as those do: the first halves alone must not decide.
    others = [each[:8] + alike[8:] for each in digests]
    denied = deny.Denied(
        md5=deny._pairs(b"".join(sorted({*digests, *others, hashlib.md5(b"").digest()}))), sha256=deny._none()
    )
    column = [None if pictures is None else hashlib.md5(pictures.encode()).hexdigest()] * len(urls)
    got = denied.rows({"url": pa.array(urls, pa.string()), "md5": pa.array(column, pa.string())}, len(urls))
    picture = pictures is not None and (pictures in listed or pictures == "")
    assert got.tolist() == [picture or (text in listed and bool(text)) for text in urls]
    assert denied.rows({}, 3).tolist() == [False] * 3


def test_the_loaders_list_is_the_engines(db: str, hashed: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"{url(0)}\n{digest('md5', url(1))}\n{digest('sha256', 'picture 4')}\n")
    with Collection.open(db, encoder="test-words") as collection:
        assert deny.current(collection.engine, "laion") is None
        collection.deny(tmp_path / "list")
        denied = deny.current(collection.engine, "laion")
    assert denied is not None
    table = pq.read_table(hashed / "metadata_0.parquet").combine_chunks()
    metadata = {name: table.column(name).combine_chunks() for name in ("url", "md5", "sha256")}
    assert np.flatnonzero(denied.rows(metadata, 8)).tolist() == [0, 1, 4]


def test_the_command_shows_and_changes_the_list(embedded: Collection, cliphouse, tmp_path: Path) -> None:
    embedded.close()
    (tmp_path / "list.txt").write_text(f"{url(0)}\n{url(7)}\n")
    done = cliphouse("deny", tmp_path / "list.txt", "--db", tmp_path / "db")
    assert done.out == "2 entries read, 2 new\ndeleted 2 rows\n"
    assert '"url": 2' in cliphouse("deny", "--list", "--format", "json", "--db", tmp_path / "db").out
    assert "2 taken off" in cliphouse("deny", tmp_path / "list.txt", "--remove", "--db", tmp_path / "db").out
    assert "url     0" in cliphouse("deny", "--list", "--db", tmp_path / "db").out
    assert cliphouse("deny", "--db", tmp_path / "db").code == 2
