"""The speed of `audiocnn ingest`, compared with its bare kernel and its peers.

Every contender converts recordings of the same corpus to log-mels, as a whole job in its own
process. In each round, the contenders run one after the other. A `steady` rate counts from the
first finished pieces, one per worker, to the last piece of all. The rate of a `whole job` counts
from the start of the process to its end, with imports.
"""

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks import corpora, kernels, progress
from benchmarks.contenders import Job
from benchmarks.harness import RECORDINGS, Report
from benchmarks.processes import CORES, HALF, Memory, run, script
from benchmarks.progress import Rates
from benchmarks.seaweed import SeaweedFS

PEERS = ("dataloader", "hf_datasets", "librosa_joblib", "naive_ray")
_S3_SHARE = 3
"""Jobs from S3 or on half the cores get a third of the clips: three rounds make the whole."""
_NAIVE_SHARE = 8
"""`naive_ray` gets every eighth clip, because it is slow."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare `audiocnn ingest` with its bare kernel and its peers."""

    corpus: str = str(RECORDINGS / "esc50-mini")
    """A corpus on this machine; its recordings are repeated."""
    clips: int = 4_140
    """Clips that a contender reads in a round; slow contenders and jobs from S3 read fewer."""
    rounds: int = 3
    """Number of rounds; each round runs every contender once."""
    memory_clips: tuple[int, ...] = (400, 40_000)
    """Clips of the corpora on which our peak memory is measured; if empty, it is not measured."""
    quick: bool = False
    """Run a short test: 400 clips, one round, memory only for the first of `memory_clips`."""
    out: Path | None = None
    """Path of the JSON; by default benchmarks/results/ingest.json."""


