"""The bucket that the demo labels: each clip of the test fold becomes a file."""

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from audiocnn.audio.decode import decode
from audiocnn.audio.encode import encode
from audiocnn.config import AudioLimits
from audiocnn.corpus import synthetic
from audiocnn.corpus.read import read_corpus
from audiocnn.errors import ConfigError
from audiocnn.features.extractor import Extractor
from audiocnn.features.feature_set import FeaturePart, FeatureSet
from audiocnn.features.part import item_of
from audiocnn.storage import listing
from helpers.common import SMALL
from pipelines.options import Demo
from pipelines.tools.demo import _claim, fold_files

LABELS = ("bell", "buzz", "siren")


def sound(label: str, seed: int) -> np.ndarray:
    return synthetic.sound(label, seed, 1.0, 16_000)


def in_a_tar(folder: Path) -> str:
    """Write a tar with two clips of each class, one per fold; return its folder."""
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for label in LABELS:
            for fold in (1, 2):
                key = f"{label}-{fold}"
                for name, data in (
                    (f"{key}.flac", encode(sound(label, fold), 16_000, "flac")),
                    (f"{key}.json", f'{{"label": "{label}", "fold": {fold}}}'.encode()),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return str(folder)


def in_segments(folder: Path) -> str:
    """Write the same clips as segments of two long recordings, one per fold; return their table."""
    rows = []
    for fold in (1, 2):
        whole = np.concatenate([sound(label, fold) for label in LABELS])
        (folder / f"{fold}.wav").write_bytes(encode(whole, 16_000))
        rows += [(f"{fold}.wav", label, fold, at, at + 1) for at, label in enumerate(LABELS)]
    with (folder / "events.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("uri", "label", "fold", "onset_s", "offset_s"), *rows])
    return str(folder / "events.csv")


def as_files(folder: Path) -> str:
    for label in LABELS:
        (folder / label).mkdir()
        for fold in (1, 2):
            data = encode(sound(label, fold), 16_000)
            (folder / label / f"{fold}-{LABELS.index(label)}{fold}-A.wav").write_bytes(data)
    return str(folder)


@pytest.mark.parametrize("make", [in_a_tar, in_segments, as_files])
def test_the_clips_of_a_fold_become_files(
    make: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus").mkdir()
    corpus = read_corpus(make(tmp_path / "corpus"))  # type: ignore[operator]
    (tmp_path / "features" / "parts").mkdir(parents=True)
    with Extractor(SMALL, AudioLimits()) as extractor:
        path = tmp_path / "part.parquet"
        ledger = extractor.part([item_of(clip) for clip in corpus.clips], str(path))
    path.rename(tmp_path / "features" / ledger.part)
    features = FeatureSet(
        uri=str(tmp_path / "features"), config=SMALL, classes=corpus.classes, corpus=corpus.uri,
        counts={}, parts={ledger.part: FeaturePart(windows=ledger.windows, rows=ledger.rows)},
        folds=ledger.classes, bands=ledger.bands,
    )  # fmt: skip
    monkeypatch.setattr(listing, "iter_files", lambda _: pytest.fail("it was listed again"))
    files = {path: (data, label) for path, data, label in fold_files(corpus, features, 2)}
    assert sorted(str(label) for _, label in files.values()) == list(LABELS)
    for data, label in files.values():
        found = np.concatenate(list(decode(data, 16_000)))
        assert len(found) == 16_000
        assert np.abs(found - sound(str(label), 2)).max() < 1e-4


@pytest.mark.parametrize("corpus", ["synthetic", "esc50"])
def test_a_corpus_asked_for_by_its_name_is_no_folder(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _claim(Demo(corpus=corpus, to=".")) == str(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="the corpus is in this folder"):
        _claim(Demo(corpus="mine", to="."))
