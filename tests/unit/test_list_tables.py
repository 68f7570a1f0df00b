"""The tables of inverted lists as text: which columns they copy, compute and leave out."""

from __future__ import annotations

import pytest

from cliphouse.lists import (
    TableColumn,
    assigned_name,
    clusters_name,
    computed,
    copied,
    copy_rows,
    create_clusters,
    create_lists,
    create_notes,
    lists_name,
    notes_name,
    shard_facts,
)

COLUMNS = (
    TableColumn("id", "Int64", "", ""),
    TableColumn("caption", "String", "", ""),
    TableColumn("similarity", "Nullable(Float32)", "", ""),
    TableColumn("image_embedding", "Array(BFloat16)", "", ""),
    TableColumn("text_embedding", "Array(BFloat16)", "", ""),
    TableColumn("tag", "String", "DEFAULT", "'none'"),
    TableColumn("area", "Int64", "ALIAS", "width * height"),
    TableColumn("texts", "UInt64", "ALIAS", "length(text_embedding)"),
    TableColumn("given", "String", "EPHEMERAL", ""),
)


def test_tables_of_a_build_are_named_after_it() -> None:
    lists = lists_name("laion", "text_embedding", "0a1b2c3d")
    assert lists == "laion_text_ivf_0a1b2c3d"
    assert (clusters_name(lists), assigned_name(lists, "x1")) == (f"{lists}_clusters", f"{lists}_assigned_x1")
    assert notes_name("laion") == "laion_indexes"


@pytest.mark.parametrize(
    ("column", "stored", "reckoned"),
    [
        ("image_embedding", ["id", "caption", "similarity", "image_embedding", "tag"], ["area"]),
        ("text_embedding", ["id", "caption", "similarity", "text_embedding", "tag"], ["area", "texts"]),
    ],
)
def test_lists_hold_what_is_stored_but_for_the_other_embedding(
    column: str, stored: list[str], reckoned: list[str]
) -> None:
    assert [each.name for each in copied(COLUMNS, column)] == stored
    assert [each.name for each in computed(COLUMNS, column)] == reckoned


def test_rows_lie_by_cluster_in_small_granules_and_vectors_are_not_packed() -> None:
    lines = [line.strip().rstrip(",") for line in create_lists("some_lists", "image_embedding", COLUMNS).splitlines()]
    assert lines[0] == "CREATE TABLE IF NOT EXISTS `some_lists`"
    assert "ORDER BY (`ivf_cluster`, id)" in lines
    assert "`image_embedding` Array(BFloat16) CODEC(NONE)" in lines
    assert "`caption` String CODEC(ZSTD(1))" in lines
    assert "`similarity` Nullable(Float32)" in lines
    assert "`area` Int64 ALIAS width * height" in lines
    assert not [line for line in lines if "text_embedding" in line or "given" in line]
    (settings,) = (line for line in lines if line.startswith("SETTINGS"))
    assert "index_granularity = 128" in settings


def test_a_copy_takes_the_columns_in_one_order_and_its_rows_alone() -> None:
    sql = copy_rows("laion", "some_lists", "image_embedding", COLUMNS, "id BETWEEN 5 AND 9", "some_assigned")
    into, taken, *_ = sql.splitlines()
    names = ["id", "caption", "similarity", "image_embedding", "tag"]
    assert into.endswith("(`ivf_cluster`, " + ", ".join(f"`{name}`" for name in names) + ")")
    assert taken == "SELECT assigned.cluster, " + ", ".join(f"source.`{name}`" for name in names)
    assert "FROM `laion` WHERE id BETWEEN 5 AND 9)" in sql
    assert "JOIN `some_assigned`" in sql


def test_names_are_quoted_wherever_they_stand() -> None:
    for sql in (create_clusters("t"), create_notes("t"), shard_facts("t", "id", "true")):
        assert "`t" in sql
    with pytest.raises(ValueError, match="a b"):
        create_clusters("a b")
