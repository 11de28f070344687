"""What the endpoint answers, without Ray: the routes, the gate, and what a request cannot do."""

import asyncio
import base64
import gzip
import io
import json
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import soundfile
import torch
import zstandard
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from audiocnn import synthetic
from audiocnn.audio import windows
from audiocnn.bundle import Bundle
from audiocnn.calibration import Calibration
from audiocnn.config import ModelConfig
from audiocnn.errors import AudioError, ConfigError, InstallationError
from audiocnn.explain import grad_cam
from audiocnn.model import AudioCNN, Taps
from audiocnn.predictor import Predictor
from helpers import deadly
from helpers.common import ROOT, SMALL
from helpers.hostile import HOSTILE, TOLERATED, silence, sound, wav
from serve.arrays import compact, expand
from serve.configfile import read_args, write_config
from serve.decoder import Decoder
from serve.encoding import choose
from serve.gate import Gate, Rate
from serve.http import make_app
from serve.keys import read_keys
from serve.meters import Meters
from serve.model import LocalModel, Wanted
from serve.options import LIMITS, Serve
from serve.problems import KINDS, Problem
from serve.run import check, fit
from serve.service import Service

KEY = "a key that nobody would guess".replace(" ", "-")


class Counted(Meters):
    def __init__(self) -> None:
        self.requests: list[tuple[str, int]] = []
        self.failures: list[str] = []
        self.batches: list[int] = []
        self.count = 0

    def request(self, route: str, status: int, seconds: float) -> None:
        self.requests.append((route, status))

    def failure(self, reason: str) -> None:
        self.failures.append(reason)

    def windows(self, count: int) -> None:
        self.count += count

    def batch(self, size: int, queued_s: float, computed_s: float) -> None:
        self.batches.append(size)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    config = ModelConfig(stages=(1, 2, 1, 1), channels=8)
    return Bundle(
        model=AudioCNN(config, SMALL.n_mels, 3).eval(),
        feature=SMALL,
        classes=("<b>bell</b>", "dog", "rain"),
        calibration=Calibration(temperature=0.5, thresholds=(0.0, 0.0, 0.0)),
    ).write(str(tmp_path_factory.mktemp("bundle") / "b"))


@pytest.fixture(scope="module")
def service(bundle: Bundle) -> Iterator[Service]:
    decoder = Decoder(LIMITS)
    model = LocalModel(bundle)
    yield Service(bundle, model, decoder)
    model.close()
    decoder.close()


Client = Callable[..., TestClient]
STREAM = "ws://127.0.0.1:8000/v1/stream"


@pytest.fixture
def client(service: Service) -> Client:
    """A function that makes a client of the endpoint with these options."""

    def make(
        service: Service = service,
        keys: tuple[str, ...] = (),
        meters: Meters | None = None,
        base: str = "http://127.0.0.1:8000",
        beside: Service | None = None,
        **options: Any,
    ) -> TestClient:
        other = (lambda: beside) if beside is not None else None
        app = make_app(lambda: service, Serve(bundle="b", **options), keys, meters, beside=other)
        return TestClient(app, base_url=base, raise_server_exceptions=False)

    return make


def problem(response: Any, status: int, name: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"/problems/{name}"
    assert body["status"] == status == KINDS[name].status
    assert body["title"] == KINDS[name].title
    return body


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


def test_peaks_are_extremes_and_not_samples(client: Client) -> None:
    samples = np.zeros(32_000)
    samples[12_345], samples[20_001] = 0.9, -0.7
    data = synthetic.encode(samples, 16_000)
    waveform = client().post("/v1/predict?peaks=100", content=data).json()["waveform"]
    low, high = expand(waveform["min"]), expand(waveform["max"])
    assert low.shape == high.shape == (100,)
    assert high[38] == high.max() == pytest.approx(0.9, abs=1e-3)
    assert low[62] == low.min() == pytest.approx(-0.7, abs=1e-3)
    assert np.count_nonzero(high) == np.count_nonzero(low) == 1


def test_maps_are_those_of_the_forward(client: Client, bundle: Bundle) -> None:
    data = synthetic.encode(synthetic.sound("bell", 3, 0.9, 16_000), 16_000)
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
    data = synthetic.encode(synthetic.sound("bell", 3, 0.9, 16_000), 16_000)
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
    data = synthetic.encode(samples, 16_000, "flac")
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
    problem(ask.post("/v1/predict?hop_s=2", content=data), 422, "option")
    problem(ask.post("/v1/predict?window_s=10.5&hop_s=1", content=data), 422, "option")
    whole = ask.post("/v1/predict?window_s=10&hop_s=10", content=data).json()
    assert len(whole["windows"]) == 1


def test_the_tutorials_clients_work_unchanged(client: Client, bundle: Bundle) -> None:
    stereo = np.stack([synthetic.sound("bell", 3, 1.0, 44_100)] * 2, axis=1)
    text = base64.b64encode(synthetic.encode(stereo, 44_100)).decode()
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
    own = Service(bundle.write(str(tmp_path)), LocalModel(bundle), Decoder(LIMITS))
    data = synthetic.encode(synthetic.sound("bell", 3, 4.9, 22_050), 22_050)
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
    assert choose(accepted) == chosen


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_arrays_come_back(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=(3, 4, 5)), np.full((2, 2), 7.0), np.zeros(0), np.array([1e9])):
        plain = json.loads(json.dumps(compact(values.astype(np.float32), dtype)))
        back = expand(plain)
        assert back.shape == values.shape
        if dtype == "uint8" and values.size:
            assert np.abs(back - values).max() <= (values.max() - values.min()) / 510 * 1.01 + 1e-6


