from __future__ import annotations

import pytest

from cliphouse.statements import is_closed, is_finished, split, takes_format


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1; SELECT 2;", ["SELECT 1", "SELECT 2"]),
        (" ;; \n", []),
        ("SELECT ';' AS `a;b`; -- c; d\nSELECT 2 /* ; */", ["SELECT ';' AS `a;b`", "SELECT 2 /* ; */"]),
        (r"SELECT 'it\'s; here'; SELECT 'it''s; too'", [r"SELECT 'it\'s; here'", "SELECT 'it''s; too'"]),
        ("SELECT $$a;b$$; SELECT 1", ["SELECT $$a;b$$", "SELECT 1"]),
        ("SELECT 'open", ["SELECT 'open"]),
        ("ALTER TABLE t ADD a\nALTER TABLE t ADD b", ["ALTER TABLE t ADD a", "ALTER TABLE t ADD b"]),
        ("GRANT ALTER TABLE ON t TO u", ["GRANT ALTER TABLE ON t TO u"]),
        ("SELECT {target:Array(Float32)}; SELECT 3", ["SELECT {target:Array(Float32)}", "SELECT 3"]),
    ],
)
def test_split(text: str, statements: list[str]) -> None:
    assert split(text) == statements


def test_input_is_finished_by_a_semicolon() -> None:
    assert is_finished("SELECT 1;")
    assert is_finished("SELECT 1; -- done")
    assert is_finished("  ")
    assert not is_finished("SELECT 1")
    assert not is_finished("SELECT ';")
    assert not is_finished("SELECT 1 -- ;")


def test_a_format_is_added_to_what_answers_with_rows_and_has_none() -> None:
    for statement in ("select 1", "WITH 1 AS a SELECT a", "SHOW TABLES", "(SELECT 1)", "SELECT format FROM t"):
        assert takes_format(statement), statement
    for statement in (
        "SELECT 1 FORMAT JSON",
        "SELECT 1 FORMAT CSV SETTINGS max_threads = 1",
        "CREATE TABLE t (a Int8)",
        "SET a = 1",
        "INSERT INTO t VALUES (1)",
        "",
    ):
        assert not takes_format(statement), statement


def test_an_expression_that_closes_what_it_did_not_open_is_not_one() -> None:
    for expression in ("a = 1", "(a = 1) OR (b = ')')", "a IN (1, 2) -- )"):
        assert is_closed(expression), expression
    for expression in ("a = 1) OR (b = 2", "(a = 1", "a = 1; DROP TABLE t", ")("):
        assert not is_closed(expression), expression
