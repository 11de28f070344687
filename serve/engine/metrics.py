"""The metrics of an endpoint. A subclass exports the numbers; the class here drops them."""


class EndpointMetrics:
    """Counts of requests, windows, batches and failures, and their durations in seconds."""

    def request(self, route: str, status: int, seconds: float) -> None:
        """Record an answered request."""

    def failure(self, reason: str) -> None:
        """Record a request that was answered with the problem of this name."""

    def windows(self, count: int) -> None:
        """Record how many windows were predicted for one request."""

    def batch(self, size: int, queued_s: float, computed_s: float) -> None:
        """Record a batch: its windows, the wait of its first window, and its computing time."""
