"""The commands as somebody types them, in processes of their own: printing, kills, exit codes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

SMALL = ["--recipe", "demo", "--n-mels", "32", "--window-s", "1", "--hop-s", "1"]
MODEL = ["--channels", "8", "--epochs", "6", "--batch-size", "16", "--test-fold", "1"]
CHATTER = re.compile(r"ray|pid=|warning|INFO|WARN|Traceback|raylet|autoscaler", re.IGNORECASE)


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("audiocnn")), *map(str, arguments)],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def run(*arguments: object, cwd: Path) -> tuple[int, str, str]:
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


@pytest.mark.slow
def test_the_demo_fits_on_two_screens_and_says_what_it_wrote(tmp_path: Path) -> None:
    code, out, err = run("demo", cwd=tmp_path)
    assert code == 0
    assert err == ""
    assert not CHATTER.search(out), CHATTER.search(out)
    assert len(out.splitlines()) <= 60
    assert max(len(line) for line in out.splitlines()) <= 120
    for name in ("features", "bundle", "report/report.html", "labels"):
        assert f"demo/{name}" in out
        assert (tmp_path / "demo" / name).exists()
    summary = json.loads((tmp_path / "demo" / "labels" / "summary.json").read_text())
    assert (summary["listed"], summary["labelled"], summary["failed"]) == (63, 60, 3)
    report = json.loads((tmp_path / "demo" / "report" / "report.json").read_text())
    assert report["accuracy_mean"] >= 0.85
    right = re.search(r"(\d+) of the bucket's 60 sound recordings", out)
    assert right is not None
    assert int(right[1]) >= 50


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [s.getsockname()[1] for s in sockets]


@pytest.mark.slow
def test_every_verb_is_a_ray_job(corpus: Path, tmp_path: Path) -> None:
    """On a cluster that was started with a token, as `ray job submit` and from outside of it."""
    port, dashboard, client = free_ports(3)
    bin_folder = Path(sys.executable).parent
    secret = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",  # jobs run with the cluster's
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 2,
    }
    head = subprocess.Popen(
        [
            bin_folder / "ray", "start", "--head", "--block", "--disable-usage-stats",
            "--node-ip-address=127.0.0.1", f"--port={port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", "--num-cpus=2",
        ],
        env=secret, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        submit = [
            bin_folder / "ray", "job", "submit", f"--address=http://127.0.0.1:{dashboard}", "--",
            "audiocnn", "ingest", str(corpus), "--to", str(tmp_path / "features"), *SMALL,
        ]  # fmt: skip
        for _ in range(30):
            time.sleep(2)  # until the dashboard answers
            done = subprocess.run(submit, env=secret, capture_output=True, text=True, check=False)
            if "ingest" in done.stdout:
                break
        assert done.returncode == 0, done.stdout + done.stderr
        assert "100 listed = 100 ingested + 0 failed" in done.stdout
        assert (tmp_path / "features" / "features.json").exists()

        joined = {**secret, "RAY_ADDRESS": f"127.0.0.1:{port}"}
        outside = subprocess.run(
            [bin_folder / "audiocnn", "train", "features", "--to", "bundle", *SMALL, *MODEL],
            cwd=tmp_path, env=joined, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert outside.returncode == 0, outside.stderr
        assert not CHATTER.search(outside.stdout)
        assert (tmp_path / "bundle" / "bundle.json").exists()

        wrong = {**joined, "RAY_AUTH_TOKEN": "f" * 32}
        refused = subprocess.run(
            [bin_folder / "audiocnn", "train", "features", "--to", "other", *SMALL, *MODEL],
            cwd=tmp_path, env=wrong, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"audiocnn: RAY_ADDRESS 127.0.0.1:{port}: ")
        assert refused.stderr.count("\n") == 1
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(timeout=600)


def test_failures_warn_and_do_not_fail(tmp_path: Path, corpus: Path) -> None:
    """Exit code 0 with a warning line for bad files; 2 for a bundle that is none."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text('{"format": "audiocnn.bundle/99"}')
    code, out, err = run("label", corpus, "--bundle", "bundle", "--to", "labels", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("audiocnn: ")
    assert err.count("\n") == 1
    assert "audiocnn.bundle/99" in err

    (tmp_path / "sounds" / "a").mkdir(parents=True)
    (tmp_path / "sounds" / "b").mkdir()
    for index, clip in enumerate(sorted(corpus.glob("*/1-*"))):
        target = tmp_path / "sounds" / "ab"[index % 2] / f"{index} \n=[red]cmd.wav"
        target.write_bytes(clip.read_bytes())
    (tmp_path / "sounds" / "a" / "bad [bold].wav").write_bytes(b"no")
    code, out, err = run(
        "ingest", "sounds", "--to", "features", "--folds", "2", *SMALL, cwd=tmp_path
    )
    assert (code, err) == (0, "")
    assert "! 1 clips failed: see features/failures.parquet" in out
    assert not CHATTER.search(out)
