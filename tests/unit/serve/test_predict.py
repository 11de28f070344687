"""/v1/predict and /inference answer like the predictor, with maps and evidence, compressed."""

import base64
import gzip
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import soundfile
import torch
import zstandard

from audiocnn.audio.decode import windows
from audiocnn.audio.encode import encode
from audiocnn.corpus import synthetic
from audiocnn.model.bundle import Bundle
from audiocnn.model.calibration import Calibration
from audiocnn.model.grad_cam import grad_cam
from audiocnn.model.predictor import Predictor
from audiocnn.model.resnet import AudioCNN
from audiocnn.model.taps import Taps
from helpers.clients import Client, expand, problem
from helpers.common import SMALL
from helpers.hostile import sound
from serve.api.encoding import pick_encoding
from serve.engine.arrays import compact
from serve.engine.decoder import Decoder
from serve.engine.model import BatchingModel
from serve.engine.service import Service
from serve.options import LIMITS


@pytest.mark.parametrize("container", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("form", [False, True])
def test_answers_are_the_predictors(
    client: Client, bundle: Bundle, container: str, form: bool
) -> None:
    data = sound(container)
    if form:
        files = {"file": (f"../../<x>.{container}", data)}
        response = client().post("/v1/predict?top_k=2", files=files)
    else:
        response = client().post("/v1/predict?top_k=2", content=data)
    assert response.status_code == 200
    answer = response.json()
    predictor = Predictor(bundle)
    expected = predictor.predict(data, top_k=2)
    assert answer["bundle"] == bundle.fingerprint
    assert answer["label"] == expected.label
    assert len(answer["windows"]) == len(expected.windows) == 2
    for mine, theirs in zip(
        [answer, *answer["windows"]], [expected, *expected.windows], strict=True
    ):
        assert (mine["start_s"], mine["end_s"]) == (theirs.start_s, theirs.end_s)
        assert [p["class"] for p in mine["predictions"]] == [name for name, _ in theirs.top_k]
        np.testing.assert_allclose(
            [p["score"] for p in mine["predictions"]], [s for _, s in theirs.top_k], atol=1e-6
        )
    assert answer["recording"]["container"] == container
    assert answer["recording"]["sample_rate_hz"] == 16_000
    assert answer["recording"]["duration_s"] == pytest.approx(2.0, abs=0.1)
    assert set(answer["timings_ms"]) == {"decode", "queue", "model", "encode", "total"}


def test_the_input_is_what_the_model_saw_with_its_axes(client: Client, bundle: Bundle) -> None:
    data = sound("wav")
    answer = client().post("/v1/predict?window=1&arrays=float16", content=data).json()
    shown = answer["input"]
    window = list(windows(data, SMALL))[1]
    logmel = Predictor(bundle).features([window.samples])[0]
    np.testing.assert_array_equal(expand(shown["values"]), logmel.astype(np.float32))
    assert (shown["window"], shown["start_s"], shown["end_s"]) == (1, 1.0, 2.0)
    assert len(shown["band_hz"]) == SMALL.n_mels
    assert shown["frame_s"] == SMALL.hop_length / SMALL.sample_rate
    small = client().post("/v1/predict?window=1", content=data).json()["input"]["values"]
    step = (small["max"] - small["min"]) / 255
    np.testing.assert_allclose(expand(small), logmel, atol=0.51 * step)
    assert "input" not in client().post("/v1/predict?spectrogram=false", content=data).json()


def test_silence_is_unknown_and_is_not_what_is_looked_into(client: Client) -> None:
    sound_, silence = synthetic.sound("bell", 3, 1.0, 16_000), np.zeros(16_000)
    quiet = np.concatenate([silence, silence, sound_, silence])
    ask = client()
    answer = ask.post("/v1/predict", content=encode(quiet, 16_000)).json()
    alone = ask.post("/v1/predict", content=encode(sound_, 16_000)).json()
    assert answer["input"]["window"] == 2
    assert [one["known"] for one in answer["windows"]] == [False, False, True, False]
    assert [one["label"] for one in answer["windows"]][:2] == ["unknown", "unknown"]
    assert answer["label"] == alone["label"]
    assert answer["score"] == pytest.approx(alone["score"], abs=1e-5)
    nothing = ask.post("/v1/predict", content=encode(silence, 16_000)).json()
    assert (nothing["label"], nothing["known"], nothing["score"]) == ("unknown", False, 0.0)


def test_peaks_are_extremes_and_not_samples(client: Client) -> None:
    samples = np.zeros(32_000)
    samples[12_345], samples[20_001] = 0.9, -0.7
    data = encode(samples, 16_000)
    waveform = client().post("/v1/predict?peaks=100", content=data).json()["waveform"]
    low, high = expand(waveform["min"]), expand(waveform["max"])
    assert low.shape == high.shape == (100,)
    assert high[38] == high.max() == pytest.approx(0.9, abs=1e-3)
    assert low[62] == low.min() == pytest.approx(-0.7, abs=1e-3)
    assert np.count_nonzero(high) == np.count_nonzero(low) == 1


def test_maps_are_those_of_the_forward(client: Client, bundle: Bundle) -> None:
    data = encode(synthetic.sound("bell", 3, 0.9, 16_000), 16_000)
    (window,) = windows(data, SMALL)
    predictor = Predictor(bundle)
    logmel = torch.from_numpy(predictor.features([window.samples])).float()
    with torch.inference_mode(), Taps(bundle.model) as maps:
        bundle.model(logmel)
    ask = client()
    blocks = ask.post("/v1/predict?maps=blocks&arrays=float16", content=data).json()["maps"]
    assert set(blocks) == set(maps)
    for name, values in blocks.items():
        np.testing.assert_allclose(
            expand(values), maps[name][0].mean(0), rtol=2e-3, atol=2e-3, err_msg=name
        )
    layers = ask.post("/v1/predict?maps=layers", content=data).json()["maps"]
    assert list(layers) == ["conv1", "layer1", "layer2", "layer3", "layer4"]
    one = ask.post(
        "/v1/predict?maps=channels&layer=layer2.block1.conv&channels=2:5&arrays=float16",
        content=data,
    ).json()
    np.testing.assert_allclose(
        expand(one["maps"]["layer2.block1.conv"]),
        maps["layer2.block1.conv"][0, 2:5],
        rtol=2e-3,
        atol=2e-3,
    )
    np.testing.assert_allclose(
        expand(one["activations"]), maps["layer2.block1.conv"][0].mean((1, 2)), atol=2e-3
    )


def test_evidence_is_grad_cam_and_can_be_heard(client: Client, bundle: Bundle) -> None:
    data = encode(synthetic.sound("bell", 3, 0.9, 16_000), 16_000)
    found = client().post("/v1/predict?explain=dog&sound=true", content=data).json()["evidence"]
    (window,) = windows(data, SMALL)
    logmel = Predictor(bundle).features([window.samples])[0]
    np.testing.assert_allclose(
        expand(found["values"]), grad_cam(bundle.model, logmel, 1), atol=0.01
    )
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(found["wav"])))
    assert (len(heard), rate) == (16_000, 16_000)


