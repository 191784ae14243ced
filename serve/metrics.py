"""What Prometheus reads: how requests fare, how the batch stands, who uses how many tokens.

Every gateway process keeps its own registry, and its figures carry its `replica`. Scraped through Serve's proxy, each
scrape meets one of the replicas; their series stay apart and each grows only, so rates are right.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from earnest.decoding.batcher import Gauges
from earnest.decoding.requests import Usage

FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
EACH = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
QUEUED = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
WHOLE = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


LEVELS = {
    "running": "Rows being continued",
    "waiting": "Requests in the queue",
    "rows": "Rows there are",
    "kv_bytes_used": "Bytes of keys and values in use",
    "kv_bytes": "Bytes of keys and values there are",
}
TOTALS = {
    "rounds": "Rounds since the ensemble began",
    "tokens": "Tokens written since the ensemble began",
    "prompt_tokens": "Tokens of prompts since the ensemble began",
    "cached_tokens": "Tokens of prompts that the prefix cache held, since the ensemble began",
}
"""What the ensemble counts itself; another one begins at 0 again, as counters may."""


class Totals(Collector):
    """The ensemble's own counts, as counters; none where it does not answer."""

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self.gauges: Gauges | None = None

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Every count as it stood last."""
        for name, said in TOTALS.items() if self.gauges is not None else ():
            family = CounterMetricFamily(f"earnest_batch_{name}", said, labels=["replica"])
            family.add_metric([self._replica], getattr(self.gauges, name))
            yield family


class Metrics:
    """One gateway process's figures. Keys appear by their names, never as they are."""

    def __init__(self, replica: str) -> None:
        self._registry = registry = CollectorRegistry()
        self._replica = replica

        def counter(name: str, said: str, *labels: str) -> Counter:
            return Counter(f"earnest_{name}", said, ["replica", *labels], registry=registry)

        def gauge(name: str, said: str) -> Gauge:
            return Gauge(f"earnest_{name}", said, ["replica"], registry=registry)

        def histogram(name: str, said: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"earnest_{name}", said, ["replica", *labels], registry=registry, buckets=buckets)

        self._requests = counter("requests", "Requests answered", "route", "status")
        self._broken = counter("broken_streams", "Streams that ended with an error event", "code")
        self._tokens = counter("tokens", "Tokens read and written, by the name of the key", "key", "model", "kind")
        self._drafted = counter("drafted_tokens", "Tokens proposed by a drafter", "model")
        self._accepted = counter("accepted_tokens", "Proposed tokens that the ensemble took", "model")
        self._seconds = histogram("request_seconds", "Whole requests", WHOLE, "route")
        self._first = histogram("first_token_seconds", "From a choice's arrival to its first token", FIRST, "model")
        self._each = histogram("token_seconds", "A token after the first one, on average per choice", EACH, "model")
        self._queued = histogram("queue_seconds", "From a choice's arrival until it had a row", QUEUED, "model")
        self._batch = {name: gauge(f"batch_{name}", said) for name, said in LEVELS.items()}
        self._totals = Totals(replica)
        registry.register(self._totals)
        self._up = gauge("ensemble_up", "Whether the ensemble answers")

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request; `route` is a path of ours, never one that a client made up."""
        self._requests.labels(self._replica, route, str(status)).inc()
        self._seconds.labels(self._replica, route).observe(seconds)

    def broke(self, code: str) -> None:
        """Count a stream that ended with an error event."""
        self._broken.labels(self._replica, code).inc()

    def read(self, key: str, model: str, tokens: int) -> None:
        """Count a prompt's tokens."""
        self._tokens.labels(self._replica, key, model, "prompt").inc(tokens)

    def written(self, key: str, model: str, tokens: int) -> None:
        """Count tokens of an answer."""
        self._tokens.labels(self._replica, key, model, "completion").inc(tokens)

    def finished(self, model: str, usage: Usage) -> None:
        """Count a choice that ran to its end."""
        self._drafted.labels(self._replica, model).inc(usage.drafted)
        self._accepted.labels(self._replica, model).inc(usage.accepted)
        self._queued.labels(self._replica, model).observe(usage.seconds_queued)
        self._first.labels(self._replica, model).observe(usage.seconds_to_first)
        if usage.completion_tokens > 1:
            each = (usage.seconds - usage.seconds_to_first) / (usage.completion_tokens - 1)
            self._each.labels(self._replica, model).observe(each)

    def page(self, gauges: Gauges | None) -> bytes:
        """All figures as text; `gauges` is None where the ensemble does not answer."""
        self._up.labels(self._replica).set(gauges is not None)
        self._totals.gauges = gauges
        if gauges is not None:
            for name, gauge in self._batch.items():
                gauge.labels(self._replica).set(getattr(gauges, name))
        return generate_latest(self._registry)
