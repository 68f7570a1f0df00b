"""Requests made up from the OpenAPI document: whatever they are, the service does not fail.

EXAMPLES=500 looks for longer.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from cliphouse import Collection
from cliphouse.service.app import create_app
from cliphouse.service.settings import Settings
from tests.data import write_shard

_FEW = 10
EXAMPLES = int(os.environ.get("EXAMPLES", _FEW))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder: Path = tmp_path_factory.mktemp("schema")
    with Collection.open(folder / "db", encoder="test-words") as collection:
        collection.load(write_shard(folder / "shards"))
        with TestClient(create_app(collection, Settings(max_upload=100_000)), raise_server_exceptions=False) as opened:
            yield opened


def test_no_request_makes_it_fail(client: TestClient) -> None:
    schema = schemathesis.openapi.from_dict(client.get("/api/v1/openapi.json").json())
    operations = [each.ok() for each in schema.get_all_operations()]
    assert len(operations) > 1
    for operation in operations:
        for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
            cases = operation.as_strategy(generation_mode=mode)
            with contextlib.suppress(Unsatisfiable):  # nothing can be wrong with a request that takes nothing
                _try(client, cases)


def _try(client: TestClient, cases: SearchStrategy[schemathesis.Case]) -> None:
    @given(cases)
    @settings(
        max_examples=EXAMPLES,
        derandomize=EXAMPLES == _FEW,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    def fails_never(case: schemathesis.Case) -> None:
        sent = case.as_transport_kwargs(base_url="http://testserver")
        sent.pop("cookies")  # which nothing here reads
        assume(len(urlencode(sent["params"] or {}, doseq=True)) < 60_000)  # the client takes no longer ones
        if isinstance(sent.get("data"), (bytes, str)):
            sent["content"] = sent.pop("data")
        response = client.request(**sent)
        checks = [not_a_server_error, response_schema_conformance, content_type_conformance]
        case.validate_response(response, checks=checks)

    fails_never()
