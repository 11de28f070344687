import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from audiocnn.config import FeatureConfig
from audiocnn.errors import FormatError, MismatchError, StorageError
from audiocnn.features.band_sums import BandSums
from audiocnn.features.feature_set import FeatureSet

CONFIG = FeatureConfig(
    sample_rate=16_000, window_s=1.0, hop_s=1.0, n_mels=8, n_fft=64, hop_length=64
)


def write(folder: Path) -> FeatureSet:
    sums = BandSums.of(np.random.default_rng(0).normal(-20, 5, (3, 8, 10)))
    made = FeatureSet(
        uri=str(folder),
        config=CONFIG,
        classes=("a", "b"),
        corpus="c",
        counts={"listed": 2},
        parts={},
        folds={1: {"a": 1}, 2: {"b": 1}},
        bands={1: sums, 2: sums},
    )
    made.write()
    return made


def test_features_json_reads_back(tmp_path: Path) -> None:
    made = write(tmp_path)
    read = FeatureSet.read(str(tmp_path))
    assert read == made
    assert read.fingerprint == made.fingerprint
    plain = json.loads((tmp_path / "features.json").read_text())
    assert len(plain["mean"]) == len(plain["std"]) == 8
    assert plain["fingerprint"] == made.fingerprint


@pytest.mark.parametrize(
    ("corpus", "name", "uris"),
    [
        (
            "/home/jane/sounds", "sounds",
            {"/home/jane/sounds/dog/1.wav": "dog/1.wav", "/home/jane/else/2.wav": "2.wav"},
        ),
        (
            "/home/jane/labels.csv", "labels.csv",
            {"/home/jane/far/1.wav": "far/1.wav", "/mnt/jane/2.wav": "2.wav",
             "s3://b/3.wav": "s3://b/3.wav"},
        ),
        ("/corpus", "corpus", {"/corpus/1.wav": "1.wav", "/home/jane/2.wav": "2.wav"}),
        ("s3://bucket", "bucket", {"s3://bucket/a/1.wav": "a/1.wav"}),
        ("s3://bucket/x.csv", "x.csv", {"s3://bucket/a/1.wav": "a/1.wav"}),
        ("/home/jane/a.tar", "a.tar", {"/home/jane/a.tar/1.wav": "1.wav"}),
    ],
)  # fmt: skip
def test_what_is_published_names_no_folders_above_the_corpus(
    corpus: str, name: str, uris: dict[str, str], tmp_path: Path
) -> None:
    features = replace(write(tmp_path), corpus=corpus)
    assert features.name == name
    assert {uri: features.name_of(uri) for uri in uris} == uris


def test_merged_sums_are_the_sums_of_the_whole() -> None:
    x = np.random.default_rng(0).normal(-30, 9, (7, 4, 11))
    merged = BandSums.merge([BandSums.of(x[:3]), BandSums.of(x[3:])])
    mean, std = merged.mean_std()
    assert np.allclose(mean, x.mean(axis=(0, 2)), atol=1e-4)
    assert np.allclose(std, x.std(axis=(0, 2)), atol=1e-4)


def test_a_constant_band_does_not_divide_by_zero() -> None:
    _, std = BandSums.of(np.full((2, 4, 5), -50.0)).mean_std()
    assert (std == 1).all()


def test_what_is_not_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no features there"):
        FeatureSet.read(str(tmp_path))
    write(tmp_path)
    path = tmp_path / "features.json"
    plain = json.loads(path.read_text())
    for change, message in [
        ({"format": "other"}, "its format is 'other'"),
        ({"config_fingerprint": "0"}, "ingest the corpus again"),
        ({"bands": {"one": {}}}, "damaged"),
        ({"classes": ["b", "a"]}, "its fingerprint does not match"),
        ({"config": {}}, "another version"),
    ]:
        path.write_text(json.dumps({**plain, **change}))
        with pytest.raises(FormatError, match=message):
            FeatureSet.read(str(tmp_path))
    del plain["classes"]
    path.write_text(json.dumps(plain))
    with pytest.raises(FormatError, match="damaged"):
        FeatureSet.read(str(tmp_path))


def test_another_front_end_is_refused_with_the_options_that_differ(tmp_path: Path) -> None:
    features = write(tmp_path)
    features.require_config(CONFIG, "recipe 'x'")
    with pytest.raises(MismatchError, match=r"recipe 'x': .*n_mels 8 and not 128"):
        features.require_config(FeatureConfig(), "recipe 'x'")
    with pytest.raises(MismatchError, match="no fold 7; the folds are 1, 2"):
        features.require_folds([1, 7])
