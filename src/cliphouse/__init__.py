"""Image-text search over CLIP embeddings, in ClickHouse.

::

    from cliphouse import Collection

    laion = Collection.open("./cliphouse-data")
    for hit in laion.search("a red car in the snow"):
        print(f"{hit.distance:.3f}  {hit.url}")

Names are loaded when they are first used: importing the package costs nothing and starts no engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cliphouse.client import Client
    from cliphouse.collection import Collection
    from cliphouse.costs import Choice
    from cliphouse.encoders import load_encoder
    from cliphouse.errors import CliphouseError
    from cliphouse.evaluation import Evaluation, EvaluationOptions, Tuning, TuningOptions
    from cliphouse.hits import Hit, Hits, SearchPlan
    from cliphouse.pipeline.download import download
    from cliphouse.pipeline.embed import embed
    from cliphouse.reports import (
        DeleteReport,
        DenyReport,
        DownloadReport,
        EmbedReport,
        ExportReport,
        LoadReport,
        Status,
        VerifyReport,
    )
    from cliphouse.types import (
        CollectionInfo,
        Encoder,
        IndexConfig,
        IndexState,
        IvfConfig,
        Progress,
        Query,
        SearchParams,
    )

_HOMES = {
    "Client": "client",
    "Collection": "collection",
    "Status": "reports",
    "download": "pipeline.download",
    "embed": "pipeline.embed",
    "load_encoder": "encoders",
    "CliphouseError": "errors",
    "CollectionInfo": "types",
    "Choice": "costs",
    "DownloadReport": "reports",
    "DeleteReport": "reports",
    "DenyReport": "reports",
    "EmbedReport": "reports",
    "ExportReport": "reports",
    "Encoder": "types",
    "Evaluation": "evaluation",
    "EvaluationOptions": "evaluation",
    "Hit": "hits",
    "Hits": "hits",
    "IndexConfig": "types",
    "IndexState": "types",
    "IvfConfig": "types",
    "LoadOptions": "types",
    "LoadReport": "reports",
    "Progress": "types",
    "Query": "types",
    "SearchParams": "types",
    "SearchPlan": "hits",
    "Tuning": "evaluation",
    "TuningOptions": "evaluation",
    "VerifyReport": "reports",
}

__all__ = [
    "Choice",
    "Client",
    "CliphouseError",
    "Collection",
    "CollectionInfo",
    "DeleteReport",
    "DenyReport",
    "DownloadReport",
    "EmbedReport",
    "Encoder",
    "Evaluation",
    "EvaluationOptions",
    "ExportReport",
    "Hit",
    "Hits",
    "IndexConfig",
    "IndexState",
    "IvfConfig",
    "LoadOptions",
    "LoadReport",
    "Progress",
    "Query",
    "SearchParams",
    "SearchPlan",
    "Status",
    "Tuning",
    "TuningOptions",
    "VerifyReport",
    "download",
    "embed",
    "load_encoder",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cliphouse' has no attribute {name!r}")
    return getattr(import_module(f"cliphouse.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
