"""Whether a shard is in already: the ledger and the table are asked, and one of them may be a crash behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cliphouse.engine import Engine
from cliphouse.errors import ShardConflict
from cliphouse.pipeline import delete, deny, ledger
from cliphouse.pipeline.ledger import Entry
from cliphouse.pipeline.rows import OpenShard


class Settling:
    """What the ledger and the table hold of some shards at one moment."""

    def __init__(self, engine: Engine, collection: str, numbers: Sequence[int]) -> None:
        self._engine, self._collection = engine, collection
        # Rows first: a loader writes a shard's line before its rows join, so whoever sees rows then finds the line.
        self._present = {number: ledger.rows_present(engine, collection, number) for number in numbers}
        self._known = ledger.entries(engine, collection)

    def entry(self, shard: OpenShard) -> Entry | None:
        """The shard's line if it is in; None if it is to be loaded.

        Raises:
            ShardConflict: its ids are taken by rows that are not its own.
        """
        present, entry = self._present[shard.number], self._known.get(shard.number)
        same = entry is not None and entry.fingerprint == shard.fingerprint()
        if entry is None or entry.state == "quarantined":
            if not present:
                return None
            raise ShardConflict(
                f"the collection holds {present} rows under its ids that the ledger does not know; "
                f"delete them first: cliphouse delete --shard {shard.number}",
                shard=shard.number,
            )
        deleted = delete.deleted_rows(self._engine, self._collection, shard.number)
        if not present and entry.rows > deleted:
            return None  # dropped or truncated by hand; or its loader died before the rows joined
        if not same and shard.has_text and not entry.has_text:
            raise ShardConflict(
                "it was loaded without text embeddings, and now there are some; to bring them in: "
                f"cliphouse delete --shard {shard.number}, and load it again",
                shard=shard.number,
            )
        if not same:
            raise ShardConflict(
                f"it is loaded already, from other files than {shard.source}; "
                "give these another number, or load them into another --collection",
                shard=shard.number,
            )
        if entry.state == "joining":  # its loader died after the rows joined
            if present + deleted != entry.rows:
                raise ShardConflict(
                    f"the collection holds {present} rows under its ids, and its loader, which died, was to bring "
                    f"{entry.rows - deleted}; delete them first: cliphouse delete --shard {shard.number}",
                    shard=shard.number,
                )
            deny.enforce(self._engine, self._collection, shard.number)  # which it may not have come to
            entry = replace(entry, state="loaded")
            ledger.write(self._engine, self._collection, entry)
        return entry
