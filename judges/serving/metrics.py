"""Prometheus metrics of a server: requests, failures by reason, tokens, latency and the depth of the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from judges.serving.service import QueueDepth, State
from judges.types import FAILURE_REASONS, Failure, Scorecard

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600)


class Metrics:
    """The metrics of one server, in a registry of its own, in the Prometheus text format.

    >>> metrics = Metrics()
    >>> metrics.count_request("/score", 200, 0.2)
    >>> 'assay_requests_total{route="/score",status="200"} 1.0' in metrics.text().decode()
    True
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"assay_{name}", help, labels, registry=self._registry)

        self._requests = counter("requests", "HTTP requests by route and status.", "route", "status")
        self._judged = counter("responses_judged", "Scored responses, including failures.")
        self._failures = counter("failures", "Responses without a score, by reason.", "reason")
        self._tokens = counter("tokens", "Tokens by kind; prompt tokens include the cached ones.", "kind")
        self._seconds = Histogram(
            *("assay_request_seconds", "Seconds from a request to the end of its response.", ("route",)),
            buckets=_SECONDS,
            registry=self._registry,
        )
        for reason in FAILURE_REASONS:  # present from the start, so that a rate includes the first failure
            self._failures.labels(reason)

    def watch(self, limit: int, read: Callable[[], tuple[State, QueueDepth]]) -> None:
        """Also report a service's state and queue depth, which are read at every scrape."""
        self._registry.register(_QueueCollector(limit, read))

    def count_request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_card(self, card: Scorecard) -> None:
        self._judged.inc(len(card.judgments))
        for judgment in card.judgments:
            if judgment.failure is not None:
                self.count_failure(judgment.failure)
        usage = card.usage
        self._tokens.labels("prompt").inc(usage.prompt_tokens)
        self._tokens.labels("cached").inc(usage.cached_tokens)
        self._tokens.labels("generated").inc(usage.generated_tokens)

    def count_failure(self, failure: Failure) -> None:
        """Count a failure, including that of a row that cannot be read and never reaches the scorer."""
        self._failures.labels(failure.reason).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _QueueCollector(Collector):
    def __init__(self, limit: int, read: Callable[[], tuple[State, QueueDepth]]) -> None:
        self._limit, self._read = limit, read

    def collect(self) -> Iterator[Metric]:
        state, depth = self._read()
        for name, help, value in (
            ("assay_queue_waiting", "Admitted responses that are waiting for the scorer.", depth.waiting),
            ("assay_queue_in_flight", "Responses that the scorer is processing.", depth.in_flight),
            ("assay_queue_limit", "Maximal number of responses waiting or in flight.", self._limit),
            ("assay_ready", "1 while requests are accepted.", state == "ready"),
        ):
            yield GaugeMetricFamily(name, help, value=float(value))