def test_long_audio_by_windows_of_the_asked_length(client: Client, bundle: Bundle) -> None:
    samples = np.concatenate([synthetic.sound("bell", i, 2.0, 16_000) for i in range(5)])
    data = encode(samples, 16_000, "flac")
    answer = client().post("/v1/predict?hop_s=0.25", content=data).json()
    starts = [window["start_s"] for window in answer["windows"]]
    assert starts == [w.start_s for w in Predictor(bundle).decode(data, hop_s=0.25)]
    wide = client().post("/v1/predict?window_s=2&hop_s=2&maps=layers", content=data).json()
    assert [w["start_s"] for w in wide["windows"]] == [0, 2, 4, 6, 8]
    best = max(
        range(len(answer["windows"])),
        key=lambda i: {p["class"]: p["score"] for p in answer["windows"][i]["predictions"]}[
            answer["predictions"][0]["class"]
        ],
    )
    assert answer["input"]["window"] == best
    ask = client()
    problem(ask.post("/v1/predict?hop_s=0.001", content=data), 422, "option")
    problem(ask.post("/v1/predict?window=99", content=data), 422, "option")
    problem(ask.post("/v1/predict?window_s=0.01", content=data), 422, "option")
    refused = problem(ask.post("/v1/predict?hop_s=2", content=data), 422, "option")
    assert refused["field"] == "hop_s"
    problem(ask.post("/v1/predict?window_s=10.5&hop_s=1", content=data), 422, "option")
    whole = ask.post("/v1/predict?window_s=10&hop_s=10", content=data).json()
    assert len(whole["windows"]) == 1


