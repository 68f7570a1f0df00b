"""What is remembered of indexes beside what the engine knows: builds, tuned efforts, the last evaluation."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from cliphouse import catalog, facts
from cliphouse.engine import Engine
from cliphouse.evaluation import Evaluation
from cliphouse.facts import Known
from cliphouse.lists import create_notes, notes_name
from cliphouse.schema import identifier
from cliphouse.types import IndexKind, IvfConfig, Query, literal

#: `ready`: the build that answers searches. `building`: one that is under way or was broken off. `tuned`: see `Curve`.
#: `facts`: see `Facts`. What was evaluated is of all indexes, and read alone: see `last_evaluation`.
Topic = Literal["ready", "building", "tuned", "facts"]

_EVALUATED = "evaluated"

_log = logging.getLogger(__name__)


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

    `wanted` is the recall that searches are to have by themselves. `of` names what was measured: the same efforts say
    nothing of another graph or other lists.
    """

    wanted: float
    k: int
    points: Sequence[tuple[int, float]]
    of: str = ""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was known of the parts of a collection and of its lists, those of the build `token` (see `facts`).

    `content` is the expression that was summed; `mutation` the last of the collection's mutations by which no row that
    the lists hold was changed.
    """

    token: str
    mutation: int
    content: str
    parts: str

    @property
    def known(self) -> Known:
        """The facts, as far as they are understood."""
        try:
            return facts.unpacked(self.parts)
        except (ValueError, TypeError):
            _log.warning("the notes of parts cannot be read")
            return {}


Note = Build | Curve | Facts
_N = TypeVar("_N", Build, Curve, Facts)
Notes = Mapping[tuple[str, IndexKind, Topic], Mapping[str, Any]]


def read(engine: Engine, collection: str) -> Notes:
    """All notes, by column, kind and topic."""
    if not catalog.exists(engine, notes_name(collection)):
        return {}
    sql = (
        f"SELECT column, kind, topic, argMax(note, noted_at) FROM {identifier(notes_name(collection))}\n"
        f"WHERE topic != {literal(_EVALUATED)} GROUP BY column, kind, topic"
    )
    found: dict[tuple[str, IndexKind, Topic], Mapping[str, Any]] = {}
    for column, kind, topic, note in engine.query(Query(sql=sql)).rows:
        try:
            if note and isinstance(told := json.loads(note), dict):
                found[column, kind, topic] = told
        except ValueError:
            _log.warning("the note %s of the %s index on %s cannot be read", topic, kind, column)
    return found


def build_of(notes: Notes, column: str, kind: IndexKind, topic: Literal["ready", "building"]) -> Build | None:
    """The build that is noted."""
    return _noted(Build, notes, column, kind, topic)


def curve_of(notes: Notes, column: str, kind: IndexKind, of: str) -> Curve | None:
    """The efforts that were tuned for `of`."""
    found = _noted(Curve, notes, column, kind, "tuned")
    return found if found and found.of == of and found.points else None


def facts_of(notes: Notes, column: str, token: str) -> Facts | None:
    """What was noted of the lists of the build `token`."""
    found = _noted(Facts, notes, column, "ivf", "facts")
    return found if found and found.token == token else None


def _noted(what: type[_N], notes: Notes, column: str, kind: IndexKind, topic: Topic) -> _N | None:
    """A note as far as it is understood: a newer client may have written it."""
    note = notes.get((column, kind, topic))
    if note is None:
        return None
    try:
        return what(**{each.name: note[each.name] for each in fields(what) if each.name in note})
    except TypeError:
        _log.warning("the note %s of the %s index on %s cannot be read", topic, kind, column)
        return None


def write(engine: Engine, collection: str, column: str, kind: IndexKind, note: Note, topic: Topic) -> None:
    """Note something; it replaces what was noted before."""
    _insert(engine, collection, column, kind, topic, json.dumps(asdict(note)))


def forget(engine: Engine, collection: str, column: str, kind: IndexKind, topic: Topic) -> None:
    """Strike a note out."""
    if catalog.exists(engine, notes_name(collection)):
        _insert(engine, collection, column, kind, topic, "")


def keep_evaluation(engine: Engine, collection: str, evaluation: Evaluation) -> None:
    """Keep what was measured; it replaces what was measured of the column before."""
    note = json.dumps(evaluation.as_dict())
    _insert(engine, collection, f"{evaluation.column}_embedding", "", _EVALUATED, note)


def last_evaluation(engine: Engine, collection: str) -> dict[str, Any] | None:
    """What was measured last, as `Evaluation.as_dict` has it, with the time of it; None if nothing is kept."""
    if not catalog.exists(engine, notes_name(collection)):
        return None
    sql = (
        f"SELECT note, toUnixTimestamp(noted_at) FROM {identifier(notes_name(collection))}\n"
        f"WHERE topic = {literal(_EVALUATED)} ORDER BY noted_at DESC LIMIT 1"
    )
    for note, seconds in engine.query(Query(sql=sql)).rows:
        try:
            told: dict[str, Any] = json.loads(note)
            return told | {"evaluated_at": datetime.fromtimestamp(seconds, UTC).isoformat()}
        except (ValueError, TypeError):
            _log.warning("what was evaluated of %s cannot be read", collection)
    return None


def _insert(engine: Engine, collection: str, column: str, kind: str, topic: str, note: str) -> None:
    engine.command(create_notes(collection))
    engine.command(
        f"INSERT INTO {identifier(notes_name(collection))} (column, kind, topic, note)\n"
        "SELECT {column:String}, {kind:String}, {topic:String}, {note:String}",
        {"column": column, "kind": kind, "topic": topic, "note": note},
    )
