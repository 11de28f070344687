"""What listing a bucket costs the process that does it, for `benchmarks/label.py`.

`python -m benchmarks.listings URI MANIFEST OUT [LABELS]` lists into a manifest as the job's driver
does: everything or, where there are labels, what they do not have. Its OUT says how long that took
and how much memory the process ever had.
"""

import json
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from audiocnn import labels, listing
from audiocnn.changes import compared
from audiocnn.labels import Ledger
from audiocnn.labelset import find_parts, part_name
from audiocnn.manifest import Census, row_of, write_manifest
from benchmarks import objects
from benchmarks.harness import Report
from benchmarks.processes import run

_PART_ROWS = 4_096


def measure(report: Report, sizes: tuple[int, int], folder: Path, cores: list[int]) -> None:
    """Add rows and ratios of listing a small and a large bucket, anew and against all parts."""
    peaks: dict[tuple[str, int], float] = {}
    with objects.server() as environment:
        for size in sizes:
            work = folder / f"listing-{size}"
            (work / "parts").mkdir(parents=True)
            for what, parts in (("listing", []), ("second listing", [str(work)])):
                found = _list(size, work, parts, environment, set(cores))
                _add(report, f"{what}, {size} objects", size, found)
                peaks[what, size] = found["peak_mib"]
                if not parts:
                    _write_parts(work / "manifest.parquet", work)
            shutil.rmtree(work)
    small, large = sizes
    for what in ("listing", "second listing"):
        name = f"{what.replace(' ', '_')}_memory_{large}_vs_{small}"
        report.ratio(name, [peaks[what, large]], [peaks[what, small]])


def _list(
    size: int, work: Path, parts: list[str], environment: dict[str, str], cores: set[int]
) -> dict[str, Any]:
    """List a bucket in a process of its own; returns what that found."""
    out = work / "out.json"
    command = [sys.executable, "-m", "benchmarks.listings", objects.bucket(size)]
    run([*command, str(work / "manifest.parquet"), str(out), *parts], environment, cores)
    found: dict[str, Any] = json.loads(out.read_text())
    if found["recordings"] != size or found["to_do"] != (0 if parts else size):
        raise RuntimeError(f"{size} objects, parts {parts}: {found}")
    return found


def _add(report: Report, name: str, size: int, found: dict[str, Any]) -> None:
    report.add(name, "objects/s", [size / found["seconds"]], "second: all of them are in parts")
    report.add(f"{name}: peak memory", "MiB RSS", [found["peak_mib"]])
    grown = found["peak_mib"] - found["imported_mib"]
    note = "the peak, less what the process had once its modules were imported"
    report.add(f"{name}: above imports", "MiB RSS", [grown], note)


def _write_parts(manifest: Path, to: Path) -> None:
    """Parts that claim to hold all that a manifest lists; of their columns, those that are read."""
    file = pq.ParquetFile(manifest)
    for index, batch in enumerate(file.iter_batches(_PART_ROWS, columns=["uri", "version"])):
        with pq.ParquetWriter(to / part_name("before", index), batch.schema) as writer:
            writer.write_batch(batch)
            labels._close(writer, Ledger(labelled=len(batch)))


def main(uri: str, manifest: str, out: str, before: str | None = None) -> None:
    """List, in the process that is measured."""
    began, imported_mib = time.perf_counter(), _resident_mib()
    census, to_do = Census(), 0

    def counted(rows: Any) -> Any:
        nonlocal to_do
        for row in rows:
            to_do += 1
            yield row

    rows = map(row_of, census.of_recordings(listing.iter_files(uri)))
    if before is None:
        write_manifest(manifest, counted(rows))
    else:
        with compared(rows, find_parts(before), retry_failed=False) as changes:
            for part, _ in changes.stale():
                raise RuntimeError(f"{part} is not stale")
            write_manifest(manifest, counted(changes.to_do()))
    found = {
        "seconds": time.perf_counter() - began,
        "recordings": census.recordings,
        "to_do": to_do,
        "imported_mib": imported_mib,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    Path(out).write_text(json.dumps(found))


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main(*sys.argv[1:])
