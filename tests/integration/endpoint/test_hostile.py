"""Ingest of every kind of bad file: each is a row of the failures, and the rest is ingested."""

import ctypes
import os
import re
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from audiocnn.config import AudioLimits
from audiocnn.errors import FAILURE_REASONS
from audiocnn.features.feature_set import FeatureSet
from helpers.asking import PATIENCE_S
from helpers.common import AUDIOCNN, SMALL
from helpers.hostile import HOSTILE, TOLERATED, sound
from pipelines.ingest.job import ingest
from pipelines.options import Ingest

FLAGS = [
    "--sample-rate", "16000", "--window-s", "1", "--hop-s", "1", "--n-mels", "32",
    "--n-fft", "512", "--hop-length", "256", "--folds", "2", "--max-duration-s", "600",
]  # fmt: skip
NAMES = (
    "plain.wav", "with a space.wav", "line\nbreak.wav", 'quo"te.wav', "apo'strophe.wav",
    "=cmd|'calc'!A1.wav", "naïve 音.wav", "a,comma;semicolon.wav", "#hash%20?.wav", "[1]*.wav",
    "..dots.wav", "-dash.wav", "<img src=x onerror=alert(1)>.wav", "back\\slash.wav",
    "x" * 240 + ".wav", "\u202egnp.wav",
)  # fmt: skip


def drop_override() -> None:
    """Drop root's right to read all files, for the program that this process executes next."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def largest_process(run: subprocess.Popen[str]) -> list[int]:
    """A list with one number: the most memory that a process of the job has had so far, bytes."""
    peak = [0]

    def watch() -> None:
        while run.poll() is None:
            for process in psutil.Process(run.pid).children(recursive=True):
                with suppress(OSError):
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    found = re.search(r"VmHWM:\s+(\d+) kB", status)
                    peak[0] = max(peak[0], int(found[1]) << 10 if found else 0)
            time.sleep(0.1)

    threading.Thread(target=watch, daemon=True).start()
    return peak


def failures_of(features: Path) -> dict[str, str]:
    """The reasons of the failures, by URI."""
    return {
        row["uri"]: row["reason"]
        for row in pq.read_table(features / "failures.parquet").to_pylist()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All hostile and odd recordings, odd names, and four files that cannot be opened."""
    folder = tmp_path_factory.mktemp("hostile") / "corpus"
    for label in ("bad", "good", "odd"):
        (folder / label).mkdir(parents=True)
    for number, (data, _) in enumerate(HOSTILE.values()):
        (folder / "bad" / f"{number}.wav").write_bytes(data)
    for number, data in enumerate(TOLERATED.values()):
        (folder / "odd" / f"{number}.flac").write_bytes(data)
    for name in NAMES:
        (folder / "good" / name).write_bytes(sound("wav"))
    (folder / "bad" / "secret.wav").write_bytes(sound("wav"))
    (folder / "bad" / "secret.wav").chmod(0)
    (folder / "bad" / "broken link.wav").symlink_to("nowhere.wav")
    os.mkfifo(folder / "bad" / "pipe.wav")
    (folder / "bad" / os.fsdecode(b"not utf-8 \xff.wav")).write_bytes(sound("wav"))
    return folder


def test_each_bad_file_is_a_row_and_the_rest_is_ingested(folder: Path, tmp_path: Path) -> None:
    to = tmp_path / "features"
    run = subprocess.Popen(
        [AUDIOCNN, "ingest", str(folder), "--to", str(to), *FLAGS],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=drop_override,  # noqa: PLW1509
    )  # fmt: skip
    peak = largest_process(run)
    out, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, out + err
    assert "Traceback" not in out + err
    features, failures = FeatureSet.read(str(to)), failures_of(to)
    rows = features.load(list(features.folds))
    there = {uri.removeprefix(f"{folder}/") for uri in rows.uris}
    assert there == {f"good/{n}" for n in NAMES} | {f"odd/{n}.flac" for n in range(len(TOLERATED))}
    assert np.isfinite(rows.logmel).all()
    named = {uri.removeprefix(f"{folder}/bad/"): reason for uri, reason in failures.items()}
    for number, (name, (_, reasons)) in enumerate(HOSTILE.items()):
        assert named[f"{number}.wav"].split(":")[0] in reasons.split("|"), name
    assert "access denied" in named["secret.wav"]
    assert named["not utf-8 \\udcff.wav"].startswith("path")
    assert all(
        reason.split(":")[0] in FAILURE_REASONS and "\n" not in reason for reason in named.values()
    )
    counts = features.counts
    assert counts["listed"] == counts["ingested"] + counts["failed"]
    assert counts["failed"] == len(HOSTILE) + 4
    assert "not found" in named["broken link.wav"]
    assert "not a regular file" in named["pipe.wav"]
    assert len(HOSTILE) >= 40
    assert 0 < peak[0] < 1 << 30


@pytest.mark.usefixtures("ray_cluster")
def test_bad_rows_of_a_manifest(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.wav", "b.wav", "c.wav", "d.wav"):
        (tmp_path / name).write_bytes(sound("wav"))
    manifest = tmp_path / "manifest.csv"
    outside = folder / "good" / "plain.wav"
    lines = [
        "uri,label,note", "a.wav,dog,", "b.wav,cat,", "c.wav,dog,", "d.wav,cat,", "a.wav,cat,again",
        "e.wav,   ,blank", f"../{outside.name},dog,leads out", "gone.wav,dog,", ",dog,no name",
        "/dev/zero,dog,endless", "/dev/stdin,cat,waits", f"{tmp_path},dog,a folder",
    ]  # fmt: skip
    manifest.write_text("\n".join(lines) + "\n")
    to, limits = tmp_path / "features", AudioLimits(max_duration_s=600)
    ingest(Ingest(corpus=str(manifest), to=str(to), folds=2, feature=SMALL, limits=limits))
    assert "Traceback" not in "".join(capfd.readouterr())
    features, failures = FeatureSet.read(str(to)), failures_of(to)
    assert features.counts["ingested"] == 4
    assert features.counts["failed"] == 8
    reasons = sorted(reason.split(":")[0] for reason in failures.values())
    assert set(reasons) == {"duplicate", "gone", "label", "path", "unreadable"}
    assert "not a regular file" in failures["/dev/zero"]
