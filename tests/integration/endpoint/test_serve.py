"""The endpoint of one command, with two replicas, over HTTP on a real Ray Serve."""

import io
import json
import re
import select
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import schemathesis
import soundfile
from hypothesis import given, settings
from websockets.sync.client import connect

from audiocnn.errors import FAILURE_REASONS
from audiocnn.model.bundle import recalibrate
from audiocnn.model.calibration import Calibration
from benchmarks.load import Outcome, post
from helpers.asking import PATIENCE_S, status, wait_until
from helpers.common import BIN, ROOT, descendants, make_bundle
from helpers.endpoint import Endpoint, answer_of, wait_for_more
from helpers.hostile import HOSTILE, sound
from pipelines.label.job import label
from pipelines.options import Label


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "b"
    make_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def endpoint(bundle: Path) -> Iterator[Endpoint]:
    endpoint = Endpoint(bundle, "--replicas", "2", "--timeout-s", str(PATIENCE_S), "--queue", "256")
    yield endpoint
    endpoint.close()


@pytest.fixture(scope="module", autouse=True)
def stalled(endpoint: Endpoint) -> Iterator[socket.socket]:
    """A client that begins to send a recording before all tests, and then sends nothing more."""
    with socket.create_connection(("127.0.0.1", endpoint.port)) as connection:
        headers = {"x-request-timeout-seconds": "0"}
        connection.sendall(post(endpoint.port, "/v1/predict", sound("wav"), headers)[:1_000])
        yield connection


def test_it_says_where_it_answers_and_nothing_else(endpoint: Endpoint) -> None:
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in endpoint.said]
    assert len(lines) == 3
    assert lines[0].startswith("▸ serve ")
    assert f"dashboard: {endpoint.url('')} " in lines[1]
    assert endpoint.url("/v1/predict") in lines[2]
    assert endpoint.ask("/readyz")[0] == 200


def test_only_this_machine_is_listened_to_over_http(endpoint: Endpoint) -> None:
    haproxy = descendants(endpoint.process.pid, "haproxy")
    listening = [
        c.laddr
        for process in [*haproxy, *endpoint.replicas()]
        if process.name() != "ray::ServeReplica"
        for c in process.net_connections("tcp")
        if c.status == psutil.CONN_LISTEN and process.name() == "haproxy"
    ]
    assert endpoint.port in {address.port for address in listening}
    assert {address.ip for address in listening} == {"127.0.0.1"}


