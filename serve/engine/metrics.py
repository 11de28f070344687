"""What an endpoint counts. The numbers go wherever a subclass sends them; here, nowhere."""


class EndpointMetrics:
    """Counts of requests, windows, batches and failures, and how long things took."""

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""

    def failure(self, reason: str) -> None:
        """It was answered with this problem."""

    def windows(self, count: int) -> None:
        """So many windows were predicted for one request."""

    def batch(self, size: int, queued_s: float, computed_s: float) -> None:
        """A window waited so long, and was computed in a batch of so many windows."""
