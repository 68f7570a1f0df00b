"""`cliphouse encoder list | fetch | export | check | quantize`."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import click

from cliphouse import encoders
from cliphouse.cli.options import debug_option, format_option
from cliphouse.cli.render import print_table, progress_bars
from cliphouse.encoders import store
from cliphouse.encoders.decode import suffixes
from cliphouse.encoders.specs import MODELS, ModelSpec
from cliphouse.errors import EncoderUnavailable, IncompleteWeights, InvalidImage, UnknownEncoder, UsageError
from cliphouse.units import size

_SAMPLE = 256


@click.group()
def encoder() -> None:
    """List, fetch, export and check encoders, which turn texts and pictures into vectors.

    \b
    The weights of a real CLIP come in one of three ways:
      cliphouse encoder fetch clip-vit-b32                 download what its publisher offers
      cliphouse encoder export --from ViT-B-32.pt          convert a checkpoint you have
      cliphouse search "..." --encoder ./my-encoder        use a folder that holds them
    They are kept in the platform's cache folder, or in $CLIPHOUSE_ENCODERS. PyTorch is not needed to run them.
    """


@encoder.command(name="list")
@format_option
@debug_option
def list_(form: str) -> None:
    """List the encoders known by name, and which of them can run here."""
    present = {found.spec.name: found for found in store.stored()}
    specs = {name: found.spec for name, found in present.items()} | dict(MODELS)
    rows = [
        (built.name, built.dim, "built in", "", built.license, built.source) for built in encoders.BUILT_IN.values()
    ]
    for name, spec in sorted(specs.items(), key=lambda item: item[0] not in present):
        here = f"ready, {size(present[name].size)}" if name in present else "not here"
        where = str(present[name].folder) if name in present else ""
        rows.append((name, spec.dim, here, where, spec.license, spec.source))
    names = ("name", "dim", "state", "folder", "license", "source")
    if form == "json":
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2))
        return
    print_table([name for name in names if name != "folder"], [(*row[:3], *row[4:]) for row in rows])


def _sums(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
            raise UsageError(f"{value!r} is no sha256; it has 64 hexadecimal digits")
    return tuple(value.lower() for value in values)


@encoder.command()
@click.argument("name")
@click.option(
    "--base-url",
    envvar="CLIPHOUSE_MIRROR",
    show_envvar=True,
    metavar="URL",
    help="A mirror that has the same files under their own names.",
)
@click.option("--keep", is_flag=True, help="Keep the downloaded checkpoint beside the encoders.")
@click.option("--force", is_flag=True, help="Fetch an encoder anew that is ready already.")
@click.option(
    "--sha256",
    "sums",
    multiple=True,
    callback=_sums,
    metavar="HEX",
    help="The sum you know of a file whose publisher names none; once for each file.",
)
@click.option("--unverified", is_flag=True, help="Take a file for which there is no sum at all.")
@debug_option
def fetch(name: str, base_url: str | None, keep: bool, force: bool, sums: tuple[str, ...], unverified: bool) -> None:
    """Download the weights of encoder NAME and convert them.

    A download that was cut goes on where it stopped when the command is run again. The file is compared with the
    published sha256; where none is published, with --sha256, or with the sum that the hub declares for it. If there is
    none at all, as on a plain mirror, it is fetched with --unverified only. The last line says which it was.

    Proxies are taken from HTTPS_PROXY and NO_PROXY. Where only a mirror can be reached, give --base-url.
    """
    from cliphouse.encoders import convert

    spec = _spec(name)
    if not force and (ready := _whole(name)):
        click.echo(f"{name} is ready already: {size(ready.size)} in {ready.folder}; --force fetches it anew")
        return
    with progress_bars() as progress:
        made = convert.fetch(spec, base_url=base_url, keep=keep, sums=sums, unverified=unverified, progress=progress)
    checked = ", ".join(dict.fromkeys(made.made["checked"].values()))
    click.echo(f"{name} is ready: {size(made.size)} in {made.folder}; {checked}")


@encoder.command()
@click.argument("name", required=False)
@click.option("--from", "checkpoint", required=True, type=click.Path(path_type=Path), help="OpenAI's or open_clip's.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="tokenizer.json, which SigLIP models need.")
@click.option(
    "--name", "own_name", metavar="OTHER", help="A name of its own for weights that are not the published ones."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the encoder; the cache folder by default.")
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Compare with open_clip on PyTorch; needs cliphouse[torch].",
)
@debug_option
def export(
    name: str | None, checkpoint: Path, tokenizer: Path | None, own_name: str | None, out: Path | None, verify: bool
) -> None:
    """Convert a checkpoint to an encoder that runs without PyTorch.

    NAME says which model it is (see: cliphouse encoder list); without it the file is recognised by its sha256. With
    other weights, give the NAME of the model that is built alike, and with --name a name of their own: a collection
    finds its encoder by name, and another's weights would answer wrongly.

    \b
    Examples:
      cliphouse encoder export --from ViT-B-32.pt
      cliphouse encoder export openclip-vit-b32-laion2b --from mine.safetensors --name mine
    """
    from cliphouse.encoders import convert

    spec = convert.spec_of(_spec(name) if name else None, checkpoint, own_name)
    with progress_bars() as progress:
        made = convert.convert(spec, checkpoint, tokenizer, target=out, verify=verify, progress=progress)
    checked = f"; differs from PyTorch by at most {made.made['torch_difference']:.1e}" if verify else ""
    click.echo(f"{spec.name} is ready: {size(made.size)} in {made.folder}{checked}")


@encoder.command()
@click.argument("name")
@debug_option
def check(name: str) -> None:
    """Read every file of encoder NAME (a name or a folder) and compare it with the sum taken when it was made."""
    found = _stored(name)
    store.verify(found)
    click.echo(f"{found.spec.name} is whole: {', '.join(found.files)} in {found.folder}")


@encoder.command()
@click.argument("name")
@click.option(
    "--images",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of your pictures.",
)
@click.option(
    "--captions",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A text file with one of your captions or queries a line.",
)
@click.option("--min-cosine", default=0.99, show_default=True, help="Least mean cosine to full precision.")
@debug_option
def quantize(name: str, images: Path, captions: Path, min_cosine: float) -> None:
    """Make an int8 variant of encoder NAME, if it answers alike on your own data.

    --images is a folder of your pictures, --captions a text file with one of your captions or queries a line; 256 of
    each are encoded both ways. The variant is called NAME-int8 and must be asked for by that name, so that precisions
    never mix by accident; it can search what NAME has embedded.
    """
    from cliphouse.encoders import convert

    stored = _stored(name)
    try:
        lines = captions.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{captions} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    texts = list(islice((line.strip() for line in lines if line.strip()), _SAMPLE))
    pictures, skipped = _Pictures(), 0
    for path in (path for path in sorted(images.rglob("*")) if path.suffix.lower() in suffixes() and path.is_file()):
        try:
            encoders.open_image(path)
        except InvalidImage:
            skipped += 1
            continue
        pictures.append(path)
        if len(pictures) == _SAMPLE:
            break
    if skipped:
        click.echo(f"skipped {skipped:,} files that are no whole picture", err=True)
    made, cosines = convert.quantize(stored, texts, pictures, min_cosine=min_cosine)
    found = ", ".join(f"{what} {cosine:.4f}" for what, cosine in cosines.items())
    click.echo(f"{made.spec.name} is ready: {size(made.size)} in {made.folder}; mean cosine to {name}: {found}")


class _Pictures(list[Path]):
    """Pictures by their files: those of a slice are opened when it is taken."""

    def __getitem__(self, rows: Any) -> Any:
        return [encoders.open_image(path) for path in super().__getitem__(rows)]


def _spec(name: str) -> ModelSpec:
    if name in encoders.BUILT_IN:
        raise UsageError(f"{name!r} comes with cliphouse; there is nothing to fetch or convert")
    if name not in MODELS:
        raise UnknownEncoder(name, MODELS)
    return MODELS[name]


def _whole(name: str) -> store.Stored | None:
    try:
        return store.find(name)
    except IncompleteWeights:
        return None


def _stored(name: str) -> store.Stored:
    found = store.find(name)
    if found is None:
        if name in MODELS:
            raise EncoderUnavailable(name, f"its weights are not here. {encoders.ways_to_get(name)}")
        raise UnknownEncoder(name, [*MODELS, *(each.spec.name for each in store.stored())])
    return found
