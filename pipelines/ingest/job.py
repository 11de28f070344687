"""`audiocnn ingest`: a labelled corpus -> Parquet log-mel features.

Each part lists its clips in its footer, so the parts show which clips are done. A run reads the
footers, shares out the clips that are in no part, and writes `features.json` last.
"""

import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from audiocnn import storage
from audiocnn.audio.decode import AudioLimits
from audiocnn.config import FeatureConfig, differences, to_json
from audiocnn.corpus.clips import Clip, Corpus, rejection_row
from audiocnn.corpus.folds import with_folds
from audiocnn.corpus.layouts.folders import FolderPerClass
from audiocnn.corpus.read import read_corpus
from audiocnn.errors import ConfigError, CorpusError, LedgerError, few
from audiocnn.features.band_sums import BandSums
from audiocnn.features.extractor import Extractor
from audiocnn.features.feature_set import FeaturePart, FeatureSet
from audiocnn.features.part import FeatureLedger, Item, is_part, item_of, part_name, read_ledger
from audiocnn.storage import output_folder
from audiocnn.storage.failures import write_failures
from audiocnn.storage.output_folder import FEATURES, Notes, Swept
from pipelines.options import Ingest
from pipelines.runtime import session, terminal
from pipelines.runtime.metrics import job_metrics
from pipelines.runtime.shard_pool import deal, run_shards

_FORMAT = "audiocnn.ingest/1"
_PARTS = "parts/part-*.parquet"
_FOOTERS_AHEAD = 16
_WORTH_A_WORKER = 2_000
"""Clips that justify one more worker on an added node: some seconds of work for one core."""


