"""A recording that kills or hangs the front end's process, or fills its memory, fails alone."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from audiocnn.audio.decode import windows
from audiocnn.audio.encode import encode
from audiocnn.audio.recording import Archive, Recording
from audiocnn.config import AudioLimits
from audiocnn.corpus import synthetic
from audiocnn.corpus.clips import Clip
from audiocnn.corpus.read import read_corpus
from audiocnn.errors import InstallationError, StorageError
from audiocnn.features.band_sums import BandSums
from audiocnn.features.extractor import Extractor, RecordingEnd
from audiocnn.features.logmel import LogMel
from audiocnn.features.part import FeatureLedger, Item, item_of, read_ledger
from helpers import deadly
from helpers.asking import PATIENCE_S, wait_until
from helpers.common import SMALL
from helpers.tars import tar

LIMITS = AudioLimits()


def items_of(recordings: list[Recording]) -> list[Item]:
    """Return the items of clips of one class; each clip_id is the clip's index."""
    clips = [
        Clip(
            clip_id=f"{place:03d}",
            uri=recording.uri,
            label="a",
            fold=1,
            size=recording.size,
            archive=recording.archive,
            segment=recording.segment,
        )
        for place, recording in enumerate(recordings)
    ]
    return [item_of(clip) for clip in clips]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Write 24 short recordings, more than the process reads ahead."""
    folder = tmp_path_factory.mktemp("sounds")
    found = []
    for index in range(24):
        samples = synthetic.sound(list(synthetic.SOUNDS)[index % 8], index, 2.2, 16_000)
        path = folder / f"{index}.wav"
        path.write_bytes(encode(samples, 16_000))
        found.append(Recording(uri=str(path)))
    return found


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    """An extractor that no test kills."""
    with Extractor(SMALL, LIMITS) as extractor:
        yield extractor


Answer = list[np.ndarray] | str
"""A clip's log-mels, each [n_mels, n_frames], or the reason why the clip failed."""


def answers_of(ledger: FeatureLedger, path: Path) -> list[Answer]:
    """Return the answer for each clip, sorted by clip_id."""
    table = pq.read_table(path)
    tensors = table["logmel"].combine_chunks().to_numpy_ndarray()
    rows: dict[str, list[np.ndarray]] = {}
    for clip_id, logmel in zip(table["clip_id"].to_pylist(), tensors, strict=True):
        rows.setdefault(clip_id, []).append(logmel)
    assert rows.keys() == ledger.ingested.keys()
    assert read_ledger(str(path)) == ledger
    return [
        rows[clip_id] if clip_id in rows else ledger.failed[clip_id][1]["reason"]
        for clip_id in sorted(ledger.folds)
    ]


def read(recordings: list[Recording], folder: Path, extractor: Extractor) -> list[Answer]:
    ledger = extractor.part(items_of(recordings), str(folder / "part.parquet"))
    return answers_of(ledger, folder / "part.parquet")


def test_it_gives_what_the_front_end_gives(
    sounds: list[Recording], tmp_path: Path, extractor: Extractor
) -> None:
    front_end = LogMel(SMALL)
    answers = read(sounds, tmp_path, extractor)
    assert len(answers) == len(sounds)
    for sound, found in zip(sounds, answers, strict=True):
        cut = [window.samples for window in windows(Path(sound.uri).read_bytes(), SMALL)]
        assert not isinstance(found, str)
        assert np.array_equal(found, front_end(cut).astype(np.float16))


def test_sums_are_of_the_log_mels_that_are_stored(
    sounds: list[Recording], tmp_path: Path, extractor: Extractor
) -> None:
    path = tmp_path / "part.parquet"
    ledger = extractor.part(items_of(sounds[:3]), str(path))
    stored = pq.read_table(path)["logmel"].combine_chunks().to_numpy_ndarray()
    exact, said = BandSums.of(stored), ledger.bands[1]
    assert said.count == exact.count
    assert np.allclose(said.total, exact.total, rtol=1e-5)
    assert np.allclose(said.squares, exact.squares, rtol=1e-5)


def test_a_segment_gives_the_windows_that_the_whole_recording_has_there(
    tmp_path: Path, extractor: Extractor
) -> None:
    sound = synthetic.sound("siren", 1, 9.3, 22_050)  # not the rate of the front end
    whole = Recording(uri=str(tmp_path / "long.flac"))
    Path(whole.uri).write_bytes(encode(sound, 22_050, "flac"))
    (all_of_it,) = read([whole], tmp_path, extractor)
    size = SMALL.window_s
    times = [(size, 2 * size), (2 * size, 4 * size), (0.0, size), (8.0, 100.0), (9.5, 11.0)]
    second, two_more, first, rest, beyond = read(
        [replace(whole, segment=one) for one in times], tmp_path, extractor
    )
    assert np.array_equal(first, all_of_it[:1])
    assert np.array_equal(second, all_of_it[1:2])
    assert np.array_equal(two_more, all_of_it[2:4])
    assert not isinstance(rest, str)
    assert beyond == "too_short: no sound from 9.5 to 11 s"


