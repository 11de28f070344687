"""The benchmarks run, and each claim has a figure. Their speed is not checked."""

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.common import ROOT

QUICK = {
    "ingest": ["--quick"],
    "train": ["--quick", "--recipe", "demo"],
    "serve": ["--quick"],
    "label": ["--quick"],
    "listings": ["--quick"],
    "float16": ["--folds", "1", "--epochs", "1"],
}
"""The options that make each benchmark short."""
RATIOS = {
    "ingest": {
        "disk_vs_bare_kernel", "disk_vs_bare_kernel_written", "s3_vs_bare_kernel",
        "s3_vs_bare_kernel_sharing_cores", "vs_best_peer",
        "whole_job_vs_best_peer", "kernel_vs_torchaudio", "kernel_vs_librosa",
    },
    "train": {
        "memory_vs_plain_loop", "streamed_vs_plain_loop", "two_workers_vs_one",
        "vs_tutorial_loop", "plain_loop_vs_model_alone",
    },
    "serve": {
        "throughput_vs_bare", "throughput_with_maps_vs_bare", "throughput_vs_best_peer",
        "body_vs_nested_json", "p50_alone_vs_bare",
    },
    "label": {
        "disk_vs_bare_loop", "s3_100ms_vs_bare_loop", "vs_best_peer", "whole_job_vs_best_peer",
        "resume_bytes_fraction",
    },
    "listings": {"listing_memory_20000_vs_2000", "second_listing_memory_20000_vs_2000"},
    "float16": {"float16_vs_float32_accuracy"},
}  # fmt: skip
"""The claims that each benchmark must have a figure for."""
PEERS = {"ingest": "datasets", "label": "datasets", "serve": "litserve"}
MOST = {
    "body_vs_nested_json": 0.1,
    "resume_bytes_fraction": 0.3,  # a quarter is left at the kill
    "listing_memory_20000_vs_2000": 1.2,
}
"""Limits of ratios of bytes, which do not depend on the speed of the machine."""


def check_quick_run(name: str, corpus: Path, to: Path) -> None:
    """Run a benchmark with its quick options, and check that all its figures are there."""
    if name in PEERS:
        pytest.importorskip(PEERS[name], reason="a peer is missing: `make bench-*` installs it")
    command = [sys.executable, "-m", f"benchmarks.{name}", *QUICK[name], "--out", str(to)]
    if name not in ("serve", "listings"):
        command += ["--corpus", str(corpus)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(to.read_text())
    assert {"date", "machine", "versions", "settings", "rows", "ratios"} <= set(result)
    for row in result["rows"]:
        low, high = row["spread"]
        assert low <= row["median"] <= high
    ratios = result["ratios"]
    assert set(ratios) >= RATIOS[name]
    assert name in ("ingest", "label") or set(ratios) == RATIOS[name]  # both name each peer
    if name != "float16":  # an accuracy may be 0 after one epoch
        assert all(math.isfinite(value) and value > 0 for value in ratios.values())
    assert all(ratios[claim] < MOST[claim] for claim in ratios.keys() & MOST.keys())
    if name == "train":
        rows = {row["name"] for row in result["rows"]}
        for figure in ("seconds_to_first_step", "seconds_between_epochs", "memory"):
            assert f"{figure}: ours, 1 worker, streamed" in rows


@pytest.mark.slow
def test_one_of_the_benchmarks_runs(chance: random.Random, corpus: Path, tmp_path: Path) -> None:
    name = chance.choice(sorted(QUICK.keys() - {"train", "label"}))  # these take minutes
    print(f"the quick run of {name}")
    check_quick_run(name, corpus, tmp_path / "result.json")


@pytest.mark.thorough
@pytest.mark.parametrize("name", QUICK)
def test_every_benchmark_runs(name: str, corpus: Path, tmp_path: Path) -> None:
    check_quick_run(name, corpus, tmp_path / "result.json")


def test_the_gpu_script_runs_without_a_gpu(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--recipe", "demo", "--windows", "64", "--rounds", "1"]
    command = [sys.executable, "-m", "benchmarks.gpu", *options, "--no-compile"]
    command += ["--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {r["name"]: r["median"] for r in json.loads((tmp_path / "gpu.json").read_text())["rows"]}
    assert rows["steps that wait for the device"] == 0
    assert rows["log-mel, device against CPU"] < 0.01
    assert rows["training, bfloat16"] > 0