@pytest.mark.usefixtures("ray_cluster")
def test_scores_are_those_of_label(endpoint: Endpoint, bundle: Path, tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    for container in ("wav", "flac", "ogg", "mp3"):
        (bucket / f"a.{container}").write_bytes(sound(container))
    time_ = np.arange(3 * 44_100) / 44_100
    stereo = np.stack([np.sin(2 * np.pi * f * time_) for f in (440, 880)], axis=1) * 0.3
    soundfile.write(bucket / "stereo.wav", stereo, 44_100)
    to = str(tmp_path / "l")
    label(Label(bucket=str(bucket), bundle=str(bundle), to=to, hop_s=0.5, workers=1))
    rows = pq.read_table(tmp_path / "l" / "parts").to_pylist()
    for file in bucket.iterdir():
        status, answer = endpoint.ask("/v1/predict?hop_s=0.5", file.read_bytes())
        assert status == 200
        labelled = [row for row in rows if row["uri"] == str(file)]
        assert len(labelled) == len(answer["windows"]) > 1
        for row, window in zip(labelled, answer["windows"], strict=True):
            assert (row["start_s"], row["end_s"]) == (window["start_s"], window["end_s"])
            assert row["label"] == window["label"]
            assert row["bundle"] == answer["bundle"]
            theirs = {one["label"]: one["score"] for one in row["top_k"]}
            mine = {one["class"]: one["score"] for one in window["predictions"]}
            assert mine == pytest.approx(theirs, abs=1e-6)


def test_the_readmes_client_runs(
    endpoint: Endpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    readme = (ROOT / "README.md").read_text()
    (client,) = re.findall(r"```python\n(import requests.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("siren.wav").write_bytes(sound("wav"))
    exec(client.replace("127.0.0.1:8000", f"127.0.0.1:{endpoint.port}"), {})
    assert "'layer4': [" in capsys.readouterr().out


def test_a_stream_is_answered_over_a_real_socket(endpoint: Endpoint) -> None:
    samples = soundfile.read(io.BytesIO(sound("wav")), dtype="int16")[0]
    uri = f"ws://127.0.0.1:{endpoint.port}/v1/stream?sample_rate=16000&hop_s=0.5"
    with connect(uri, open_timeout=PATIENCE_S, ping_timeout=None) as live:
        live.send(samples.tobytes())
        answers = [json.loads(live.recv(PATIENCE_S)) for _ in range(3)]
    _, whole = endpoint.ask("/v1/predict?hop_s=0.5", sound("wav"))
    assert [a["start_s"] for a in answers] == [0, 0.5, 1]
    for live_answer, window in zip(answers, whole["windows"], strict=False):
        mine = {p["class"]: p["score"] for p in live_answer["predictions"]}
        theirs = {p["class"]: p["score"] for p in window["predictions"]}
        assert mine == pytest.approx(theirs, abs=1e-5)


def test_hostile_recordings_get_their_4xx_and_no_replica_dies(endpoint: Endpoint) -> None:
    before = {process.pid for process in endpoint.replicas()}
    memory = sum(process.memory_info().rss for process in endpoint.replicas())
    assert len(before) == 2
    for name, (data, reasons) in HOSTILE.items():
        status, body = endpoint.ask("/v1/predict?maps=blocks", data)
        assert 400 <= status < 500, name
        reason = body.get("reason", "empty")
        assert reason in FAILURE_REASONS
        assert reason in reasons.split("|"), name
    assert {process.pid for process in endpoint.replicas()} == before
    grown = sum(process.memory_info().rss for process in endpoint.replicas()) - memory
    assert grown < 400 << 20
    assert endpoint.ask("/v1/predict", sound("wav"))[0] == 200


def test_every_route_keeps_its_contract(endpoint: Endpoint, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            BIN / "schemathesis", "run", endpoint.url("/openapi.json"), "--max-examples", "30",
            "--seed", "1", "--no-color", "--request-timeout", str(PATIENCE_S),
            # A schema cannot express that bytes are a recording; see the next test.
            "--exclude-checks", "positive_data_acceptance",
        ],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr


def test_every_answer_about_a_recording_keeps_its_contract(endpoint: Endpoint) -> None:
    schema = schemathesis.openapi.from_url(endpoint.url("/openapi.json"))

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(case=schema["/v1/predict"]["POST"].as_strategy())
    def asked(case: schemathesis.Case) -> None:
        case.body, case.media_type = sound("flac"), "application/octet-stream"
        if case.query.get("explain") is not None:
            case.query["explain"] = "dog"
        statuses.append(case.call_and_validate(timeout=PATIENCE_S).status_code)

    statuses: list[int] = []
    asked()
    assert statuses.count(200) > 10


def test_meters_are_among_rays_metrics(endpoint: Endpoint) -> None:
    endpoint.ask("/v1/predict", sound("wav"))
    endpoint.ask("/v1/predict", b"no sound")
    names = (
        "requests", "request_seconds", "failures", "windows", "batch_windows", "queue_seconds",
        "model_seconds",
    )  # fmt: skip
    wanted = {*(f"ray_audiocnn_{name}" for name in names), 'reason="not-audio"'}

    def missing() -> set[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{endpoint.metrics_port}/metrics") as page:
            text = page.read().decode()
        return {one for one in wanted if one not in text}

    wait_until(lambda: not missing(), missing)


def test_two_hundred_clients_lose_nothing(endpoint: Endpoint, thorough: bool) -> None:
    request = post(endpoint.port, "/v1/predict?maps=layers", sound("wav"))
    with endpoint.load(request, 200) as outcome:
        for count in range(1, 71 if thorough else 11):
            wait_until(lambda count=count: min(outcome.answers, default=0) >= count)
    assert set(outcome.counts) == {200}
    assert len(outcome.answers) == 200


def test_slow_endless_and_vanishing_clients_cost_nobody_else(
    endpoint: Endpoint, stalled: socket.socket
) -> None:
    start = (
        f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1:{endpoint.port}\r\n"
        "x-request-timeout-seconds: 0\r\n"
    )
    address = ("127.0.0.1", endpoint.port)
    replicas = endpoint.replicas()
    memory = sum(process.memory_info().rss for process in replicas)
    gone = [socket.create_connection(address) for _ in range(20)]
    for one in gone:
        one.sendall(f"{start}Content-Length: 100000\r\n\r\n".encode() + b"x" * 5_000)
        one.close()
    for _ in range(10):  # clients that do not wait for the answer
        with socket.create_connection(address) as one:
            one.sendall(post(endpoint.port, "/v1/predict", sound("wav")))
    endless = socket.create_connection(address)
    endless.sendall(f"{start}Transfer-Encoding: chunked\r\n\r\n".encode())
    chunk = memoryview(b"10000\r\n" + b"\0" * 65_536 + b"\r\n")
    endless.setblocking(False)
    sent = 0
    with suppress(OSError):
        while sent < 300 << 20:
            answered, free, _ = select.select([endless], [endless], [], PATIENCE_S)
            if answered or not free:
                break
            sent += endless.send(chunk[sent % len(chunk) :])
    assert b" 413 " in answer_of(endless).splitlines()[0]
    assert sent < 200 << 20
    assert endpoint.ask("/v1/predict", sound("wav"))[0] == 200
    refused = answer_of(stalled)
    assert b" 408 " in refused.splitlines()[0]
    assert b"/problems/slow-upload" in refused
    large = post(endpoint.port, "/v1/predict", b"x" * (33 << 20))
    with socket.create_connection(address) as one:
        with suppress(OSError):
            one.sendall(large)
        assert b" 413 " in answer_of(one).splitlines()[0]
    grown = sum(process.memory_info().rss for process in replicas) - memory
    assert grown < 400 << 20
    assert endpoint.ask("/readyz")[0] == 200


def test_a_bundle_rolls_in_under_load_and_a_broken_one_does_not(
    endpoint: Endpoint, bundle: Path
) -> None:
    request = post(endpoint.port, "/v1/predict?spectrogram=false", sound("wav"))

    def under_load(change: Callable[[], object], text: str) -> Outcome:
        with endpoint.load(request, 8) as outcome:
            wait_for_more(outcome, 50)
            change()
            endpoint.process.send_signal(signal.SIGUSR1)
            endpoint.wait_for(text)
            wait_for_more(outcome, 50)
        return outcome

    old = endpoint.ask("/healthz")[1]["bundle"]
    new: list[str] = []
    outcome = under_load(
        lambda: new.append(recalibrate(str(bundle), Calibration(temperature=0.5))), "answers now"
    )
    assert set(outcome.counts) == {200}
    assert endpoint.ask("/healthz")[1]["bundle"] == new[0] != old
    assert json.loads(outcome.bodies[200])["bundle"] == new[0]
    weights = bundle / "model.safetensors"
    kept = weights.read_bytes()
    outcome = under_load(lambda: weights.write_bytes(kept[:-1]), "still answers")
    weights.write_bytes(kept)
    assert set(outcome.counts) == {200}
    assert endpoint.ask("/healthz")[1]["bundle"] == new[0]


def test_it_answers_what_was_asked_ends_at_ctrl_c_and_leaves_nothing(endpoint: Endpoint) -> None:
    family = psutil.Process(endpoint.process.pid).children(recursive=True)
    begun = [endpoint.begin("/v1/predict", sound("wav")) for _ in range(6)]
    endpoint.interrupt()
    wait_until(lambda: status(endpoint.url("/readyz")) != 200)
    for one in begun:
        one.sendall(sound("wav")[-1:])
    assert [answer_of(one).split()[1] for one in begun] == [b"200"] * 6
    endpoint.wait()
    assert endpoint.process.returncode == 130
    assert endpoint.said[-1].startswith("audiocnn: stopped")
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert not alive
