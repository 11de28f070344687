"""The alerts and the Grafana dashboard ask for metrics that are there, in PromQL that parses."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import ray
import yaml

ROOT = Path(__file__).resolve().parents[2]
WATCHING = ROOT / "cluster" / "watching"
SUFFIXES = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}


def ours() -> dict[str, set[str]]:
    """The names that our metrics have in Prometheus, each with its labels."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "serve" / "app.py", ROOT / "pipelines" / "meters.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in SUFFIXES:
                texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
                labels = {
                    label.value
                    for part in ast.walk(node)
                    if isinstance(part, ast.Tuple)
                    for label in part.elts
                    if isinstance(label, ast.Constant)
                }
                for suffix in SUFFIXES[node.func.id]:
                    found[f"ray_{texts[0]}{suffix}"] = labels | {"le"}
    return found


def rays() -> set[str]:
    """The names that Ray's own Grafana dashboards ask for."""
    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    texts = [path.read_text() for path in folder.glob("*.py")]
    return set(re.findall(r"\b(?:ray|autoscaler)_[a-z_]+", "".join(texts)))


def alerts() -> list[dict[str, Any]]:
    plain = yaml.safe_load((WATCHING / "alerts.yaml").read_text())
    return [rule for group in plain["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    plain = json.loads((WATCHING / "grafana.json").read_text())
    return [panel for panel in plain["panels"] if panel["type"] != "row"]


EXPRESSIONS = {
    **{rule["alert"]: rule["expr"] for rule in alerts()},
    **{
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    },
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_what_is_asked_for_is_there(name: str) -> None:
    expression = EXPRESSIONS[name]
    promql_parser.parse(expression)
    asked = set(re.findall(r"\b(?:ray|autoscaler)_[a-z_]+", expression))
    assert asked
    known = ours()
    assert asked <= known.keys() | rays()
    for metric in asked & known.keys():
        selected = re.findall(metric + r"\{([^}]*)\}", expression)
        names = {label for part in selected for label in re.findall(r"(\w+)\s*[=!]", part)}
        grouped = re.findall(r"\bby \(([^)]*)\)", expression)
        names |= {label.strip() for part in grouped for label in part.split(",")}
        assert names <= known[metric], metric


def test_every_metric_of_ours_is_looked_at() -> None:
    asked = " ".join(EXPRESSIONS.values())
    for metric in ours():
        assert metric.removesuffix("_sum").removesuffix("_count").removesuffix("_bucket") in asked


def test_every_alert_says_what_to_do() -> None:
    assert len({rule["alert"] for rule in alerts()}) == len(alerts()) <= 10
    for rule in alerts():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert len(rule["annotations"]["summary"]) > 60


def test_panels_have_room_and_words() -> None:
    places = [panel["gridPos"] for panel in panels()]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)), "two panels overlap"
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels()}) == len(panels())
