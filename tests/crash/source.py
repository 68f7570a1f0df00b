"""What was to be loaded, and whether it is there: each row once, and nothing else."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliphouse import Collection
from cliphouse.pipeline import ledger
from cliphouse.types import ROWS_PER_SHARD
from cliphouse.vectors import round_to_bfloat16
from tests.data import random_unit, write_shard

_DIM = 16


@dataclass(slots=True)
class Source:
    """Shards in a folder, with captions and vectors that no two rows share."""

    directory: Path
    rows: dict[int, int] = field(default_factory=dict)

    def add(self, *numbers: int, rows: int) -> Source:
        """Write more shards."""
        for number in numbers:
            images, texts = _vectors(number, rows)
            write_shard(self.directory, number, _captions(number, rows), images=images, texts=texts)
            self.rows[number] = rows
        return self

    def assert_loaded_once(self, db: str | Path | Collection) -> None:
        """All of it is in the collection, once, as it is in the files; nobody's leavings are."""
        with nullcontext(db) if isinstance(db, Collection) else Collection.open(db, create=False) as collection:
            table = collection.sql(
                "SELECT id, caption, image_embedding::Array(Float32) AS image, text_embedding::Array(Float32) AS text "
                "FROM laion ORDER BY id"
            )
            tables = collection.sql("SHOW TABLES").column("name").to_pylist()
            parts = collection.sql("SELECT count() AS n FROM system.parts WHERE active AND table = 'laion'")
            entries = ledger.entries(collection.engine, "laion")
            status = collection.status()
        wanted = sorted(self.rows.items())
        assert table.column("id").to_pylist() == [
            number * ROWS_PER_SHARD + row for number, rows in wanted for row in range(rows)
        ]
        assert table.column("caption").to_pylist() == [
            caption for number, rows in wanted for caption in _captions(number, rows)
        ]
        vectors = [_vectors(number, rows) for number, rows in wanted]
        for which, name in enumerate(("image", "text")):
            stored = np.array(table.column(name).to_pylist(), np.float32)
            given = np.vstack([each[which] for each in vectors])
            assert np.array_equal(stored, round_to_bfloat16(given.astype(np.float16).astype(np.float32)))
        assert sorted(tables) == ["laion", "laion_shards"]
        assert {number: (entry.state, entry.rows, entry.rows_read) for number, entry in entries.items()} == {
            number: ("loaded", rows, rows) for number, rows in wanted
        }
        assert parts.column("n").to_pylist()[0] <= len(wanted)  # small ones may have been merged since
        assert (status.rows, status.shards) == (sum(self.rows.values()), tuple(number for number, _ in wanted))


def _captions(number: int, rows: int) -> list[str]:
    return [f"shard {number}, row {row}" for row in range(rows)]


def _vectors(number: int, rows: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    both = random_unit(2 * rows, _DIM, seed=number)
    return both[:rows], both[rows:]
