"""`audiocnn ingest`: a labelled corpus -> Parquet log-mel features."""

from collections import Counter, defaultdict
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from audiocnn import featureset, storage
from audiocnn.audio import AudioLimits, windows
from audiocnn.corpus import Corpus, read_corpus, with_folds
from audiocnn.errors import AudioError, CorpusError, LedgerError, StorageError
from audiocnn.features import FeatureConfig, LogMel
from audiocnn.featureset import BandSums, FeatureSet, Part
from pipelines import display, session
from pipelines.options import Ingest
from pipelines.shards import Ledger, batched, deal, run_shards

_WINDOWS_AT_ONCE = 16


class IngestWorker:
    """Clips -> one part of the features."""

    def __init__(self, to: str, feature: FeatureConfig, limits: AudioLimits) -> None:
        torch.set_num_threads(1)
        self.to, self.feature, self.limits = to, feature, limits
        self.logmel = LogMel(feature)

    def run(self, index: int, items: list[dict[str, Any]]) -> Ledger:
        """Decode the clips and write `parts/part-NNNNN.parquet`."""
        rows: list[dict[str, Any]] = []
        logmels: list[np.ndarray] = []
        failures = []
        for clip in items:
            try:
                found = self._clip(clip)
            except (AudioError, StorageError) as error:
                failures.append(featureset.failure(clip["uri"], error))
                continue
            rows += [row for row, _ in found]
            logmels += [logmel for _, logmel in found]
        part = f"parts/part-{index:05d}.parquet"
        if rows:
            self._write(part, rows, logmels)
        return {
            "done": len(items) - len(failures),
            "failures": failures,
            "part": part,
            "sha256": featureset.rows_sha256(rows, logmels),
            **_sums(rows, logmels),
        }

    def _clip(self, clip: dict[str, Any]) -> list[tuple[dict[str, Any], np.ndarray]]:
        """A clip's windows as rows and log-mels. Raises AudioError, StorageError."""
        data = storage.read_bytes(clip["uri"], self.limits.max_bytes)
        found = []
        for group in batched(windows(data, self.feature, self.limits), _WINDOWS_AT_ONCE):
            logmels = self.logmel.numpy([window.samples for window in group]).astype(np.float16)
            for window, logmel in zip(group, logmels, strict=True):
                times = {"start_s": window.start_s, "duration_s": window.duration_s}
                found.append(({**clip, **times}, logmel))
        return found

    def _write(self, part: str, rows: list[dict[str, Any]], logmels: list[np.ndarray]) -> None:
        schema = featureset.schema(self.feature)
        plain = pa.Table.from_pylist(rows, pa.schema(list(schema)[:-1]))
        tensors = featureset.tensor_array(np.stack(logmels), self.feature)
        table = plain.append_column(schema.field("logmel"), tensors)
        storage.write_parquet(storage.join(self.to, part), table)


def _sums(rows: list[dict[str, Any]], logmels: list[np.ndarray]) -> Ledger:
    """By fold: windows, clips of each class, and the bands' sums."""
    by_fold: dict[int, list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        by_fold[row["fold"]].append(position)
    sums: Ledger = {"windows": {}, "clips": {}, "bands": {}}
    for fold, positions in by_fold.items():
        clips = {rows[p]["clip_id"]: rows[p]["label"] for p in positions}
        sums["windows"][fold] = len(positions)
        sums["clips"][fold] = Counter(clips.values())
        bands = [BandSums.of(logmels[p][None]) for p in positions]
        sums["bands"][fold] = asdict(BandSums.merge(bands))
    return sums


def ingest(options: Ingest) -> FeatureSet:
    """Run the job; returns what it wrote.

    Raises AudioCNNError: a corpus that cannot be used, features that are there already, or
    clips that are neither ingested nor failed.
    """
    to = storage.claim(options.to, "features.json", overwrite=options.overwrite)
    corpus = with_folds(read_corpus(options.corpus), options.folds)
    counted = f"{len(corpus.clips)} clips, {len(corpus.classes)} classes"
    display.step(f"ingest {display.short(corpus.uri)}: {counted}")
    LogMel(options.feature)  # here, where a misfit of torch and torchaudio is one line
    cluster = session.connect()
    storage.clear(to, "features.json", ("parts/part-*.parquet", "failures.parquet"))
    items = [asdict(clip) for clip in corpus.clips]
    ledgers: dict[str, Ledger] = {}
    arguments = {"to": to, "feature": options.feature, "limits": options.limits}
    with display.bar(len(items)) as bar:
        for ledger in run_shards(
            IngestWorker, arguments, deal(items), workers=options.workers or cluster.cpus
        ):
            ledgers[ledger["part"]] = ledger
            done, failed = _counted(ledgers)
            bar.update(done + failed, f"{failed} failed" if failed else "")
    features = _collect(corpus, options, to, [ledgers[part] for part in sorted(ledgers)])
    _say(features)
    return features


def _counted(ledgers: dict[str, Ledger]) -> tuple[int, int]:
    """Clips done and failed."""
    return (
        sum(ledger["done"] for ledger in ledgers.values()),
        sum(len(ledger["failures"]) for ledger in ledgers.values()),
    )


def _collect(corpus: Corpus, options: Ingest, to: str, ledgers: list[Ledger]) -> FeatureSet:
    """Check the sums, write the failures and, last, `features.json`."""
    failures = [row for ledger in ledgers for row in ledger["failures"]]
    ingested = sum(ledger["done"] for ledger in ledgers)
    if ingested + len(failures) != len(corpus.clips):
        raise LedgerError(
            f"{len(corpus.clips)} clips listed, but {ingested} ingested and {len(failures)} failed"
        )
    if not ingested:
        raise CorpusError(f"{corpus.uri}: no clip could be read; the first: {failures[0]}")
    folds: dict[int, Counter[str]] = defaultdict(Counter)
    bands: dict[int, list[BandSums]] = defaultdict(list)
    for ledger in ledgers:
        for fold, clips in ledger["clips"].items():
            folds[int(fold)].update(clips)
            bands[int(fold)].append(BandSums(**ledger["bands"][fold]))
    features = FeatureSet(
        uri=to,
        config=options.feature,
        classes=corpus.classes,
        corpus=corpus.uri,
        counts={
            "listed": len(corpus.clips),
            "ingested": ingested,
            "failed": len(failures),
            "ignored": corpus.ignored,
            "windows": sum(sum(ledger["windows"].values()) for ledger in ledgers),
        },
        parts={ledger["part"]: Part.from_json(ledger) for ledger in ledgers if ledger["windows"]},
        folds={fold: dict(sorted(clips.items())) for fold, clips in sorted(folds.items())},
        bands={fold: BandSums.merge(parts) for fold, parts in sorted(bands.items())},
    )
    featureset.write_failures(to, failures)
    features.write()
    return features


def _say(features: FeatureSet) -> None:
    counts, to = features.counts, display.short(features.uri)
    display.say(
        f"{counts['listed']} listed = {counts['ingested']} ingested + {counts['failed']} failed; "
        f"{counts['windows']} windows in {len(features.parts)} parts -> {to}"
    )
    if counts["failed"]:
        display.warn(f"{counts['failed']} clips failed: see {to}/failures.parquet")
    if counts["ignored"]:
        display.say(f"{counts['ignored']} other files are no clips of the corpus")
