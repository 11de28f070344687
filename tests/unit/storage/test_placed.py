"""A part cannot be written because the disk is full or the store does not answer."""

from pathlib import Path

import pytest

from audiocnn import storage
from audiocnn.errors import StorageError, UnreadableError
from audiocnn.storage.stores import s3 as client

pytestmark = pytest.mark.usefixtures("connections")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    part = tmp_path / "parts" / "part-1"

    def write(path: str) -> None:
        Path(path).write_bytes(b"x")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError) as caught, storage.atomic_path(str(part)) as path:
        write(path)
    assert str(caught.value) == f"{part}: No space left on device"
    assert not list((tmp_path / "parts").iterdir())


def test_a_store_that_stays_away_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE_S", 1.0)
    options = {"endpoint_url": "http://127.0.0.1:1", "key": "k", "secret": "s"}
    storage.configure({"s3": options})
    with pytest.raises(StorageError) as caught, storage.atomic_path("s3://bucket/parts/1") as path:
        Path(path).write_bytes(b"x")
    assert str(caught.value).startswith("s3://bucket/parts/1: no whole answer from http://127")
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, UnreadableError)  # this error ends the job
    assert not Path(path).exists()
