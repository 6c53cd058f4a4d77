"""What a server counts, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from judges.serving.service import Depth, State
from judges.types import FAILURE_REASONS, Failure, Scorecard

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600)


class Metrics:
    """Counts of one server, told in Prometheus' text form.

    >>> metrics = Metrics()
    >>> metrics.answered("/score", 200, 0.2)
    >>> 'assay_requests_total{route="/score",status="200"} 1.0' in metrics.text().decode()
    True
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"assay_{name}", help, labels, registry=self._registry)

        self._requests = counter("requests", "HTTP requests by route and status.", "route", "status")
        self._judged = counter("responses_judged", "Responses that the scorer answered, failures among them.")
        self._failures = counter("failures", "Responses without a score, by reason.", "reason")
        self._tokens = counter("tokens", "Tokens by kind; the cached ones are among the prompt's.", "kind")
        self._seconds = Histogram(
            *("assay_request_seconds", "From a request's head to the end of its answer.", ("route",)),
            buckets=_SECONDS,
            registry=self._registry,
        )
        for reason in FAILURE_REASONS:  # there from the start, so that a rate can be taken of the first one
            self._failures.labels(reason)

    def watch(self, limit: int, read: Callable[[], tuple[State, Depth]]) -> None:
        """Also tell a service's state and depth, read whenever somebody asks."""
        self._registry.register(_Watched(limit, read))

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def judged(self, card: Scorecard) -> None:
        self._judged.inc(len(card.judgments))
        for judgment in card.judgments:
            if judgment.failure is not None:
                self.failed(judgment.failure)
        usage = card.usage
        self._tokens.labels("prompt").inc(usage.prompt_tokens)
        self._tokens.labels("cached").inc(usage.cached_tokens)
        self._tokens.labels("generated").inc(usage.generated_tokens)

    def failed(self, failure: Failure) -> None:
        """Also one that never reached the scorer: a row that cannot be read."""
        self._failures.labels(failure.reason).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Watched(Collector):
    def __init__(self, limit: int, read: Callable[[], tuple[State, Depth]]) -> None:
        self._limit, self._read = limit, read

    def collect(self) -> Iterator[Metric]:
        state, depth = self._read()
        for name, help, value in (
            ("assay_queue_waiting", "Admitted responses that wait for the scorer.", depth.waiting),
            ("assay_queue_in_flight", "Responses that the scorer has and has not answered.", depth.in_flight),
            ("assay_queue_limit", "The most responses waiting or in flight.", self._limit),
            ("assay_ready", "1 while requests are taken.", state == "ready"),
        ):
            yield GaugeMetricFamily(name, help, value=float(value))
