"""Room on the disks of a table for what a build is about to write."""

from __future__ import annotations

from cliphouse import ivf
from cliphouse.engine import Engine
from cliphouse.errors import NotEnoughSpace
from cliphouse.types import CollectionInfo, Query


def check_room(engine: Engine, info: CollectionInfo, column: str, lists: str, total: int) -> None:
    """Room for what is still to be copied, and for the merge that writes all of it once more.

    Raises:
        NotEnoughSpace: there is less.
    """
    sql = (
        "SELECT sum(bytes_on_disk), count() FROM system.parts\n"
        "WHERE database = currentDatabase() AND table = {name:String} AND active"
    )
    written, parts = engine.query(Query(sql=sql, parameters={"name": lists})).rows[0]
    copy = total * info.dim * (2 if info.storage == "bfloat16" else 4)
    left = max(0, copy - int(written or 0))
    needed = left + (copy if left or parts > 1 else 0)
    sql = (
        "SELECT any(path), sum(toFloat64(unreserved_space)) FROM system.disks WHERE name IN (\n"
        "SELECT arrayJoin(disks) FROM system.storage_policies WHERE policy_name IN (\n"
        "SELECT storage_policy FROM system.tables WHERE database = currentDatabase() AND name = {name:String}))\n"
        "HAVING count() > 0"
    )
    for path, free in engine.query(Query(sql=sql, parameters={"name": lists})).rows:
        if free < needed:
            raise NotEnoughSpace(
                str(path),
                what=f"building {ivf.index_name(column)} over {total:,} rows",
                needed_bytes=needed,
                free_bytes=int(free),
                advice="make room and run the same command again",
            )
