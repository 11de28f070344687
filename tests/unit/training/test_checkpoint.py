import os
import threading
from pathlib import Path

import pytest
import torch

from audiocnn import storage
from audiocnn.errors import FormatError, StorageError, TrainingError
from audiocnn.training import checkpoint

STATE: checkpoint.State = {"step": 3, "weights": {"a": torch.arange(4.0)}, "names": ["x", "y"]}
CPU = torch.device("cpu")


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    uri = str(tmp_path / "deep" / "c.pt")
    assert checkpoint.read(uri, CPU) is None
    checkpoint.write(uri, STATE)
    state = checkpoint.read(uri, CPU)
    assert state is not None
    assert torch.equal(state["weights"]["a"], STATE["weights"]["a"])
    assert (state["step"], state["names"]) == (3, ["x", "y"])


def test_what_cannot_be_written_leaves_the_last_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "c.pt")
    checkpoint.write(uri, STATE)

    def full(_self: Path, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(StorageError, match="No space left"):
            checkpoint.write(uri, {"step": 4})
    state = checkpoint.read(uri, CPU)
    assert state is not None
    assert state["step"] == 3
    assert os.listdir(tmp_path) == ["c.pt"]


def test_a_damaged_one_is_a_format_error(tmp_path: Path) -> None:
    uri = str(tmp_path / "c.pt")
    checkpoint.write(uri, STATE)
    whole = storage.read_bytes(uri)
    with pytest.raises(FormatError, match=r"c\.pt is damaged \(no 'position'\)"):
        checkpoint.read(uri, CPU)["position"]  # type: ignore[index]
    for damaged in (whole[: len(whole) // 2], b"", b"\x80\x05." + whole):
        storage.write_bytes(uri, damaged)
        with pytest.raises(FormatError, match="damaged checkpoint"):
            checkpoint.read(uri, CPU)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save({"step": Evil()}, tmp_path / "c.pt")
    with pytest.raises(FormatError, match="damaged checkpoint"):
        checkpoint.read(str(tmp_path / "c.pt"), CPU)
    assert not (tmp_path / "owned").exists()


def test_a_snapshot_does_not_follow_the_weights() -> None:
    weights = torch.zeros(3)
    copied = checkpoint.snapshot({"w": weights, "list": [weights, 1], "pair": (weights,)})
    weights += 1
    assert copied["w"].sum() == copied["list"][0].sum() == copied["pair"][0].sum() == 0
    assert isinstance(copied["pair"], tuple)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_kept(value: float) -> None:
    with pytest.raises(TrainingError, match="--max-lr"):
        checkpoint.snapshot({"deep": [{"w": torch.tensor([0.0, value])}]})


def test_work_behind_runs_one_at_a_time_and_its_error_comes_out() -> None:
    behind, go, order = checkpoint.BackgroundWriter(), threading.Event(), []
    behind.start(lambda: (go.wait(10), order.append(1))[1])
    assert behind.busy
    go.set()
    behind.start(lambda: order.append(2))
    behind.wait()
    assert order == [1, 2]

    def fail() -> None:
        raise StorageError("full")

    behind.start(fail)
    with pytest.raises(StorageError, match="full"):
        behind.start(lambda: order.append(3))
    behind.wait()
    assert order == [1, 2]
