"""The endpoint describes its problems, its health, its model and its API."""

from audiocnn.model.bundle import Bundle
from helpers.clients import KEY, Client, problem, read_keys_of
from helpers.common import ROOT, SMALL
from serve.problems import KINDS


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
