"""The time and the memory that the driver of `audiocnn label` needs to list a bucket.

Memory should not grow with the bucket. Each listing is its own process, `python -m
benchmarks.listings --work FOLDER`, and writes a manifest as the driver does. The first manifest
has all recordings. The second one has the recordings that the parts do not have.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import tyro

from audiocnn.labels import part as label_part
from audiocnn.labels.diff import compare_listing
from audiocnn.labels.label_set import find_parts, part_name
from audiocnn.labels.part import LabelLedger
from audiocnn.labels.shard_list import ListingCounts, row_of, write_manifest
from audiocnn.storage import listing
from benchmarks import objects
from benchmarks.harness import Report
from benchmarks.processes import run

_PART_ROWS = 4_096


@dataclass(frozen=True, kw_only=True)
class Options:
    """List a small and a large bucket: without parts, and with the parts of all recordings."""

    objects: tuple[int, int] = (10_000, 1_000_000)
    """Number of objects in the small and in the large bucket."""
    quick: bool = False
    """Run a short test: 2,000 and 20,000 objects."""
    out: Path | None = None
    """Path of the JSON; by default benchmarks/results/listings.json."""
    work: Path | None = None
    """Folder of a single listing for this process to do; `_list` sets it."""


def main(options: Options) -> None:
    """Measure, and print and write the results."""
    small, large = (2_000, 20_000) if options.quick else options.objects
    report = Report(name="listings", settings={"objects": [small, large]})
    folder = Path(tempfile.mkdtemp(prefix="audiocnn-bench-"))
    peaks: dict[tuple[str, int], float] = {}
    try:
        with objects.server() as environment:
            for size in (small, large):
                work = folder / str(size)
                (work / "parts").mkdir(parents=True)
                for what in ("listing", "second listing"):
                    found = _list(size, work, environment, again=what != "listing")
                    _add(report, f"{what}, {size} objects", size, found)
                    peaks[what, size] = found["peak_mib"]
                    if what == "listing":
                        _write_parts(work / "manifest.parquet", work)
                shutil.rmtree(work)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for what in ("listing", "second listing"):
        name = f"{what.replace(' ', '_')}_memory_{large}_vs_{small}"
        report.ratio(name, [peaks[what, large]], [peaks[what, small]])
    report.show()
    print(report.write(options.out))


def _list(size: int, work: Path, environment: dict[str, str], *, again: bool) -> dict[str, Any]:
    """List a bucket in a new process; return its figures."""
    (work / "job.json").write_text(json.dumps({"uri": objects.bucket(size), "again": again}))
    command = [sys.executable, "-m", "benchmarks.listings", "--work", str(work)]
    run(command, environment, os.sched_getaffinity(0))
    found: dict[str, Any] = json.loads((work / "out.json").read_text())
    if found["recordings"] != size or found["to_do"] != (0 if again else size):
        raise RuntimeError(f"listing {size} objects (again: {again}) returned {found}")
    return found


def _add(report: Report, name: str, size: int, found: dict[str, Any]) -> None:
    report.add(name, "objects/s", [size / found["seconds"]], "second: parts have all objects")
    report.add(f"{name}: peak memory", "MiB RSS", [found["peak_mib"]])
    grown = found["peak_mib"] - found["imported_mib"]
    note = "the peak, less the memory of the process after its imports"
    report.add(f"{name}: above imports", "MiB RSS", [grown], note)


def _write_parts(manifest: Path, to: Path) -> None:
    """Write parts of all recordings in a manifest, with only the columns that a listing reads."""
    file = pq.ParquetFile(manifest)
    for index, batch in enumerate(file.iter_batches(_PART_ROWS, columns=["uri", "version"])):
        name = part_name("before", index)
        with pq.ParquetWriter(to / name, batch.schema) as writer:
            writer.write_batch(batch)
            label_part._close(writer, LabelLedger(labelled=len(batch)), name)


def listing_of(work: Path) -> None:
    """List the bucket that `work/job.json` names, and measure this process."""
    began, imported_mib = time.perf_counter(), _mib("VmRSS")
    job, manifest = json.loads((work / "job.json").read_text()), str(work / "manifest.parquet")
    census, to_do = ListingCounts(), 0

    def counted(rows: Any) -> Any:
        nonlocal to_do
        for row in rows:
            to_do += 1
            yield row

    rows = map(row_of, census.of_recordings(listing.iter_files(job["uri"])))
    if job["again"]:
        with compare_listing(rows) as comparison:
            comparison.against(find_parts(str(work)), retry_failed=False)
            for part, _ in comparison.stale():
                raise RuntimeError(f"{part} counts as stale, but no recording has changed")
            write_manifest(manifest, counted(comparison.to_do()))
    else:
        write_manifest(manifest, counted(rows))
    found = {
        "seconds": time.perf_counter() - began,
        "recordings": census.recordings,
        "to_do": to_do,
        "imported_mib": imported_mib,
        "peak_mib": _mib("VmHWM"),  # getrusage would start at the parent's peak
    }
    (work / "out.json").write_text(json.dumps(found))


def _mib(name: str) -> float:
    """Return a figure of /proc/self/status, converted from kB to MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


if __name__ == "__main__":
    chosen = tyro.cli(Options)
    listing_of(chosen.work) if chosen.work else main(chosen)
