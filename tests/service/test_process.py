"""`cliphouse serve` as a process: how it starts, what it refuses, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cliphouse import Collection
from cliphouse.engine.embedded import directory_holder
from tests.data import write_shard

SEARCH = {"query": {"text": "red car"}, "k": 1}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    with Collection.open(folder / "db", encoder="test-words") as collection:
        collection.load(write_shard(folder / "shards"))
    return folder / "db"


@dataclass
class Served:
    process: subprocess.Popen[str]
    address: str

    def get(self, path: str, body: Any = None, context: ssl.SSLContext | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            return answer.read().decode()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Its exit code, and what it wrote to standard error."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=20)
        return self.process.returncode, err


Serve = Callable[..., Served]


@pytest.fixture
def serve(database: Path) -> Iterator[Serve]:
    started: list[subprocess.Popen[str]] = []

    def start(*options: object) -> Served:
        process = subprocess.Popen(
            [sys.executable, "-m", "cliphouse", "serve", "--db", database, "--port", "0", *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout
        line = process.stdout.readline()
        found = re.search(r"https?://\S+:\d+", line)
        assert found, process.stderr and process.stderr.read()
        return Served(process, found[0])

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_it_answers_and_ends_on_sigterm_with_nothing_left_behind(serve: Serve, database: Path) -> None:
    served = serve("--log-format", "json")
    found = json.loads(served.get("/api/v1/search", SEARCH))
    assert found["hits"][0]["caption"] == "red car"
    assert directory_holder(database) == served.process.pid
    code, err = served.end()
    assert code == 0
    assert directory_holder(database) is None
    request, stopping = map(json.loads, err.splitlines())
    assert (request["event"], request["method"], request["path"], request["status"]) == (
        "request",
        "POST",
        "/api/v1/search",
        200,
    )
    assert request["request_id"]
    assert request["ms"] > 0
    assert (stopping["event"], stopping["signal"]) == ("stopping", "SIGTERM")


def test_ctrl_c_lets_a_request_that_runs_end(serve: Serve) -> None:
    served = serve("--allow-writes")
    answers: list[str] = []
    pairs = "numbers(20000) AS a, numbers(20000) AS b"
    slow = {"statement": f"SELECT count() AS found FROM {pairs} WHERE cityHash64(a.number, b.number) = 0"}
    asking = threading.Thread(target=lambda: answers.append(served.get("/api/v1/sql", slow)))
    asking.start()
    _until(lambda: "cliphouse_places_running 1" in served.get("/metrics"))
    code, _ = served.end(signal.SIGINT)
    asking.join()
    assert code == 0
    assert json.loads(answers[0])["rows"] == [[0]]


def test_logs_tell_keys_apart_and_give_nothing_away(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team\nfirst-secret\n\nsecond-secret\n")
    served = serve("--api-key-file", file)
    for key in ("first-secret", "second-secret"):
        request = urllib.request.Request(
            f"{served.address}/api/v1/openapi.json?secret=inquery", headers={"Authorization": f"Bearer {key}"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 200
    code, err = served.end()
    assert code == 0
    assert "secret" not in err
    assert len(set(re.findall(r"key=(\w{8})", err))) == 2


def test_tls_with_a_certificate_of_ones_own(serve: Serve, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    served = serve("--tls-cert", certificate, "--tls-key", key)
    assert served.address.startswith("https://")
    assert served.get("/healthz", context=ssl.create_default_context(cafile=certificate)) == "ok\n"
    assert served.end()[0] == 0


def self_signed(folder: Path) -> tuple[Path, Path]:
    import ipaddress
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cliphouse")]), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    places = folder / "cert.pem", folder / "key.pem"
    places[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    places[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return places


def _until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come"
        threading.Event().wait(0.02)


@pytest.mark.usefixtures("database")
class TestRefusals:
    """Before anything is opened, in one line with the next step."""

    def test_a_port_that_is_taken(self, cliphouse: Callable[..., Any], database: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            outcome = cliphouse("serve", "--db", database, "--port", port)
        assert outcome.code == 2
        assert outcome.err == (
            f"cliphouse: port {port} of 127.0.0.1 is taken by another program; stop it, or choose another port: "
            f"--port {port + 1}\n"
        )

    def test_other_machines_without_a_key(
        self, cliphouse: Callable[..., Any], database: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CLIPHOUSE_API_KEY", raising=False)
        outcome = cliphouse("serve", "--db", database, "--host", "0.0.0.0", "--port", 0)
        assert outcome.code == 2
        assert "there is no key; set CLIPHOUSE_API_KEY or --api-key-file, or say --allow-public" in outcome.err

    def test_a_directory_that_is_not_there(self, cliphouse: Callable[..., Any], tmp_path: Path) -> None:
        outcome = cliphouse("serve", "--db", tmp_path / "nothing", "--port", 0)
        assert outcome.code == 2
        assert len(outcome.err.splitlines()) == 1
        assert not (tmp_path / "nothing").exists()

    def test_a_collection_that_is_not_there(self, cliphouse: Callable[..., Any], database: Path) -> None:
        outcome = cliphouse("serve", "--db", database, "--collection", "other", "--port", 0)
        assert outcome.code == 2
        assert "'other'" in outcome.err
        assert len(outcome.err.splitlines()) == 1

    def test_half_of_tls(self, cliphouse: Callable[..., Any], database: Path, tmp_path: Path) -> None:
        certificate = tmp_path / "cert.pem"
        certificate.write_text("no certificate")
        assert "give both" in cliphouse("serve", "--db", database, "--tls-cert", certificate).err
        both = cliphouse("serve", "--db", database, "--tls-cert", certificate, "--tls-key", certificate)
        assert "as PEM" in both.err

    def test_a_file_without_a_key(self, cliphouse: Callable[..., Any], database: Path, tmp_path: Path) -> None:
        (tmp_path / "keys").write_text("# none yet\n")
        assert "holds no key" in cliphouse("serve", "--db", database, "--api-key-file", tmp_path / "keys").err

    def test_a_missing_extra(
        self, cliphouse: Callable[..., Any], database: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [name for name in sys.modules if name.startswith("cliphouse.service")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "uvicorn", None)
        outcome = cliphouse("serve", "--db", database)
        assert outcome.code == 2
        assert outcome.err == "cliphouse: serving needs uvicorn; install it: pip install 'cliphouse[serve]'\n"


def test_the_shell_needs_nothing_of_the_service_until_it_serves() -> None:
    program = (
        "import sys, cliphouse.cli.main; "
        "print([name for name in ('fastapi', 'uvicorn', 'prometheus_client') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert answer.stdout.strip() == "[]"
