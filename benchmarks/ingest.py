"""How fast `audiocnn ingest` is: against its own bare kernel, and against its peers.

Every contender turns the same recordings into log-mels as a whole job in a process of its own,
on the same cores, one after the other, round by round. A rate is either `steady` (from the
first finished piece of each worker to the last piece of all) or of the `whole job` (from
starting the process to its end, imports included).
"""

import os
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
from benchmarks.processes import Memory, run, script
from benchmarks.progress import Rates
from benchmarks.seaweed import SeaweedFS

CORES = sorted(os.sched_getaffinity(0))
HALF = CORES[: len(CORES) // 2]
"""The job's cores where the S3 server has a machine of its own: all others are the server's."""

PEERS = ("dataloader", "hf_datasets", "librosa_joblib", "naive_ray")
_S3_SHARE = 3
"""S3 and half the cores get a third of the clips: three rounds together make the whole."""
_NAIVE_SHARE = 8
"""The naive way gets every eighth clip: it is slow."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """`audiocnn ingest` against its bare kernel and its peers."""

    corpus: str = str(RECORDINGS / "esc50-mini")
    """Recordings to use over and over: a corpus on this machine."""
    clips: int = 4_140
    """Clips that each contender reads in a round."""
    rounds: int = 3
    """Rounds; every contender has its turn in each."""
    memory_clips: tuple[int, ...] = (400, 40_000)
    """Corpora over which our peak memory is taken; none: leave it out."""
    quick: bool = False
    """A smoke run: 400 clips, one round, memory over 400 clips alone."""
    out: Path | None = None
    """Where the JSON goes; benchmarks/results/ingest.json when not given."""


class Bench:
    """The contenders of one run, over the recordings of one corpus."""

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
        """Every contender once."""
        yield "bare kernel", self.limit("bare_kernel", self.paths, CORES)
        yield "bare kernel, written", self.limit("written_kernel", self.paths, CORES)
        yield "ours, disk", self.ours(str(self.corpus), CORES)
        yield "ours, S3, sharing cores", self.ours(self.uri, CORES)
        yield "bare kernel, half the cores", self.limit("bare_kernel", self.few, HALF)
        yield "ours, S3, half the cores", self.beside_server()
        for name in PEERS:
            yield name, self.peer(name)

    def beside_server(self) -> Rates:
        """Ours on half the cores, the S3 server on the others, as if on a machine of its own."""
        self.server.pin(set(CORES) - set(HALF))
        try:
            return self.ours(self.uri, HALF)
        finally:
            self.server.pin(set(CORES))

    def ours(self, corpus: str, cores: list[int]) -> Rates:
        """The command line as a user types it; features to disk."""
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
        """A bare kernel; its steady rate is the sum of its processes' own."""
        notes, wall_s = self._contender(name, paths, cores)
        return Rates.of_each(progress.noted(notes), len(paths), wall_s)

    def peer(self, name: str) -> Rates:
        """Another way to do the same."""
        paths = self.paths[::_NAIVE_SHARE] if name == "naive_ray" else self.paths
        notes, wall_s = self._contender(name, paths, CORES)
        return Rates.of(progress.together(notes), len(CORES), len(paths), wall_s)

    def _contender(self, name: str, paths: list[str], cores: list[int]) -> tuple[Path, float]:
        """Run one; returns the folder of its notes, and its wall time in seconds."""
        to = self._new()
        to.mkdir()
        job = Job(paths=paths, workers=len(cores), out=str(to / "out"), notes=str(to / "notes"))
        return to / "notes", job.run(name, {}, set(cores))

    def _new(self) -> Path:
        """A folder that is not there yet."""
        self.jobs += 1
        return self.folder / f"job-{self.jobs}"


def ingest(
    corpus: str, to: Path, server: SeaweedFS, cores: list[int], memory: Memory | None = None
) -> float:
    """Run `audiocnn ingest` to its end on some cores; returns its wall time in seconds."""
    command = [script("audiocnn"), "ingest", corpus, "--to", str(to), "--recipe", "esc50"]
    return run([*command, "--workers", str(len(cores))], server.environment, set(cores), memory)


def main(options: Options) -> None:
    """Measure, print and write."""
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
    """Add a row for each contender, and the ratios."""
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
    """Add our peak memory over a corpus of some size."""
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
