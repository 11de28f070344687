"""The PromQL expressions of `cluster/watching/`, and the metrics that exist."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import ray
import yaml

from helpers.common import ROOT

WATCHING = ROOT / "cluster" / "watching"
SUFFIXES = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}


def ours() -> dict[str, set[str]]:
    """The names of our metrics in Prometheus, each with its labels."""
    found: dict[str, set[str]] = {}
    for path in (
        ROOT / "serve" / "deploy" / "ray_metrics.py",
        ROOT / "pipelines" / "runtime" / "metrics.py",
    ):
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
    """The names of the metrics in Ray's own Grafana dashboards, and of Serve's applications."""
    ray_folder = Path(ray.__file__).parent
    folder = ray_folder / "dashboard" / "modules" / "metrics" / "dashboards"
    texts = [path.read_text() for path in folder.glob("*.py")]
    found = metrics_in("".join(texts))
    serves = (ray_folder / "serve" / "_private" / "application_state.py").read_text()
    return found | {f"ray_{name}" for name in re.findall(r'"(serve_[a-z_]+)"', serves)}


def metrics_in(text: str) -> set[str]:
    """The names of Ray's and the autoscaler's metrics in a text."""
    return set(re.findall(r"\b(?:ray|autoscaler)_[a-z_]+", text))


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
