"""The speed of the endpoint, compared with the bare predictor, LitServe, BentoML and FastAPI.

All contenders have the same model, the same clip as a 16-bit WAV, and the same cores. Servers share
the cores with the process that makes the load. In each round, contenders run one after the other.
The limit is the bare predictor in one process per core, with one thread each. It decodes, predicts
and encodes in a loop, one clip at a time or in batches.
"""

import asyncio
import base64
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from audiocnn.audio.encode import encode
from audiocnn.config import FeatureConfig, ModelConfig
from audiocnn.corpus import synthetic
from audiocnn.model.bundle import Bundle
from audiocnn.model.resnet import AudioCNN
from benchmarks import peers
from benchmarks.harness import RECORDINGS, ROOT, Report
from benchmarks.load import Outcome, closed_loop, open_loop, post
from benchmarks.processes import free_ports, script

CORES = len(os.sched_getaffinity(0))
PEERS = ("fastapi", "litserve", "bentoml")
CLIENTS = (1, 8, 32)
SHARES = (0.5, 0.8, 1.2)
_PLAIN = "/v1/predict?spectrogram=false"
_MAPS = "/v1/predict?maps=blocks"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare `audiocnn serve` with the bare predictor and other servers."""

    recording: str = ""
    """Path of the clip; by default 5 s of ESC-10 or, without ESC-10, of a generated sound."""
    seconds: float = 8.0
    """Seconds of each measurement."""
    rounds: int = 2
    """Number of rounds; each round runs every contender once."""
    bentoml: str = str(ROOT / ".venv" / "bentoml" / "bin" / "python")
    """The Python that has BentoML, in its own environment: it conflicts with Ray's packages."""
    quick: bool = False
    """Run a short test: a small model, one round, 1 s per measurement, without BentoML."""
    out: Path | None = None
    """Path of the JSON; by default benchmarks/results/serve.json."""


def clip(options: Options) -> bytes:
    """Return 5 s of the recording as a 16-bit WAV at its own rate."""
    import soundfile

    found = sorted(RECORDINGS.glob("esc10/*Dog*/*.ogg"))
    if not options.recording and not found:
        return encode(synthetic.sound("bell", 1, 5.0, 44_100), 44_100)
    samples, rate = soundfile.read(options.recording or found[0])
    return encode(samples[: 5 * rate], rate)


def write_bundle(folder: Path, *, small: bool) -> str:
    """Write a bundle of 18 untrained layers for ESC-50; weights do not affect the time."""
    torch.manual_seed(0)
    config = ModelConfig(stages=(2, 2, 2, 2), channels=8 if small else 64)
    feature = FeatureConfig()
    model = AudioCNN(config, feature.n_mels, 50).eval()
    classes = tuple(f"class {number:02d}" for number in range(50))
    Bundle(model=model, feature=feature, classes=classes).write(str(folder))
    return str(folder)


def _bare_worker(seconds: float, bodies: list[bytes], ready: Any, begin: Any, to: Any) -> None:
    predictor = peers.load()
    peers.answer(predictor, bodies)
    ready.release()
    begin.wait()
    began, taken = time.perf_counter(), []
    while time.perf_counter() - began < seconds:
        asked = time.perf_counter()
        peers.answer(predictor, bodies)
        taken.append(time.perf_counter() - asked)
    to.put((len(taken) * len(bodies) / (time.perf_counter() - began), taken))


