from __future__ import annotations

from pathlib import Path

import pytest

from cliphouse.engine import EmbeddedLocation, ServerLocation, parse_url
from cliphouse.errors import UsageError


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("chdb:///data/laion", Path("/data/laion")),
        ("chdb:///data/with%20space", Path("/data/with space")),
        ("/data/laion/", Path("/data/laion")),
        ("relative/dir", Path.cwd() / "relative/dir"),
        ("chdb://memory", None),
    ],
)
def test_embedded(url: str, path: Path | None) -> None:
    assert parse_url(url) == EmbeddedLocation(path=path)


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("clickhouse://localhost", ServerLocation(host="localhost", port=8123)),
        (
            "clickhouses://db.example.com/laion",
            ServerLocation(host="db.example.com", port=8443, database="laion", secure=True),
        ),
        (
            "clickhouse://me:p%40ss%2Fword@host:9000/x",
            ServerLocation(host="host", port=9000, user="me", password="p@ss/word", database="x"),
        ),
        ("clickhouses://h?verify=0", ServerLocation(host="h", port=8443, secure=True, verify=False)),
        ("clickhouse://[::1]:8123/d", ServerLocation(host="::1", port=8123, database="d")),
    ],
)
def test_server(url: str, location: ServerLocation) -> None:
    assert parse_url(url) == location


@pytest.mark.parametrize(
    "url",
    ["", "chdb://", "chdb:///", "chdb://relative", "mysql://x:secret@h/d", "clickhouse://", "clickhouse://u:secret@h:port/d",
     "clickhouse://u:secret@h/d?compress=1", "clickhouse://u:secret@:1/d", "clickhouse:/u:secret@h:8123/d", "clickhouse://u:12/34secret@h/d",
     "clickhouse://h/a/secret"],
)  # fmt: skip
def test_what_is_not_a_url_is_refused_without_repeating_a_password(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_password_is_in_no_printed_form() -> None:
    location = parse_url("clickhouses://me:s3cret@host/laion")
    for text in (str(location), repr(location), f"{location}"):
        assert "s3cret" not in text
    assert str(location) == "clickhouses://me@host:8443/laion"
