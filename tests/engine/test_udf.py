"""`cliphouse udf export`: the files it writes, loaded by the engine and queried through a server's interface."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from cliphouse import Collection, IndexConfig
from cliphouse.errors import EngineError
from tests.clickhouse_http import PASSWORD, USER
from tests.data import CAPTIONS, ENCODER, write_shard

BLUE = Image.new("RGB", (9, 9), (30, 70, 220))


@dataclass
class Server:
    """A server with the exported functions; `starts` tells how many workers were started, and for what."""

    collection: Collection
    pictures: Path
    log: Path

    def starts(self, kind: str) -> int:
        return self.log.read_text().split().count(kind)

    def column(self, sql: str, **parameters: object) -> list:
        return self.collection.sql(sql, parameters).column(0).to_pylist()


def _serve(exported: Path) -> subprocess.Popen[str]:
    options = (
        f"user_defined_executable_functions_config={exported}/*_function.xml&user_scripts_path={exported}/user_scripts"
    )
    program = Path(__file__).parents[1] / "clickhouse_http.py"
    return subprocess.Popen([sys.executable, str(program), options], stdout=subprocess.PIPE, text=True)


def _url(process: subprocess.Popen[str]) -> str:
    return f"clickhouse://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{process.stdout.readline().strip()}/default"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("udf")
    (place / "pictures").mkdir()
    python = place / "python"  # counts, then is the real one
    python.write_text(f'#!/bin/sh\nfor kind; do :; done\necho "$kind" >> {place}/log\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (place / "log").touch()
    command = [sys.executable, "-m", "cliphouse", "udf", "export", place / "out", "--encoder", "test-words"]
    subprocess.run([*command, "--allow", place / "pictures", "--python", python], check=True, stdout=subprocess.DEVNULL)
    write_shard(place / "shards")
    with _serve(place / "out") as process:
        try:
            with Collection.open(_url(process), encoder="test-words") as collection:
                collection.load(place / "shards")
                yield Server(collection, place / "pictures", place / "log")
        finally:
            process.kill()


def test_the_engine_reads_the_definitions_as_they_are_meant(server: Server) -> None:
    options = "toString(type), format, send_chunk_header, return_type, argument_types[1], pool_size"
    timeouts = "command_read_timeout, command_write_timeout, max_command_execution_time"
    sql = f"SELECT {options}, {timeouts} FROM system.user_defined_functions WHERE load_status = 'Success' ORDER BY name"
    for row in server.collection.sql(sql).to_pylist():
        values = list(row.values())
        assert values[:6] == ["executable_pool", "RowBinary", 1, "Array(Float32)", "Nullable(String)", 2]
        assert values[6:] == [300_000, 300_000, 300]
    assert server.column("SELECT name FROM system.user_defined_functions ORDER BY name") == [
        "encode_image",
        "encode_text",
    ]


def test_a_text_and_a_column_of_texts_are_the_encoders_own_vectors(server: Server) -> None:
    (one,) = server.column("SELECT encode_text('a red square')")
    assert np.array(one) == pytest.approx(ENCODER.encode_texts(["a red square"])[0])
    rows = server.column("SELECT encode_text(caption) FROM laion ORDER BY id")
    assert np.array(rows) == pytest.approx(ENCODER.encode_texts(CAPTIONS))
    assert server.column("SELECT encode_text(caption) FROM laion WHERE id < 0") in ([], [[]])


def test_many_rows_arrive_in_order(server: Server) -> None:
    sql = (
        "SELECT countIf(arrayMax(v) > 0.99), count() FROM (SELECT number, encode_text(toString(number)) AS v FROM "
        "numbers(5000)) WHERE indexOf(v, arrayMax(v)) = 1 + modulo(CRC32(toString(number)), 256)"
    )
    assert [column.to_pylist() for column in server.collection.sql(sql).columns] == [[5000], [5000]]


def test_null_is_an_empty_array_and_other_strings_are_taken(server: Server) -> None:
    rows = server.column("SELECT encode_text(if(id % 2 = 1, NULL, caption)) FROM laion ORDER BY id LIMIT 4")
    assert [len(row) for row in rows] == [256, 0, 256, 0]
    assert server.column("SELECT length(encode_text(NULL))") == [0]
    assert server.column("SELECT length(encode_text(toLowCardinality(toFixedString('cat', 3))))") == [256]


def test_a_constant_keeps_the_index_in_use(server: Server) -> None:
    server.collection.build_index(config=IndexConfig(m=16, ef_construction=32))
    search = "SELECT caption FROM laion ORDER BY cosineDistance(image_embedding, encode_text('red car')) LIMIT 1"
    assert server.column(f"{search} SETTINGS force_data_skipping_indices = 'image_index'") == ["red car"]
    plan = "\n".join(server.column(f"EXPLAIN indexes = 1 {search}"))
    assert "image_index" in plan


def test_pictures_are_opened_below_the_allowed_directory_only(server: Server) -> None:
    BLUE.save(server.pictures / "it's blue.png")
    BLUE.save(server.pictures.parent / "secret.png")
    sql = "SELECT encode_image({p:String})"
    (blue,) = server.column(sql, p=str(server.pictures / "it's blue.png"))
    assert np.array(blue) == pytest.approx(ENCODER.encode_images([BLUE])[0])
    for path in (server.pictures / "../secret.png", server.pictures.parent / "missing.png"):
        with pytest.raises(EngineError) as caught:
            server.column(sql, p=str(path))
        assert str(caught.value).startswith(f"encode_image may not open {path}: it is not below an allowed directory")
        assert "\n" not in str(caught.value)
    with pytest.raises(EngineError, match="URLs are not fetched"):
        server.column(sql, p="http://127.0.0.1/a.png")


def test_what_cannot_be_encoded_fails_its_query_and_no_other(server: Server) -> None:
    (server.pictures / "broken.png").write_text("no picture")
    path = server.pictures / "broken.png"
    server.column("SELECT encode_text('warm')")
    before = server.starts("text")
    for _ in range(3):
        with pytest.raises(EngineError, match=rf"^cannot read the picture {path}: not a picture") as caught:
            server.column("SELECT encode_image({p:String})", p=str(path))
        assert caught.value.name == "UDF_EXECUTION_FAILED"
        with pytest.raises(EngineError, match=r"^the text '\?!' holds no word"):
            server.column("SELECT encode_text(if(id = 3, '?!', caption)) FROM laion")
        assert server.column("SELECT length(encode_text('cat'))") == [256]
    assert server.starts("text") == before


def test_workers_stay_with_their_model_and_are_no_more_than_the_pool(server: Server) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = pool.map(lambda n: server.column("SELECT length(encode_text({t:String}))", t=f"t{n}"), range(60))
        assert list(answers) == [[256]] * 60
    assert server.starts("text") <= 2


def test_an_encoder_that_cannot_run_says_so_to_whoever_asks(tmp_path: Path, cliphouse: Callable) -> None:
    assert cliphouse("udf", "export", tmp_path / "out", "--python", sys.executable).code == 0
    script = tmp_path / "out/user_scripts/cliphouse_encode"
    script.write_text(script.read_text().replace("clip-vit-b32", "clip-of-tomorrow"))
    with _serve(tmp_path / "out") as process:
        try:
            with Collection.open(_url(process)) as collection:
                for _ in range(2):
                    with pytest.raises(EngineError, match=r"^there is no encoder 'clip-of-tomorrow'"):
                        collection.sql("SELECT encode_text('cat')")
        finally:
            process.kill()


def test_export_says_what_it_wrote_and_may_be_repeated(tmp_path: Path, cliphouse: Callable) -> None:
    for allow in ("/srv/one", "/srv/it's two"):
        outcome = cliphouse("udf", "export", tmp_path / "out", "--encoder", "test-words", "--allow", allow)
        assert (outcome.code, outcome.err) == (0, "")
    names = {"encode_text_function.xml", "encode_image_function.xml", "user_scripts/cliphouse_encode", "README.md"}
    assert {
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()
    } == names
    assert all(name in outcome.out for name in names)
    script = tmp_path / "out/user_scripts/cliphouse_encode"
    assert stat.S_IMODE(script.stat().st_mode) == 0o755
    assert f"{sys.executable} -P -m cliphouse.udf_worker --encoder test-words --allow '/srv/it'\"'\"'s two'" in (
        script.read_text()
    )
    assert len((tmp_path / "out/README.md").read_text().splitlines()) == 3


def test_export_writes_over_nothing_of_yours(tmp_path: Path, cliphouse: Callable) -> None:
    (tmp_path / "README.md").write_text("precious")
    outcome = cliphouse("udf", "export", tmp_path)
    assert (outcome.code, outcome.err) == (
        2,
        f"cliphouse: {tmp_path / 'README.md'} is not from an earlier export; choose an empty or a new directory\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_an_unknown_encoder_is_refused_before_anything_is_written(tmp_path: Path, cliphouse: Callable) -> None:
    outcome = cliphouse("udf", "export", tmp_path / "out", "--encoder", "clip")
    assert outcome.code == 2
    assert "there is no encoder 'clip'" in outcome.err
    assert not (tmp_path / "out").exists()
