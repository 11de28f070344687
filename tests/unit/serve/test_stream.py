"""Live sound over a WebSocket gets the same answers as a file with the same sound."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from audiocnn.audio.encode import encode
from audiocnn.corpus import synthetic
from audiocnn.model.bundle import Bundle
from audiocnn.model.predictor import Predictor
from helpers.clients import KEY, Client, Counted, problem, read_keys_of
from helpers.common import SMALL
from helpers.hostile import wav
from serve.api.app import make_app
from serve.engine.decoder import Decoder
from serve.engine.model import BatchingModel
from serve.engine.service import Service
from serve.options import LIMITS, MOST_OVERLAP, Serve
from serve.problems import Problem

STREAM = "ws://127.0.0.1:8000/v1/stream"


@pytest.mark.parametrize("dtype", ["s16le", "f32le"])
def test_live_sound_is_answered_as_a_file_of_it(client: Client, bundle: Bundle, dtype: str) -> None:
    samples = (synthetic.sound("bell", 5, 3.6, 16_000) * 32_767).astype("<i2")
    file = encode(samples, 16_000)
    pcm = samples if dtype == "s16le" else (samples / np.float32(32_768)).astype("<f4")
    data = pcm.tobytes()
    predictor = Predictor(bundle)
    found = [w for w in predictor.decode(file, hop_s=0.5) if w.duration_s == SMALL.window_s]
    expected = predictor.predict_windows([w.samples for w in found])
    path = f"{STREAM}?sample_rate=16000&format={dtype}&hop_s=0.5&top_k=3"
    with client().websocket_connect(path) as socket:
        for start in range(0, len(data), 3_001):  # messages end within a sample
            socket.send_bytes(data[start : start + 3_001])
        answers = [socket.receive_json() for _ in found]
    for answer, window, scores in zip(answers, found, expected, strict=True):
        assert answer["start_s"] == window.start_s
        assert answer["bundle"] == bundle.fingerprint
        mine = {p["class"]: p["score"] for p in answer["predictions"]}
        np.testing.assert_allclose([mine[name] for name in bundle.classes], scores, atol=1e-5)


def test_live_silence_is_unknown(client: Client) -> None:
    with client().websocket_connect(f"{STREAM}?sample_rate=16000") as socket:
        socket.send_bytes(bytes(2 * 16_000))
        answer = socket.receive_json()
    assert (answer["label"], answer["known"], answer["score"]) == ("unknown", False, 0.0)


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


def refused(client: TestClient, path: str, **headers: str) -> WebSocketDenialResponse:
    """Open a stream that is not accepted; return the answer."""
    with (
        pytest.raises(WebSocketDenialResponse) as denied,
        client.websocket_connect(path, headers=headers),
    ):
        pass
    return denied.value


def test_a_stream_that_is_refused_is_told_so_before_it_begins(client: Client) -> None:
    path, metrics = f"{STREAM}?sample_rate=16000", Counted()
    keys = read_keys_of(KEY)
    problem(refused(client(keys=keys, metrics=metrics), path), 401, "key")
    problem(refused(client(), path, origin="https://attacker.example"), 403, "origin")
    problem(refused(client(), "ws://127.0.0.1:8000/v1/other"), 404, "not-found")
    limited = client(keys=keys, rate=0.5)
    with limited.websocket_connect(path, headers={"x-api-key": KEY}):
        answer = refused(limited, path, **{"x-api-key": KEY})
        problem(answer, 429, "rate")
        assert answer.headers["retry-after"]

    def nothing() -> Service:
        raise Problem("not-ready", "no bundle is loaded yet")

    unready = TestClient(make_app(nothing, Serve(bundle="b"), (), metrics))
    problem(refused(unready, path), 503, "not-ready")
    assert metrics.failures == ["key", "not-ready"]
    headers = {"origin": "http://127.0.0.1:8000", "host": "127.0.0.1:8000"}
    with client().websocket_connect(path, headers=headers):
        pass


def test_idle_streams_keep_no_request_out(client: Client) -> None:
    path, metrics = f"{STREAM}?sample_rate=16000", Counted()
    ask = client(queue=1, streams=2, metrics=metrics)
    with ask.websocket_connect(path):
        with ask.websocket_connect(path):
            assert ask.post("/v1/predict", content=wav()).status_code == 200
            answer = refused(ask, path)
            problem(answer, 503, "busy")
            assert answer.headers["retry-after"] == "1"
        with ask.websocket_connect(path) as socket:  # there is room again
            socket.send_bytes(np.zeros(16_000, "<i2").tobytes())
            assert socket.receive_json()["start_s"] == 0
    assert ("/v1/stream", 101) in metrics.requests


def test_a_stream_that_trickles_is_closed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.api.stream._IDLE_S", 0.1)  # so the limit is two windows' length
    with client().websocket_connect(f"{STREAM}?sample_rate=16000") as socket:
        trickle = threading.Timer(1.0, socket.send_bytes, [b"\0\0"])
        trickle.start()
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
        trickle.cancel()
    assert closed.value.code == 1008
    assert "no window was full" in closed.value.reason


def test_forwards_are_bounded_by_the_sound(client: Client) -> None:
    least = SMALL.window_s / MOST_OVERLAP
    path = f"{STREAM}?sample_rate=16000&hop_s="
    for hop_s in (1e-7, 0.9 * least):
        with client().websocket_connect(f"{path}{hop_s}") as socket:
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_json()
            assert closed.value.code == 1008
            assert f"at least {least:g}" in closed.value.reason
    seconds, metrics = 2, Counted()
    with client(metrics=metrics).websocket_connect(f"{path}{least}") as socket:
        socket.send_bytes(np.zeros(seconds * 16_000, "<i2").tobytes())
        answers = [socket.receive_json() for _ in range(MOST_OVERLAP + 1)]
    assert answers[-1]["end_s"] == seconds  # the last window ends with the sound


def test_sound_that_comes_faster_than_it_is_answered_is_not_kept(
    client: Client, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(BatchingModel):
        async def infer(self, samples: Any, wanted: Any) -> Any:
            await asyncio.Event().wait()

    monkeypatch.setattr("serve.api.stream._MOST_AHEAD", 3 << 20)
    own = Service(bundle, Slow(bundle), Decoder(LIMITS))
    with client(own).websocket_connect(f"{STREAM}?sample_rate=16000") as socket:
        for _ in range(5):
            socket.send_bytes(b"\0" * (1 << 20))
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == 1008
    assert "faster" in closed.value.reason
    own.model.close()
    own.decoder.close()
