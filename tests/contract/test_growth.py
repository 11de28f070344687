"""Formats can grow: a new option has a default, which files of earlier versions then have."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import pytest

from audiocnn import storage
from audiocnn.config import (
    AudioLimits,
    AugmentConfig,
    FeatureConfig,
    ModelConfig,
    TrainConfig,
    added,
    differences,
    from_json,
    to_json,
)
from audiocnn.errors import FormatError
from audiocnn.features.feature_set import FeatureSet
from audiocnn.labels.label_set import limits_of, read_note
from audiocnn.model import bundle
from audiocnn.model.bundle import Bundle
from helpers.kept import KEPT

CONFIGS = [AudioLimits, AugmentConfig, FeatureConfig, ModelConfig, TrainConfig]
NEWEST = max(path for path in KEPT.iterdir() if path.is_dir())


@dataclass(frozen=True, kw_only=True)
class LaterFeatures(FeatureConfig):
    """The front end of a later version."""

    scale: str = added("htk")


@dataclass(frozen=True, kw_only=True)
class LaterTraining(TrainConfig):
    """The options of a later version: a new one, and a nested config with a new one."""

    loss: str = added("cross-entropy")
    features: LaterFeatures = field(default_factory=LaterFeatures)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_option_has_a_default(config: type) -> None:
    assert from_json(config, {}) == config()
    for one in fields(config):
        plain = to_json(config())
        del plain[one.name]
        assert from_json(config, plain) == config()


def test_a_default_that_came_later_changes_no_file_and_no_fingerprint() -> None:
    before, now = FeatureConfig(n_mels=40), LaterFeatures(n_mels=40)
    assert to_json(now) == to_json(before)
    assert now.fingerprint == before.fingerprint
    assert from_json(LaterFeatures, to_json(before)) == now
    assert from_json(LaterTraining, to_json(LaterTraining())) == LaterTraining()


def test_another_value_is_kept_and_tells_features_apart() -> None:
    slaney = LaterFeatures(scale="slaney")
    assert to_json(slaney)["scale"] == "slaney"
    assert slaney.fingerprint != FeatureConfig().fingerprint
    assert from_json(LaterFeatures, to_json(slaney)) == slaney
    assert differences(asdict(slaney), asdict(LaterFeatures())) == "scale slaney and not htk"
    whole = LaterTraining(features=slaney)
    assert from_json(LaterTraining, to_json(whole)) == whole
    assert asdict(whole)["features"]["scale"] == "slaney"


@pytest.mark.parametrize(
    ("name", "where", "read"),
    [
        ("bundle", "model", Bundle.read),
        ("features", "config", FeatureSet.read),
        ("labels", "made_with", lambda folder: limits_of(read_note(folder))),
    ],
)
def test_what_a_later_version_wrote_is_refused_by_name(
    tmp_path: Path, name: str, where: str, read: Callable[[str], object]
) -> None:
    """The error names the file, the option, and the version that can read it."""
    folder = shutil.copytree(NEWEST / name, tmp_path / name)
    plain = storage.read_json(f"{folder}/{name}.json")
    plain[where]["scale"], plain["written_by"] = "slaney", "0.9.0"
    if name == "bundle":
        plain["fingerprint"] = bundle._fingerprint(plain)
    storage.write_json(f"{folder}/{name}.json", plain)
    with pytest.raises(
        FormatError, match=rf"{folder}/{name}\.json: .* has scale, .* wrote it \(0\.9\.0\)"
    ):
        read(str(folder))


def test_labels_say_what_a_recording_may_be_whenever_they_were_written() -> None:
    now, before = (read_note(str(NEWEST / "labels")) for _ in range(2))
    del before["made_with"]["max_samples"]
    assert limits_of(now) == limits_of(before) == AudioLimits()
