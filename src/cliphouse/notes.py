"""What is remembered of indexes beside what the engine knows: builds, and the efforts that `tune` found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cliphouse import catalog
from cliphouse.engine import Engine
from cliphouse.lists import create_notes, notes_name
from cliphouse.schema import identifier
from cliphouse.types import IndexKind, IvfConfig, Query

#: `ready`: the build that answers searches. `building`: one that is under way or was broken off. `tuned`: see `Curve`.
Topic = Literal["ready", "building", "tuned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One build of an index; `token` is in the names of its tables, "" for an index of the engine's own.

    `source` and `mutation` tell which table was read, and the last of its mutations before that; `rows` how many it
    had.
    """

    token: str
    source: str = ""
    mutation: int = 0
    rows: int = 0
    seconds: float = 0.0
    nlist: int = 0
    asked_nlist: int = 0

    @property
    def config(self) -> IvfConfig:
        """What it was asked to be."""
        return IvfConfig(nlist=self.asked_nlist)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What efforts were measured to reach: pairs of effort and recall@`k`, the lesser of text and picture queries.

    `wanted` is the recall that searches are to have by themselves.
    """

    wanted: float
    k: int
    points: Sequence[tuple[int, float]]

    @property
    def own(self) -> int:
        """The effort of searches that ask for no recall: for the wanted one, or the most where that was not reached."""
        return self.effort(self.wanted) or max(self.points)[0]

    def effort(self, recall: float) -> int | None:
        """The least effort that reaches `recall`, by interpolation between the last measured one that did not and the
        next; None if none does. More effort may by chance find less: then the less was not enough either."""
        points = sorted(self.points)
        last = max((number for number, (_, reached) in enumerate(points) if reached < recall), default=-1)
        if last + 1 == len(points):
            return None
        effort, reached = points[last + 1]
        if last < 0:
            return effort
        little, missed = points[last]
        share = (recall - missed) / (reached - missed)
        return little + -int(-(effort - little) * share // 1)


Notes = Mapping[tuple[str, IndexKind, Topic], Mapping[str, Any]]


def read(engine: Engine, collection: str) -> Notes:
    """All notes, by column, kind and topic."""
    if not catalog.exists(engine, notes_name(collection)):
        return {}
    sql = (
        f"SELECT column, kind, topic, argMax(note, noted_at) FROM {identifier(notes_name(collection))}\n"
        "GROUP BY column, kind, topic"
    )
    found = engine.query(Query(sql=sql)).rows
    return {(column, kind, topic): json.loads(note) for column, kind, topic, note in found if note}


def build_of(notes: Notes, column: str, kind: IndexKind, topic: Literal["ready", "building"]) -> Build | None:
    """The build that is noted."""
    note = notes.get((column, kind, topic))
    return Build(**note) if note else None


def curve_of(notes: Notes, column: str, kind: IndexKind) -> Curve | None:
    """The efforts that were tuned."""
    note = notes.get((column, kind, "tuned"))
    if not note:
        return None
    points = [(int(effort), float(recall)) for effort, recall in note["points"]]
    return Curve(wanted=note["wanted"], k=note["k"], points=points)


def write(engine: Engine, collection: str, column: str, kind: IndexKind, note: Build | Curve, topic: Topic) -> None:
    """Note something; it replaces what was noted before."""
    _insert(engine, collection, column, kind, topic, json.dumps(asdict(note)))


def forget(engine: Engine, collection: str, column: str, kind: IndexKind, topic: Topic) -> None:
    """Strike a note out."""
    if catalog.exists(engine, notes_name(collection)):
        _insert(engine, collection, column, kind, topic, "")


def _insert(engine: Engine, collection: str, column: str, kind: str, topic: str, note: str) -> None:
    engine.command(create_notes(collection))
    engine.command(
        f"INSERT INTO {identifier(notes_name(collection))} (column, kind, topic, note)\n"
        "SELECT {column:String}, {kind:String}, {topic:String}, {note:String}",
        {"column": column, "kind": kind, "topic": topic, "note": note},
    )
