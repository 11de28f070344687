"""BentoML's service for `benchmarks.peers`, in its own module because BentoML imports it."""

from pathlib import Path
from typing import Any

import bentoml

from benchmarks.peers import BATCH, WORKERS, answer, load


@bentoml.service(workers=WORKERS, traffic={"timeout": 60, "max_concurrency": 512})
class Service:
    """The same answer, with BentoML's adaptive batches."""

    def __init__(self) -> None:
        self.predictor = load()

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=60_000)  # type: ignore[untyped-decorator]
    def predict(self, files: list[Path]) -> list[dict[str, Any]]:
        """Return the answers for files of recordings."""
        return answer(self.predictor, [Path(file).read_bytes() for file in files])
