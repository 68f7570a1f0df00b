"""SQL over REST: statements that read, under limits."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends

from cliphouse.errors import StatementRefused
from cliphouse.service import reading
from cliphouse.service.contract import ColumnModel, SqlRequest, SqlResponse
from cliphouse.service.state import State, state_of
from cliphouse.service.vet import read_statement

router = APIRouter(tags=["sql"])


@router.post("/sql")
async def sql(request: SqlRequest, state: Annotated[State, Depends(state_of)]) -> SqlResponse:
    """One statement that only reads tables of the database, and its first rows.

    Whole numbers beyond 2^53 and decimals come as texts, NaN and infinity as null.
    """
    began = time.perf_counter()
    engine, settings = state.collection.engine, state.settings

    def work() -> reading.Table:
        statement = read_statement(engine, request.statement)
        if statement.format:
            raise StatementRefused("leave FORMAT out: the answer is JSON")
        return reading.answer(engine, statement, settings, min(request.limit, settings.max_sql_rows))

    found = await state.pool.run(work)
    return SqlResponse(
        columns=[ColumnModel(name=name, type=type_) for name, type_ in found.columns],
        rows=found.rows,
        truncated=found.truncated,
        took_ms=(time.perf_counter() - began) * 1000,
    )
