"""Metrics of jobs, for Prometheus. Ray exports them, and adds `ray_` before each name."""

import threading
import time
from functools import cache

from ray.util.metrics import Counter, Gauge, Histogram

_SECONDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1_000]
_TELL_S = 5.0
"""Seconds between repetitions of a gauge: Ray drops it 20 s after it was last set."""
_COUNTS = [1.0, 2, 4, 8, 16, 32, 64, 128, 256, 512]


class JobMetrics:
    """The metrics of a job in one process, all with the job's `verb` as a tag."""

    def __init__(self, verb: str) -> None:
        self._verb = {"verb": verb}
        self._latest: dict[str, float] = {}
        self._recordings = Counter(
            "audiocnn_recordings", "Recordings done, by outcome", tag_keys=("verb", "outcome")
        )
        self._windows = Counter(
            "audiocnn_job_windows", "Windows of the recordings", tag_keys=("verb",)
        )
        self._steps = Histogram(
            "audiocnn_step_seconds", "Seconds of a step of a job", _SECONDS, ("verb", "step")
        )
        self._batches = Histogram(
            "audiocnn_job_batch_windows", "Windows in a forward pass", _COUNTS, ("verb",)
        )
        self._values = Gauge(
            "audiocnn_job",
            "State of a job: running, shards_left, epoch, loss, ...",
            ("verb", "what"),
        )

    def recordings(self, done: int, failed: int, windows: int) -> None:
        """Count more recordings that are done or failed, and their windows."""
        for outcome, count in (("done", done), ("failed", failed)):
            if count:
                self._recordings.inc(count, {**self._verb, "outcome": outcome})
        self.windows(windows)

    def windows(self, count: int) -> None:
        """Count more windows."""
        if count:
            self._windows.inc(count, self._verb)

    def step(self, name: str, seconds: float) -> None:
        """Record the duration of a step of the job."""
        self._steps.observe(seconds, {**self._verb, "step": name})

    def batch(self, windows: int) -> None:
        """Record the number of windows in one forward pass."""
        self._batches.observe(windows, self._verb)

    def now(self, **values: float) -> None:
        """Set gauges of the job's state, such as `epoch`; repeat them until `over` is called."""
        begins = not self._latest
        self._latest |= values
        self._tell(self._latest)
        if begins:
            threading.Thread(target=self._tell_again, args=(self._latest,), daemon=True).start()

    def over(self) -> None:
        """Stop repeating the gauges of the job's state."""
        self._latest.clear()
        self._latest = {}

    def _tell(self, values: dict[str, float]) -> None:
        for what, value in list(values.items()):
            self._values.set(value, {**self._verb, "what": what})

    def _tell_again(self, values: dict[str, float]) -> None:
        while values:
            time.sleep(_TELL_S)
            self._tell(values)


@cache
def job_metrics(verb: str) -> JobMetrics:
    """Return the metrics of a verb's job in this process."""
    return JobMetrics(verb)
