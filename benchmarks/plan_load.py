"""One measured load of many shards for the cost model, in a process of its own.

    python -m benchmarks.plan_load DATA SHARDS PLACE

The shard in DATA is loaded under as many numbers, as `benchmarks.loading` does; the database in PLACE is removed at the
end. Seconds until all is on the disk go to standard output as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.load_systems import under_numbers
from benchmarks.systems import settle
from cliphouse import Collection


def measure(data: Path, shards: int, place: Path) -> dict[str, Any]:
    """What loading took."""
    shutil.rmtree(place, ignore_errors=True)
    try:
        place.mkdir(parents=True)
        source = under_numbers(data, place / "shards", shards)
        os.sync()
        with Collection.open(place / "db") as collection:
            start = time.perf_counter()
            collection.load(source)
            settle(collection.engine)
            os.sync()
            seconds = time.perf_counter() - start
            return {
                "part": "load",
                "rows": collection.status().rows,
                "engine": collection.engine.capabilities.version,
                "load_seconds": seconds,
            }
    finally:
        shutil.rmtree(place, ignore_errors=True)


def main() -> None:
    data, shards, place = sys.argv[1:]
    print(json.dumps(measure(Path(data), int(shards), Path(place))))


if __name__ == "__main__":
    main()
