"""An export of many events takes no more memory than an export of few events."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiocnn.labels.events import merged
from audiocnn.labels.export.run import FORMATS, export

BUCKET = "/data/bucket"


def test_memory_is_flat(tmp_path: Path, thorough: bool) -> None:
    count = 200_000 if thorough else 60_000
    traced_from = count - 20_000  # tracing makes the code five times as slow

    def rows() -> Iterator[dict[str, Any]]:
        for index in range(count):
            if index == traced_from:
                tracemalloc.start()
            recording, window = divmod(index, 12_000)
            yield {
                "uri": f"{BUCKET}/{recording}.wav", "start_s": window, "end_s": window + 1.0,
                "label": f"class {index % 7}", "score": 0.5, "bundle": "f00d", "top_k": [],
            }  # fmt: skip

    export(FORMATS, merged(rows()), str(tmp_path), BUCKET, high_hz=2_000.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000  # room for one row group; all traced events take 6 MB
    assert (tmp_path / "events.csv").read_bytes().count(b"\n") == count + 1
