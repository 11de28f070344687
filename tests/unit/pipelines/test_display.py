"""Output of a job: text for people, JSON for machines."""

import json

import pytest

from audiocnn.config import Variable
from pipelines.runtime import terminal


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(Variable.LOG, "json")
    monkeypatch.setattr(terminal, "_about", {})


def events(printed: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in printed.splitlines()]
    assert all(event.pop("at").endswith("+00:00") for event in found)
    return found


@pytest.mark.usefixtures("machine")
def test_an_event_is_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.about(verb="label", job="audiocnn-label-1")
    terminal.step("label [bold] a\nbucket")
    terminal.about(bundle="f00d")
    terminal.say("3 done", done=3, loss=0.5)
    terminal.warn("1 failed")
    assert terminal.error("it ends")
    terminal.table(["class", "clips"], [["dog", "4"]])
    known = {"verb": "label", "job": "audiocnn-label-1"}
    whole = {**known, "bundle": "f00d"}
    assert events(capsys.readouterr().out) == [
        {"level": "info", **known, "message": "label [bold] a\nbucket"},
        {"level": "info", **whole, "message": "3 done", "done": 3, "loss": 0.5},
        {"level": "warning", **whole, "message": "1 failed"},
        {"level": "error", **whole, "message": "it ends"},
        {"level": "info", **whole, "message": "dog", "clips": "4"},
    ]


def test_people_see_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.step("label")
    terminal.say("3 done", done=3)
    assert not terminal.error("it ends")
    out = capsys.readouterr().out
    assert "▸ label" in out
    assert "  3 done\n" in out
    assert "{" not in out
