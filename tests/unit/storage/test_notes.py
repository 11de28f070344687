"""Notes, the JSON files that describe the output of a job, are read without one member."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiocnn import storage
from audiocnn.config import to_json
from audiocnn.errors import AudioCNNError, FormatError
from audiocnn.evaluation.predictions import REPORT_FORMAT
from audiocnn.features.band_sums import BandSums
from audiocnn.features.feature_set import FeaturePart, FeatureSet
from audiocnn.labels import label_set
from audiocnn.labels.reader import open_labels
from audiocnn.model.bundle import Bundle
from audiocnn.model.predictor import Predictor
from audiocnn.review.label_index import read_state
from helpers.common import SMALL, make_bundle
from helpers.small_labels import write_notes
from pipelines.ingest import job as ingest_job
from pipelines.options import Ingest
from pipelines.train import plan as train_plan

Read = Callable[[], Any]


def features(folder: Path) -> FeatureSet:
    sums = BandSums.of(np.ones((1, SMALL.n_mels, SMALL.n_frames)))
    made = FeatureSet(
        uri=str(folder), config=SMALL, classes=("a", "b"), corpus="c", counts={"listed": 2},
        parts={"parts/part-0.parquet": FeaturePart(windows={1: 1}, rows="f")},
        folds={1: {"a": 1}, 2: {"b": 1}}, bands={1: sums, 2: sums},
    )  # fmt: skip
    made.write()
    return made


def report(folder: Path) -> Read:
    made = features(folder)
    plain = {
        "format": REPORT_FORMAT, "features": made.fingerprint,
        "calibration": {"temperature": 1.5, "thresholds": [0.1, 0.2]},
    }  # fmt: skip
    storage.write_json(f"{folder}/report.json", plain)
    return lambda: train_plan._calibration(str(folder), made)


def labels(folder: Path) -> Read:
    predictor = Predictor(make_bundle(folder / "bundle"))
    write_notes(str(folder), "/bucket", predictor, f"{folder}/bundle")
    return lambda: (open_labels(str(folder)), read_state(str(folder)))


def ingested(folder: Path) -> Read:
    options = Ingest(corpus="c", to=str(folder), feature=SMALL)
    plain = {
        "format": ingest_job._FORMAT, "run": "r",
        "options": {"corpus": "c", "folds": 5, **to_json(SMALL), **to_json(options.limits)},
    }  # fmt: skip
    storage.write_json(f"{folder}/job.json", plain)
    return lambda: ingest_job._refuse_another(str(folder), {"job.json": plain}, plain["options"])


NOTES: dict[str, tuple[str, Callable[[Path], Read]]] = {
    "features": ("features.json", lambda to: (features(to), lambda: FeatureSet.read(str(to)))[1]),
    "bundle": ("bundle.json", lambda to: (make_bundle(to), lambda: Bundle.read(str(to)))[1]),
    "report": ("report.json", report),
    "labels": (label_set.NOTE, labels),
    "ingest": ("job.json", ingested),
}
NEVER_READ = {"format", "mean", "std", "run", "written_by"}
"""Members that no reader needs, and `format`, which has its own error if it is missing."""


def without_each(plain: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield copies of the object that each lack one member, at any depth."""
    for name, value in plain.items():
        yield {k: v for k, v in plain.items() if k != name}
        if isinstance(value, dict):
            yield from ({**plain, name: left} for left in without_each(value))


@pytest.mark.parametrize("kind", NOTES)
def test_a_note_without_a_member_is_one_line_that_names_both(kind: str, tmp_path: Path) -> None:
    name, make = NOTES[kind]
    read, path = make(tmp_path), tmp_path / name
    plain = json.loads(path.read_text())
    for member in plain.keys() - NEVER_READ:
        path.write_text(json.dumps({k: v for k, v in plain.items() if k != member}))
        with pytest.raises(FormatError, match=rf"{name}\b.*\b{member}\b") as caught:
            read()
        assert "\n" not in str(caught.value)
    for left in without_each(plain):
        path.write_text(json.dumps(left))
        with suppress(AudioCNNError):  # no other error is allowed
            read()
    path.write_text(json.dumps(plain))
    read()
