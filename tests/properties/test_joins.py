"""Captions find their pictures by name, whatever the order; a doubtful name finds none."""

from __future__ import annotations

import random
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliphouse.encoders.decode import open_image
from cliphouse.errors import InvalidImage
from cliphouse.pipeline.captions import Table, Unusable, join
from tests.pictures import data

FOLDERS = st.sampled_from(["", "a/", "b/", "a/b/"])
STEMS = st.text("xy1.é ", min_size=1, max_size=4).filter(lambda stem: stem.strip(" .") == stem)
PICTURES = st.lists(st.tuples(FOLDERS, STEMS, st.sampled_from([".jpg", ".png"])).map("".join), unique=True, min_size=1)
#: The ways in which a table may name a picture.
FORMS = (
    str,
    lambda path: str(PurePosixPath(path).with_suffix("")),
    lambda path: PurePosixPath(path).name,
    lambda path: PurePosixPath(path).stem,
)


@settings(max_examples=60, deadline=None)
@given(pictures=PICTURES, seed=st.integers(0, 9), form=st.sampled_from(["csv", "parquet"]))
def test_captions_by_path_arrive_whatever_the_order(
    tmp_path_factory: pytest.TempPathFactory, pictures: list[str], seed: int, form: str
) -> None:
    folder = tmp_path_factory.mktemp("join")
    rows = [(path, f'caption, "of" {path}') for path in (*pictures, "absent.jpg.jpg")]
    random.Random(seed).shuffle(rows)
    if form == "csv":
        lines = ['"file","caption"', *(",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)]
        (folder / "t.csv").write_text("\r\n".join(lines), "utf-8")
    else:
        columns = [list(column) for column in zip(*rows, strict=True)]
        pq.write_table(pa.table(dict(zip(("file", "caption"), columns, strict=True))), folder / "t.parquet")
    table = Table(folder / f"t.{form}", folder, pictures)
    assert {path: table.of(path).caption for path in pictures} == {path: f'caption, "of" {path}' for path in pictures}


@settings(max_examples=200, deadline=None)
@given(pictures=PICTURES, drawn=st.data())
def test_a_name_describes_what_it_names_or_nothing(pictures: list[str], drawn: st.DataObject) -> None:
    """Every row goes to pictures that it names; pictures of two places never share a row."""
    names = drawn.draw(
        st.lists(st.builds(lambda form, path: form(path), st.sampled_from(FORMS), st.sampled_from(pictures)))
    )
    rows, doubts, strays = join(names, pictures)
    assert strays == [], "each name is that of a picture"
    for picture, found in rows.items():
        assert all(names[row] in {form(picture) for form in FORMS} for row in found)
    for row in range(len(names)):
        owners = {FORMS[1](picture) for picture, found in rows.items() if row in found}
        doubted = [picture for picture in doubts if names[row] in {form(picture) for form in FORMS}]
        assert len(owners) == 1 or (not owners and doubted)
    order = drawn.draw(st.permutations(range(len(names))))
    shuffled, same_doubts, _ = join([names[row] for row in order], pictures)
    assert {path: sorted(order[row] for row in found) for path, found in shuffled.items()} == rows
    assert same_doubts.keys() == doubts.keys()


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]), drawn=st.data())
def test_a_damaged_picture_is_a_picture_or_refused(kind: str, drawn: st.DataObject) -> None:
    whole = bytearray(data("red", kind, (64, 48)))
    for _ in range(drawn.draw(st.integers(1, 4))):
        whole[drawn.draw(st.integers(0, len(whole) - 1))] = drawn.draw(st.integers(0, 255))
    cut = bytes(whole[: drawn.draw(st.integers(0, len(whole)))])
    try:
        picture = open_image(cut, max_pixels=10**6)
    except InvalidImage:
        return
    assert picture.width * picture.height <= 10**6


def test_a_table_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"file,caption\na.jpg,one\nb.jpg,two,three,four\n")
    with pytest.raises(Unusable, match=r"description cannot be read: t.csv: .*Expected 2 columns, got 4"):
        Table(tmp_path / "t.csv", tmp_path, ["a.jpg"]).of("a.jpg")
    (tmp_path / "other.csv").write_text("name;what\na.jpg;one\n")
    assert Table(tmp_path / "other.csv", tmp_path, ["a.jpg"]).of("a.jpg").caption is None


def test_a_table_may_be_separated_and_quoted_as_people_do(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('\ufeffFile;Text;id\n"./a.jpg";"one; ""two""\nthree";007\n', "utf-8")
    found = Table(tmp_path / "t.csv", tmp_path, ["a.jpg"]).of("a.jpg")
    assert (found.caption, found.more) == ('one; "two"\nthree', {"id": "007"})
    (tmp_path / "train.csv").write_text("image,label\ntrain\\b.jpg,bee\n")
    assert Table(tmp_path / "train.csv", tmp_path / "train", ["b.jpg"]).of("b.jpg").caption == "bee"