class IngestWorker:
    """Worker that turns shards of clips into parts, while `job` is the run in `job.json`."""

    def __init__(self, to: str, job: str, feature: FeatureConfig, limits: AudioLimits) -> None:
        self.to, self.job, self.feature = to, job, feature
        self.extractor = Extractor(feature, limits, storage.configured())

    def run(self, index: int, shard: list[Item]) -> dict[str, Any]:
        """Write the part of these clips; return its ledger as JSON.

        Raises ConfigError if another ingest of the folder has begun, and AudioCNNError if the store
        is out of reach or the part cannot be written.
        """
        began = time.monotonic()
        with storage.atomic_path(storage.join(self.to, part_name(self.feature, shard))) as path:
            ledger = self.extractor.part(shard, path)
            _require_current(self.to, self.job)
        count = job_metrics("ingest")
        count.recordings(len(ledger.ingested), len(ledger.failed), sum(ledger.windows.values()))
        count.step("shard", time.monotonic() - began)
        return ledger.to_json()


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The ledgers of parts that stay valid, and the clips that are left to ingest."""

    corpus: Corpus
    done: list[FeatureLedger]
    to_do: list[Item]


def ingest(options: Ingest, corpus: Corpus | None = None) -> FeatureSet:
    """Run the job, or continue a stopped one; return the features that it wrote.

    A part of an earlier run with the same options stays if all its clips are still in the corpus,
    unchanged; with --retry-failed, also none of them may have failed. Otherwise it is removed, and
    its remaining clips are ingested again. `corpus` is read if it is not given.

    Raises AudioCNNError for a corpus that cannot be used, existing features with other options, or
    clips that are neither ingested nor failed.
    """
    storage.configure(options.storage_options)
    output = output_folder.claim(options.to, FEATURES)
    to = output.uri
    corpus = corpus or read_corpus(options.corpus)
    ledgers = [] if options.overwrite else _ledgers(to)
    job = _job(options, corpus)
    # Without any ingested clip there is nothing to continue and nothing to lose: start again.
    nothing = "features.json" not in output.notes and not any(one.ingested for one in ledgers)
    if not options.overwrite:
        _refuse_another(to, output.notes, {} if nothing else job["options"])
        _refuse_other_reading(to, output.notes, corpus, ledgers)
    anew = options.overwrite or nothing
    plan = _plan(options, corpus, [] if anew else ledgers)
    counted = f"{len(corpus.clips)} clips, {len(plan.corpus.classes)} classes"
    before = len(corpus.clips) - len(plan.to_do)
    known = f"; {before} are done" if before else ""
    terminal.step(f"ingest {terminal.short(corpus.uri)}: {counted}{known}")
    for remark in corpus.remarks:
        terminal.say(remark)
    if anew:
        output.clear()
        _sweep(to, output.notes)
    storage.write_json(storage.join(to, "job.json"), job)
    began = time.monotonic()
    ledgers = plan.done + (_run(options, to, job["run"], plan) if plan.to_do else [])
    features = _collect(plan.corpus, options, to, ledgers)
    _require_current(to, job["run"])
    features.write()
    swept = _sweep(to, output.notes, features.parts)
    _say(plan, features, swept, ledgers, time.monotonic() - began)
    return features


def _require_current(to: str, job: str) -> None:
    """Raise ConfigError if another ingest of the folder has begun: only that one may write now."""
    if storage.read_json(storage.join(to, "job.json")).get("run") != job:
        raise ConfigError(
            f"--to {to}: another ingest into this folder has started; this one stops, and the "
            "other continues"
        )


def _sweep(to: str, notes: Notes, kept: Collection[str] = ()) -> Swept:
    """Remove parts that `features.json` lists or that have our ledger, except those in `kept`."""
    listed = notes.get("features.json", {}).get("parts", ())
    return output_folder.sweep(
        to, _PARTS, lambda path: path in listed or is_part(storage.join(to, path), path), kept
    )


def _job(options: Ingest, corpus: Corpus) -> dict[str, Any]:
    """Return the content of `job.json`: the options that decide the rows, and the id of the run."""
    return {
        "format": _FORMAT,
        "options": {
            "corpus": corpus.uri,
            "folds": options.folds,
            **to_json(options.feature),
            **to_json(options.limits),
        },
        "layout": corpus.layout,
        "has_folds": bool(corpus.folds),
        "run": uuid.uuid4().hex,
    }


def _refuse_another(to: str, notes: Notes, options: dict[str, Any]) -> None:
    """Raise ConfigError if there are features, complete or not, with other options."""
    if "job.json" not in notes:
        if "features.json" in notes:
            raise ConfigError(
                f"--to {to}: it holds features of another version of audiocnn; name another "
                "folder, or pass --overwrite"
            )
        return
    note = storage.read_format(storage.join(to, "job.json"), _FORMAT, "ingest")
    before = to_json(AudioLimits()) | note["options"]  # older notes lack newer limits
    if options and (differ := differences(before, options)):
        raise ConfigError(
            f"--to {to}: the ingest there was started with {differ}; give the same options to "
            "continue it, name another folder, or pass --overwrite"
        )


def _refuse_other_reading(
    to: str, notes: Notes, corpus: Corpus, ledgers: list[FeatureLedger]
) -> None:
    """Raise ConfigError if ingested clips get other labels or folds only because of the layout.

    A manifest or a table states labels and folds itself, so a change in it is taken as intended.
    """
    why = _other_reading(notes.get("job.json", {}), corpus, ledgers)
    ingested = {clip_id for ledger in ledgers for clip_id in ledger.ingested}
    if why and any(clip.clip_id in ingested for clip in corpus.clips):
        how = "".join(f"; {remark}" for remark in corpus.remarks)
        raise ConfigError(
            f"--to {to}: {corpus.uri} is read differently than when this ingest was started: {why}"
            f"{how}; undo the change in the corpus, name another folder, or pass --overwrite"
        )


def _other_reading(job: dict[str, Any], corpus: Corpus, ledgers: list[FeatureLedger]) -> str | None:
    """Describe how the corpus is read differently although its files do not state it, or None.

    `job.json` of earlier versions lacks `layout` and `has_folds`: these are then not compared.
    """
    layout = job.get("layout", corpus.layout)
    if layout != corpus.layout:
        return f"its layout was {layout}, and is {corpus.layout} now"
    if layout != FolderPerClass.name:
        return None
    if job.get("has_folds") and not corpus.folds:
        return "its names gave the folds, but give none now"
    clip = _of_another_class(corpus, ledgers)
    if clip is None:
        return None
    fold = "" if clip.fold is None else f" in fold {clip.fold}"
    return f"the label of {clip.clip_id!r} would be {clip.label!r}{fold}"


def _of_another_class(corpus: Corpus, ledgers: list[FeatureLedger]) -> Clip | None:
    """Return a clip with another label or fold than when it was ingested; None if none is found.

    A ledger has only counts of clips by fold and class. A clip is returned if its part counts fewer
    clips of the clip's present label and fold. Folds that ingest assigned are not compared.
    """
    clips = {clip.clip_id: clip for clip in corpus.clips}
    for ledger in ledgers:
        left = Counter[tuple[str, int | None]]()
        for fold, classes in ledger.classes.items():
            for label, count in classes.items():
                left[label, fold if corpus.folds else None] += count
        for clip in filter(None, map(clips.get, ledger.ingested)):
            left[clip.label, clip.fold] -= 1
            if left[clip.label, clip.fold] < 0:
                return clip
    return None


def _ledgers(to: str) -> list[FeatureLedger]:
    """Read the ledgers of the existing parts; skip a part that was copied to another name."""
    files = {
        f"parts/{file.path}": file.uri for file in output_folder.below(storage.join(to, "parts"))
    }
    parts = {path: uri for path, uri in files.items() if output_folder.matches(path, _PARTS)}
    ledgers = storage.prefetch(read_ledger, parts.values(), _FOOTERS_AHEAD)
    named = zip(parts, ledgers, strict=True)
    return [ledger for path, ledger in named if ledger is not None and ledger.part == path]


def _plan(options: Ingest, corpus: Corpus, ledgers: list[FeatureLedger]) -> _Plan:
    """Compare the corpus with the ledgers: find the valid parts and the clips left to ingest."""
    corpus = _with_folds(corpus, options.folds, ledgers)
    items = [item_of(clip) for clip in corpus.clips]
    keys = {item["clip_id"]: item["key"] for item in items}
    done: list[FeatureLedger] = []
    seen: set[str] = set()
    for ledger in ledgers:
        whole = ledger.holds_for(keys) and seen.isdisjoint(ledger.folds)
        if whole and not (options.retry_failed and ledger.failed):
            done.append(ledger)
            seen |= ledger.folds.keys()
    return _Plan(
        corpus=corpus, done=done, to_do=[item for item in items if item["clip_id"] not in seen]
    )


def _with_folds(corpus: Corpus, n_folds: int, ledgers: list[FeatureLedger]) -> Corpus:
    """Return the corpus with folds: ingested clips keep theirs, new clips get folds that fit.

    A stopped run assigned folds to the whole corpus. If the corpus is unchanged, a new assignment
    gives the same folds, and it is used.
    """
    kept = {clip_id: fold for ledger in ledgers for clip_id, fold in ledger.folds.items()}
    dealt = with_folds(corpus, n_folds)
    if all(kept.get(clip.clip_id, clip.fold) == clip.fold for clip in dealt.clips):
        return dealt
    return with_folds(corpus, n_folds, kept=kept)


def _run(options: Ingest, to: str, job: str, plan: _Plan) -> list[FeatureLedger]:
    """Ingest the clips that are left; return the ledgers of their parts."""
    cluster = session.connect()
    arguments = {"to": to, "job": job, "feature": options.feature, "limits": options.limits}
    cluster.require(options.workers or 1, gpu=False)
    workers = options.workers or cluster.workers(len(plan.to_do) // _WORTH_A_WORKER)
    ledgers: list[FeatureLedger] = []
    with terminal.bar(len(plan.to_do)) as bar:
        for plain in run_shards(
            IngestWorker, arguments, deal(plan.to_do, workers), verb="ingest", workers=workers
        ):
            ledgers.append(FeatureLedger.from_json(plain))
            failed = sum(len(ledger.failed) for ledger in ledgers)
            bar.count(sum(len(ledger.folds) for ledger in ledgers), failed, "clips")
    return ledgers


def _collect(corpus: Corpus, options: Ingest, to: str, ledgers: list[FeatureLedger]) -> FeatureSet:
    """Check the counts and write `failures.parquet`; return the features, not written yet.

    Raises LedgerError if counts do not add up, CorpusError if too few clips or classes are left.
    """
    clips = [clip_id for ledger in ledgers for clip_id in ledger.folds]
    ingested = sum(len(ledger.ingested) for ledger in ledgers)
    if sorted(clips) != [clip.clip_id for clip in corpus.clips]:
        raise LedgerError(
            f"{len(corpus.clips)} clips listed, but the parts of {to} have {len(clips)} of them"
        )
    failures = [row for ledger in ledgers for _, row in ledger.failed.values()]
    failures += [rejection_row(rejected) for rejected in corpus.rejected]
    write_failures(to, failures)
    if not ingested:
        kinds = Counter(row["reason"].split(":")[0] for row in failures)
        reasons = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        raise CorpusError(
            f"{corpus.uri}: none of its {len(failures)} clips could be read ({reasons}); the "
            f"first: {failures[0]['uri']} ({failures[0]['reason']})"
        )
    folds: dict[int, Counter[str]] = defaultdict(Counter)
    bands: dict[int, list[BandSums]] = defaultdict(list)
    for ledger in ledgers:
        for fold, counted in ledger.classes.items():
            folds[fold].update(counted)
            bands[fold].append(ledger.bands[fold])
    classes = tuple(sorted(set().union(*folds.values())))
    if len(classes) < 2:
        lost = few([name for name in corpus.classes if name not in classes])
        raise CorpusError(
            f"{corpus.uri}: no clip of {lost} could be read, and 2 classes are needed; see "
            f"{to}/failures.parquet"
        )
    return FeatureSet(
        uri=to,
        config=options.feature,
        classes=classes,
        corpus=corpus.uri,
        counts={
            "listed": len(corpus.clips) + len(corpus.rejected),
            "ingested": ingested,
            "failed": len(failures),
            "ignored": corpus.ignored,
            "windows": sum(sum(ledger.windows.values()) for ledger in ledgers),
        },
        parts={
            ledger.part: FeaturePart(windows=ledger.windows, rows=ledger.rows)
            for ledger in sorted(ledgers, key=lambda ledger: ledger.part)
        },
        folds={fold: dict(sorted(clips.items())) for fold, clips in sorted(folds.items())},
        bands={fold: BandSums.merge(parts) for fold, parts in sorted(bands.items())},
    )


def _say(
    plan: _Plan, features: FeatureSet, swept: Swept, ledgers: list[FeatureLedger], seconds: float
) -> None:
    counts, to, read = features.counts, terminal.short(features.uri), len(plan.to_do)
    terminal.say(
        f"{counts['listed']} listed = {counts['ingested']} ingested + {counts['failed']} failed; "
        f"{counts['windows']} windows in {len(features.parts)} parts -> {to}",
        **counts,
    )
    hours = sum(ledger.sound_s for ledger in ledgers) / 3600
    rate = f"{read} clips read in {seconds:.0f} s, {read / seconds:.0f} a second"
    terminal.say(
        f"{hours:.2f} h of sound, {swept.bytes / 1e6:.0f} MB; {rate if read else 'nothing new'}"
    )
    if counts["failed"]:
        terminal.warn(f"{counts['failed']} clips failed: see {to}/failures.parquet")
    if counts["ignored"]:
        terminal.say(
            f"{counts['ignored']} other entries are not clips of the corpus, or not reviewed yet"
        )
    terminal.warn_others(to, swept.others)
    lost = [name for name in plan.corpus.classes if name not in features.classes]
    if lost:  # a model cannot learn classes without a readable clip
        terminal.warn(
            f"no clip of {few(lost)} could be read: left out of the features, and of models that "
            "are trained on them"
        )
