"""The endpoint's metrics, which Ray exports to Prometheus."""

from ray.util.metrics import Counter, Histogram

from serve.engine.metrics import EndpointMetrics

_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]
_COUNTS = [1.0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]


class RayMetrics(EndpointMetrics):
    """Metrics that Ray exports to Prometheus beside its own; it puts `ray_` before each name."""

    def __init__(self) -> None:
        self._requests = Counter(
            "audiocnn_requests", "Requests by route and status", tag_keys=("route", "status")
        )
        self._seconds = Histogram(
            "audiocnn_request_seconds", "From the first byte to the answer", _SECONDS, ("route",)
        )
        self._failures = Counter(
            "audiocnn_failures", "Requests answered with a problem", tag_keys=("reason",)
        )
        self._windows = Counter("audiocnn_windows", "Windows predicted")
        self._batches = Histogram("audiocnn_batch_windows", "Windows in a forward pass", _COUNTS)
        self._queued = Histogram("audiocnn_queue_seconds", "Waiting for the model", _SECONDS)
        self._computed = Histogram("audiocnn_model_seconds", "A batch's forward pass", _SECONDS)

    def request(self, route: str, status: int, seconds: float) -> None:
        """See `EndpointMetrics.request`."""
        self._requests.inc(1, {"route": route, "status": str(status)})
        self._seconds.observe(seconds, {"route": route})

    def failure(self, reason: str) -> None:
        """See `EndpointMetrics.failure`."""
        self._failures.inc(1, {"reason": reason})

    def windows(self, count: int) -> None:
        """See `EndpointMetrics.windows`."""
        self._windows.inc(count)

    def batch(self, size: int, queued_s: float, computed_s: float) -> None:
        """See `EndpointMetrics.batch`."""
        self._batches.observe(size)
        self._queued.observe(queued_s)
        self._computed.observe(computed_s)
