"""The gate limits who may send requests, how often and how long; a failure becomes a problem."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse

from audiocnn.errors import ConfigError
from audiocnn.model.bundle import Bundle
from helpers.clients import KEY, Client, Counted, problem, read_keys_of
from helpers.hostile import wav
from serve.api.app import make_app
from serve.api.gate import Gate, Rate
from serve.api.keys import read_keys
from serve.engine.decoder import Decoder
from serve.engine.model import BatchingModel
from serve.engine.service import Service
from serve.options import LIMITS, Serve
from serve.problems import Problem


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


def test_a_bucket_fills_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("serve.api.gate.monotonic", lambda: now[0])
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
    app: Any, messages: list[dict[str, Any]], path: str = "/v1/predict", **headers: str
) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Send these raw messages and then nothing; return the status, headers and JSON body."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
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


def answering(when: asyncio.Event) -> Any:
    """Return an application that answers once the event is set."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await when.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    return app


def test_slow_requests_and_slow_answers_end() -> None:
    metrics = Counted()

    def gate(**limits: float) -> Gate:
        return Gate(answering(asyncio.Event()), Serve(bundle="b", queue=2, **limits), (), metrics)

    async def run() -> None:
        slow = gate(upload_timeout_s=0.2)
        status, headers, body = await exchanged(slow, [part(b"0", more=True)])
        assert (status, body["type"]) == (408, "/problems/slow-upload")
        assert headers["connection"] == "close"
        never = gate(timeout_s=0.3)
        status, _, body = await exchanged(
            never, [part(b"0", more=False)], **{"x-request-timeout-seconds": "0"}
        )
        assert (status, body["type"]) == (504, "/problems/slow-answer")
        gone = gate()
        status, _, body = await exchanged(
            gone, [part(b"0", more=True), {"type": "http.disconnect"}]
        )
        assert status == 400
        for one in (slow, never, gone):
            assert one._held == 0
            assert one.admission.count == 0

    asyncio.run(run())
    assert metrics.failures == ["slow-upload", "slow-answer", "malformed"]


def test_a_body_that_never_ends_is_refused_in_time() -> None:
    gate = Gate(answering(asyncio.Event()), Serve(bundle="b"), ())
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
    async def run() -> None:
        when, refused = asyncio.Event(), 0
        gate = Gate(answering(when), Serve(bundle="b", queue=2), ())

        async def ask() -> tuple[int, dict[str, str], dict[str, Any]]:
            nonlocal refused
            answer = await exchanged(gate, [part(b"0", more=False)])
            refused += answer[0] == 503
            if refused == 8:
                when.set()
            return answer

        answers = await asyncio.gather(*(ask() for _ in range(10)))
        assert sorted(status for status, _, _ in answers) == [200] * 2 + [503] * 8
        busy = next(answer for answer in answers if answer[0] == 503)
        assert busy[1]["retry-after"] == "1"
        assert busy[2]["type"] == "/problems/busy"

    asyncio.run(run())


def test_an_answer_that_fails_is_one_problem_and_says_nothing_of_the_inside(
    client: Client, bundle: Bundle
) -> None:
    class Broken(BatchingModel):
        async def infer(self, samples: Any, wanted: Any) -> Any:
            raise RuntimeError("secret path /home/x")

    own = Service(bundle, Broken(bundle), Decoder(LIMITS))
    metrics = Counted()
    response = client(own, metrics=metrics).post("/v1/predict", content=wav())
    problem(response, 500, "internal")
    assert "secret" not in response.text
    assert metrics.failures == ["internal"]
    own.decoder.close()


def test_behind_a_proxy_only_what_it_passes_on_is_answered(service: Service) -> None:
    app = make_app(lambda: service, Serve(bundle="b"), (), token="secret")
    ask = TestClient(app, base_url="http://127.0.0.1:8000")
    for headers in ({}, {"x-audiocnn-endpoint": "another's"}, {"x-audiocnn-endpoint": b"\xff"}):
        for path in ("/healthz", "/", "/v1/model"):
            problem(ask.get(path, headers=headers), 421, "misdirected")
        problem(ask.post("/v1/predict", content=wav(), headers=headers), 421, "misdirected")
        with (
            pytest.raises(WebSocketDenialResponse) as denied,
            ask.websocket_connect("/v1/stream?sample_rate=16000", headers=headers),
        ):
            pass
        problem(denied.value, 421, "misdirected")
    passed = {"x-audiocnn-endpoint": "secret"}
    assert ask.get("/healthz", headers=passed).status_code == 200
    assert ask.post("/v1/predict", content=wav(), headers=passed).status_code == 200


def test_what_is_asked_at_length_is_a_problem(client: Client) -> None:
    problem(client().get(f"/{'x' * 60_000}"), 404, "not-found")
    problem(client().post(f"/v1/predict?explain={'x' * 60_000}", content=wav()), 422, "option")
