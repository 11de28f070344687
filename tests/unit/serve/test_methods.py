"""GET paths answer HEAD too, all paths answer OPTIONS, and answers are compressed on request."""

import gzip

import pytest

from helpers.clients import KEY, Client, Counted, problem, read_keys_of
from helpers.hostile import wav


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/v1/model", "/", "/docs", "/openapi.json", "/samples"]
)
def test_head_is_get_without_the_body(client: Client, path: str) -> None:
    ask = client()
    whole, head = ask.get(path), ask.head(path)
    assert head.status_code == whole.status_code == 200
    assert head.content == b""
    assert head.headers == whole.headers
    assert int(head.headers["content-length"]) > 0


def test_head_is_refused_as_get_is(client: Client) -> None:
    metrics = Counted()
    ask = client(keys=read_keys_of(KEY), metrics=metrics)
    refused = ask.head("/v1/model")
    assert (refused.status_code, refused.content) == (401, b"")
    assert refused.headers["content-type"] == "application/problem+json"
    assert ask.head("/v1/model", headers={"x-api-key": KEY}).status_code == 200
    assert ask.head("/nothing", headers={"x-api-key": KEY}).status_code == 404
    assert metrics.failures == ["key", "not-found"]
    assert ("/v1/model", 200) in metrics.requests


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/healthz", {"GET", "HEAD", "OPTIONS"}),
        ("/readyz", {"GET", "HEAD", "OPTIONS"}),
        ("/v1/predict", {"POST", "OPTIONS"}),
    ],
)
def test_options_says_what_may_be_asked(client: Client, path: str, methods: set[str]) -> None:
    answer = client().options(path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert set(answer.headers["allow"].split(", ")) == methods
    refused = client().delete(path)
    problem(refused, 405, "method")
    assert set(refused.headers["allow"].split(", ")) == methods


def test_answers_and_pages_are_packed_for_those_who_take_it(client: Client) -> None:
    ask = client()
    for method, path, body in (("GET", "/", b""), ("POST", "/v1/predict", wav())):
        for accepted in ("gzip;q=0", "identity", "xgzip"):
            plain = ask.request(method, path, content=body, headers={"accept-encoding": accepted})
            assert plain.status_code == 200
            assert "content-encoding" not in plain.headers, (path, accepted)
        packed = {"accept-encoding": "gzip"}
        with ask.stream(method, path, content=body, headers=packed) as answer:
            assert answer.headers["content-encoding"] == "gzip"
            assert gzip.decompress(b"".join(answer.iter_raw()))[:1] == plain.content[:1]
