"""`cliphouse index` and `cliphouse tune` as a user sees them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data import clustered, random_unit, write_shard

Cliphouse = Callable[..., Any]
ROWS, DIM = 2000, 16


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cliphouse: Cliphouse) -> Path:
    """A folder with a shard of 2000 rows, which are loaded into the database of the environment."""
    monkeypatch.setenv("CLIPHOUSE_DB", str(tmp_path / "db"))
    load(cliphouse, tmp_path, 0, clustered(ROWS, DIM, seed=3))
    return tmp_path


def load(cliphouse: Cliphouse, place: Path, number: int, vectors: np.ndarray) -> None:
    captions = [f"caption {row}" for row in range(len(vectors))]
    write_shard(place / "in", number, captions, images=vectors, texts=vectors[::-1].copy(), dtype="float32")
    ran(cliphouse, "load", place / "in", "--shards", number)


def ran(cliphouse: Cliphouse, *arguments: object) -> str:
    """What a command prints that ends well."""
    outcome = cliphouse(*arguments)
    assert outcome.code == 0, outcome.err
    return str(outcome.out)


def effort_of(cliphouse: Cliphouse, *options: object) -> str:
    """The effort of a search as --explain says it, or the path and the reason if no index answers."""
    path, reason, _, effort, *_ = ran(cliphouse, "search", "--like", 5, "--explain", *options).splitlines()
    return effort if effort.startswith("effort: ") else f"{path}, {reason}"


def test_for_few_rows_auto_builds_none_and_says_why_and_how_to_have_one(cliphouse: Cliphouse, place: Path) -> None:
    said = ran(cliphouse, "index", "build")
    assert said.startswith("no index is built: an exact scan of 2,000 rows takes")
    assert said.endswith("to have one all the same: --kind hnsw or --kind ivf\n")
    assert json.loads(ran(cliphouse, "index", "show", "--format", "json")) == []


def test_where_there_are_indexes_a_build_takes_new_rows_into_each(cliphouse: Cliphouse, place: Path) -> None:
    ran(cliphouse, "index", "build", "--nlist", 40)
    ran(cliphouse, "index", "build", "--m", 8)
    load(cliphouse, place, 1, clustered(50, DIM, seed=4))
    shown = ran(cliphouse, "index", "show")
    assert re.search(r"image_ivf +image_embedding +partial +2,000 of 2,050 +ivf, 40 clusters", shown), shown
    graph, lists = ran(cliphouse, "index", "build").splitlines()
    assert graph.startswith("image_index is ready: 2,050 rows, hnsw, m 8")
    assert lists.startswith("image_ivf is ready: 2,050 rows, ivf, 40 clusters")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--m", 8, "--nlist", 9), "--nlist is of an ivf index, and --m of an hnsw index; leave one out"),
        (("--kind", "hnsw", "--nlist", 9), "--nlist is of an ivf index, and --kind asks for hnsw"),
        (
            ("--kind", "ivf", "--ef-construction", 9),
            "--ef-construction is of an hnsw index, and --kind asks for ivf",
        ),
        (("--kind", "ivf", "--nlist", 1001), "2,000 rows are too few for 1,001 clusters"),
        (("--recall", 1.5), "recall must be"),
    ],
)
def test_parameters_that_do_not_fit_each_other_are_named(
    cliphouse: Cliphouse, place: Path, options: tuple[object, ...], message: str
) -> None:
    outcome = cliphouse("index", "build", *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_tuning_prints_what_it_measured_and_searches_go_by_it(cliphouse: Cliphouse, place: Path) -> None:
    ran(cliphouse, "index", "build", "--kind", "ivf")
    assert effort_of(cliphouse) == "effort: nprobe 16"
    printed = ran(cliphouse, "tune", "--recall", "0.9", "--sample", 60).splitlines()
    assert re.split(r"  +", printed[0]) == ["index", "effort", "recall@10 text", "recall@10 image", "p50 ms"]
    efforts = [int(line.split()[2]) for line in printed[1:-2]]
    assert efforts == sorted(efforts)
    said = re.fullmatch(
        r"image_ivf: searches take nprobe (\d+), for a recall of 0\.9; other queries than chose it find [01]\.\d{4}",
        printed[-1],
    )
    assert said, printed[-1]
    assert effort_of(cliphouse) == f"effort: nprobe {said[1]}"
    (shown,) = json.loads(ran(cliphouse, "index", "show", "--format", "json"))
    assert (shown["tuned"], shown["effort"]) == (0.9, int(said[1]))
    assert int(effort_of(cliphouse, "--recall", "0.99").split()[-1]) > int(said[1])
    assert effort_of(cliphouse, "--recall", "1") == "path: exact, reason: a recall of 1 is asked for"


def test_tuning_says_what_an_index_does_not_reach(cliphouse: Cliphouse, place: Path) -> None:
    """Of four clusters a search looks into two, and finds part of what is all over the place."""
    load(cliphouse, place, 1, random_unit(3000, DIM, seed=5))
    ran(cliphouse, "index", "build", "--nlist", 4)
    found = json.loads(ran(cliphouse, "tune", "--recall", "0.999", "--sample", 20, "--format", "json"))
    (tuned,) = found["indexes"]
    assert (tuned["reached"], tuned["effort"]) == (False, 2)
    least = min(tuned["points"][-1]["recalls"].values())
    said = ran(cliphouse, "tune", "--recall", "0.999", "--sample", 20).splitlines()[-1]
    assert said == (
        f"image_ivf does not reach a recall of 0.999: searches take nprobe 2, for {least:.4f}; "
        "those with --recall 0.999 are exact"
    )
    assert effort_of(cliphouse, "--recall", "0.999").startswith("path: exact, reason: no effort of image_ivf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "image_embedding has no vector index to tune; build one: cliphouse index build --column image"),
        (("--recall", 1), "recall must be over 0 and under 1"),
        (("--queries", "absent.txt"), "cannot read the queries in absent.txt: No such file or directory"),
        (("-k", 0), "k must be"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(
    cliphouse: Cliphouse, place: Path, options: tuple[object, ...], message: str
) -> None:
    outcome = cliphouse("tune", *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