def test_a_second_part_is_written_by_the_same_process(
    sounds: list[Recording], tmp_path: Path, extractor: Extractor
) -> None:
    paths = [tmp_path / "1.parquet", tmp_path / "2.parquet"]
    before = process_of(extractor)
    first, second = (extractor.part(items_of(sounds[:2]), str(path)) for path in paths)
    assert first == second
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert process_of(extractor) == before
    assert before.is_running()


def process_of(extractor: Extractor) -> psutil.Process:
    return psutil.Process(extractor._child.pid)


def test_bad_ones_are_named_and_the_others_go_on(
    sounds: list[Recording], tmp_path: Path, extractor: Extractor
) -> None:
    (tmp_path / "text.wav").write_text("not a sound")
    bad = [Recording(uri=str(tmp_path / name)) for name in ("text.wav", "gone.wav")]
    first, text, gone, last = read([sounds[0], *bad, sounds[1]], tmp_path, extractor)
    assert str(text).startswith("unrecognised: ")
    assert str(gone).startswith("gone: ")
    assert not isinstance(first, str)
    assert not isinstance(last, str)


class Clock:
    """A clock that advances only while the first two processes decode the hanging recording."""

    def __init__(self, place: int) -> None:
        self.place, self.now = place, 0.0
        self.extractor: Extractor | None = None
        self._hung: set[int] = set()

    def __call__(self) -> float:
        if self.extractor and self.extractor._child.progress.at == self.place:
            process = self.extractor._child.pid
            if process in self._hung or len(self._hung) < 2:
                self._hung.add(process)
                self.now += 100
        return self.now


