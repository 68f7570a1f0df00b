"""What was evaluated last is kept beside the collection, on each kind of engine, for those who look later."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from cliphouse import Collection, EvaluationOptions

QUICK = EvaluationOptions(sample=3, k=1, filters=False, seconds=0.01, clients=1)


def test_the_last_evaluation_is_kept_beside_the_collection(collection: Collection) -> None:
    assert collection.last_evaluation() is None
    first = collection.evaluate(QUICK)
    kept = collection.last_evaluation()
    assert kept is not None
    at = datetime.fromisoformat(kept.pop("evaluated_at"))
    assert timedelta(minutes=-1) < datetime.now(UTC) - at < timedelta(minutes=5)
    assert kept == json.loads(json.dumps(first.as_dict()))

    second = collection.evaluate(
        EvaluationOptions(sample=2, k=1, filters=False, seconds=0.01, clients=1, column="text")
    )
    kept = collection.last_evaluation()
    assert kept is not None
    assert (kept["column"], kept["seconds"]) == ("text", second.seconds)
    collection.evaluate(EvaluationOptions(sample=2, k=1, filters=False, truth="only"))  # which measures nothing
    kept = collection.last_evaluation()
    assert kept is not None
    assert kept["seconds"] == second.seconds
    assert [hit.caption for hit in collection.search("red car", k=1)] == ["red car"]