class Bench:
    """The contenders of one run, and the corpora that they read."""

    def __init__(self, folder: Path, original: str, clips: int, server: SeaweedFS) -> None:
        self.folder, self.server = folder, server
        self.corpus = corpora.many(original, folder / "corpus", clips)
        few = corpora.many(original, folder / "few", clips // _S3_SHARE)
        corpora.warm(self.corpus)
        corpora.warm(few)
        self.paths, self.few = corpora.recordings(self.corpus), corpora.recordings(few)
        self.uri = server.upload(few)
        self.bytes_per_clip: list[float] = []
        self.jobs = 0

    def round(self) -> Iterator[tuple[str, Rates]]:
        """Run every contender once; yield its name and its rates."""
        yield "bare kernel", self.limit("bare_kernel", self.paths, CORES)
        yield "bare kernel, written", self.limit("written_kernel", self.paths, CORES)
        yield "ours, disk", self.ours(str(self.corpus), CORES)
        yield "ours, S3, sharing cores", self.ours(self.uri, CORES)
        yield "bare kernel, half the cores", self.limit("bare_kernel", self.few, HALF)
        yield "ours, S3, half the cores", self.beside_server()
        for name in PEERS:
            yield name, self.peer(name)

    def beside_server(self) -> Rates:
        """Run our job on half the cores and the S3 server on the others, as on two machines."""
        self.server.pin(set(CORES) - set(HALF))
        try:
            return self.ours(self.uri, HALF)
        finally:
            self.server.pin(set(CORES))

    def ours(self, corpus: str, cores: list[int]) -> Rates:
        """Run our command line as a user does; the features are written to disk."""
        to = self._new()
        wall_s = ingest(corpus, to, self.server, cores)
        finished = progress.parts(to)
        clips = sum(clips for _, clips in finished)
        size = sum(path.stat().st_size for path in (to / "parts").iterdir())
        self.bytes_per_clip.append(size / clips)
        shutil.rmtree(to)
        if clips != (expected := len(self.few if corpus == self.uri else self.paths)):
            raise RuntimeError(f"{corpus}: {clips} of {expected} clips were ingested")
        return Rates.of(finished, len(cores), clips, wall_s)

    def limit(self, name: str, paths: list[str], cores: list[int]) -> Rates:
        """Run a bare kernel; its steady rate is the sum of the rates of its processes."""
        notes, wall_s = self._contender(name, paths, cores)
        return Rates.of_each(progress.noted(notes), len(paths), wall_s)

    def peer(self, name: str) -> Rates:
        """Run a peer."""
        paths = self.paths[::_NAIVE_SHARE] if name == "naive_ray" else self.paths
        notes, wall_s = self._contender(name, paths, CORES)
        return Rates.of(progress.together(notes), len(CORES), len(paths), wall_s)

    def _contender(self, name: str, paths: list[str], cores: list[int]) -> tuple[Path, float]:
        """Run a contender; return the folder of its notes, and its wall time in seconds."""
        to = self._new()
        to.mkdir()
        job = Job(paths=paths, workers=len(cores), out=str(to / "out"), notes=str(to / "notes"))
        return to / "notes", job.run(name, {}, set(cores))

    def _new(self) -> Path:
        """Return a path that does not exist yet."""
        self.jobs += 1
        return self.folder / f"job-{self.jobs}"


def ingest(
    corpus: str, to: Path, server: SeaweedFS, cores: list[int], memory: Memory | None = None
) -> float:
    """Run `audiocnn ingest` on these cores until it ends; return its wall time in seconds."""
    command = [script("audiocnn"), "ingest", corpus, "--to", str(to), "--recipe", "esc50"]
    return run([*command, "--workers", str(len(cores))], server.environment, set(cores), memory)


def main(options: Options) -> None:
    """Measure, and print and write the results."""
    clips, rounds, memory_clips = options.clips, options.rounds, options.memory_clips
    if options.quick:
        clips, rounds, memory_clips = 400, 1, memory_clips[:1]
    settings = {"corpus": Path(options.corpus).name, "clips": clips, "rounds": rounds}
    report = Report(name="ingest", settings={**settings, "cores": len(CORES), "recipe": "esc50"})
    folder = Path(tempfile.mkdtemp(prefix="audiocnn-bench-"))
    try:
        with closing(SeaweedFS()) as server:
            bench = Bench(folder, options.corpus, clips, server)
            kernels.measure(report, bench.paths)
            results: dict[str, list[Rates]] = defaultdict(list)
            for turn in range(rounds):
                for name, result in bench.round():
                    rates = f"{result.steady:.0f} clips/s, whole job {result.whole:.0f}"
                    print(f"round {turn + 1}, {name}: {rates}", flush=True)
                    results[name].append(result)
            compare(report, results)
            report.add("features on disk", "bytes a clip", bench.bytes_per_clip)
            peaks = [measure_memory(report, options.corpus, size, bench) for size in memory_clips]
            for size, peak in zip(memory_clips[1:], peaks[1:], strict=True):
                name = f"memory_{size}_vs_{memory_clips[0]}_clips"
                report.ratio(name, [peak.sum_of_peaks], [peaks[0].sum_of_peaks])
                worker = [peak.largest_worker], [peaks[0].largest_worker]
                report.ratio(f"largest_worker_{size}_vs_{memory_clips[0]}_clips", *worker)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.show()
    print(report.write(options.out))


def compare(report: Report, results: dict[str, list[Rates]]) -> None:
    """Add the rows of each contender, and the ratios."""
    steady = {name: [r.steady for r in found] for name, found in results.items()}
    whole = {name: [r.whole for r in found] for name, found in results.items()}
    for name in results:
        report.add(f"{name}: steady", "clips/s", steady[name])
        report.add(f"{name}: whole job", "clips/s", whole[name])
    ours, limit = "ours, disk", "bare kernel"
    half = "half the cores"
    report.ratio("disk_vs_bare_kernel", steady[ours], steady[limit])
    report.ratio("disk_vs_bare_kernel_written", steady[ours], steady[f"{limit}, written"])
    report.ratio("s3_vs_bare_kernel", steady[f"ours, S3, {half}"], steady[f"{limit}, {half}"])
    report.ratio(
        "s3_vs_bare_kernel_sharing_cores", steady["ours, S3, sharing cores"], steady[limit]
    )
    of_peers = [{peer: rates[peer] for peer in PEERS} for rates in (steady, whole)]
    report.ratios_to_peers("steady", steady[ours], of_peers[0])
    report.ratios_to_peers("whole_job", whole[ours], of_peers[1], "whole_job_vs")


def measure_memory(report: Report, original: str, clips: int, bench: Bench) -> Memory:
    """Ingest a corpus of this many clips, and add and return our peak memory."""
    corpus = corpora.many(original, bench.folder / f"memory-{clips}", clips)
    to, memory = bench.folder / f"features-{clips}", Memory()
    wall_s = ingest(str(corpus), to, bench.server, CORES, memory)
    for name, value in (
        ("sum of the processes' peaks", memory.sum_of_peaks),
        ("peak of all together", memory.together),
        ("largest worker", memory.largest_worker),
    ):
        report.add(f"memory, {clips} clips: {name}", "MiB PSS", [value])
    report.add(f"ours, disk, {clips} clips: whole job", "clips/s", [clips / wall_s])
    shutil.rmtree(to)
    shutil.rmtree(corpus)
    return memory


if __name__ == "__main__":
    main(tyro.cli(Options))
