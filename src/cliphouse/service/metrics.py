"""What the service counts, for Prometheus; clip-retrieval's histograms are among it, so that its dashboard works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST

#: clip-retrieval's steps of a search, by the names and in the order of its own summary.
STEPS = {
    "full_knn_request_time": "Time spent processing a request for neighbours",
    "download_time": "Time spent downloading a picture by its url",
    "text_clip_inference_time": "Time spent encoding a text",
    "image_clip_inference_time": "Time spent encoding a picture",
    "metadata_get_time": "Time spent getting metadata",
    "knn_index_time": "Time spent searching the collection",
    "dedup_time": "Time spent finding near duplicates among results",
    "safety_time": "Time spent leaving out unsafe results",
    "image_prepro_time": "Time spent preparing a picture for the encoder",
    "text_prepro_time": "Time spent preparing a text for the encoder",
}

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one application, in a registry of their own: several applications can live in a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Histogram(
            "cliphouse_request_seconds",
            "Time from a request's arrival to the end of its answer",
            ("method", "route", "status"),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._steps = {name: Histogram(name, text, registry=self.registry) for name, text in STEPS.items()}
        self.encoded_together = Histogram(
            "cliphouse_encoded_together",
            "Texts or pictures that were encoded in one run",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )
        self.busy = self._counter("cliphouse_busy", "Requests that were told to come again, all places being taken")
        self.timed_out = self._counter("cliphouse_timed_out", "Requests that took too long and were stopped")
        self.cancelled = self._counter("cliphouse_cancelled", "Requests whose client had gone and that were stopped")
        self.running = self._gauge("cliphouse_places_running", "Places where work runs on the engine")
        self.waiting = self._gauge("cliphouse_places_waiting", "Requests that wait for a place")
        self.encoding_waiting = self._gauge("cliphouse_encoding_waiting", "Texts and pictures that wait to be encoded")
        self.places = self._gauge("cliphouse_places", "Places there are")
        self.rows = self._gauge("cliphouse_rows", "Rows of the collection")
        self.engine_bytes = self._gauge("cliphouse_engine_memory_bytes", "Memory that the engine says it uses")
        self.resident_bytes = self._gauge(
            "cliphouse_resident_memory_bytes", "Memory of the process that runs the engine"
        )
        self.encoder_ready = self._gauge("cliphouse_encoder_ready", "1 where texts and pictures can be looked for")

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. `route` is a template, not a path, so that there are not more of them than routes."""
        self._requests.labels(method, route, str(status)).observe(seconds)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Around one of `STEPS`, in any thread."""
        with self._steps[step].time():
            yield

    def took(self, step: str, seconds: float, *, times: int = 1) -> None:
        """One of `STEPS` ran for so many requests together."""
        for _ in range(times):
            self._steps[step].observe(seconds)

    def exposition(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def summary(self) -> str:
        """How often each step ran and how long it took on average, as a table of text."""
        found = [(name, text, *self._total(name)) for name, text in STEPS.items()]
        whole = next(seconds for _, _, _, seconds in found)
        rows = [("name", "description", "calls", "average", "proportion")]
        for name, text, calls, seconds in found:
            average = seconds / calls if calls else 0.0
            share = seconds / whole if whole else 0.0
            rows.append((name, text, f"{calls:.0f}", f"{average:.4f}s", f"{share:.1%}"))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
            for row in rows
        )

    def _total(self, step: str) -> tuple[float, float]:
        """Calls and seconds of one step."""
        samples = {sample.name: sample.value for sample in next(iter(self._steps[step].collect())).samples}
        return samples[f"{step}_count"], samples[f"{step}_sum"]

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)
