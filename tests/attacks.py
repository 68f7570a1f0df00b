"""What strangers try, and a collection with secrets beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from cliphouse import Collection
from cliphouse.types import Query
from tests.data import write_shard

#: What nobody outside may see: the contents of a file beside the database, and an entry of the deny list.
SECRET = "hush-nobody-knows-7f3a"


@contextmanager
def laid_out(place: Path) -> Iterator[Collection]:
    """A collection in a folder with a secret file, a deny list, and pictures inside and outside of `pictures`."""
    (place / "secret.txt").write_text(f"{SECRET}\n")
    (place / "pictures").mkdir()
    Image.new("RGB", (8, 8), "red").save(place / "pictures" / "red.png")
    Image.new("RGB", (8, 8), "red").save(place / "outside.png")
    (place / "pictures" / "link.png").symlink_to(place / "outside.png")
    paths = ["red.png", "../outside.png", "../../../../etc/passwd", "link.png", "/etc/passwd", "\0", "a" * 5000, ""]
    urls = ["", "", "", "", "file:///etc/passwd", f"file://{place}/outside.png", "file://localhost/etc/passwd", "."]
    columns = {"image_path": [str(place / "pictures" / path) for path in paths], "url": urls}
    with Collection.open(place / "db", encoder="test-words") as opened:
        opened.load(write_shard(place / "shards", columns=columns))
        (place / "denied.txt").write_text(f"https://example.org/{SECRET}\n")
        opened.deny(place / "denied.txt")
        opened.install_functions()
        yield opened


def state(collection: Collection, place: Path) -> list[object]:
    """What an attack could have changed: tables, functions, rows, files."""
    tables = "SELECT groupArray(name) FROM (SELECT name FROM system.tables WHERE database = 'default' ORDER BY name)"
    functions = "SELECT count() FROM system.functions"
    rows = "SELECT count(), sum(cityHash64(*)) FROM laion"
    found = [collection.engine.query(Query(sql=each)).rows for each in (tables, functions, rows)]
    return [*found, sorted(place.iterdir())]


def filled(text: str, place: Path) -> str:
    """An attack with the secret's place, and one that must not be written."""
    if "{" not in text:
        return text
    return text.format(file=place / "secret.txt", out=place / "out.txt", outside=place / "outside.png")


