"""The newcomer's walk of cluster/README.md, line by line as it stands there."""

import os
import re
import subprocess

import psutil
import pytest

from helpers.common import ROOT

pytestmark = pytest.mark.slow


def walk() -> str:
    """The lines of the walk."""
    text = (ROOT / "cluster" / "README.md").read_text()
    part = text[text.index("<!-- walk:") : text.index("<!-- walk ends -->")]
    return "\n".join(re.findall(r"```sh\n(.*?)```", part, re.DOTALL))


def test_from_nothing_to_trained_served_and_labelled() -> None:
    """Two nodes with a token, and S3, on other ports than the usual: these may be somebody's."""
    lines = walk()
    assert lines.count("audiocnn submit") == 3
    (port,) = set(re.findall(r"(?:--port |127\.0\.0\.1:)(\d+)", lines))
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "RAY_", "AUDIOCNN_"))
    }
    ports = {"RAY_PORT": 26_379, "DASHBOARD_PORT": 28_265, "S3_PORT": 28_333}
    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", lines.replace(port, "28123")],
            cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
            env={**clean, **{name: str(number) for name, number in ports.items()}},
        )  # fmt: skip
    finally:
        subprocess.run([ROOT / "cluster" / "local", "down"], check=False)
    out = done.stdout + done.stderr
    assert done.returncode == 0, out
    assert "two nodes and an S3 server are up" in out
    assert "100 listed = 100 ingested + 0 failed" in out
    assert re.search(r"bundle \w{16} -> s3://sounds/model", out)
    assert "100 listed = 100 labelled + 0 skipped + 0 failed" in out
    assert '"status":"ok"' in out
    assert re.search(r'"total":\d{2,},"histogram"', out)
    assert not (ROOT / "cluster" / ".local").exists()
    running = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert [one for one in running if any(str(number) in one for number in ports.values())] == []
