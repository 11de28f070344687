import itertools
from pathlib import Path

import numpy as np
import pytest

from audiocnn.audio.decode import windows
from audiocnn.config import WindowConfig
from audiocnn.corpus import synthetic
from audiocnn.corpus.read import read_corpus
from audiocnn.errors import AudioError


def test_the_corpus_is_ten_classes_of_real_files_in_five_folds(corpus: Path) -> None:
    read = read_corpus(str(corpus))
    assert len(read.clips) == 100
    assert read.classes == tuple(synthetic.SOUNDS)
    assert read.folds == (1, 2, 3, 4, 5)
    assert all(
        len(list(windows(Path(c.uri).read_bytes(), WindowConfig()))) == 1 for c in read.clips
    )


def test_the_same_seed_gives_the_same_files(tmp_path: Path, corpus: Path) -> None:
    again = Path(synthetic.write_corpus(str(tmp_path / "again"), clips_per_class=10))
    for clip in read_corpus(str(corpus)).clips:
        assert (again / clip.clip_id).read_bytes() == (corpus / clip.clip_id).read_bytes()
    other = Path(synthetic.write_corpus(str(tmp_path / "other"), clips_per_class=2, seed=1))
    name = "bell/1-0-A.wav"
    assert (other / name).read_bytes() != (corpus / name).read_bytes()


def test_sounds_are_loud_enough_and_never_clip() -> None:
    for name, seed in itertools.product(synthetic.SOUNDS, range(20)):
        samples = synthetic.sound(name, seed)
        assert 0.05 < np.abs(samples).max() < 0.95
        assert np.isfinite(samples).all()


def test_chirps_differ_in_time_alone() -> None:
    """A reversed rising chirp is a falling one: a model that saw only spectra could not tell."""
    up = np.abs(np.fft.rfft(synthetic.sound("rising chirp", 4)))
    down = np.abs(np.fft.rfft(synthetic.sound("falling chirp", 4)))
    assert np.corrcoef(np.log(up + 1e-3), np.log(down + 1e-3))[0, 1] > 0.5


def test_the_bucket_holds_what_it_says() -> None:
    files = list(synthetic.bucket_files(recordings=20))
    assert len({path for path, _, _ in files}) == len(files) == 23
    sound = {path: name for path, _, name in files if name is not None}
    assert len(sound) == 20
    assert {Path(path).suffix for path in sound} == {".wav", ".flac", ".ogg", ".mp3"}
    assert not any(name.replace(" ", "") in path for path, name in sound.items())
    for path, data, _ in files:
        if path in sound:
            assert list(windows(data, WindowConfig()))
        else:
            with pytest.raises(AudioError):
                list(windows(data, WindowConfig()))
