"""Live sound over a WebSocket is answered as a file of it is."""

import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from audiocnn import synthetic
from audiocnn.bundle import Bundle
from audiocnn.predictor import Predictor
from helpers.clients import KEY, Client, read_keys_of
from helpers.common import SMALL
from serve.http import make_app
from serve.options import Serve
from serve.service import Service

STREAM = "ws://127.0.0.1:8000/v1/stream"


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
