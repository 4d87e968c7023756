"""`GET /metrics`: what `infer.py --serve` has done, in the format of Prometheus.

prometheus-client is optional: without it nothing is counted, and the path answers with the command that installs it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from segmentation.reliability.statistics import REASONS

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PACKAGE = "prometheus-client"
PREFIX = "segmentation_"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OTHER = "other"  # label of methods and paths that do not exist: clients choose them, and each label takes memory
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # upper bounds of the latency's buckets


class Metrics:
    """Counters of one server; `model` are the labels of its model, `paths` those that are counted by name."""

    def __init__(self, model: Mapping[str, str], paths: Collection[str]) -> None:
        self.registry: CollectorRegistry | None = None
        self._paths = paths
        if find_spec("prometheus_client") is None:
            return
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

        # Its own registry: that of the package would be shared by all servers of a process.
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            f"{PREFIX}http_requests", "Requests by status", ["method", "path", "status"], registry=registry
        )
        self._seconds = Histogram(
            f"{PREFIX}http_request_duration_seconds",
            "Time from the head of a request to the end of its response",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self._images = Counter(f"{PREFIX}predicted_images", "Images that were predicted", registry=registry)
        self._unlike = Counter(
            f"{PREFIX}unlike_training_images", "Images unlike those of the training", registry=registry
        )
        self._unlike_by_reason = Counter(
            f"{PREFIX}unlike_training_reasons",
            "Reasons why images are unlike those of the training",
            ["reason"],
            registry=registry,
        )
        for reason in REASONS:  # so that all are there from the start
            self._unlike_by_reason.labels(reason)
        self._waiting = Gauge(f"{PREFIX}waiting_images", "Images that are predicted or wait for it", registry=registry)
        Info(f"{PREFIX}model", "The model that is served", registry=registry).info(dict(model))

    def count(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        if self.registry is not None:
            path = path if path in self._paths else OTHER
            self._requests.labels(method if method in METHODS else OTHER, path, str(status)).inc()
            self._seconds.labels(path).observe(seconds)

    def count_image(self, drift: Mapping[str, Any] | None = None) -> None:
        """Count an image that was predicted; `drift`: what its record says of its distance to the training."""
        if self.registry is None:
            return
        self._images.inc()
        if drift is not None and drift["flagged"]:
            self._unlike.inc()
            for reason in drift["reasons"]:
                self._unlike_by_reason.labels(reason).inc()

    def render(self, waiting: int) -> tuple[bytes, str] | None:
        """Return the text and its media type; None without the package. `waiting`: images in the queue now."""
        if self.registry is None:
            return None
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        self._waiting.set(waiting)
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
