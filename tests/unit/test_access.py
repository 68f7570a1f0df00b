"""Which files `encode_image` may open, and what it says of the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cliphouse.encoders.access import ANYWHERE, NOWHERE, ImageAccess
from cliphouse.errors import ImageNotAllowed, InvalidImage


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """`allowed/cat.png` and `allowed/deep/cat.png` beside `secret.png` and `allowed-not/cat.png`."""
    for name in ("allowed/cat.png", "allowed/deep/cat.png", "secret.png", "allowed-not/cat.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "allowed" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "allowed" / "out").symlink_to(tmp_path)
    (tmp_path / "allowed" / "circle").symlink_to("circle")
    (tmp_path / "door").symlink_to(tmp_path / "allowed")
    os.mkfifo(tmp_path / "allowed" / "pipe")
    return tmp_path


@pytest.mark.parametrize("path", ["allowed/cat.png", "allowed/deep/../cat.png", "allowed/deep/cat.png", "door/cat.png"])
def test_files_below_an_allowed_directory_are_opened(place: Path, path: str) -> None:
    found = ImageAccess((place / "allowed",)).check(str(place / path))
    assert found.is_relative_to(place / "allowed")
    assert ImageAccess((place / "door",)).check(str(place / path)) == found, "a directory may be named by a link"


@pytest.mark.parametrize(
    "path",
    [
        "secret.png",
        "allowed/../secret.png",
        "allowed/link.png",
        "allowed/out/secret.png",
        "allowed-not/cat.png",
        "missing.png",
    ],
)
def test_files_elsewhere_are_not_however_they_are_spelt(place: Path, path: str) -> None:
    """The message is the same for a file and for none, and names the option."""
    with pytest.raises(ImageNotAllowed) as caught:
        ImageAccess((place / "allowed",)).check(str(place / path))
    assert str(caught.value) == (
        f"encode_image may not open {place / path}: it is not below an allowed directory ({place / 'allowed'}); "
        "allow its directory with: cliphouse udf export DIR --allow DIRECTORY"
    )


def test_by_default_a_server_opens_nothing_and_a_person_anything(place: Path) -> None:
    assert ANYWHERE.check(str(place / "allowed/link.png")) == place / "secret.png"
    with pytest.raises(ImageNotAllowed, match=r"\(none\)"):
        NOWHERE.check(str(place / "secret.png"))


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/a.png", "HTTPS://example.com/a", "s3://bucket/a.png", "file:/etc/passwd", "data:image/png,"],
)
def test_urls_are_refused_even_where_all_files_are_allowed(url: str) -> None:
    with pytest.raises(ImageNotAllowed, match="URLs are not fetched"):
        ANYWHERE.check(url)


@pytest.mark.parametrize("path", ["pipe", "deep", "circle", "a\0b", "x" * 300])
def test_what_is_no_file_is_an_invalid_image(place: Path, path: str) -> None:
    from cliphouse.encoders import open_image

    with pytest.raises(InvalidImage):
        open_image(ANYWHERE.check(str(place / "allowed" / path)))
