"""The alerts and the Grafana dashboard use metrics that exist, in valid PromQL."""

import re
import shutil
import subprocess
from pathlib import Path

import promql_parser
import pytest
import yaml

from helpers.watching import EXPRESSIONS, WATCHING, alerts, metrics_in, ours, panels, rays


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_what_is_asked_for_is_there(name: str) -> None:
    expression = EXPRESSIONS[name]
    promql_parser.parse(expression)
    asked = metrics_in(expression)
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


SECONDS = 'ray_audiocnn_request_seconds_bucket{route="/v1/predict",le="%s"}'
WELL = {
    'ray_audiocnn_requests_total{status="200"}': "0+600x60",
    'ray_audiocnn_requests_total{status="500"}': "0x60",
    'ray_audiocnn_failures_total{reason="busy"}': "0+1x60",
    SECONDS % "0.1": "0+599x60",
    SECONDS % "2.5": "0+600x60",
    SECONDS % "+Inf": "0+600x60",
    'ray_serve_application_status{application="audiocnn"}': "6x60",
    'ray_serve_deployment_replica_healthy{application="audiocnn"}': "1x60",
    'ray_audiocnn_job{verb="label",what="running"}': "1x60",
    'ray_audiocnn_step_seconds_count{verb="label",step="shard"}': "0+10x60",
    'ray_audiocnn_recordings_total{verb="label",outcome="done"}': "0+500x60",
    'ray_audiocnn_recordings_total{verb="label",outcome="failed"}': "0+5x60",
    "ray_memory_manager_worker_eviction_total": "3x60",
    "ray_node_disk_free": "500x60",
    "ray_node_disk_usage": "500x60",
    "autoscaler_pending_nodes": "0x10 2x10 0x40",
}
"""An hour of a healthy cluster, with a sample each minute."""
ILL: dict[str, dict[str, str]] = {
    "": {},
    ": its first nodes are on their way": {
        'ray_serve_application_status{application="audiocnn"}': "_x30 5x30",
        'ray_serve_deployment_replica_healthy{application="audiocnn"}': "_x60",
    },
    "AudiocnnEndpointRefuses": {'ray_audiocnn_failures_total{reason="busy"}': "0+10x60"},
    "AudiocnnEndpointSlow": {SECONDS % "0.1": "0+500x60", SECONDS % "2.5": "0+550x60"},
    "AudiocnnEndpointFails": {'ray_audiocnn_requests_total{status="500"}': "0+1x60"},
    "AudiocnnEndpointDown": {
        'ray_serve_application_status{application="audiocnn"}': "6x10 2x50",
        'ray_serve_deployment_replica_healthy{application="audiocnn"}': "1x10 _x50",
    },
    "AudiocnnEndpointDown: the head is gone": {
        'ray_serve_application_status{application="audiocnn"}': "6x30 _x30",
        'ray_serve_deployment_replica_healthy{application="audiocnn"}': "1x30 _x30",
    },
    "AudiocnnEndpointDown: its nodes are gone": {
        'ray_serve_deployment_replica_healthy{application="audiocnn"}': "1x10 0x1 _x49",
    },
    "AudiocnnJobStandsStill": {
        'ray_audiocnn_step_seconds_count{verb="label",step="shard"}': "0+10x10 100x50",
    },
    "AudiocnnRecordingsFail": {
        'ray_audiocnn_recordings_total{verb="label",outcome="failed"}': "0+50x60",
    },
    "AudiocnnMemory": {'ray_memory_manager_worker_eviction_total{node="new"}': "_x35 1x25"},
    "AudiocnnDiskNearlyFull": {"ray_node_disk_free": "50x60", "ray_node_disk_usage": "950x60"},
    "AudiocnnNodesDoNotCome": {"autoscaler_pending_nodes": "2x60"},
}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("alert", ILL)
def test_an_alert_fires_when_it_should_and_no_other_one_does(alert: str, tmp_path: Path) -> None:
    shutil.copy(WATCHING / "alerts.yaml", tmp_path)
    series = [{"series": one, "values": values} for one, values in (WELL | ILL[alert]).items()]
    name = alert.partition(":")[0]
    seen = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "40m",
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1}] if name else [],
    }
    test = {"interval": "1m", "input_series": series, "promql_expr_test": [seen]}
    plain = {"rule_files": ["alerts.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(plain))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_such_a_test() -> None:
    tested = {name.partition(":")[0] for name in ILL}
    assert tested - {""} == {rule["alert"] for rule in alerts()}


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