def bare(body: bytes, seconds: float, batch: int, processes: int) -> tuple[float, float]:
    """Return the clips/s of all processes together, and the median time of a batch in ms."""
    context = multiprocessing.get_context("spawn")
    ready, begin, to = context.Semaphore(0), context.Event(), context.Queue()
    workers = [
        context.Process(target=_bare_worker, args=(seconds, [body] * batch, ready, begin, to))
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    begin.set()
    found = [to.get() for _ in workers]
    for worker in workers:
        worker.join()
    taken = [one for _, each in found for one in each]
    return sum(rate for rate, _ in found), float(np.median(taken) * 1e3)


@contextmanager
def running(command: list[str], port: int, request: bytes, bundle: str) -> Iterator[float]:
    """Run a server within a block; yield the seconds until its first good answer."""
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "",
        "AUDIOCNN_BENCH_BUNDLE": bundle, "AUDIOCNN_BENCH_WORKERS": str(CORES),
    }  # fmt: skip
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not asyncio.run(closed_loop(port, request, 1, 0.01)).counts[200]:
            if process.poll() is not None or time.perf_counter() - began > 120:
                raise RuntimeError(f"{' '.join(command)} does not answer")
            time.sleep(0.1)
        started_s = time.perf_counter() - began
        asyncio.run(closed_loop(port, request, 8, 2))  # warm up every worker
        yield started_s
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Bench:
    """The clip, the bundle, and the measurements: for each row, one value per round."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        self.seconds = 1.0 if options.quick else options.seconds
        self.peers = [one for one in PEERS if not (options.quick and one == "bentoml")]
        self.body = clip(options)
        self.bundle = write_bundle(folder, small=options.quick)
        self.rates: dict[str, list[float]] = defaultdict(list)
        self.medians: dict[str, list[float]] = defaultdict(list)
        self.starts: dict[str, list[float]] = defaultdict(list)
        self.notes: dict[str, str] = {}

    def round(self) -> None:
        """Run every contender once."""
        os.environ["AUDIOCNN_BENCH_BUNDLE"] = self.bundle
        self._note("bare, one process", *bare(self.body, self.seconds, 1, 1))
        self._note("bare, a clip at a time", *bare(self.body, self.seconds, 1, CORES))
        self._note("bare, batched", *bare(self.body, self.seconds, peers.BATCH, CORES))
        self.ours()
        for peer in self.peers:
            self.peer(peer)

    def _note(self, name: str, per_s: float, median_ms: float) -> None:
        self.rates[name].append(per_s)
        self.medians[name].append(median_ms)

    def _measure(self, name: str, run: Coroutine[Any, Any, Outcome]) -> Outcome:
        outcome = asyncio.run(run)
        self._note(name, outcome.per_s, outcome.milliseconds(50))
        figures = [f"p{p} {outcome.milliseconds(p):.0f} ms" for p in (50, 95, 99)]
        others = {s: n for s, n in sorted(outcome.counts.items()) if s != 200}
        if 503 in others:
            figures.append(f"503 after {outcome.milliseconds(99, 503):.0f} ms (p99)")
        figures.append(f"other statuses {others}" if others else "no errors")
        self.notes[name] = "last round: " + ", ".join(figures)
        return outcome

    def _loops(self, name: str, port: int, request: bytes) -> None:
        for clients in CLIENTS:
            row = f"{name}, {clients} clients"
            self._measure(row, closed_loop(port, request, clients, self.seconds))
        capacity = self.rates[f"{name}, {CLIENTS[-1]} clients"][-1]
        for share in SHARES:
            row = f"{name}, open loop at {share:.0%}"
            self._measure(row, open_loop(port, request, share * capacity, self.seconds))

    def ours(self) -> None:
        """Measure `audiocnn serve`, with and without maps."""
        port = free_ports(1)[0]
        command = [script("audiocnn"), "serve", self.bundle, "--port", str(port)]
        request = post(port, _PLAIN, self.body)
        with running([*command, "--replicas", str(CORES)], port, request, self.bundle) as started_s:
            self.starts["audiocnn"].append(started_s)
            self._loops("audiocnn", port, request)
            maps = post(port, _MAPS, self.body, {"Accept-Encoding": "zstd, gzip"})
            for clients in CLIENTS:
                row = f"audiocnn with maps, {clients} clients"
                packed = self._measure(row, closed_loop(port, maps, clients, self.seconds))
            text = json.dumps({"audio_data": base64.b64encode(self.body).decode()}).encode()
            nested = closed_loop(port, post(port, "/inference", text), 1, 0.1)
            self.rates["body: nested JSON"].append(len(asyncio.run(nested).bodies[200]))
            self.rates["body: ours, zstd"].append(len(packed.bodies[200]))

    def peer(self, name: str) -> None:
        """Measure one of `benchmarks.peers`."""
        port = free_ports(1)[0]
        python = self.options.bentoml if name == "bentoml" else sys.executable
        body, headers = self.body, {}
        if name != "fastapi":
            field = "files" if name == "bentoml" else "request"
            body, headers["Content-Type"] = peers.multipart(body, field)
        request = post(port, "/predict", body, headers)
        with running(peers.command(name, python, port), port, request, self.bundle) as started_s:
            self.starts[name].append(started_s)
            self._loops(name, port, request)

    def fill(self, report: Report) -> None:
        """Add the rows and the ratios."""
        for name, values in self.rates.items():
            unit = "bytes" if name.startswith("body") else "requests/s"
            report.add(name, unit, values, self.notes.get(name, ""))
        for name, values in self.medians.items():
            report.add(f"p50: {name}", "ms", values)
        for name, values in self.starts.items():
            report.add(f"start to first answer: {name}", "s", values)
        full = f"{CLIENTS[-1]} clients"
        ours = self.rates[f"audiocnn, {full}"]
        report.ratio("throughput_vs_bare", ours, self.rates["bare, batched"])
        report.ratio(
            "throughput_with_maps_vs_bare",
            self.rates[f"audiocnn with maps, {full}"],
            self.rates["bare, batched"],
        )
        sizes = self.rates["body: ours, zstd"], self.rates["body: nested JSON"]
        report.ratio("body_vs_nested_json", *sizes)
        alone = self.medians["bare, one process"]
        report.ratio("p50_alone_vs_bare", self.medians["audiocnn, 1 clients"], alone)
        of_peers = [self.rates[f"{peer}, {full}"] for peer in self.peers]
        best = [max(values) for values in zip(*of_peers, strict=True)]
        report.ratio("throughput_vs_best_peer", ours, best)


def main(options: Options) -> None:
    """Run all rounds, and print and write the results."""
    report = Report(name="serve")
    with tempfile.TemporaryDirectory(prefix="audiocnn-bench-") as name:
        bench = Bench(options, Path(name) / "bundle")
        for _ in range(1 if options.quick else options.rounds):
            bench.round()
    report.settings = {
        "body_bytes": len(bench.body), "model": "18 layers, 64 channels", "batch": peers.BATCH,
        "seconds": bench.seconds, "processes": CORES, "threads_a_process": 1,
    }  # fmt: skip
    bench.fill(report)
    report.show()
    print(report.write(options.out))


if __name__ == "__main__":
    main(tyro.cli(Options))
