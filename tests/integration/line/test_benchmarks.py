"""The benchmarks run: figures are not looked at, only that each claim has one."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.common import ROOT

INGEST = {
    "disk_vs_bare_kernel", "disk_vs_bare_kernel_written", "s3_vs_bare_kernel",
    "s3_vs_bare_kernel_sharing_cores", "vs_best_peer",
    "whole_job_vs_best_peer", "kernel_vs_torchaudio", "kernel_vs_librosa",
}  # fmt: skip


TRAIN = {
    "memory_vs_plain_loop", "streamed_vs_plain_loop", "two_workers_vs_one", "vs_tutorial_loop",
    "plain_loop_vs_model_alone",
}  # fmt: skip


SERVE = {
    "throughput_vs_bare", "throughput_with_maps_vs_bare", "throughput_vs_best_peer",
    "body_vs_nested_json", "p50_alone_vs_bare",
}  # fmt: skip


LABEL = {
    "disk_vs_bare_loop", "s3_100ms_vs_bare_loop", "vs_best_peer", "whole_job_vs_best_peer",
    "resume_bytes_fraction",
}  # fmt: skip


def figures(to: Path, *arguments: str) -> dict[str, float]:
    """The ratios that a benchmark of the repository writes."""
    module, *options = arguments
    command = [sys.executable, "-m", f"benchmarks.{module}", *options, "--out", str(to)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(to.read_text())
    assert {"date", "machine", "versions", "settings", "rows", "ratios"} <= set(result)
    for row in result["rows"]:
        low, high = row["spread"]
        assert low <= row["median"] <= high
    ratios: dict[str, float] = result["ratios"]
    return ratios


@pytest.mark.slow
def test_the_quick_run_of_ingest_gives_every_ratio(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="a peer is missing: `make bench-ingest` installs it")
    ratios = figures(tmp_path / "ingest.json", "ingest", "--corpus", str(corpus), "--quick")
    assert set(ratios) >= INGEST
    assert all(math.isfinite(value) and value > 0 for value in ratios.values())


@pytest.mark.slow
def test_the_quick_run_of_training_gives_every_ratio(corpus: Path, tmp_path: Path) -> None:
    options = ("train", "--corpus", str(corpus), "--quick", "--recipe", "demo")
    ratios = figures(tmp_path / "train.json", *options)
    assert set(ratios) == TRAIN
    assert all(math.isfinite(value) and value > 0 for value in ratios.values())
    rows = {row["name"] for row in json.loads((tmp_path / "train.json").read_text())["rows"]}
    for figure in ("seconds_to_first_step", "seconds_between_epochs", "memory"):
        assert f"{figure}: ours, 1 worker, streamed" in rows


def test_the_gpu_script_runs_without_a_gpu(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--recipe", "demo", "--windows", "64", "--rounds", "1"]
    command = [sys.executable, "-m", "benchmarks.gpu", *options, "--no-compile"]
    command += ["--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = {r["name"]: r["median"] for r in json.loads((tmp_path / "gpu.json").read_text())["rows"]}
    assert rows["steps that wait for the device"] == 0
    assert rows["log-mel, device against CPU"] == 0
    assert rows["training, bfloat16"] > 0


@pytest.mark.slow
def test_float16_gives_its_ratio(corpus: Path, tmp_path: Path) -> None:
    options = ("--corpus", str(corpus), "--folds", "1", "--epochs", "1")
    assert set(figures(tmp_path / "float16.json", "float16", *options)) == {
        "float16_vs_float32_accuracy"
    }


@pytest.mark.slow
def test_the_quick_run_of_serve_gives_every_ratio(tmp_path: Path) -> None:
    pytest.importorskip("litserve", reason="a peer is missing: `make bench-serve` installs it")
    ratios = figures(tmp_path / "serve.json", "serve", "--quick")
    assert set(ratios) == SERVE
    assert all(math.isfinite(value) and value > 0 for value in ratios.values())
    assert ratios["body_vs_nested_json"] < 0.1


@pytest.mark.slow
def test_the_quick_run_of_label_gives_every_ratio(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="a peer is missing: `make bench-label` installs it")
    ratios = figures(tmp_path / "label.json", "label", "--corpus", str(corpus), "--quick")
    assert set(ratios) >= LABEL
    assert all(math.isfinite(value) and value > 0 for value in ratios.values())
    assert ratios["resume_bytes_fraction"] < 0.3  # a quarter is left when it is killed


@pytest.mark.slow
def test_the_quick_run_of_listings_gives_every_ratio(tmp_path: Path) -> None:
    ratios = figures(tmp_path / "listings.json", "listings", "--quick")
    assert set(ratios) == {
        "listing_memory_20000_vs_2000", "second_listing_memory_20000_vs_2000"
    }  # fmt: skip
    assert ratios["listing_memory_20000_vs_2000"] < 1.2
