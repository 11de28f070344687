"""Measure how much a job reads again after it was killed, for `benchmarks/label.py`."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from audiocnn import storage
from audiocnn.audio.decode import AUDIO_SUFFIXES
from audiocnn.labels import label_set
from audiocnn.labels.shard_list import shard_sizes
from benchmarks.harness import ROOT, Report
from benchmarks.label_bench import Bench
from benchmarks.processes import descendants, run, whole_environment
from benchmarks.proxy import Exchange, proxy

_LEFT, _LEFT_QUICK = 0.01, 0.25
"""Largest share of recordings without a part at the kill, or one part if that is larger."""
_SLOW_S = 0.1
"""Delay of the store for the job that is killed, in seconds, so that it does not end too soon."""
_ATTEMPTS = 3
_LOOK_S = 0.02
_LONGEST_S = 900.0


def measure(report: Report, bench: Bench) -> None:
    """Kill a job from S3 that is nearly done, run it again, and add what the second run read."""
    to, done = _nearly_done(bench)
    with proxy(bench.server.endpoint, 0, bench.new()) as store:
        command = bench.command(bench.uri, to, bench.cores)
        wall_s = run(command, bench.environment(store), set(bench.cores))
    total = sum(Path(path).stat().st_size for path in bench.paths)
    again = store.exchanges()
    read = sum(one.size for one in again if is_recording(one))
    everything = sum(one.size for one in again)
    report.settings["resume_done_when_killed"] = round(done / len(bench.paths), 4)
    note = "bodies of the answers, counted by the proxy"
    report.add("resume: read again, of the recordings", "bytes", [float(read)], note)
    report.add("resume: all answers of the store", "bytes", [float(everything)], note)
    report.add("resume: requests", "requests", [float(len(again))])
    report.add("resume: whole job", "s", [wall_s])
    report.ratio("resume_bytes_fraction", [float(read)], [float(total)])
    report.ratio("resume_all_bytes_fraction", [float(everything)], [float(total)])


def _nearly_done(bench: Bench) -> tuple[str, int]:
    """Run and kill a job that is nearly done; return its labels and its finished recordings."""
    left = _LEFT_QUICK if bench.options.quick else _LEFT
    for _ in range(_ATTEMPTS):
        to = bench.server.bucket() + "/labels"
        with proxy(bench.server.endpoint, _SLOW_S, bench.new()) as store:
            command = bench.command(bench.uri, to, bench.cores)
            done = _killed(command, bench.environment(store), to, left)
        if done < len(bench.paths):
            return to, done
    raise RuntimeError(f"{_ATTEMPTS} jobs were done before they could be killed")


def is_recording(exchange: Exchange) -> bool:
    """Return whether a request was for the content of a recording."""
    return exchange.method == "GET" and exchange.path.lower().endswith(AUDIO_SUFFIXES)


def _killed(command: list[str], environment: dict[str, str], to: str, left: float) -> int:
    """Run a job until few recordings are left and kill it; return the number of finished ones.

    As in a power cut, its process group is killed, and so are Ray's processes outside that group.
    """
    process = subprocess.Popen(
        command, cwd=ROOT, env=whole_environment(environment), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    began = time.monotonic()
    try:
        while not (listed := _listed(to)):
            _wait(process, began)
        sizes = shard_sizes(storage.join(to, f"manifest-{listed}.parquet"))
        most = max(left * sum(sizes), *sizes)
        while _done(to, listed, sizes) < sum(sizes) - most:
            _wait(process, began)
    finally:
        if process.returncode is None:  # otherwise another process may have its id
            _kill(process)
    return _done(to, listed, sizes)


def _kill(process: subprocess.Popen[bytes]) -> None:
    others = descendants(process.pid)[1:]
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in others:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _wait(process: subprocess.Popen[bytes], began: float) -> None:
    if process.poll() is not None or time.monotonic() - began > _LONGEST_S:
        raise RuntimeError(f"{process.args!r} ended, or hangs, before it could be killed")
    time.sleep(_LOOK_S)


def _listed(to: str) -> str | None:
    """Return the id of the job's listing, or None if the listing is not complete."""
    note = storage.join(to, label_set.NOTE)
    found = storage.read_json(note)["listing"] if storage.exists(note) else None
    return str(found["id"]) if found else None


def _done(to: str, listed: str, sizes: list[int]) -> int:
    """Return the number of recordings in the parts that exist."""
    return sum(sizes[part.shard] for part in label_set.find_parts(to, [listed]))
