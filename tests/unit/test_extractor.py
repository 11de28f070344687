"""The front end in a process of its own: what kills, hangs or fills it costs one recording."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import deadly
import numpy as np
import psutil
import pytest
from conftest import SMALL

from audiocnn import synthetic
from audiocnn.audio import windows
from audiocnn.config import AudioLimits
from audiocnn.errors import AudioError, InstallationError, UnreadableError
from audiocnn.extractor import Extractor, Windows
from audiocnn.features import LogMel
from audiocnn.recordings import Archive, Recording

LIMITS = AudioLimits()


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Twenty-four short recordings: more than are asked for ahead."""
    folder = tmp_path_factory.mktemp("sounds")
    found = []
    for index in range(24):
        samples = synthetic.sound(list(synthetic.SOUNDS)[index % 8], index, 2.2, 16_000)
        path = folder / f"{index}.wav"
        path.write_bytes(synthetic.encode(samples, 16_000))
        found.append(Recording(uri=str(path)))
    return found


def read(recordings: list[Recording], **options: float) -> list[tuple[str, object]]:
    answers = []
    with Extractor(SMALL, LIMITS, **options) as extractor:
        for recording, found in extractor.extract(recordings):
            kept = list(found.logmels()) if isinstance(found, Windows) else found
            answers.append((recording.uri, kept))
    return answers


def test_it_gives_what_the_front_end_gives(sounds: list[Recording]) -> None:
    front_end = LogMel(SMALL)
    answers = read(sounds)
    assert [uri for uri, _ in answers] == [sound.uri for sound in sounds]
    for uri, found in answers:
        cut = [window.samples for window in windows(Path(uri).read_bytes(), SMALL)]
        assert isinstance(found, list)
        assert np.array_equal(found, front_end.numpy(cut).astype(np.float16))


def test_sums_are_of_the_log_mels_that_are_stored(sounds: list[Recording]) -> None:
    with Extractor(SMALL, LIMITS) as extractor:
        _, found = next(extractor.extract(sounds[:1]))
        assert isinstance(found, Windows)
        for total, squares, logmel in zip(found.total, found.squares, found.logmels(), strict=True):
            exact = logmel.astype(np.float64)
            assert np.allclose(total, exact.sum(axis=1), rtol=1e-5)
            assert np.allclose(squares, (exact**2).sum(axis=1), rtol=1e-5)


def test_bad_ones_are_named_and_the_others_go_on(sounds: list[Recording], tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not a sound")
    bad = [Recording(uri=str(tmp_path / name)) for name in ("text.wav", "gone.wav")]
    answers = read([sounds[0], *bad, sounds[1]])
    assert isinstance(answers[1][1], AudioError)
    assert isinstance(answers[2][1], UnreadableError)
    assert isinstance(answers[3][1], list)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("segfault", "died of signal 11"), ("hang", "gave no answer in"), ("memory", "memory")],
)
def test_a_deadly_recording_costs_itself_alone(
    sounds: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    monkeypatch.syspath_prepend(deadly.hole(tmp_path / "hole"))
    path = tmp_path / "deadly.wav"
    path.write_bytes(deadly.wav(kind))
    order = [*sounds[:5], Recording(uri=str(path)), *sounds[5:]]
    answers = read(order, silence_s=4.0)
    assert [uri for uri, _ in answers] == [recording.uri for recording in order]
    (failed,) = [found for _, found in answers if not isinstance(found, list)]
    assert isinstance(failed, AudioError)
    assert failed.reason == "crashed"
    assert reason in failed.detail
    assert [found for _, found in answers][5] is failed


def test_a_process_killed_once_from_outside_costs_nothing(sounds: list[Recording]) -> None:
    with Extractor(SMALL, LIMITS) as extractor:
        answers = extractor.extract(sounds)
        next(answers)
        # Others' children may be there too: an S3 server, a Ray of another module.
        (child,) = [
            child
            for child in psutil.Process().children()
            if "audiocnn.extracting" in child.cmdline()
        ]
        os.kill(child.pid, signal.SIGKILL)
        rest = [found for _, found in answers]
    assert len(rest) == len(sounds) - 1
    assert all(isinstance(found, Windows) for found in rest)


def test_it_dies_with_its_owner() -> None:
    code = (
        "import os, signal, sys; from audiocnn.extractor import Extractor;"
        "from audiocnn.config import *; e = Extractor(FeatureConfig(), AudioLimits());"
        "e._begin([]); print(e._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(told.stdout)).wait(timeout=20)


def test_a_process_that_cannot_start_is_one_error(
    sounds: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InstallationError, match="did not start"):
        read(sounds[:1])


def test_a_member_of_a_tar_is_its_bytes(sounds: list[Recording], tmp_path: Path) -> None:
    data = Path(sounds[3].uri).read_bytes()
    (tmp_path / "shard.tar").write_bytes(b"x" * 700 + data + b"y" * 900)
    member = Archive(uri=str(tmp_path / "shard.tar"), offset=700, size=len(data))
    inside = Recording(uri=str(tmp_path / "shard.tar/3.wav"), archive=member)
    (_, plain), (_, taken) = read([sounds[3], inside])
    assert np.array_equal(plain, taken)


def test_a_recording_of_an_hour_is_not_held_in_memory(tmp_path: Path) -> None:
    samples = np.zeros(3_600 * 8_000, np.int16)
    (tmp_path / "hour.flac").write_bytes(synthetic.encode(samples, 8_000, "flac"))
    with Extractor(SMALL, LIMITS) as extractor:
        before = psutil.Process().memory_info().rss
        _, found = next(extractor.extract([Recording(uri=str(tmp_path / "hour.flac"))]))
        assert isinstance(found, Windows)
        assert len(found) == 3_600
        assert psutil.Process().memory_info().rss - before < 64 << 20
        assert sum(1 for _ in found.logmels()) == 3_600