STATUS = {"unrecognised": 415, "too_long": 413}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_recording_gets_its_4xx(client: Client, name: str) -> None:
    data, reasons = HOSTILE[name]
    began = time.monotonic()
    response = client().post("/v1/predict", content=data)
    assert time.monotonic() - began < 5
    body = response.json()
    if data:
        assert body["reason"] in reasons.split("|")
        assert response.status_code == STATUS.get(body["reason"], 422)
    else:
        problem(response, 400, "empty")


@pytest.mark.parametrize("name", TOLERATED)
def test_an_odd_recording_is_answered(client: Client, name: str) -> None:
    response = client().post("/v1/predict?maps=blocks", content=TOLERATED[name])
    assert response.status_code == 200
    assert all(0 <= p["score"] <= 1 for p in response.json()["predictions"])


def test_a_small_file_that_unpacks_to_much_is_refused(client: Client) -> None:
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 192_000, 8, format="FLAC") as file:
        for _ in range(60):
            file.write(np.zeros((192_000, 8), np.int16))
    assert len(buffer.getvalue()) < 200_000
    body = problem(client().post("/v1/predict", content=buffer.getvalue()), 413, "too-long")
    assert body["reason"] == "too_long"
    problem(client().post("/v1/predict", content=silence(3_600, "FLAC")), 413, "too-long")


@pytest.mark.parametrize("kind", deadly.MARKS)
def test_what_kills_its_decoder_costs_itself_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(deadly.hole(tmp_path / "hole"))
    decoder = Decoder(LIMITS, timeout_s=2.0)

    async def run() -> None:
        with pytest.raises(AudioError) as caught:
            await decoder.decode(deadly.wav(kind, "FLOAT"), 16_000)
        assert caught.value.reason == "crashed"
        assert "\n" not in str(caught.value)
        _, samples = await decoder.decode(sound("flac"), 16_000)
        assert len(samples) == 32_000

    asyncio.run(run())
    decoder.close()


