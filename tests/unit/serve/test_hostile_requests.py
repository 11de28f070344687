"""A hostile recording, body or option gets a 4xx answer and harms no other request."""

import asyncio
import gzip
import io
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiocnn.errors import AudioError, InstallationError
from audiocnn.model.bundle import Bundle
from helpers import deadly
from helpers.clients import Client, problem
from helpers.hostile import HOSTILE, TOLERATED, silence, sound, wav
from serve.engine.decoder import Decoder
from serve.engine.model import BatchingModel
from serve.engine.service import Service
from serve.options import LIMITS

STATUS = {"unrecognised": 415, "too_long": 413}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_recording_gets_its_4xx(client: Client, name: str) -> None:
    data, reasons = HOSTILE[name]
    response = client().post("/v1/predict", content=data)
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
    decoder = Decoder(LIMITS, timeout_s=2.0 if kind == "hang" else 600.0)

    async def run() -> None:
        with pytest.raises(AudioError) as caught:
            await decoder.decode(deadly.wav(kind, "FLOAT"), 16_000)
        assert caught.value.reason == "crashed"
        assert "\n" not in str(caught.value)
        decoder.timeout_s = 600.0  # enough for the next one, on a slow machine too
        _, samples = await decoder.decode(sound("flac"), 16_000)
        assert len(samples) == 32_000

    asyncio.run(run())
    decoder.close()


def test_a_decoder_that_does_not_start_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "soundfile.py").write_text("raise MemoryError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    decoder = Decoder(LIMITS, timeout_s=600.0)

    with pytest.raises(InstallationError, match="as it started"):
        asyncio.run(decoder.decode(sound("flac"), 16_000))
    monkeypatch.undo()
    _, samples = asyncio.run(decoder.decode(sound("flac"), 16_000))
    assert len(samples) == 32_000
    decoder.close()


def test_a_decoder_that_does_not_start_is_no_fault_of_the_recording(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    (tmp_path / "soundfile.py").write_text("raise MemoryError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = Service(bundle, BatchingModel(bundle), Decoder(LIMITS))
    monkeypatch.undo()
    ask = client(own)
    refused = ask.post("/v1/predict", content=sound("flac"))
    problem(refused, 503, "not-ready")
    assert refused.headers["retry-after"]
    assert ask.post("/v1/predict", content=sound("flac")).status_code == 200
    own.decoder.close()


def test_memory_stays_flat_under_hostile_requests(client: Client) -> None:
    ask = client()
    bodies = [data for data, _ in HOSTILE.values() if data]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in bodies:
        ask.post("/v1/predict", content=data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10


def test_bodies_that_are_no_recording(client: Client) -> None:
    ask = client()
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
