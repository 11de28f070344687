import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from audiocnn.audio.encode import encode
from audiocnn.config import ModelConfig, content_fingerprint
from audiocnn.corpus import synthetic
from audiocnn.errors import AudioError, FormatError, MismatchError, StorageError
from audiocnn.model import bundle as bundle_module
from audiocnn.model.bundle import Bundle
from audiocnn.model.predictor import Predictor
from audiocnn.model.resnet import AudioCNN
from helpers.common import SMALL

CLASSES = ("bell", "siren", "thuds")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    torch.manual_seed(0)
    model = AudioCNN(ModelConfig(stages=(1, 1, 1, 1), channels=4), SMALL.n_mels, len(CLASSES))
    model.mean += -20
    made = Bundle(model=model.eval(), feature=SMALL, classes=CLASSES, metrics={"epochs": 1})
    return made.write(str(tmp_path / "bundle"))


def siren(seconds: float = 2.5, rate: int = 44_100) -> bytes:
    return encode(synthetic.sound("siren", 3, seconds, rate), rate, "flac")


def test_a_bundle_read_back_predicts_the_same(tmp_path: Path, bundle: Bundle) -> None:
    read = Bundle.read(str(tmp_path / "bundle"))
    assert (read.feature, read.classes, read.fingerprint) == (SMALL, CLASSES, bundle.fingerprint)
    assert read.metrics == {"epochs": 1}
    assert Predictor(read).predict(siren()) == Predictor(bundle).predict(siren())


def test_the_fingerprint_follows_content_and_not_place_or_time(
    tmp_path: Path, bundle: Bundle
) -> None:
    assert Bundle(**vars(bundle)).write(str(tmp_path / "copy")).fingerprint == bundle.fingerprint
    bundle.model.fc.bias.data += 1e-3
    assert Bundle(**vars(bundle)).write(str(tmp_path / "b")).fingerprint != bundle.fingerprint
    renamed = Bundle(**{**vars(bundle), "classes": ("siren", "bell", "thuds")})
    assert renamed.write(str(tmp_path / "c")).fingerprint != bundle.fingerprint


def test_scores_of_a_recording(bundle: Bundle) -> None:
    prediction = Predictor(bundle).predict(siren(), top_k=3)
    assert sorted(name for name, _ in prediction.top_k) == sorted(CLASSES)
    assert sum(score for _, score in prediction.top_k) == pytest.approx(1, abs=1e-5)
    assert [(w.start_s, w.end_s) for w in prediction.windows] == [(0, 1), (1, 2), (2, 2.5)]
    weights = np.array([1, 1, 0.5])
    best = [dict(w.top_k)[prediction.label] for w in prediction.windows]
    assert prediction.score == pytest.approx(float(weights @ best / weights.sum()), abs=1e-5)
    assert prediction.bundle == bundle.fingerprint
    assert [score for _, score in prediction.top_k] == sorted(
        (score for _, score in prediction.top_k), reverse=True
    )


def test_batches_do_not_change_scores(bundle: Bundle) -> None:
    predictor = Predictor(bundle)
    samples = [w.samples for w in predictor.decode(siren(7.0))]
    together = predictor.predict_windows(samples)
    apart = np.concatenate([predictor.predict_windows([s]) for s in samples])
    assert np.abs(together - apart).max() < 1e-5


def test_a_path_or_bytes(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "siren #1.flac").write_bytes(siren())
    predictor = Predictor.load(str(tmp_path / "bundle"))
    assert predictor.predict(str(tmp_path / "siren #1.flac")) == predictor.predict(siren())
    with pytest.raises(AudioError):
        predictor.predict(b"")
    with pytest.raises(StorageError, match="not found"):
        predictor.predict(str(tmp_path / "absent.wav"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_bundles_that_are_not_ours_are_refused_in_one_line(tmp_path: Path, bundle: Bundle) -> None:
    folder = tmp_path / "bundle"
    with pytest.raises(StorageError, match="no bundle there"):
        Bundle.read(str(tmp_path))
    original = (folder / "bundle.json").read_text()
    for changes, message in [
        ({"format": "audiocnn.bundle/99"}, "audiocnn.bundle/99.*reads 'audiocnn.bundle/1'"),
        ({"feature": {"n_mels": 64}}, "the bundle was changed"),
        ({"classes": ["siren", "bell", "thuds"]}, "the bundle was changed"),
    ]:
        edit(folder / "bundle.json", **changes)
        with pytest.raises(FormatError, match=message) as caught:
            Bundle.read(str(folder))
        assert "\n" not in str(caught.value)
        (folder / "bundle.json").write_text(original)
    (folder / "bundle.json").write_text("{")
    with pytest.raises(FormatError, match="not JSON"):
        Bundle.read(str(folder))


def test_an_edited_bundle_with_a_fitting_fingerprint_is_still_checked(
    tmp_path: Path, bundle: Bundle
) -> None:
    path = tmp_path / "bundle" / "bundle.json"
    original = json.loads(path.read_text())
    for changes, message in [
        ({"feature": {"n_mels": 64}}, "damaged"),
        ({"model": {**original["model"], "stages": [9, 9, 9, 9]}}, "damaged"),
        ({"feature_fingerprint": "0"}, "front end"),
        ({"classes": ["a"]}, "damaged"),
    ]:
        plain = {**original, **changes}
        decides = {name: plain[name] for name in bundle_module._DECIDES}
        plain["fingerprint"] = content_fingerprint(decides)
        path.write_text(json.dumps(plain))
        with pytest.raises(FormatError, match=message) as caught:
            Bundle.read(str(tmp_path / "bundle"))
        assert "\n" not in str(caught.value)
    for name in ("metrics", "fingerprint"):
        path.write_text(json.dumps({k: v for k, v in original.items() if k != name}))
        with pytest.raises(FormatError, match=f"no {name}"):
            Bundle.read(str(tmp_path / "bundle"))


def test_weights_that_are_not_the_named_ones_are_never_loaded(
    tmp_path: Path, bundle: Bundle
) -> None:
    weights = tmp_path / "bundle" / "model.safetensors"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    weights.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(FormatError, match=r"does not match bundle\.json"):
        Bundle.read(str(tmp_path / "bundle"))
    assert not (tmp_path / "sprung").exists()


def test_another_bundle_than_the_one_that_is_meant_is_refused(
    tmp_path: Path, bundle: Bundle
) -> None:
    uri = str(tmp_path / "bundle")
    assert Bundle.read(uri, bundle.fingerprint).fingerprint == bundle.fingerprint
    with pytest.raises(MismatchError, match=rf"now bundle {bundle.fingerprint}, .*f00d"):
        Bundle.read(uri, "f00d")
    with pytest.raises(MismatchError, match="f00d"):
        Predictor.load(uri, fingerprint="f00d")