#: Statements, with {file} and {out} for the secret's place and one that must not be written.
STATEMENTS = [
    # files and other hosts
    "SELECT file('{file}')",
    "SELECT * FROM file('{file}', 'LineAsString')",
    "SELECT * FROM file('/etc/passwd', LineAsString)",
    "SELECT * FROM url('file://{file}', LineAsString)",
    "SELECT * FROM url('http://127.0.0.1:1/', LineAsString)",
    "SELECT * FROM fileCluster('default', '{file}')",
    "SELECT * FROM filesystem('/')",
    "SELECT * FROM s3('http://127.0.0.1:1/b/k')",
    "SELECT * FROM remote('127.0.0.1', system.one)",
    "SELECT * FROM remoteSecure('127.0.0.1', system.one)",
    "SELECT * FROM cluster('default', system.one)",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM sqlite('{file}', 'a')",
    "SELECT * FROM mongodb('mongodb://127.0.0.1:1/a', 'b')",
    "SELECT * FROM redis('127.0.0.1:1', 'a', 'a Int8')",
    "SELECT * FROM hdfs('hdfs://127.0.0.1:1/a', 'TSV')",
    "SELECT * FROM jdbc('jdbc:x', 'a', 'b')",
    "SELECT * FROM odbc('DSN=x', 'a', 'b')",
    "SELECT * FROM azureBlobStorage('x', 'y', 'z')",
    "SELECT * FROM deltaLakeLocal('/')",
    "SELECT * FROM icebergLocal('/')",
    "SELECT * FROM executable('/bin/sh', TSV, 'a String')",
    "SELECT * FROM python(collection)",
    "SELECT * FROM Python(settings)",
    "SELECT * FROM input('a String')",
    "SELECT * FROM eval('SELECT 1')",
    "SELECT * FROM loop(laion)",
    "SELECT * FROM merge('.*')",
    "SELECT * FROM merge('system', '.*')",
    "SELECT * FROM dictionary('x')",
    "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT 1))",
    "SELECT * FROM values('a String', file('{file}'))",
    "SELECT 1 WHERE 'a' IN (SELECT * FROM file('{file}', LineAsString))",
    "WITH a AS (SELECT file('{file}') AS x) SELECT x FROM a",
    "SELECT arrayMap(x -> file(x), ['{file}'])",
    "SELECT * APPLY (x -> file('{file}')) FROM laion",
    "SELECT * REPLACE (file('{file}') AS url) FROM laion",
    "SELECT encode_image('{file}')",
    "SELECT encode_image('{outside}')",
    "SELECT encode_image('http://127.0.0.1:1/')",
    "SELECT _encode_image('{file}')",
    "SELECT encode_image('/etc/passwd')",
    "SELECT aiGenerate('x')",
    "DESCRIBE file('{file}')",
    "DESCRIBE (SELECT file('{file}'))",
    "EXPLAIN SELECT file('{file}')",
    "EXPLAIN ESTIMATE SELECT * FROM url('http://127.0.0.1:1/')",
    # writing
    "SELECT 1 INTO OUTFILE '{out}'",
    "SELECT 1 INTO OUTFILE '{out}' AND STDOUT FORMAT TSV",
    "(SELECT 1) UNION ALL (SELECT 2) INTO OUTFILE '{out}'",
    "SHOW TABLES INTO OUTFILE '{out}'",
    "DESCRIBE laion INTO OUTFILE '{out}'",
    "EXPLAIN SELECT 1 INTO OUTFILE '{out}'",
    "INSERT INTO laion (id) VALUES (1)",
    "INSERT INTO laion SELECT * FROM laion",
    "INSERT INTO laion FROM INFILE '{file}' FORMAT TSV",
    "INSERT INTO FUNCTION file('{out}', TSV) SELECT 1",
    "INSERT INTO FUNCTION url('http://127.0.0.1:1/') SELECT 1",
    "CREATE TABLE evil (a Int8) ENGINE = Memory",
    "CREATE TABLE evil (a String) ENGINE = File(TSV, '{file}')",
    "CREATE TABLE evil AS url('http://127.0.0.1:1/')",
    "CREATE TEMPORARY TABLE evil (a Int8)",
    "CREATE VIEW evil AS SELECT file('{file}')",
    "CREATE MATERIALIZED VIEW evil ENGINE = Memory AS SELECT 1",
    "CREATE FUNCTION evil AS x -> file(x)",
    "CREATE DICTIONARY evil (a Int8) PRIMARY KEY a SOURCE(FILE(path '{file}' format 'TSV')) LAYOUT(FLAT()) LIFETIME(1)",
    "CREATE DATABASE evil",
    "CREATE USER evil",
    "CREATE NAMED COLLECTION evil AS a = 1",
    "ATTACH TABLE evil FROM '/tmp' (a Int8) ENGINE = MergeTree ORDER BY a",
    "DROP TABLE laion",
    "DROP TABLE laion SYNC",
    "DROP DATABASE default",
    "DROP FUNCTION encode_text",
    "DETACH TABLE laion",
    "TRUNCATE TABLE laion",
    "RENAME TABLE laion TO gone",
    "EXCHANGE TABLES laion AND laion_denied",
    "ALTER TABLE laion DELETE WHERE 1",
    "ALTER TABLE laion ADD COLUMN evil String DEFAULT file('{file}')",
    "ALTER TABLE laion UPDATE url = '' WHERE 1",
    "DELETE FROM laion WHERE 1",
    "UPDATE laion SET url = '' WHERE 1",
    "OPTIMIZE TABLE laion FINAL",
    "BACKUP TABLE laion TO File('{out}')",
    "RESTORE TABLE evil FROM File('{file}')",
    "GRANT ALL ON *.* TO default",
    "REVOKE ALL ON *.* FROM default",
    "SYSTEM SHUTDOWN",
    "SYSTEM KILL",
    "SYSTEM DROP MARK CACHE",
    "SYSTEM FLUSH LOGS",
    "KILL QUERY WHERE 1",
    "KILL MUTATION WHERE 1",
    "SET readonly = 0",
    "SET max_memory_usage = 0",
    "USE system",
    "EXECUTE AS default SELECT 1",
    "BEGIN TRANSACTION",
    # more than one, or in disguise
    "SELECT 1; DROP TABLE laion",
    "SELECT 1;DROP TABLE laion;--",
    "SELECT 1 /* */; /* */ DROP TABLE laion",
    "/* SELECT */ DROP TABLE laion",
    "-- SELECT\nDROP TABLE laion",
    "#!x\nDROP TABLE laion",
    "SELECT 1 PARALLEL WITH DROP TABLE laion",
    "EXPLAIN AST DROP TABLE laion",
    "EXPLAIN SYNTAX DROP TABLE laion",
    "SELECT '\\'; DROP TABLE laion; --'; DROP TABLE laion",
    "SELECT $$a$$; DROP TABLE laion",
    "SELECT `file`('{file}')",
    "SELECT \"file\"('{file}')",
    "SELECT /**/file/**/('{file}')",
    "SELECT \ufeff file('{file}')",
    "SELECT ﬁle('{file}')",
    "SELECT fi\u200ble('{file}')",
    "SELECT file(concat('/etc/', 'passwd'))",
    "SELECT file(\x00'{file}')",
    "WITH x -> x AS file SELECT file('{file}')",
    "WITH 'file' AS f SELECT f('{file}')",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 SETTINGS max_execution_time = 0, max_memory_usage = 0",
    "SELECT file('{file}') SETTINGS readonly = 0 FORMAT Null",
    "SELECT 1 FORMAT Null",
    "SELECT 1 FORMAT Null SETTINGS readonly = 0",
    "SELECT * FROM (SELECT 1 SETTINGS readonly = 0)",
    "SELECT * FROM {{t:Identifier}}",
    # what is not theirs
    "SELECT * FROM laion_denied",
    "SELECT * FROM default.laion_denied",
    "SELECT * FROM `laion_denied`",
    "SELECT 'x' IN laion_denied",
    "SELECT * FROM laion SETTINGS apply_deleted_mask = 0",
    "SELECT * FROM system.users",
    "SELECT * FROM system.processes",
    "SELECT * FROM system.query_log",
    "SELECT * FROM system.named_collections",
    "SELECT * FROM system.stack_trace",
    "SELECT * FROM system.grants",
    "SELECT * FROM SYSTEM.users",
    "SHOW PROCESSLIST",
    "SHOW GRANTS",
    "SHOW ACCESS",
    "SHOW CREATE USER default",
    "SHOW CREATE TABLE laion_denied",
    "SELECT hostName(), FQDN()",
    "SELECT getMacro('x'), getServerPort('tcp_port')",
    "SELECT addressToLine(1)",
    "SELECT showCertificate('google.com', 443)",
    "SELECT getClientHTTPHeader('authorization')",
    "SELECT dictGet('a', 'b', 1)",
    "SELECT joinGet('a', 'b', 1)",
    # too much
    "SELECT encode_text(toString(number)) FROM numbers(1000000)",
    "SELECT encode_text(repeat('red car ', 10000000))",
    "SELECT sleep(3)",
    "SELECT sleepEachRow(1) FROM numbers(100)",
    "SELECT groupArray(number) FROM numbers(1000000000000)",
    "SELECT length(repeat('x', 10000000000))",
    "SELECT repeat(toString(number), 1000000) FROM numbers(100000)",
    "SELECT range(500000000)",
    "SELECT arrayMap(x -> range(1000000), range(1000000))",
    "SELECT groupArray(a.id) FROM laion a, laion b, laion c, laion d, laion e, laion f, laion g, laion h, laion i",
    "SELECT match(repeat('a', 100000), '(((a{{1,100}}){{1,100}}){{1,100}}){{1,10}}b')",
    "SELECT multiMatchAny(repeat('a', 100000), ['(a{{1,1000}}){{1,30}}b'])",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT n FROM r",
    "SELECT " + "(" * 5000 + "1" + ")" * 5000,
    "SELECT " + "NOT " * 5000 + "1",
    "SELECT " + "[" * 900 + "]" * 900,
    "SELECT " + "1+" * 20000 + "1",
    "SELECT " + "(SELECT " * 300 + "1" + ")" * 300,
    "SELECT " + "x -> " * 1000 + "1",
    "SELECT '" + "a" * 99_000,
    "\ud800",
]

