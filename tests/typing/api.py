"""The public API as a user types it. Checked by mypy, never run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from cliphouse import (
    Client,
    Collection,
    DeleteReport,
    DenyReport,
    DownloadReport,
    EmbedReport,
    Encoder,
    Evaluation,
    EvaluationOptions,
    ExportReport,
    Hit,
    Hits,
    IndexConfig,
    IndexState,
    LoadReport,
    Progress,
    Query,
    SearchParams,
    VerifyReport,
    download,
    embed,
)


def show(progress: Progress) -> None:
    label: str = progress.label
    print(label, progress.done / progress.total)


written: EmbedReport = embed("photos", Path("shards"), encoder="clip-vit-b32", shard_size=1000, progress=show)
skipped: int = sum(written.skipped.values())

came: DownloadReport = download("shards", shards="0-9", base_urls=["s3://bucket/laion"], limit_rate=5e7, progress=show)
reasons: list[str] = list(came.failed.values())

with Collection.open("chdb:///data/laion") as collection:
    report: LoadReport = collection.load("shards", shards="0-9,12", storage="bfloat16", progress=show)
    collection.load(Path("shards"), shards=[1, 2])
    came = download(Path("shards"), shards=[3, 4], text=False, parallel=2, patience=10, into=collection, keep="none")
    added: EmbedReport = collection.add("photos", work="work", max_pixels=10_000_000, progress=show)
    added = collection.add([Path("a.jpg"), ("b.jpg", "a caption")], storage="float32")
    hits: Hits = collection.search(
        "a red car", k=10, exact=True, where="width > 100", column="text", columns=("width",)
    )
    answers: list[Hits] = collection.search_many(["a red car", Path("photo.jpg")], k=5, offset=5)
    answers = collection.search_many(np.zeros((3, 512)))
    hits = answers[0]
    hits = collection.search(Path("photo.jpg"))
    hits = collection.search(np.zeros(512))
    hits = collection.search([0.1, 0.2])
    hits = collection.search(like=7)
    gone: DeleteReport = collection.delete(where="NSFW = 'NSFW'", confirm=lambda rows: rows < 1000, progress=show)
    collection.delete(ids=[1, 2], purge=True)
    collection.delete(shards="0-9")
    denied: DenyReport = collection.deny("opt-outs.txt", progress=show)
    collection.deny(Path("opt-outs.txt"), remove=True)
    urls: int = collection.denied()["url"]
    checked: VerifyReport = collection.verify("shards", shards="0-9", sample=10, seed=1, progress=show)
    same: bool = checked.same
    exported: ExportReport = collection.export("hits.parquet", hits=hits, progress=show)
    collection.export(Path("copy"), shards=[1, 2], form="npy", dtype="float16", force=True)
    first: Hit = hits[0]
    score: float | None = first.similarity
    table: pa.Table = hits.to_arrow()
    frame: pd.DataFrame = hits.to_pandas()
    state: IndexState = collection.build_index("image", IndexConfig(m=32), progress=show)
    query: Query = collection.statement("a red car", params=SearchParams(k=5))[0]
    encoder: Encoder = collection.encoder()
    dropped: str = collection.drop_index("text")
    answer: pa.Table = collection.sql("SELECT {a:UInt8}", {"a": 1})
    measured: Evaluation = collection.evaluate(EvaluationOptions(sample=100, k=5), progress=show)
    recalls: list[float] = [point.recall for point in measured.points if point.asked == "exact"]

with Client("http://127.0.0.1:8000", api_key="key") as house:
    far: Hits = house.search("a red car", k=5, filters={"min_width": 1024}, columns=["width"])
    far = house.search(Image.new("RGB", (8, 8)))
    nearest: Hit = far[0]
    rows: int = house.count(where="width > 100")
    frame_of_far: pd.DataFrame = far.to_pandas()
    unit: np.ndarray = house.encode(Path("cat.jpg"))
    house.export("cats.parquet", "a cat", k=500, form="parquet")