def test_the_tutorials_clients_work_unchanged(client: Client, bundle: Bundle) -> None:
    stereo = np.stack([synthetic.sound("bell", 3, 1.0, 44_100)] * 2, axis=1)
    text = base64.b64encode(encode(stereo, 44_100)).decode()
    answer = client().post("/inference", json={"audio_data": text}).json()
    assert [set(p) for p in answer["predictions"]] == [{"class", "confidence"}] * 3
    shown = answer["visualization"]
    assert {"conv1", "layer4", "layer1.block0.conv", "layer1.block0.relu"} <= set(shown)
    for value in [*shown.values(), answer["input_spectrogram"]]:
        assert list(np.array(value["values"]).shape) == value["shape"]
    assert answer["input_spectrogram"]["shape"] == [SMALL.n_mels, SMALL.n_frames]
    wave = answer["waveform"]
    assert (wave["sample_rate"], wave["duration"]) == (44_100, pytest.approx(1.0, abs=0.001))
    assert 4_000 < len(wave["values"]) <= 8_000
    for body in (b"{}", b"[]", b"no json", b'{"audio_data": 1}', b'{"audio_data": "?"}'):
        problem(client().post("/inference", content=body), 400, "malformed")


def test_packed_answers_are_a_tenth_of_nested_lists(client: Client, tmp_path: Path) -> None:
    from pipelines.recipes import esc10

    recipe = esc10()
    model = AudioCNN(recipe.model, recipe.feature.n_mels, 10).eval()
    bundle = Bundle(model=model, feature=recipe.feature, classes=tuple("abcdefghij"))
    own = Service(bundle.write(str(tmp_path)), BatchingModel(bundle), Decoder(LIMITS))
    data = encode(synthetic.sound("bell", 3, 4.9, 22_050), 22_050)
    ask = client(own)
    text = {"audio_data": base64.b64encode(data).decode()}
    nested = ask.post("/inference", json=text, headers={"accept-encoding": "identity"})
    for encoding in ("gzip", "zstd"):
        asked = {"accept-encoding": encoding}
        with ask.stream("POST", "/v1/predict?maps=blocks", content=data, headers=asked) as r:
            packed = b"".join(r.iter_raw())
        assert r.headers["content-encoding"] == encoding
        unpack = gzip.decompress if encoding == "gzip" else zstandard.decompress
        assert len(orjson.loads(unpack(packed))["maps"]) == 5 + 2 * sum(recipe.model.stages)
        assert len(packed) < len(nested.content) / 10
    own.decoder.close()


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("", None), ("gzip", "gzip"), ("gzip, zstd", "zstd"), ("gzip;q=1, zstd;q=0.5", "gzip"),
        ("br", None), ("*", "zstd"), ("gzip;q=0", None), ("*;q=0", None), ("gzip;q=x", None),
    ],
)  # fmt: skip
def test_an_encoding_is_chosen_as_the_client_allows(accepted: str, chosen: str | None) -> None:
    assert pick_encoding(accepted) == chosen


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_arrays_come_back(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=(3, 4, 5)), np.full((2, 2), 7.0), np.zeros(0), np.array([1e9])):
        plain = json.loads(json.dumps(compact(values.astype(np.float32), dtype)))
        back = expand(plain)
        assert back.shape == values.shape
        if dtype == "uint8" and values.size:
            assert np.abs(back - values).max() <= (values.max() - values.min()) / 510 * 1.01 + 1e-6


def test_another_bundle_answers_beside(
    client: Client, service: Service, bundle: Bundle, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    classes = ("cat", "dog")
    model = AudioCNN(bundle.model.config, SMALL.n_mels, len(classes)).eval()
    calibration = Calibration(temperature=1.0, thresholds=(0.0, 0.0))
    written = replace(bundle, model=model, classes=classes, calibration=calibration).write(
        str(tmp_path / "other")
    )
    other = Service(written, BatchingModel(written), service.decoder)
    both, body = client(beside=other), sound("wav")
    for asked, expected in (("", bundle), ("?beside=false", bundle), ("?beside=true", written)):
        answer = both.post(f"/v1/predict{asked}", content=body).json()
        assert answer["bundle"] == expected.fingerprint
        best = Predictor(expected).predict(body)
        assert answer["predictions"][0]["class"] == best.top_k[0][0]
        assert answer["predictions"][0]["score"] == pytest.approx(best.top_k[0][1], abs=1e-5)
        card = both.get(f"/v1/model{asked}").json()
        assert card["bundle"] == expected.fingerprint
        assert card["classes"] == list(expected.classes)
        assert card["beside"] == written.fingerprint != bundle.fingerprint
    other.model.close()
    alone = client()
    assert alone.get("/v1/model").json()["beside"] is None
    problem(alone.get("/v1/model?beside=true"), 404, "not-found")
    problem(alone.post("/v1/predict?beside=true", content=body), 404, "not-found")