def test_deadly_recordings_cost_themselves_alone(
    sounds: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(deadly.hole(tmp_path / "hole"))
    bad = {}
    for kind in deadly.MARKS:
        path = tmp_path / f"{kind}.wav"
        path.write_bytes(deadly.wav(kind))
        bad[kind] = Recording(uri=str(path))
    order = [
        bad["segfault"], *sounds[:3], bad["hang"], bad["memory"], *sounds[3:], bad["segfault"],
    ]  # fmt: skip
    clock = Clock(order.index(bad["hang"]))
    monkeypatch.setattr("audiocnn.audio.sandbox.monotonic", clock)
    with Extractor(SMALL, LIMITS, silence_s=0.8) as extractor:
        clock.extractor = extractor
        answers = read(order, tmp_path, extractor)
    assert len(answers) == len(order)
    reasons = {place: answer for place, answer in enumerate(answers) if isinstance(answer, str)}
    assert all(reason.startswith("crashed: ") for reason in reasons.values())
    last = len(order) - 1
    for place, reason in {
        0: "died of signal 11", 4: "gave no answer in", 5: "memory", last: "died of signal 11",
    }.items():  # fmt: skip
        assert reason in reasons.pop(place)
    assert reasons == {}


def test_a_process_killed_once_from_outside_costs_nothing(
    sounds: list[Recording], tmp_path: Path
) -> None:
    path = tmp_path / "hang.wav"
    path.write_bytes(deadly.wav("hang"))
    order = [*sounds[:5], Recording(uri=str(path)), *sounds[5:]]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(deadly.hole(tmp_path / "hole"))
        extractor = Extractor(SMALL, LIMITS)
    # The first process hangs, so it is killed before it is done. The next one has no hole.
    with extractor, ThreadPoolExecutor(1) as thread:
        before = process_of(extractor)
        writing = thread.submit(extractor.part, items_of(order), str(tmp_path / "part.parquet"))
        wait_until(lambda: extractor._child.progress.at == 5)
        before.kill()
        ledger = writing.result()
        after = process_of(extractor)
    assert after.pid != before.pid
    assert len(ledger.ingested) == len(order)
    assert not ledger.failed
    assert not after.is_running()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_ends_the_part_and_blames_no_clip(
    sounds: list[Recording], extractor: Extractor
) -> None:
    with pytest.raises(StorageError, match=r"/dev/full: .*[Nn]o space left"):
        extractor.part(items_of(sounds), "/dev/full")
    with pytest.raises(StorageError, match="/nowhere/part"):
        extractor.part(items_of(sounds), "/nowhere/part")


def test_it_dies_with_its_owner() -> None:
    code = (
        "import os, signal, sys; from audiocnn.features.extractor import Extractor;"
        "from audiocnn.config import *; e = Extractor(FeatureConfig(), AudioLimits());"
        "print(e._child.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(told.stdout)).wait(timeout=PATIENCE_S)


def test_a_process_that_cannot_start_is_one_error(
    sounds: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "soxr.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with (
        Extractor(SMALL, LIMITS) as extractor,
        pytest.raises(InstallationError, match="ended with code 3 as it started"),
    ):
        read(sounds[:1], tmp_path, extractor)


def test_a_process_that_is_killed_as_it_starts_is_started_again(
    sounds: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Extractor(SMALL, LIMITS) as extractor:
        process_of(extractor).kill()
        ledger = extractor.part(items_of(sounds[:2]), str(tmp_path / "part.parquet"))
    assert len(ledger.ingested) == 2
    starts = tmp_path / "starts"
    (tmp_path / "soxr.py").write_text(
        f"import os\nopen({str(starts)!r}, 'a').write('.')\nos.kill(os.getpid(), 9)"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with (
        Extractor(SMALL, LIMITS) as extractor,
        pytest.raises(InstallationError, match="died of signal 9 as it started"),
    ):
        read(sounds[:1], tmp_path, extractor)
    assert len(starts.read_text()) == 5


def test_a_member_of_a_tar_is_its_bytes(
    sounds: list[Recording], tmp_path: Path, extractor: Extractor
) -> None:
    data = Path(sounds[3].uri).read_bytes()
    (tmp_path / "shard.tar").write_bytes(b"x" * 700 + data + b"y" * 900)
    member = Archive(uri=str(tmp_path / "shard.tar"), offset=700, size=len(data))
    inside = Recording(uri=str(tmp_path / "shard.tar/3.wav"), archive=member)
    plain, taken = read([sounds[3], inside], tmp_path, extractor)
    assert np.array_equal(plain, taken)


def test_what_was_rewritten_since_it_was_listed_is_a_row(
    sounds: list[Recording], tmp_path: Path
) -> None:
    """The label, or the position in the shard, belongs to the earlier content."""
    data = [Path(sound.uri).read_bytes() for sound in sounds[:4]]
    shard = tmp_path / "corpus" / "s.tar"
    names = ["1.wav", "1.cls", "2.wav", "2.cls"]
    for folder in ("files/a", "files/b", "corpus"):
        (tmp_path / folder).mkdir(parents=True)
    for place, name in enumerate(("a/1.wav", "a/2.wav", "b/1.wav")):
        (tmp_path / "files" / name).write_bytes(data[place])
    shard.write_bytes(tar(zip(names, [data[0], b"a", data[1], b"b"], strict=True)))
    (tmp_path / "corpus" / "t.tar").write_bytes(shard.read_bytes())
    listed = [
        *read_corpus(str(tmp_path / "files")).clips,
        *read_corpus(str(tmp_path / "corpus")).clips,
    ]
    (tmp_path / "files" / "a" / "2.wav").write_bytes(data[3])
    shard.write_bytes(tar(zip(names, [data[1], b"b", data[0], b"a"], strict=True)))
    changed = ["a/2.wav", "s.tar/1.wav", "s.tar/2.wav"]
    with Extractor(SMALL, LIMITS) as extractor:
        items = [item_of(replace(clip, fold=1)) for clip in listed]
        ledger = extractor.part(items, str(tmp_path / "part.parquet"))
        streamed = list(extractor.windows([clip.recording for clip in listed]))
    assert sorted(ledger.failed) == changed
    assert all(row["reason"].startswith("changed: ") for _, row in ledger.failed.values())
    ended = [message for message in streamed if isinstance(message, RecordingEnd)]
    assert [listed[one.at].clip_id for one in ended if one.error] == changed
    assert len(ended) == len(listed) == 7


def test_a_recording_of_an_hour_is_not_held_in_memory(tmp_path: Path) -> None:
    samples = np.zeros(3_600 * 8_000, np.int16)
    (tmp_path / "hour.flac").write_bytes(encode(samples, 8_000, "flac"))
    (tmp_path / "minute.flac").write_bytes(encode(samples[: 60 * 8_000], 8_000, "flac"))
    peaks = []
    with Extractor(SMALL, LIMITS) as extractor:
        for name, seconds in (("minute.flac", 60), ("hour.flac", 3_600)):
            items = items_of([Recording(uri=str(tmp_path / name))])
            ledger = extractor.part(items, str(tmp_path / "part.parquet"))
            status = Path(f"/proc/{extractor._child.pid}/status").read_text()
            assert ledger.windows == {1: seconds}
            peaks.append(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]))
    assert peaks[1] - peaks[0] < 96 << 10
