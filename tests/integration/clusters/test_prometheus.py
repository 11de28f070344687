"""A real Prometheus beside a real cluster: the metrics of alerts and panels exist and add up."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import free_ports
from helpers.asking import PATIENCE_S, status, wait_until
from helpers.cluster import Head
from helpers.common import SMALL_FLAGS
from helpers.watching import EXPRESSIONS, WATCHING, metrics_in, ours

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]


class Prometheus:
    """Prometheus with our configuration file, but another head address and shorter intervals."""

    def __init__(self, head: Head, folder: Path) -> None:
        shutil.copytree(WATCHING, folder, dirs_exist_ok=True)
        config = folder / "prometheus.yml"
        text = config.read_text().replace("http://127.0.0.1:8265", head.dashboard)
        config.write_text(text.replace("10s", "1s"))
        (folder / "token").write_text(head.environment["RAY_AUTH_TOKEN"])
        (port,) = free_ports(1)
        self._began = time.time()
        self._api = f"http://127.0.0.1:{port}/api/v1"
        self._process = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=PATIENCE_S)

    def ask(self, path: str, **query: str) -> Any:
        url = f"{self._api}/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
            return json.loads(response.read())["data"]

    def value(self, expression: str) -> dict[str, float]:
        """The value of each series of an expression, by the values of its labels."""
        found: list[Any] = self.ask("query", query=expression)["result"]
        return {
            " ".join(v for k, v in sorted(one["metric"].items()) if k != "__name__"):
            float(one["value"][1])
            for one in found
        }  # fmt: skip

    def ever(self, expression: str) -> list[Any]:
        """The series of an expression at any time. Gauges disappear with their process."""
        span = {"start": str(self._began), "end": str(time.time()), "step": "2"}
        found: list[Any] = self.ask("query_range", query=expression, **span)["result"]
        return found


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with Head("--num-cpus=3", RAY_metrics_report_interval_ms="3000") as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(
    head: Head, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that has scraped metrics while each verb did its work."""
    folder = tmp_path_factory.mktemp("prometheus")
    bucket, bundle = folder / "bucket", folder / "bundle"
    shutil.copytree(corpus, bucket)
    (bucket / "broken.wav").write_bytes(b"RIFF, but no more of it")
    with closing(Prometheus(head, folder / "watching")) as watching:
        for command in (
            ["ingest", corpus, "--to", folder / "features", *SMALL_FLAGS],
            ["train", folder / "features", "--to", bundle, *SMALL_FLAGS, "--epochs", "3",
             "--channels", "8", "--validation-fold", "1"],
            ["label", bucket, "--bundle", bundle, "--to", folder / "labels", "--workers", "1"],
        ):  # fmt: skip
            done = head.run("audiocnn", *command, RAY_ADDRESS=head.address)
            assert done.returncode == 0, done.stdout + done.stderr
        sound = next(corpus.rglob("*.wav")).read_bytes()
        with serving(head, bundle) as url:
            predict = partial(status, f"{url}/v1/predict", **{"content-type": "audio/wav"})
            # Wait until two scrapes have counted the answers: a rate needs two.
            wait_until(
                lambda: (
                    predict(sound) == 200
                    and predict(b"no sound") == 415
                    and all(watching.ever(EXPRESSIONS[n]) for n in ("Problems A", "Windows B"))
                )
            )
            yield watching


@contextmanager
def serving(head: Head, bundle: Path) -> Iterator[str]:
    """Run an endpoint on the cluster; yield its URL once it answers."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = ["audiocnn", "serve", bundle, "--port", port]
    with head.running(*command, RAY_ADDRESS=head.address) as process:
        wait_until(lambda: process.poll() is not None or status(f"{url}/readyz") == 200)
        assert process.poll() is None, process.communicate()
        yield url
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


def test_what_jobs_count_adds_up(prometheus: Prometheus) -> None:
    counted = partial(prometheus.value, "sum by (outcome, verb) (ray_audiocnn_recordings_total)")
    wait_until(
        lambda: counted() == {"done ingest": 100, "done label": 100, "failed label": 1}, counted
    )


def test_each_metric_was_scraped(prometheus: Prometheus) -> None:
    asked = metrics_in(" ".join(EXPRESSIONS.values()))
    here = asked - {"ray_memory_manager_worker_eviction_total", "ray_node_gpus_utilization"}

    def missing() -> set[str]:
        return (ours().keys() | here) - set(prometheus.ask("label/__name__/values"))

    wait_until(lambda: not missing(), missing)
    wait_until(lambda: set(prometheus.value("up").values()) == {1})


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_each_alert_and_panel_can_be_asked(prometheus: Prometheus, name: str) -> None:
    expression = EXPRESSIONS[name]
    prometheus.ever(expression)
    if not name.startswith("Audiocnn") and "gpu" not in expression:
        wait_until(lambda: prometheus.ever(expression), lambda: expression)


def test_the_rules_are_well_and_nothing_is_wrong(prometheus: Prometheus) -> None:
    def rules() -> list[Any]:
        (group,) = prometheus.ask("rules")["groups"]
        found: list[Any] = group["rules"]
        return found

    wait_until(lambda: "unknown" not in {rule["health"] for rule in rules()})  # not evaluated yet
    assert {rule["health"] for rule in rules()} == {"ok"}
    assert [rule["name"] for rule in rules() if rule["state"] == "firing"] == []


STANDS_STILL = """
import threading
from pipelines.runtime import session
from pipelines.runtime.metrics import job_metrics
session.connect()
job_metrics("still").now(running=1)
threading.Event().wait()
"""


def test_a_job_that_does_nothing_is_still_seen_to_run(head: Head, prometheus: Prometheus) -> None:
    """The job sets its gauge once. Ray drops a gauge that is not repeated, here after 6 s."""
    series = 'ray_audiocnn_job{verb="still",what="running"}'

    def seen_s() -> float:
        found = prometheus.ask("query", query=f"{series}[1h]")["result"]
        times = [at for one in found for at, value in one["values"] if value == "1"]
        return max(times) - min(times) if times else 0.0

    with head.running("python", "-c", STANDS_STILL, RAY_ADDRESS=head.address) as job:
        wait_until(lambda: seen_s() > 15 or job.poll() is not None, seen_s)
        assert job.poll() is None, job.communicate()