def test_a_decoder_that_does_not_start_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "soundfile.py").write_text("raise MemoryError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    decoder = Decoder(LIMITS, timeout_s=2.0)

    with pytest.raises(InstallationError, match="as it started"):
        asyncio.run(decoder.decode(sound("flac"), 16_000))
    monkeypatch.undo()
    with pytest.raises(InstallationError, match="as it started"):  # begun before it was mended
        asyncio.run(decoder.decode(sound("flac"), 16_000))
    _, samples = asyncio.run(decoder.decode(sound("flac"), 16_000))
    assert len(samples) == 32_000
    decoder.close()


def test_memory_stays_flat_under_hostile_requests(client: Client) -> None:
    ask = client()
    bodies = [data for data, _ in HOSTILE.values() if data]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in bodies:
        ask.post("/v1/predict", content=data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10


def test_bodies_that_are_no_recording(client: Client) -> None:
    ask = client(upload_timeout_s=0.5)
    problem(ask.post("/v1/predict"), 400, "empty")
    large = wav(b"\0\0" * (10 << 20), rate=44_100)
    assert ask.post("/v1/predict?spectrogram=false", content=large).status_code == 200
    problem(ask.post("/v1/predict", content=b"x" * (33 << 20)), 413, "too-large")

    packed = {"content-encoding": "gzip"}
    squeezed = gzip.compress(wav())
    problem(ask.post("/v1/predict", content=squeezed, headers=packed), 415, "not-audio")
    forms: list[dict[str, Any]] = [
        {"other": ("a.wav", wav())},
        {f"file{i}": ("a.wav", b"") for i in range(1_000)},
    ]
    for files in forms:
        problem(ask.post("/v1/predict", files=files), 400, "malformed")
    problem(ask.post("/v1/predict", files={"file": (None, wav())}), 400, "malformed")
    problem(ask.post("/v1/predict", data={"url": "http://169.254.169.254"}), 415, "not-audio")
    broken = {"content-type": "multipart/form-data"}
    problem(ask.post("/v1/predict", content=b"x", headers=broken), 400, "malformed")
    broken = {"content-type": "multipart/form-data; boundary=x"}
    problem(ask.post("/v1/predict", content=b"no form", headers=broken), 400, "malformed")


@pytest.mark.parametrize(
    "query",
    [
        "top_k=0", "top_k=x", "maps=all", "maps=channels&layer=none", "channels=5:2", "url=http://x",
        "channels=a", "explain=cat", "sound=true", "hop_s=nan", "hop_s=-1", "window_s=inf",
        "peaks=0", "arrays=float64", "window=-1",
    ],
)  # fmt: skip
def test_a_bad_option_is_named(client: Client, query: str) -> None:
    body = problem(client().post(f"/v1/predict?{query}", content=sound("wav")), 422, "option")
    assert body["detail"]
    assert "Traceback" not in body["detail"]


def test_every_problem_has_its_page_and_is_in_the_docs(client: Client) -> None:
    ask = client()
    docs = (ROOT / "docs" / "serving.md").read_text()
    for name, kind in KINDS.items():
        page = ask.get(f"/problems/{name}")
        assert page.status_code == 200
        assert kind.title in page.text
        assert f"`{name}`" in docs
    problem(ask.get("/problems/other"), 404, "not-found")
    problem(ask.get("/static/../../etc/passwd"), 404, "not-found")
    problem(ask.get("/%2e%2e/%2e%2e/etc/passwd"), 404, "not-found")
    problem(ask.get("/v1/predict"), 405, "method")


def test_health_card_and_documents(client: Client, bundle: Bundle) -> None:
    ask = client(keys=read_keys_of(KEY))
    assert ask.get("/healthz").json() == {"status": "ok", "bundle": bundle.fingerprint}
    assert ask.get("/readyz").status_code == 200
    document = ask.get("/openapi.json").json()
    assert {"/v1/predict", "/inference", "/v1/model", "/healthz"} <= set(document["paths"])
    assert document["security"] == [{"bearer": []}, {"key": []}]
    page = ask.get("/docs")
    assert "/v1/predict" in page.text
    assert "src=" not in page.text
    assert "https://" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in page.text
    card = ask.get("/v1/model", headers={"x-api-key": KEY}).json()
    assert card["classes"] == list(bundle.classes)
    assert card["feature"]["n_mels"] == SMALL.n_mels
    assert card["maps"][:2] == ["conv1", "layer1"]


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
    other = Service(written, LocalModel(written), service.decoder)
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


def read_keys_of(*keys: str) -> tuple[str, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUDIOCNN_API_KEYS", ",".join(keys))
        return read_keys(None)


def test_keys(client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = read_keys_of(KEY, "b" * 20)
    assert KEY not in str(keys)
    ask = client(keys=keys)
    for headers in (
        {},
        {"x-api-key": ""},
        {"x-api-key": KEY[:-1]},
        {"x-api-key": KEY + "x"},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"x-api-key": b"\xff"},
    ):
        refused = ask.post("/v1/predict", content=wav(), headers=headers)
        problem(refused, 401, "key")
        assert refused.headers["www-authenticate"] == "Bearer"
    for headers in ({"x-api-key": KEY}, {"authorization": f"bearer {'b' * 20}"}):
        assert ask.post("/v1/predict", content=wav(), headers=headers).status_code == 200
    assert KEY not in caplog.text
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n\n")
    assert read_keys(str(file)) == read_keys_of(KEY)
    for text, message in [("", "no key in it"), ("short\n", "key 1 needs"), (None, "No such file")]:
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_keys(str(file))


def test_pages_of_other_sites_cannot_ask(client: Client) -> None:
    local = client(base="http://attacker.example")
    problem(local.post("/v1/predict", content=wav()), 403, "origin")
    there = {"origin": "https://attacker.example", "content-type": "text/plain"}
    problem(client().post("/v1/predict", content=wav(), headers=there), 403, "origin")
    for origin, host in [
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://localhost", "localhost"),
        ("https://localhost", "localhost:443"),
    ]:
        here = {"origin": origin, "host": host}
        assert client().post("/v1/predict", content=wav(), headers=here).status_code == 200
    with_keys = client(base="http://our.example", keys=read_keys_of(KEY))
    assert with_keys.get("/v1/model", headers={"x-api-key": KEY}).status_code == 200
    plain = client().get("/v1/model", headers={"origin": "https://example.org"})
    assert "access-control-allow-origin" not in plain.headers
    allowed = client(cors=("https://example.org",), keys=read_keys_of(KEY))
    headers = {"origin": "https://example.org", "access-control-request-method": "POST"}
    preflight = allowed.options("/v1/predict", headers=headers)
    assert preflight.headers["access-control-allow-origin"] == "https://example.org"
    refused = allowed.post("/v1/predict", content=wav(), headers={"origin": headers["origin"]})
    problem(refused, 401, "key")
    assert refused.headers["access-control-allow-origin"] == "https://example.org"
    other = allowed.get("/healthz", headers={"origin": "https://other.example"})
    assert "access-control-allow-origin" not in other.headers


def test_rate_is_by_key(client: Client) -> None:
    ask = client(keys=read_keys_of(KEY, "b" * 20), rate=0.5)
    mine, theirs = {"x-api-key": KEY}, {"x-api-key": "b" * 20}
    assert ask.get("/v1/model", headers=mine).status_code == 200
    limited = ask.get("/v1/model", headers=mine)
    problem(limited, 429, "rate")
    assert 1 <= int(limited.headers["retry-after"]) <= 2
    assert ask.get("/v1/model", headers=theirs).status_code == 200


def test_a_config_file_needs_no_key_here_and_says_what_differs(
    bundle: Bundle, tmp_path: Path
) -> None:
    bundle.write(str(tmp_path / "b"))
    limits = replace(LIMITS, max_bytes=1 << 20)
    options = Serve(
        bundle=str(tmp_path / "b"), host="0.0.0.0", port=9_000, queue=8, replicas=(1, 4),
        keys="on/the/cluster", limits=limits, config=str(tmp_path / "app.json"),
    )  # fmt: skip
    assert check(options) == ()
    config = json.loads(Path(write_config(options)).read_text())
    assert config["http_options"] == {"host": "0.0.0.0", "port": 9_000}
    (application,) = config["applications"]
    assert application["args"] == {
        "bundle": str(tmp_path / "b"), "keys": "on/the/cluster", "replicas": [1, 4], "queue": 8,
        "limits": {"max_bytes": 1 << 20},
    }  # fmt: skip
    (endpoint,) = application["deployments"]
    assert endpoint == {"name": "Endpoint", "user_config": {"bundle": str(tmp_path / "b")}}
    with pytest.raises(ConfigError, match="--config /no/where: No such file"):
        write_config(replace(options, config="/no/where"))
    args = {**application["args"], "open": True, "keys": None}
    read, keys = read_args(args)
    assert read == replace(options, port=8_000, keys=None, config=None)
    assert keys == ()
    for bad, message in [
        ({**args, "open": False}, "no keys; set AUDIOCNN_API_KEYS"),
        ({**args, "nothing": 1}, "no option nothing"),
        ({"open": True}, "no bundle"),
    ]:
        with pytest.raises(ConfigError, match=message):
            read_args(bad)


def test_copies_are_as_many_as_there_is_room_for() -> None:
    assert fit(Serve(bundle="b"), 4, 0).replicas == (4, 4)
    assert fit(Serve(bundle="b", gpu=0.25), 4, 2).replicas == (8, 8)
    assert fit(Serve(bundle="b", replicas=(0, 9)), 4, 0).replicas == (0, 9)
    for options in (Serve(bundle="b", replicas=5), Serve(bundle="b", gpu=1.0)):
        with pytest.raises(ConfigError, match="at most, each copy takes"):
            fit(options, 4, 0)


def test_a_bucket_fills_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("serve.gate.monotonic", lambda: now[0])
    rate = Rate(2.0)
    for _ in range(4):
        rate.take("a")
    with pytest.raises(Problem):
        rate.take("a")
    now[0] += 0.5
    rate.take("a")
    with pytest.raises(Problem):
        rate.take("a")


async def exchanged(
    app: Any, messages: list[dict[str, Any] | float], path: str = "/v1/predict", **headers: str
) -> tuple[int, dict[str, str], dict[str, Any]]:
    """One raw exchange; a number among the messages is a pause of so many seconds."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        while messages:
            message = messages.pop(0)
            if not isinstance(message, float):
                return message
            await asyncio.sleep(message)
        await asyncio.sleep(3_600)
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = {"host": "127.0.0.1", **headers}
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": b"", "scheme": "http", "http_version": "1.1", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip
    await app(scope, receive, send)
    answer = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], answer, orjson.loads(sent[1]["body"])


def part(data: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


async def test_app(scope: Any, receive: Any, send: Any) -> None:
    """An application that takes as long as its body says, in seconds."""
    message = await receive()
    await asyncio.sleep(float(message["body"]))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


test_app.__test__ = False  # type: ignore[attr-defined]


def test_slow_requests_and_slow_answers_end() -> None:
    options = Serve(bundle="b", upload_timeout_s=0.2, timeout_s=0.3, queue=2)
    meters = Counted()
    gate = Gate(test_app, options, (), meters)

    async def run() -> None:
        slow: list[Any] = [part(b"0", more=True), 1.0, part(b"", more=False)]
        status, headers, body = await exchanged(gate, slow)
        assert (status, body["type"]) == (408, "/problems/slow-upload")
        assert headers["connection"] == "close"
        status, _, body = await exchanged(
            gate, [part(b"5", more=False)], **{"x-request-timeout-seconds": "0"}
        )
        assert (status, body["type"]) == (504, "/problems/slow-answer")
        gone: list[Any] = [part(b"0", more=True), {"type": "http.disconnect"}]
        status, _, body = await exchanged(gate, gone)
        assert status == 400
        assert gate._held == 0
        assert gate.admission.count == 0

    asyncio.run(run())
    assert meters.failures == ["slow-upload", "slow-answer", "malformed"]


def test_a_body_that_never_ends_is_refused_in_time() -> None:
    gate = Gate(test_app, Serve(bundle="b"), ())
    taken = 0

    class Endless(list[Any]):
        def pop(self, _: Any = 0) -> Any:
            nonlocal taken
            taken += 1
            return part(b"\0" * (1 << 20), more=True)

    status, headers, body = asyncio.run(exchanged(gate, Endless([0])))
    assert (status, body["type"]) == (413, "/problems/too-large")
    assert headers["connection"] == "close"
    assert taken <= 34
    assert gate._held == 0


def test_what_is_too_much_is_told_at_once_to_come_again() -> None:
    gate = Gate(test_app, Serve(bundle="b", queue=2), ())

    async def run() -> None:
        async def ask() -> tuple[int, dict[str, str], dict[str, Any]]:
            return await exchanged(gate, [part(b"0.5", more=False)])

        answers = await asyncio.gather(*(ask() for _ in range(10)))
        assert sorted(status for status, _, _ in answers) == [200] * 2 + [503] * 8
        busy = next(answer for answer in answers if answer[0] == 503)
        assert busy[1]["retry-after"] == "1"
        assert busy[2]["type"] == "/problems/busy"

    asyncio.run(run())


def test_an_answer_that_fails_is_one_problem_and_says_nothing_of_the_inside(
    client: Client, bundle: Bundle
) -> None:
    class Broken(LocalModel):
        async def infer(self, samples: Any, wanted: Any) -> Any:
            raise RuntimeError("secret path /home/x")

    own = Service(bundle, Broken(bundle), Decoder(LIMITS))
    meters = Counted()
    response = client(own, meters=meters).post("/v1/predict", content=wav())
    problem(response, 500, "internal")
    assert "secret" not in response.text
    assert meters.failures == ["internal"]
    own.decoder.close()


def test_meters_count_requests_windows_and_reasons(client: Client, bundle: Bundle) -> None:
    meters = Counted()
    own = Service(bundle, LocalModel(bundle, meters=meters), Decoder(LIMITS))
    ask = client(own, meters=meters)
    ask.post("/v1/predict", content=sound("wav"))
    ask.post("/v1/predict", content=b"x")
    ask.get("/nothing")
    assert meters.requests == [("/v1/predict", 200), ("/v1/predict", 415), ("other", 404)]
    assert meters.failures == ["not-audio", "not-found"]
    assert meters.count == 2
    assert sum(meters.batches) == 3  # two windows, and one of them once more for its spectrogram
    own.decoder.close()


def test_longer_windows_share_a_forward_by_fewer(bundle: Bundle) -> None:
    meters = Counted()
    model = LocalModel(bundle, meters=meters)

    async def run() -> None:
        windows = [np.zeros(8 * bundle.feature.window_samples, np.float32)] * 12
        await asyncio.gather(*(model.infer(one, Wanted()) for one in windows))

    asyncio.run(run())
    assert sum(meters.batches) == 12
    assert max(meters.batches) == 2  # 16 of the trained length
    model.close()


def test_windows_of_different_requests_share_a_forward(bundle: Bundle) -> None:
    meters = Counted()
    model = LocalModel(bundle, meters=meters)
    service = Service(bundle, model, Decoder(LIMITS))

    async def run() -> list[dict[str, Any]]:
        asked = [service.tutorial(sound("wav")) for _ in range(6)]
        return await asyncio.gather(*asked)

    answers = asyncio.run(run())
    for answer in answers:
        np.testing.assert_allclose(
            [p["confidence"] for p in answer["predictions"]],
            [p["confidence"] for p in answers[0]["predictions"]],
            atol=1e-6,
        )
    assert max(meters.batches) > 2
    assert sum(meters.batches) >= 18
    model.close()
    service.decoder.close()


@pytest.mark.parametrize("dtype", ["s16le", "f32le"])
def test_live_sound_is_answered_as_a_file_of_it(client: Client, bundle: Bundle, dtype: str) -> None:
    samples = (synthetic.sound("bell", 5, 3.6, 16_000) * 32_767).astype("<i2")
    file = synthetic.encode(samples, 16_000)
    pcm = samples if dtype == "s16le" else (samples / np.float32(32_768)).astype("<f4")
    data = pcm.tobytes()
    predictor = Predictor(bundle)
    found = [w for w in predictor.decode(file, hop_s=0.5) if w.duration_s == SMALL.window_s]
    expected = predictor.predict_windows([w.samples for w in found])
    path = f"{STREAM}?sample_rate=16000&format={dtype}&hop_s=0.5&top_k=3"
    with client().websocket_connect(path) as socket:
        for start in range(0, len(data), 3_001):  # samples are cut in the middle
            socket.send_bytes(data[start : start + 3_001])
        answers = [socket.receive_json() for _ in found]
    for answer, window, scores in zip(answers, found, expected, strict=True):
        assert answer["start_s"] == window.start_s
        assert answer["bundle"] == bundle.fingerprint
        mine = {p["class"]: p["score"] for p in answer["predictions"]}
        np.testing.assert_allclose([mine[name] for name in bundle.classes], scores, atol=1e-5)


@pytest.mark.parametrize(
    ("query", "message", "code"),
    [
        ("sample_rate=1", None, 1008),
        ("", None, 1008),
        ("sample_rate=16000&format=mp3", None, 1008),
        ("sample_rate=16000&hop_s=5", None, 1008),
        ("sample_rate=16000&format=f32le", np.full(9, np.nan, "<f4").tobytes(), 1007),
        ("sample_rate=16000", b"\0" * (2 << 20), 1007),
    ],
    ids=["rate", "nothing", "format", "hop", "nan", "large"],
)
def test_a_bad_stream_is_closed_with_its_reason(
    client: Client, query: str, message: bytes | None, code: int
) -> None:
    with client().websocket_connect(f"{STREAM}?{query}") as socket:
        if message is not None:
            socket.send_bytes(message)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == code
    assert closed.value.reason


def test_a_stream_ends_when_another_bundle_rolls_in(service: Service, bundle: Bundle) -> None:
    answering = [service]
    app = make_app(lambda: answering[0], Serve(bundle="b"), ())
    second = np.zeros(16_000, "<i2").tobytes()
    with TestClient(app).websocket_connect(f"{STREAM}?sample_rate=16000") as socket:
        socket.send_bytes(second)
        assert socket.receive_json()["start_s"] == 0
        answering[0] = Service(bundle, service.model, service.decoder)
        socket.send_bytes(second)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == 1012


def test_a_stream_needs_a_key_and_a_page_of_ours(client: Client) -> None:
    path = f"{STREAM}?sample_rate=16000"
    with (
        pytest.raises(WebSocketDisconnect),
        client(keys=read_keys_of(KEY)).websocket_connect(path),
    ):
        pass
    headers = {"origin": "https://attacker.example"}
    with pytest.raises(WebSocketDisconnect), client().websocket_connect(path, headers=headers):
        pass
    headers = {"origin": "http://127.0.0.1:8000", "host": "127.0.0.1:8000"}
    with client().websocket_connect(path, headers=headers):
        pass
