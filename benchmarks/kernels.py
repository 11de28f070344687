"""The front ends alone, on one core: the speed and differences of ours, torchaudio and librosa."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from audiocnn.audio.decode import windows
from audiocnn.features.logmel import LogMel
from benchmarks.contenders import (
    FEATURE,
    librosa_logmel,
    librosa_windows,
    torchaudio_logmel,
    torchaudio_windows,
)
from benchmarks.harness import Report

Item = TypeVar("Item")

_BATCHES = (1, 16)
_WINDOWS = 32
_ROUNDS = 7
_PEERS = ("torchaudio", "librosa")


def measure(report: Report, paths: list[str]) -> None:
    """Add the times and the differences of the front ends, for one window each of some clips."""
    step = max(1, len(paths) // _WINDOWS)
    chosen = paths[::step][:_WINDOWS]
    samples = np.stack([_ours_windows(path)[0] for path in chosen])
    torch.set_num_threads(1)
    # Librosa uses NumPy's BLAS. Its threads would use CPU time even while they have no work.
    with threadpool_limits(1):
        _logmels(report, samples)
        _decoders(report, chosen)
    _differences(report, samples)


def _ours_windows(path: str) -> list[np.ndarray]:
    return [window.samples for window in windows(Path(path).read_bytes(), FEATURE)]


def _logmels(report: Report, samples: np.ndarray) -> None:
    """Time decoded windows -> log-mel, from NumPy to NumPy."""
    logmel = LogMel(FEATURE)
    for size in _BATCHES:
        batches = [samples[i : i + size] for i in range(0, len(samples), size)]
        runs: dict[str, Callable[[np.ndarray], object]] = {
            "audiocnn": logmel,
            "torchaudio": lambda batch: torchaudio_logmel(torch.from_numpy(batch)).numpy(),
            "librosa": librosa_logmel,
        }
        times = _interleaved(runs, batches, per=len(samples))
        for name, values in times.items():
            report.add(f"log-mel, batch {size}: {name}", "ms a window", values)
        for peer in _PEERS:
            suffix = "" if size == 1 else f"_batch_{size}"
            report.ratio(f"kernel_vs_{peer}{suffix}", times[peer], times["audiocnn"])


def _decoders(report: Report, paths: list[str]) -> None:
    """Time a file -> its windows at our sample rate."""
    runs: dict[str, Callable[[str], object]] = {
        "audiocnn": _ours_windows,
        "torchaudio": torchaudio_windows,
        "librosa": librosa_windows,
    }
    times = _interleaved(runs, paths, per=len(paths))
    for name, values in times.items():
        report.add(f"decode and resample: {name}", "ms a clip", values)
    for peer in _PEERS:
        report.ratio(f"decode_resample_vs_{peer}", times[peer], times["audiocnn"])


def _interleaved(
    runs: dict[str, Callable[[Item], object]], items: list[Item], per: int
) -> dict[str, list[float]]:
    """Time each run in turn; return the milliseconds of each round, divided by `per`.

    A first round warms up and is left out.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(_ROUNDS + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            for item in items:
                run(item)
            if turn:
                times[name].append(1000 * (time.perf_counter() - started) / per)
    return times


def _differences(report: Report, samples: np.ndarray) -> None:
    """Add the largest differences of a cell between log-mels of the same windows."""
    ours = LogMel(FEATURE)(samples)
    peers = {
        "torchaudio": torchaudio_logmel(torch.from_numpy(samples)).numpy(),
        "librosa": librosa_logmel(samples),
    }
    for name, theirs in peers.items():
        difference = float(np.abs(ours - theirs).max())
        report.add(f"largest difference from {name}", "dB of a cell", [difference])
