"""A bundle with NaN or infinite weights is refused; one NaN score fails only its recording."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from audiocnn.audio.encode import encode
from audiocnn.audio.recording import Recording
from audiocnn.config import AudioLimits
from audiocnn.corpus import synthetic
from audiocnn.errors import AudioError, FormatError
from audiocnn.features.extractor import Extractor
from audiocnn.labels import part as label_part
from audiocnn.labels.labeller import Labeller, Scorer, Scores
from audiocnn.labels.shard_list import Entry
from audiocnn.model.bundle import Bundle
from audiocnn.model.predictor import Predictor
from audiocnn.storage import listing
from helpers.common import SMALL, make_bundle


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bundle_of_such_weights_is_refused(tmp_path: Path, value: float) -> None:
    bundle = make_bundle(tmp_path)
    bundle.model.fc.weight.data[0, 0] = value
    bundle.write(str(tmp_path))
    with pytest.raises(FormatError, match=r"fc\.weight has NaN or infinite weights"):
        Bundle.read(str(tmp_path))


def test_a_window_of_such_scores_costs_its_recording_alone(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    for index in range(4):
        samples = synthetic.sound(list(synthetic.SOUNDS)[index], index, 3.0, 16_000)
        (tmp_path / "bucket" / f"{index}.wav").write_bytes(encode(samples, 16_000))
    model = Scorer(Predictor(make_bundle(tmp_path / "bundle")), embeddings=False)

    def score(logmel: np.ndarray) -> Scores:
        judged = model.score(logmel)
        judged.scores[4] = np.nan  # the second window of the second recording
        return judged

    entries = [
        Entry(recording=Recording(uri=file.uri, version=file.version), wrong=None)
        for file in listing.list_files(str(tmp_path / "bucket"))
    ]
    path = str(tmp_path / "part.parquet")
    with Extractor(SMALL, AudioLimits()) as extractor:
        labeller = Labeller(model.predictor.bundle, extractor, score, 2, embeddings=False)
        ledger = labeller.part(entries, path)
    (failure,) = ledger.failures
    assert Path(failure["uri"]).name == "1.wav"
    assert failure["reason"] == "scores: NaN or infinite in the window from 1 s"
    assert (ledger.labelled, ledger.windows, sum(ledger.scores)) == (3, 9, 9)
    assert label_part.read_ledger(path) == ledger
    assert np.isfinite(pq.read_table(path)["score"].to_numpy()).all()


def test_no_answer_is_made_of_such_scores(tmp_path: Path) -> None:
    predictor = Predictor(make_bundle(tmp_path))
    sound = encode(synthetic.sound("bell", 1, 2.0, 16_000), 16_000)
    parts = list(predictor.decode(sound))
    scores = predictor.predict_windows([part.samples for part in parts])
    scores[1, 0] = np.nan
    with pytest.raises(AudioError, match="scores: NaN or infinite"):
        predictor.encode(parts, scores)
