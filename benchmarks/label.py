"""The speed of `audiocnn label`, compared with the bare loop and its peers.

Every contender scores recordings of the same corpus with the same untrained network of 18 layers,
as a whole job in its own process. In each round, the contenders run one after the other. A
`steady` rate counts from the first finished pieces, one per worker, to the last piece of all. The
rate of a `whole job` counts from the start of the process to its end. Our pieces are parts. A part
on disk is finished when its file was last written. A part in S3 is finished when the answer to its
PUT passed the proxy. Jobs from S3 also write their labels to S3. The server and its proxy share
the cores with the job, or they have half of the cores, and the job has the other half.
"""

import shutil
import subprocess
import tempfile
from collections import defaultdict
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from audiocnn import storage
from benchmarks import resume
from benchmarks.harness import Report
from benchmarks.label_bench import Bench, Options
from benchmarks.processes import CORES
from benchmarks.progress import Rates
from benchmarks.seaweed import SeaweedFS

_PARTS = "from the mean time of the first parts, two per core, to the time of the last part"
_BARE = "sum of the rates of its processes, each from its first batch to its last batch"
_PEER = "from the mean time of the first pieces, one per process with a model, to the last piece"


def compare(report: Report, results: dict[str, list[Rates]], bench: Bench) -> None:
    """Add the rows of each contender, and the ratios."""
    steady = {name: [r.steady for r in found] for name, found in results.items()}
    whole = {name: [r.whole for r in found] for name, found in results.items()}
    for name, found in results.items():
        clips = len(bench.few if "half" in name else bench.paths)
        note = _PARTS if "ours" in name else _BARE if "bare" in name else _PEER
        report.add(f"{name}: steady", "clips/s", steady[name], note)
        report.add(f"{name}: whole job", "clips/s", whole[name])
        beside = [clips / r.whole - clips / r.steady for r in found]
        report.add(f"{name}: start and end", "s", beside, "whole job minus clips at steady rate")
    limit, half = "bare loop", "half the cores"
    report.ratio("disk_vs_bare_loop", steady["ours, disk"], steady[limit])
    for delay_ms in bench.delays_ms:
        ours = steady[f"ours, S3 at {delay_ms} ms"]
        report.ratio(f"s3_{delay_ms}ms_vs_bare_loop", ours, steady[limit])
    if f"{limit}, {half}" in steady:
        for delay_ms in (bench.delays_ms[0], bench.delays_ms[-1]):
            ours = steady[f"ours, S3 at {delay_ms} ms, {half}"]
            name = f"s3_{delay_ms}ms_vs_bare_loop_half_the_cores"
            report.ratio(name, ours, steady[f"{limit}, {half}"])
    of_peers = [{peer: rates[peer] for peer in bench.peers} for rates in (steady, whole)]
    report.ratios_to_peers("steady", steady["ours, disk"], of_peers[0])
    report.ratios_to_peers("whole_job", whole["ours, disk"], of_peers[1], "whole_job_vs")
    for name in (limit, "ours, disk"):
        hours = [len(CORES) / rate * 1e6 / 3600 for rate in steady[name]]
        report.add(f"cost: {name}, cores for as long", "CPU hours a million clips", hours)
    for name, summaries in bench.summaries.items():
        hours = [one["cpu_s"] / one["labelled"] * 1e6 / 3600 for one in summaries]
        note = "from the summary: front end and model, without Ray and the store"
        report.add(f"cost: {name}, cpu_s", "CPU hours a million clips", hours, note)


def main(options: Options) -> None:
    """Measure, and print and write the results."""
    if options.quick:
        options = replace(options, clips=384, rounds=1)
    report = Report(name="label")
    folder = Path(tempfile.mkdtemp(prefix="audiocnn-bench-"))
    try:
        with closing(SeaweedFS()) as server:
            storage.configure({"s3": server.options})
            bench = Bench(folder, options, server)
            report.settings |= _settings(bench)
            results: dict[str, list[Rates]] = defaultdict(list)
            for turn in range(options.rounds):
                for name, rates in bench.round():
                    figures = f"{rates.steady:.1f} clips/s, whole job {rates.whole:.1f}"
                    print(f"round {turn + 1}, {name}: {figures}", flush=True)
                    results[name].append(rates)
            compare(report, results, bench)
            resume.measure(report, bench)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.show()
    print(report.write(options.out))


def _settings(bench: Bench) -> dict[str, Any]:
    options = bench.options
    sizes = [Path(path).stat().st_size for path in bench.paths]
    return {
        "corpus": Path(options.corpus).name, "clips": options.clips, "rounds": options.rounds,
        "bytes_a_clip": round(sum(sizes) / len(sizes)), "cores": len(CORES),
        "model": "18 layers, 8 channels" if options.quick else "18 layers, 64 channels",
        "peers": list(bench.peers), "transformers": _transformers(options.transformers),
    }  # fmt: skip


def _transformers(python: str) -> str | None:
    """Return the version of Transformers in its environment, or None without it."""
    if not Path(python).exists():
        return None
    ask = "from importlib.metadata import version; print(version('transformers'))"
    return subprocess.check_output([python, "-c", ask], text=True).strip()


if __name__ == "__main__":
    main(tyro.cli(Options))
