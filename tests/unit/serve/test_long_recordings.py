"""The sound of a window deep inside a long recording: the decoder jumps to it."""

import asyncio
import io
from pathlib import Path

import numpy as np
import soundfile

from audiocnn.audio.recording import Recording
from audiocnn.labels import label_set
from audiocnn.labels.part import LabelWriter, Scored
from audiocnn.model.predictor import Predictor
from helpers import hostile
from helpers.asking import wait_until
from helpers.common import make_bundle
from helpers.small_labels import write_notes
from serve.engine.label_browser import LabelBrowser


def test_a_sound_at_the_end_of_a_day_is_heard(tmp_path: Path) -> None:
    """The recording is a day at 48 kHz, a file of 8 GB that is almost completely sparse."""
    predictor = Predictor(make_bundle(tmp_path / "bundle"))
    rate, end_s = 48_000, 86_400
    tail = (np.random.default_rng(0).standard_normal(2 * rate) * 3_000).astype("<i2")
    path = tmp_path / "bucket" / "day.wav"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.write(hostile.rf64(b"", data=2 * end_s * rate, rate=rate))
        file.seek(2 * (end_s - 2) * rate, io.SEEK_CUR)
        file.write(tail.tobytes())
    folder = tmp_path / "labels"
    (folder / "parts").mkdir(parents=True)
    found = Scored(
        start_s=np.array([end_s - 1.0]), duration_s=np.ones(1), scores=np.full((1, 3), 1 / 3),
        level_dbfs=np.full(1, -20.0), channel=np.zeros(1, int),
    )  # fmt: skip
    with LabelWriter(str(folder / label_set.part_name("aa", 0)), predictor.bundle, 2) as writer:
        writer.add(Recording(uri=str(path)), [found])
        writer.finish()
    write_notes(str(folder), str(path.parent), predictor, "bundle")
    results = LabelBrowser(str(folder), 60.0)
    try:
        wait_until(lambda: asyncio.run(results.card())["parts_read"] == 1)
        sound = asyncio.run(results.sound(str(path), end_s - 1.0, rate))
    finally:
        results.close()
    samples, _ = soundfile.read(io.BytesIO(sound), dtype="int16")
    assert np.array_equal(samples, tail[rate:])
