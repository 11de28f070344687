"""The contenders of `benchmarks/label.py`, and the corpora that they label."""

import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiocnn import storage
from audiocnn.labels.label_set import SUMMARY
from audiocnn.labels.part import read_ledger
from audiocnn.storage.machine import MALLOC
from benchmarks import corpora, progress
from benchmarks.contenders import Job
from benchmarks.harness import RECORDINGS, ROOT
from benchmarks.processes import CORES, HALF, on_cores, run, script
from benchmarks.progress import Event, Rates
from benchmarks.proxy import Proxy, proxy
from benchmarks.seaweed import SeaweedFS
from benchmarks.serve import write_bundle

PEERS = ("pool", "hf_datasets", "hf_pipeline", "naive_ray")
DELAYS_MS = (0, 20, 100)
_AT_ONCE = 2
"""Shards that one of our workers decodes or scores at a time: the number of its front ends."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare `audiocnn label` with the bare loop and its peers."""

    corpus: str = str(RECORDINGS / "esc50-mini")
    """A corpus on this machine; its recordings are repeated."""
    clips: int = 1_920
    """Clips that each contender labels in a round; on half the cores, half as many."""
    rounds: int = 2
    """Number of rounds; each round runs every contender once."""
    transformers: str = str(ROOT / ".venv" / "transformers" / "bin" / "python")
    """The Python that has Transformers; if it does not exist, this peer is left out."""
    quick: bool = False
    """Run a short test: 384 clips, a small network, one round, one delay and two peers."""
    out: Path | None = None
    """Path of the JSON; by default benchmarks/results/label.json."""


