"""If a store or disk fails in a worker, the command ends with a one-line error; no cluster runs."""

import pytest
import ray.exceptions
import ray.train

from audiocnn.errors import StorageError
from pipelines import cli
from pipelines.runtime import errors

FULL = "/disk/labels/parts/part-1.parquet: No space left on device"
AWAY = "s3://bucket/checkpoint.pt: no whole answer from http://127.0.0.1:8333 in 20 s"


def task_error(message: str) -> BaseException:
    """Return the error that Ray Data raises, with the text that it adds."""
    cause = StorageError(f"{message}\nFailed to apply UDF to row")
    error = ray.exceptions.RayTaskError("run", "Traceback (most recent call last): ...", cause)
    return error.as_instanceof_cause()


def group_error(message: str) -> BaseException:
    """Return the error that Ray Train raises if a worker fails and its peer is disconnected."""
    failures = {0: StorageError(message), 1: RuntimeError("Connection closed by peer")}
    return ray.train.WorkerGroupError("Training failed", failures)


@pytest.mark.parametrize(
    ("command", "error", "message"),
    [
        (["label", "b", "--bundle", "m", "--to", "l"], task_error(FULL), FULL),
        (["ingest", "c", "--to", "f"], task_error(AWAY), AWAY),
        (["train", "f", "--to", "b"], group_error(AWAY), AWAY),
    ],
)
def test_what_a_workers_storage_says_is_one_line_and_exit_code_2(
    command: list[str],
    error: BaseException,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> None:
        with errors.user_errors():
            raise error

    monkeypatch.setattr("sys.argv", ["audiocnn", *command])
    monkeypatch.setattr(cli, "_prepare", lambda *_: None)
    monkeypatch.setattr(f"pipelines.{command[0]}.job.{command[0]}", fail)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert capsys.readouterr().err == f"audiocnn: {message}\n"
