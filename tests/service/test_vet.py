"""What of strangers' SQL reaches the engine, judged by the engine's own parser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cliphouse.engine import Engine, connect
from cliphouse.errors import InvalidFilter, StatementRefused
from cliphouse.service.vet import Statement, check_expression, check_statement, check_structure, read_statement
from cliphouse.types import CollectionInfo

COLUMNS = {
    "id": "Int64",
    "url": "String",
    "caption": "String",
    "NSFW": "String",
    "width": "Int32",
    "image_embedding": "Array(BFloat16)",
}
INFO = CollectionInfo(name="laion", encoder="test-words", dim=64, storage="bfloat16", columns=COLUMNS)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with connect("chdb://memory") as opened:
        yield opened


@pytest.mark.parametrize(
    ("where", "written"),
    [
        ("width>=1024 and caption ILIKE '%snow%'", "(width >= 1024) AND (caption ILIKE '%snow%')"),
        ("width > 1 -- comment", "width > 1"),
        ("NSFW in ('UNLIKELY', 'UNSURE')", "NSFW IN ('UNLIKELY', 'UNSURE')"),
        ("width::Int64 between 1 and 2", "(CAST(width, 'Int64') >= 1) AND (CAST(width, 'Int64') <= 2)"),
        ('"caption" = $$it\'s$$', "caption = 'it\\'s'"),
        ("caption = 'Ünï🎉 -- /* ; \\'", None),
        ("caption = '🎉 -- /* ; )'", "caption = '🎉 -- /* ; )'"),
        ("domain(url) = 'example.com'", "domain(url) = 'example.com'"),
        ("case when width > 1 then 1 else 0 end", "multiIf(width > 1, 1, 0)"),
        (
            "cosineDistance(image_embedding, encode_text('red car')) < 0.5",
            "cosineDistance(image_embedding, encode_text('red car')) < 0.5",
        ),
    ],
)
def test_a_filter_is_one_expression_as_the_engine_writes_it(engine: Engine, where: str, written: str | None) -> None:
    if written is None:
        with pytest.raises(InvalidFilter):
            check_expression(engine, INFO, where)
    else:
        assert check_expression(engine, INFO, where) == written
        assert check_expression(engine, INFO, written) == written


@pytest.mark.parametrize(
    "where",
    [
        *("", " ", "(", ")", "'", "*", "1, 2", "1) OR (1", "1 OR 1) --", "1; DROP TABLE laion"),
        *("1 FROM system.one", "1 WHERE 1", "1 LIMIT 1", "DISTINCT 1", "1 UNION ALL SELECT 2", "1 FORMAT Null"),
        *("1 SETTINGS readonly = 0", "1 INTO OUTFILE '/tmp/x'", "width AS w", "{a:Int64} = 1"),
        *("id IN (SELECT id FROM laion)", "exists(SELECT 1)", "id IN laion", "id IN system.users", "id IN numbers(3)"),
        *("file('/etc/passwd') != ''", "sleep(3) = 0", "sleepEachRow(1) = 0", "hostName() = ''", "getSetting('x') = 1"),
        *("dictGet('a', 'b', 1) = 1", "joinGet('a', 'b', 1) = 1", "globalVariable('x') = 1", "url('file:///x') = 1"),
        *("_encode_image('/etc/passwd') = ''", "encode_image('/etc/passwd') = []", "notAFunction(1)", "count() > 1"),
        *("sum(width) OVER () > 1", "arrayExists(x -> x > 1, [1])", "x -> 1", "arrayMap(file, ['a']) = []"),
        *("repeat(caption, 1000000) = ''", "length(range(1000000000)) > 1", "replaceAll(caption, 'a', 'aaa') = ''"),
        *("hex(hex(hex(caption))) = ''", "leftPad(caption, 100000000) = ''", "width::FixedString(10000000) = ''"),
        *("_part = ''", "distance < 1", "laion.width = 1", "system.users.name = 'x'", "nothing = 1"),
        *(
            "NOT " * 300 + "1",
            "(" * 3000 + "1" + ")" * 3000,
            "+".join(["1"] * 400),
            "x" * 10_001,
            "[" * 900 + "]" * 900,
        ),
        *("1\0", "\ud800", "caption = '\\xff'", "multiMatchAny(caption, ['a{1,1000}']) = 1"),
        "encode_text(caption) = []",
        " OR ".join(["encode_text('a') = []"] * 9),
    ],
)
def test_anything_else_is_no_filter(engine: Engine, where: str) -> None:
    with pytest.raises(InvalidFilter) as refused:
        check_expression(engine, INFO, where)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("sql", "written"),
    [
        ("select 1;", "SELECT 1"),
        ("SELECT version(), timezone(), currentUser(), currentDatabase()", None),
        ("SELECT name, value, readonly FROM system.settings WHERE name LIKE 'max%'", None),
        ("SELECT * FROM laion WHERE id IN (SELECT id FROM laion) ORDER BY width DESC LIMIT 5", None),
        ("SELECT NSFW, count(), quantileIf(0.5)(width, width > 0) FROM laion GROUP BY ALL", None),
        ("WITH a AS (SELECT 1 AS x) SELECT x FROM a UNION ALL SELECT number FROM numbers(3)", None),
        ("SELECT cosineDistance(image_embedding, encode_text('cat')) AS d FROM laion ORDER BY d", None),
        ("SELECT sum(width) OVER (PARTITION BY NSFW) FROM laion", None),
        ("SELECT * FROM information_schema.columns", None),
        ("SHOW TABLES", None),
        ("SHOW DATABASES", None),
        ("SHOW COLUMNS FROM laion", None),
        ("desc laion", "DESCRIBE TABLE laion"),
        ("DESCRIBE (SELECT 1)", "DESCRIBE TABLE (SELECT 1)"),
        ("SHOW CREATE laion", "SHOW CREATE TABLE laion"),
        ("EXISTS laion", "EXISTS TABLE laion"),
        ("EXPLAIN indexes = 1 SELECT * FROM laion", None),
        ("EXPLAIN QUERY TREE SELECT 1", None),
    ],
)
def test_statements_that_read_are_written_back(engine: Engine, sql: str, written: str | None) -> None:
    again = check_statement(engine, sql)
    if written:
        assert again == written
    assert check_statement(engine, again) == again


def test_settings_and_format_are_taken_out(engine: Engine) -> None:
    sql = "SELECT 1 FROM laion SETTINGS use_uncompressed_cache = 1, local_filesystem_read_method = 'mmap' FORMAT JSON"
    assert read_statement(engine, sql) == Statement(
        "SELECT 1 FROM laion", {"use_uncompressed_cache": 1, "local_filesystem_read_method": "mmap"}, "JSON"
    )
    with pytest.raises(StatementRefused, match="FORMAT and SETTINGS"):
        check_statement(engine, sql)


def test_names_without_a_database_are_those_of_the_one_that_was_chosen(engine: Engine) -> None:
    assert read_statement(engine, "SELECT * FROM tables", database="system")
    with pytest.raises(StatementRefused, match="users"):
        read_statement(engine, "SELECT * FROM users", database="system")
    with pytest.raises(StatementRefused, match="laion"):
        read_statement(engine, "SELECT * FROM laion", database="elsewhere")


@pytest.mark.parametrize(
    "sql",
    [
        *("", ";", "SELECT", "SELECT 1; SELECT 2", "SELECT 1; DROP TABLE laion", "SELECT 1 INTO OUTFILE '/tmp/x'"),
        *("EXPLAIN SELECT 1 INTO OUTFILE '/tmp/x'", "SHOW TABLES INTO OUTFILE '/tmp/x'"),
        *("SHOW CREATE TABLE laion INTO OUTFILE '/tmp/x'", "DESCRIBE laion INTO OUTFILE '/tmp/x'"),
        *("DROP TABLE laion", "TRUNCATE TABLE laion", "CREATE TABLE x (a Int8) ENGINE = Memory", "ATTACH TABLE x"),
        *("CREATE FUNCTION f AS x -> x", "CREATE TEMPORARY TABLE x (a Int8)", "CREATE USER x", "GRANT ALL ON *.* TO x"),
        *("INSERT INTO laion SELECT 1", "INSERT INTO laion VALUES (1)", "INSERT INTO FUNCTION file('x') SELECT 1"),
        *("ALTER TABLE laion DELETE WHERE 1", "DELETE FROM laion WHERE 1", "UPDATE laion SET id = 1 WHERE 1"),
        *("OPTIMIZE TABLE laion FINAL", "RENAME TABLE laion TO x", "EXCHANGE TABLES a AND b", "DETACH TABLE laion"),
        *("SYSTEM SHUTDOWN", "KILL QUERY WHERE 1", "SET readonly = 0", "USE system", "CHECK TABLE laion"),
        *("BACKUP TABLE laion TO Disk('a', 'b')", "EXECUTE AS x SELECT 1", "EXPLAIN AST DROP TABLE laion"),
        *("SHOW PROCESSLIST", "SHOW GRANTS", "SHOW USERS", "SHOW CLUSTERS", "SHOW TABLES FROM elsewhere"),
        *("SELECT 1 SETTINGS readonly = 0", "SELECT 1 SETTINGS max_memory_usage = 0", "SELECT 1 FORMAT CSV"),
        *("SELECT * FROM (SELECT 1 SETTINGS max_threads = 1)", "SELECT 1 FORMAT JSON SETTINGS readonly = 0"),
        *("SELECT 1 FROM laion SETTINGS apply_deleted_mask = 0", "SELECT * FROM laion_denied", "SELECT * FROM other.t"),
        *("SELECT file('/etc/passwd')", "SELECT * FROM file('/etc/passwd')", "SELECT * FROM url('http://x')"),
        *("SELECT * FROM values('a String', file('/etc/passwd'))", "SELECT * APPLY file FROM laion"),
        *("SELECT * APPLY (x -> file(x)) FROM laion", "WITH x -> x AS file SELECT file('/etc/passwd')"),
        *("SELECT (SELECT file('/etc/passwd'))", "SELECT 1 UNION ALL SELECT file('x')", "EXPLAIN SELECT file('x')"),
        *("DESCRIBE (SELECT file('x'))", "DESCRIBE file('/etc/passwd')", "DESCRIBE TABLE system.users"),
        *("SELECT * FROM laion ORDER BY file('x')", "SELECT 1 LIMIT length(file('x'))", "SHOW TABLES WHERE file('x')"),
        *("SELECT * FROM laion JOIN url('x') USING id", "SELECT 1 IN system.users", "SELECT 1 IN file('x')"),
        *("SELECT * FROM system.users", "SELECT * FROM system.processes", "SELECT * FROM `system`.`query_log`"),
        *("SELECT * FROM remote('a', b.c)", "SELECT * FROM executable('x', TSV, 'a Int8')", "SELECT * FROM python(x)"),
        *("SELECT * FROM merge('.*')", "SELECT * FROM mergeTreeIndex('default', 'laion')", "SELECT * FROM eval('x')"),
        *(
            "SELECT * FROM s3('x')",
            "SELECT * FROM mysql('x')",
            "SELECT * FROM sqlite('x', 'y')",
            "SELECT * FROM input('x')",
        ),
        *("SELECT * FROM dictionary('x')", "SELECT * FROM cluster('x', a.b)", "SELECT * FROM hdfs('x')"),
        *("SELECT sleep(3)", "SELECT hostName()", "SELECT dictGet('a', 'b', 1)", "SELECT joinGet('a', 'b', 1)"),
        *(
            "SELECT _encode_image('/x')",
            "SELECT aiGenerate('x')",
            "SELECT addressToLine(1)",
            "SELECT nope()",
            "SELECT `fi\nle`(1)",
        ),
        *(
            "SELECT encode_text(caption) FROM laion",
            "SELECT * APPLY encode_text FROM laion",
            "SELECT encode_text('a', 'b')",
        ),
        *("SELECT arrayMap(x -> encode_text(x), ['a'])", "SELECT encode_text(repeat('a', 10))", "SELECT encode_text()"),
        "SELECT " + ", ".join(["encode_text('a')"] * 9),
        *(
            "SELECT * FROM `system.users`",
            "SELECT 1 IN `system.users`",
            "DESCRIBE `system.users`",
            "SHOW COLUMNS FROM `a' b`",
        ),
        *(
            "SELECT * FROM `laion_denied `",
            "SELECT * FROM `laion_denied\\0`",
            "SHOW INDEX FROM `a'b`",
            "EXISTS `a``b`.c",
        ),
        *("SELECT @@version", "SELECT * FROM {t:Identifier}", "SELECT {t:Identifier} FROM laion", "SELECT 1\0"),
        *("SELECT " + "(" * 3000 + "1" + ")" * 3000, "SELECT " + "NOT " * 2000 + "1", "SELECT " + "1" * 100_001),
    ],
)
def test_anything_else_is_refused_in_one_line(engine: Engine, sql: str) -> None:
    with pytest.raises(StatementRefused) as refused:
        check_statement(engine, sql)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_a_structure_is_names_and_types(engine: Engine) -> None:
    given = "a Int8, `b c` Nullable(String), c Array(Tuple(x Int8, y Enum8('a)' = 1))), d DateTime64(3, 'UTC')"
    assert check_structure(engine, given) == given.replace("a Int8", "`a` Int8", 1).replace(", c ", ", `c` ").replace(
        ", d ", ", `d` "
    )
    for wrong in [
        *(
            "",
            "a",
            "a Int8) AS SELECT (1",
            "a String DEFAULT file('x')",
            "a String MATERIALIZED file('x')",
            "a DEFAULT 1",
        ),
        *(
            "a String ALIAS file('x')",
            "a String TTL now()",
            "a Int8) ENGINE = File(CSV",
            "a Int8, INDEX i a TYPE minmax",
        ),
        *("a Int8 PRIMARY KEY", "a Int8, CONSTRAINT c CHECK file('x')", "a Int8); DROP TABLE laion; (", "a Int8 --"),
        *("a String EPHEMERAL file('x')", "a Int8, PROJECTION p (SELECT 1)", "a Int8 CODEC(ZSTD)"),
    ]:
        with pytest.raises(StatementRefused):
            check_structure(engine, wrong)
