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
from audiocnn.errors import ConfigError, FormatError
from audiocnn.features.feature_set import FeatureSet
from audiocnn.labels.label_set import limits_of, read_note
from audiocnn.model import bundle, registry
from audiocnn.model.bundle import Bundle
from audiocnn.model.resnet import AudioCNN
from helpers.common import SMALL
from helpers.kept import KEPT
from pipelines.ingest.job import _refuse_another

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


@dataclass(frozen=True, kw_only=True)
class OtherConfig(ModelConfig):
    """The options of another network."""

    heads: int = 2


class OtherNetwork(AudioCNN):
    """Another network."""


def test_a_bundle_of_another_network_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"stages": (1, 1, 1, 1), "channels": 8}
    with monkeypatch.context() as later:
        later.setitem(registry.BACKBONES, "other", (OtherConfig, OtherNetwork))
        model = registry.build(OtherConfig(heads=3, **small), SMALL.n_mels, 2).eval()
        written = Bundle(model=model, feature=SMALL, classes=("a", "b")).write(str(tmp_path))
        again = Bundle.read(str(tmp_path))
        assert type(again.model) is OtherNetwork
        assert again.model.config == OtherConfig(heads=3, **small)
        assert again.fingerprint == written.fingerprint
    with pytest.raises(FormatError, match="its architecture is 'other', which audiocnn"):
        Bundle.read(str(tmp_path))
    assert "architecture" not in registry.model_json(ModelConfig())


def test_a_part_of_a_calibration_that_is_not_known_is_refused(tmp_path: Path) -> None:
    made = shutil.copytree(NEWEST / "bundle", tmp_path / "bundle")
    plain = storage.read_json(str(made / "bundle.json"))
    plain["calibration"]["bias"] = [0.5]
    plain["fingerprint"] = bundle._fingerprint(plain)
    storage.write_json(str(made / "bundle.json"), plain)
    with pytest.raises(FormatError, match="the calibration has bias, which audiocnn"):
        Bundle.read(str(made))


def test_an_option_that_is_back_at_its_default_is_another_option(tmp_path: Path) -> None:
    """Otherwise, parts of two front ends would be in one feature set."""
    note = {"format": "audiocnn.ingest/1", "options": to_json(LaterFeatures(scale="slaney"))}
    storage.write_json(str(tmp_path / "job.json"), note)
    with pytest.raises(ConfigError, match="scale slaney and not None"):
        _refuse_another(str(tmp_path), {"job.json": note}, to_json(LaterFeatures()))
