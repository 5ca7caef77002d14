"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """One server's; each has a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "crn_fast_requests",
            "Requests answered, by route and status.",
            ["route", "status"],
            registry=self._registry,
        )
        self.request_seconds = Histogram(
            "crn_fast_request_seconds",
            "From a request's headers to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.waiting = Gauge(
            "crn_fast_waiting", "Requests decoded, waiting or rendered.", registry=self._registry
        )
        self.batch_size = Histogram(
            "crn_fast_batch_size",
            "Layouts of a batch.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self._registry,
        )
        self.render_seconds = Histogram(
            "crn_fast_render_seconds",
            "Of a batch in the engine process.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.restarts = Counter(
            "crn_fast_engine_restarts",
            "Tries to restart the engine process.",
            registry=self._registry,
        )

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)