class Bench:
    """The contenders of one run, and the corpora that they label."""

    def __init__(self, folder: Path, options: Options, server: SeaweedFS) -> None:
        self.folder, self.options, self.server = folder, options, server
        self.bundle = write_bundle(folder / "bundle", small=options.quick)
        found = [n for n in PEERS if n != "hf_pipeline" or Path(options.transformers).exists()]
        self.peers = tuple(found[:2] if options.quick else found)
        self.delays_ms = DELAYS_MS[-1:] if options.quick else DELAYS_MS
        self.paths, self.uri = self._corpus("all", options.clips)
        self.few, self.few_uri = self._corpus("few", options.clips // 2)
        self.summaries: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.cores = CORES
        self.jobs = 0

    def _corpus(self, name: str, clips: int) -> tuple[list[str], str]:
        corpus = corpora.many(self.options.corpus, self.folder / name, clips)
        corpora.warm(corpus)
        return corpora.recordings(corpus), self.server.upload(corpus / "audio")

    def round(self) -> Iterator[tuple[str, Rates]]:
        """Run every contender once; yield its name and its rates."""
        yield "bare loop", self.limit(self.paths, CORES)
        yield "ours, disk", self.ours_disk("ours, disk")
        for delay_ms in self.delays_ms:
            name = f"ours, S3 at {delay_ms} ms"
            yield name, self.ours_s3(name, self.uri, delay_ms, CORES)
        if not self.options.quick:
            yield "bare loop, half the cores", self.limit(self.few, HALF)
            for delay_ms in (self.delays_ms[0], self.delays_ms[-1]):
                name = f"ours, S3 at {delay_ms} ms, half the cores"
                yield name, self.beside_server(name, delay_ms)
        for name in self.peers:
            yield name, self.peer(name)

    def limit(self, paths: list[str], cores: list[int]) -> Rates:
        """Run the bare loop; its steady rate is the sum of the rates of its processes."""
        notes, wall_s = self._contender("bare_loop", paths, cores, MALLOC)
        return Rates.of_each(progress.noted(notes), len(paths), wall_s)

    def peer(self, name: str) -> Rates:
        """Run a peer."""
        workers, more = len(CORES), {}
        if name == "hf_pipeline":  # one process has the model and uses all cores
            workers, more = 1, {"OMP_NUM_THREADS": str(len(CORES))}
        notes, wall_s = self._contender(name, self.paths, CORES, more)
        return Rates.of(progress.together(notes), workers, len(self.paths), wall_s)

    def _contender(
        self, name: str, paths: list[str], cores: list[int], environment: dict[str, str]
    ) -> tuple[Path, float]:
        """Run a contender; return the folder of its notes, and its wall time in seconds."""
        to = self.new()
        to.mkdir()
        job = Job(
            paths=paths, workers=len(cores), out=str(to / "out"), notes=str(to / "notes"),
            bundle=self.bundle,
        )  # fmt: skip
        module, python = "benchmarks.labellers", sys.executable
        if name == "hf_pipeline":
            module, python = "benchmarks.peers_transformers", self.options.transformers
        return to / "notes", job.run(name, environment, set(cores), module, python)

    def ours_disk(self, name: str) -> Rates:
        """Run our command line as a user does, with recordings and labels on disk."""
        to = self.new()
        bucket = str(Path(self.paths[0]).parent)
        wall_s = run(self.command(bucket, str(to), CORES), {}, set(CORES))
        parts = list((to / "parts").iterdir())
        events = [(path.stat().st_mtime, recordings(str(path))) for path in parts]
        self._check(name, str(to), events, len(self.paths))
        shutil.rmtree(to)
        return Rates.of(events, len(CORES) * _AT_ONCE, len(self.paths), wall_s)

    def ours_s3(self, name: str, bucket: str, delay_ms: float, cores: list[int]) -> Rates:
        """Do the same with recordings and labels in S3."""
        to, log = self.server.bucket() + "/labels", self.new()
        with proxy(self.server.endpoint, delay_ms / 1e3, log) as store:
            wall_s = run(self.command(bucket, to, cores), self.environment(store), set(cores))
        events = written_parts(store)
        clips = len(self.paths if bucket == self.uri else self.few)
        self._check(name, to, events, clips)
        return Rates.of(events, len(cores) * _AT_ONCE, clips, wall_s)

    def beside_server(self, name: str, delay_ms: float) -> Rates:
        """Run our job on half the cores and the S3 server on the others, as on two machines."""
        others = set(CORES) - set(HALF)
        self.server.pin(others)
        try:
            with on_cores(others):  # the proxy too
                return self.ours_s3(name, self.few_uri, delay_ms, HALF)
        finally:
            self.server.pin(set(CORES))

    def _check(self, name: str, to: str, events: list[Event], clips: int) -> None:
        """Keep the summary. Raises RuntimeError if the labels do not have all clips."""
        summary = storage.read_json(storage.join(to, SUMMARY))
        done = sum(count for _, count in events)
        if not clips == done == summary["labelled"]:
            raise RuntimeError(f"{to}: the parts have {done} of {clips} clips; {summary}")
        self.summaries[name].append(summary)

    def command(self, bucket: str, to: str, cores: list[int]) -> list[str]:
        """Return the command that labels a bucket."""
        options = ["--bundle", self.bundle, "--to", to, "--workers", str(len(cores))]
        return [script("audiocnn"), "label", bucket, *options]

    def environment(self, store: Proxy) -> dict[str, str]:
        """Return the environment variables of a job that reaches the server through a proxy."""
        return {**self.server.environment, "AWS_ENDPOINT_URL": store.endpoint}

    def new(self) -> Path:
        """Return a path that does not exist yet."""
        self.jobs += 1
        return self.folder / f"job-{self.jobs}"


def written_parts(store: Proxy) -> list[Event]:
    """Return the time at which each part was written through a proxy, and its recordings."""
    uris = {
        f"s3:/{one.path}": one.at
        for one in store.exchanges()
        if one.method == "PUT" and "/parts/part-" in one.path
    }
    return [(at, recordings(uri)) for uri, at in uris.items()]


def recordings(part: str) -> int:
    """Return the number of recordings in a part, labelled or failed."""
    ledger = read_ledger(part)
    return ledger.labelled + ledger.failed
