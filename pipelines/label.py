"""`audiocnn label`: a bucket of recordings and a bundle -> labels in Parquet."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch

from audiocnn import listing, outputs, storage
from audiocnn.audio import AUDIO_SUFFIXES, Window, batched
from audiocnn.bundle import Bundle
from audiocnn.errors import AudioError, LedgerError, StorageError, UnreadableError
from audiocnn.failures import failure_row, write_failures
from audiocnn.predictor import Predictor
from audiocnn.recordings import Recording, closing, open_recording
from pipelines import display, session
from pipelines.options import Label
from pipelines.shards import Ledger, deal, run_shards

FORMAT = "audiocnn.labels/1"
_WINDOWS_AT_ONCE = 64

LABELS = pa.schema(
    [
        ("uri", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("label", pa.string()),
        ("score", pa.float32()),
        ("top_k", pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))),
        ("bundle", pa.string()),
    ]
)
"""Columns of the labels: a row a window, in order of time within a recording."""


class LabelWorker:
    """Recordings -> one part of the labels."""

    def __init__(self, options: Label, to: str) -> None:
        torch.set_num_threads(1)
        self.predictor = Predictor.load(options.bundle, "cuda" if options.gpu else "cpu")
        self.to, self.options = to, options

    def run(self, index: int, items: list[dict[str, Any]]) -> Ledger:
        """Label the recordings and write `parts/part-NNNNN.parquet`."""
        rows: list[dict[str, Any]] = []
        failures = []
        for item in items:
            try:
                rows += list(self._recording(item["uri"]))
            except (AudioError, UnreadableError) as error:
                failures.append(failure_row(item["uri"], error))
        part = f"parts/part-{index:05d}.parquet"
        if rows:
            table = pa.Table.from_pylist(rows, LABELS)
            storage.write_parquet(storage.join(self.to, part), table)
        return {
            "done": len(items) - len(failures),
            "failures": failures,
            "part": part,
            "windows": len(rows),
            "seconds": sum(row["end_s"] - row["start_s"] for row in rows),
            "classes": Counter(row["label"] for row in rows),
        }

    def _recording(self, uri: str) -> Iterator[dict[str, Any]]:
        """The rows of a recording's windows. Raises AudioError, StorageError."""
        limits = self.options.limits
        with closing(open_recording(Recording(uri=uri), limits.max_bytes)) as source:
            yield from self._rows(uri, self.predictor.decode(source, limits, self.options.hop_s))

    def _rows(self, uri: str, found: Iterator[Window]) -> Iterator[dict[str, Any]]:
        for group in batched(found, _WINDOWS_AT_ONCE):
            scores = self.predictor.predict_windows([window.samples for window in group])
            for answer in self.predictor.encode(group, scores, self.options.top_k).windows:
                yield {
                    "uri": uri,
                    "start_s": answer.start_s,
                    "end_s": answer.end_s,
                    "label": answer.label,
                    "score": answer.score,
                    "top_k": [{"label": name, "score": score} for name, score in answer.top_k],
                    "bundle": self.predictor.bundle.fingerprint,
                }


def label(options: Label) -> dict[str, Any]:
    """Run the job; returns the summary that it wrote.

    Raises AudioCNNError: a bucket that cannot be listed or holds no recordings, a bundle of
    another format, labels that are there already, or recordings neither labelled nor failed.
    """
    storage.configure(options.storage_options)
    # Read whole here, so that a damaged bundle is one line and not a pool of dying workers.
    made_by = Bundle.read(options.bundle)
    if options.hop_s is not None:
        replace(made_by.feature, hop_s=options.hop_s)  # raises where it does not fit the window
    to = outputs.claim(options.to, "summary.json", overwrite=options.overwrite)
    items, ignored = _list(options.bucket)
    display.step(f"label {display.short(options.bucket)}: {len(items)} recordings")
    cluster = session.connect()
    workers = options.workers or (cluster.gpus if options.gpu else cluster.cpus)
    cluster.require(max(1, workers), gpu=options.gpu)
    outputs.clear(to, "summary.json", ("parts/part-*.parquet", "failures.parquet"))
    arguments = {"options": replace(options, bundle=storage.absolute(options.bundle)), "to": to}
    ledgers: list[Ledger] = []
    with display.bar(len(items)) as bar:
        for ledger in run_shards(
            LabelWorker,
            arguments,
            deal(items, workers),
            workers=workers,
            num_gpus=1 if options.gpu else 0,
        ):
            ledgers.append(ledger)
            failed = sum(len(ledger["failures"]) for ledger in ledgers)
            done = sum(ledger["done"] for ledger in ledgers)
            bar.count(done + failed, failed, "recordings")
    summary = _collect(ledgers, made_by.fingerprint, options, len(items), ignored)
    failures = [row for ledger in ledgers for row in ledger["failures"]]
    write_failures(to, failures)
    storage.write_json(storage.join(to, "summary.json"), summary)
    _say(summary, to)
    return summary


def read_labels(uri: str) -> pa.Table:
    """The labels at a URI as one table. Raises StorageError, FormatError."""
    summary = storage.read_format(storage.join(uri, "summary.json"), FORMAT, "labels")
    parts = [storage.read_parquet(storage.join(uri, part)) for part in summary["parts"]]
    return pa.concat_tables([LABELS.empty_table(), *parts])


def _list(bucket: str) -> tuple[list[dict[str, Any]], int]:
    """The recordings of a bucket, and how many other files it has. Raises StorageError."""
    files = listing.list_files(bucket)
    found = [{"uri": f.uri} for f in files if f.path.lower().endswith(AUDIO_SUFFIXES)]
    if not found:
        kinds = ", ".join(AUDIO_SUFFIXES)
        raise StorageError(f"{bucket}: none of its {len(files)} files is named {kinds}")
    return found, len(files) - len(found)


def _collect(
    ledgers: list[Ledger], fingerprint: str, options: Label, listed: int, ignored: int
) -> dict[str, Any]:
    """The summary; LedgerError where it does not add up."""
    labelled = sum(ledger["done"] for ledger in ledgers)
    failures = [row for ledger in ledgers for row in ledger["failures"]]
    if labelled + len(failures) != listed:
        raise LedgerError(f"{listed} listed, but {labelled} labelled and {len(failures)} failed")
    classes: Counter[str] = sum((Counter(ledger["classes"]) for ledger in ledgers), Counter())
    return {
        "format": FORMAT,
        "bucket": storage.absolute(options.bucket),
        "bundle": fingerprint,
        "listed": listed,
        "labelled": labelled,
        "failed": len(failures),
        "ignored": ignored,
        "windows": sum(ledger["windows"] for ledger in ledgers),
        "hours": sum(ledger["seconds"] for ledger in ledgers) / 3600,
        "classes": dict(sorted(classes.items())),
        "reasons": dict(Counter(row["reason"].split(":")[0] for row in failures)),
        "parts": sorted(ledger["part"] for ledger in ledgers if ledger["windows"]),
    }


def _say(summary: dict[str, Any], to: str) -> None:
    to = display.short(to)
    display.say(
        f"{summary['listed']} listed = {summary['labelled']} labelled + {summary['failed']} failed;"
        f" {summary['windows']} windows -> {to}"
    )
    if summary["failed"]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(summary["reasons"].items()))
        display.warn(
            f"{summary['failed']} recordings failed ({reasons}): see {to}/failures.parquet"
        )
    if summary["ignored"]:
        display.say(f"{summary['ignored']} other files are no recordings by their names")