#: Expressions, in `where`.
EXPRESSIONS = [
    *(
        "1) OR (1",
        "1) --",
        "1)) OR ((1",
        "1 OR 1; DROP TABLE laion",
        "1; DROP TABLE laion",
        "') OR ('1",
        "\\') OR 1 --",
    ),
    *(
        "1 UNION ALL SELECT 1",
        "1) UNION ALL SELECT * FROM laion_denied --",
        "1 ORDER BY 1",
        "1 LIMIT 0",
        "1 GROUP BY 1",
    ),
    *("1 FORMAT Null", "1 SETTINGS readonly = 0", "1 INTO OUTFILE '{out}'", "1 FROM file('{file}')", "1, 1", "1 AS id"),
    *("(SELECT file('{file}')) != ''", "id IN (SELECT id FROM laion)", "exists(SELECT 1)", "id IN laion_denied"),
    *("url IN (SELECT url FROM laion_denied)", "id IN system.users", "id IN file('{file}')", "1 IN numbers(10)"),
    *(
        "file('{file}') LIKE 'h%'",
        "`file`('{file}') != ''",
        "file/**/('{file}') != ''",
        "length(file('/etc/passwd')) > 1",
    ),
    *("encode_image('{file}') = []", "_encode_image('{file}') = ''", "encode_text(caption) = []", "aiFilter(url, 'x')"),
    *(
        "sleep(3) = 0",
        "sleepEachRow(3) = 0",
        "hostName() != ''",
        "getSetting('readonly') = 0",
        "throwIf(1)",
        "rand() = 1",
    ),
    *("dictGet('a', 'b', id) = 1", "joinGet('a', 'b', id) = 1", "getClientHTTPHeader('x') = ''", "currentUser() = ''"),
    *("length(repeat(caption, 1000000)) > 1", "length(range(1000000000)) > 1", "arrayMap(x -> x, [1]) = [1]"),
    *("length(replaceAll(replaceAll(url, 'a', 'aaaaaaaa'), 'a', 'aaaaaaaa')) > 1", "hex(hex(hex(url))) = ''"),
    *("arrayExists(x -> match(url, '(a+)+b'), [1])", "match(url, '((a{{1,100}}){{1,100}}){{1,100}}')"),
    *(
        "multiMatchAny(url, ['(a{{1,1000}}){{1,30}}b'])",
        "url::FixedString(16000000) = ''",
        "leftPad(url, 100000000) = ''",
    ),
    *(
        "_row_exists",
        "_part = 'x'",
        "laion.id = 1",
        "default.laion.id = 1",
        "system.one.dummy = 0",
        "distance < 1",
        "nope",
    ),
    *(
        "{{a:Int64}} = 1",
        "@@version = ''",
        "*",
        "COLUMNS('.*')",
        "count() > 1",
        "sum(id) OVER () > 1",
        "arrayJoin([1, 1])",
    ),
    *("id = 1\x00", "caption = '", "caption = '\\xff'", "caption = 'a' caption = 'b'", "\ud800", " ", "()", "((", ")("),
    *("NOT " * 2000 + "1", "(" * 4000 + "1" + ")" * 4000, "1+" * 4000 + "1", "a" * 10_001, "/*" * 4000, "'" * 9999),
]
