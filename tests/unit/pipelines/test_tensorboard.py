"""A TensorBoard log that cannot be written gives a one-line error."""

import subprocess
import sys
from pathlib import Path

CODE = """
import resource, sys
from audiocnn.errors import StorageError
from pipelines.train.tensorboard import Log

resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, 4_096))
log = Log(sys.argv[1], ".x")
try:
    for epoch in range(1_000):
        log.epoch({"epoch": epoch, "loss": 1.0})
except StorageError as error:
    print(error)
"""


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """Files can have at most 4 kB here, as on a disk that is almost full."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(f"{tmp_path}: "), done.stderr
    assert "File too large" in done.stdout
    assert done.stdout.count("\n") == 1
