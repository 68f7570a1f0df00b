"""The SQL as text: what a reader of `--sql` sees."""

from __future__ import annotations

import numpy as np
import pytest

from cliphouse import IndexConfig, SearchParams, queries_many
from cliphouse.errors import UsageError
from cliphouse.pipeline import delete, export, verify
from cliphouse.queries import by_index, by_lists, exact, is_complete, scan
from cliphouse.schema import create_table, from_comment, identifier, parse_index, to_comment
from cliphouse.types import CollectionInfo, Query, shard_ranges

INFO = CollectionInfo(name="laion", encoder="test-words", dim=2, storage="bfloat16")
TARGET = np.array([1, 0.1], dtype=np.float32)


def test_exact() -> None:
    query = exact(INFO, TARGET, SearchParams(k=3, where="width > 5"))
    assert query.sql == (
        "SELECT `id`, `url`, `caption`, `NSFW`, `similarity`, "
        "cosineDistance(`image_embedding`, {target:Array(Float32)}) AS distance\n"
        "FROM `laion`\nWHERE (width > 5\n)\nORDER BY distance, id\nLIMIT 3\n"
        "SETTINGS query_plan_try_use_vector_search = 0"
    )
    assert query.parameters == {"target": [1.0, pytest.approx(0.1)]}


def test_scan_binds_the_rounded_target_beside_the_full_one() -> None:
    query = scan(INFO, TARGET, SearchParams(k=3, column="text"), cached=True)
    assert query.parameters["rounded_target"] == [1.0, 0.10009765625]
    assert "notEmpty(`text_embedding`)" in query.sql
    assert "use_uncompressed_cache = 1" in query.sql
    assert "use_uncompressed_cache" not in scan(INFO, TARGET, SearchParams(), cached=False).sql


def test_the_index_search_looks_at_least_as_hard_as_k() -> None:
    assert "hnsw_candidate_list_size_for_search = 500" in by_index(INFO, TARGET, SearchParams(k=500)).sql
    assert "hnsw_candidate_list_size_for_search = 64" in by_index(INFO, TARGET, SearchParams(ef_search=64)).sql


@pytest.mark.parametrize("count", [1, 15_000, 15_001, 28_285, 1_000_000])
def test_no_list_of_clusters_is_too_long_for_a_field_of_a_server(count: int) -> None:
    """By default it takes 128 KiB in one."""
    probes = np.arange(count, dtype=np.uint32)
    query = by_lists(INFO, TARGET, SearchParams(), lists="l", probes=probes, within=None, tail=None)
    assert max(map(len, query.parameters.values())) <= 128 * 1024
    pieces = [value for name, value in query.parameters.items() if name.startswith("probes")]
    assert (np.frombuffer(bytes.fromhex("".join(pieces)), "<u4") == probes).all()
    assert all(f"{{{name}:String}}" in query.sql for name in query.parameters)


def test_no_list_of_ids_is_too_long_for_a_field_of_a_server() -> None:
    longest = [-(2**63) + number for number in range(20_000)]
    statements = [each.parameters for each in delete.by_ids(longest)]
    statements.append({"ids": longest[: max(queries_many.IDS_AT_A_TIME, export._IDS_AT_ONCE, verify._ROWS_AT_ONCE)]})
    assert max(len(str(each["ids"])) for each in statements) <= 128 * 1024


def test_a_result_is_complete_only_below_the_horizon() -> None:
    assert is_complete([0.1, 0.2], horizon=0.3, k=2, error=0.05)
    assert not is_complete([0.1, 0.2], horizon=0.21, k=2, error=0.05)
    assert is_complete([0.1], horizon=0.1, k=2, error=0.05), "fewer than k: every matching row was in the short list"
    assert not is_complete([0.1, 0.2], horizon=float("nan"), k=2, error=0.05)


def test_a_query_prints_as_a_script() -> None:
    query = Query(sql="SELECT {a:String}", parameters={"a": "it's \\", "v": [1.5, -2.0]})
    assert query.script() == "SET param_a = 'it\\'s \\\\';\nSET param_v = [1.5, -2.0];\nSELECT {a:String};"


def test_the_table_starts_with_the_tutorials_columns_in_its_order() -> None:
    lines = [line.split("`")[1] for line in create_table(INFO).splitlines() if line.startswith("    `")]
    assert lines[:7] == ["id", "url", "caption", "NSFW", "similarity", "image_embedding", "text_embedding"]


def test_a_comment_says_what_the_collection_is() -> None:
    assert from_comment("laion", to_comment(INFO), {"image_embedding": "Array(BFloat16)"}).dim == 2
    for comment in ("", "my table", '{"cliphouse": 2}', "[1]"):
        info = from_comment("t", comment, {"image_embedding": "Array(Float32)"})
        assert (info.encoder, info.dim, info.storage) == ("", 0, "float32")


def test_index_definitions_are_read_back() -> None:
    definition = parse_index(
        "i", "image_embedding", "vector_similarity('hnsw', 'cosineDistance', 512, 'bf16', 64, 256)"
    )
    assert definition is not None
    assert (definition.dim, definition.config) == (512, IndexConfig())
    short = parse_index("i", "v", "vector_similarity('hnsw', 'cosineDistance', 8)")
    assert short is not None
    assert (short.config.m, short.config.ef_construction) == (32, 128)
    assert parse_index("i", "v", "vector_similarity('hnsw', 'L2Distance', 8)") is None


@pytest.mark.parametrize("name", ["", "a b", "a`b", "1a", "a;", "a" * 129])
def test_only_plain_names_become_identifiers(name: str) -> None:
    with pytest.raises(UsageError):
        identifier(name)


@pytest.mark.parametrize(
    "wrong",
    [{"k": 0}, {"k": 10_001}, {"ef_search": 0}, {"column": "caption"}, {"where": " "}],
)
def test_search_parameters_are_checked_once(wrong: dict) -> None:
    with pytest.raises(UsageError):
        SearchParams(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"m": 1}, {"m": 2000}, {"ef_construction": 1}, {"quantization": "q4"}, {"kind": "ivf"}]
)
def test_index_parameters_are_checked_once(wrong: dict) -> None:
    with pytest.raises(UsageError):
        IndexConfig(**wrong)


def test_shards_print_as_ranges() -> None:
    assert shard_ranges([0, 1, 2, 5, 9, 8]) == "0-2,5,8-9"
    assert shard_ranges([]) == ""


def test_a_complete_statement_has_its_values_where_they_are_wanted() -> None:
    query = Query(
        sql="SELECT {n:Int64}, '{n:Int64} it\\'s {n:Int64}', `{n:Int64}`, {t:String} "
        "WHERE {v:Array(Float32)} = {other:Int8}",
        parameters={"n": 3, "t": "it's {n:Int64}", "v": [1.0, 0.5]},
    )
    assert query.complete() == (
        "SELECT CAST(3, 'Int64'), '{n:Int64} it\\'s {n:Int64}', `{n:Int64}`, 'it\\'s {n:Int64}' "
        "WHERE CAST([1.0, 0.5], 'Array(Float32)') = {other:Int8}"
    )
