"""`audiocnn label`: a bucket of recordings and a bundle -> labels in Parquet.

The bucket is listed once into a manifest of shards. Each shard becomes one part, written whole or
not at all: the parts say what is done. A run that was stopped goes on with its manifest; one that
ended lists again, and does what is new or was changed.
"""

import time
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import torch

import audiocnn
from audiocnn import storage
from audiocnn.audio.decode import AUDIO_SUFFIXES
from audiocnn.config import FeatureConfig, to_json
from audiocnn.errors import ConfigError, LedgerError, StorageError
from audiocnn.labels import label_set
from audiocnn.labels.diff import compared
from audiocnn.labels.events import merged
from audiocnn.labels.export.run import clear_exports, export
from audiocnn.labels.label_set import NOTE, SUMMARY, LabelPart
from audiocnn.labels.part import FORMAT, without
from audiocnn.labels.shard_list import ListingCounts, row_of, shard_sizes, write_manifest
from audiocnn.model.bundle import Bundle
from audiocnn.storage import output_folder
from audiocnn.storage.output_folder import LABELS, Output
from pipelines.label.gpu_models import gpu_models
from pipelines.label.worker import LabelWorker, Work
from pipelines.options import Label
from pipelines.runtime import session, terminal
from pipelines.runtime.shard_pool import run_shards

_AT_ONCE = 3
"""Shards that a worker is at: one is decoded, one scored, and one fetched or written."""
_WORTH_A_WORKER = 1_000
"""Recordings for which another node may be started: half a minute's work for one of its cores."""
_EVENT_COLUMNS = ["uri", "start_s", "end_s", "label", "score", "bundle"]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What a run works with; `note` is what `labels.json` holds."""

    options: Label
    feature: FeatureConfig
    bundle: Bundle
    output: Output
    note: dict[str, Any]

    @property
    def to(self) -> str:
        """The URI of the labels."""
        return self.output.uri

    @property
    def listed(self) -> dict[str, Any]:
        """What the listing saw."""
        found: dict[str, Any] = self.note["listing"]
        return found

    @property
    def manifest(self) -> str:
        """Its URI."""
        return storage.join(self.to, label_set.manifest_name(self.listed["id"]))

    def parts(self) -> list[LabelPart]:
        """The parts that count."""
        return label_set.find_parts(self.to, self.note["listings"])


def label(options: Label) -> dict[str, Any]:
    """Run the job, or finish it; returns the summary that it wrote.

    Raises AudioCNNError: a bucket that cannot be listed or holds no recordings, a bundle of
    another format, labels by another one, or recordings neither labelled nor failed.
    """
    began = time.monotonic()
    storage.configure(options.storage_options)
    label_set.require_apart(options.bucket, options.to)
    # Read whole here, so that a damaged bundle is one line and not a pool of dying workers.
    run = _begin(options, Bundle.read(options.bundle))
    terminal.about(bundle=run.bundle.fingerprint)
    cluster = session.connect()
    cluster.require(options.workers or 1, gpu=False)
    models = gpu_models(options, run.bundle.fingerprint, cluster)
    if _is_unfinished(run):
        _remember_formats(run)
    else:
        run = _list(run)
    worth = run.listed["recordings"] // _WORTH_A_WORKER
    done = _do(run, options.workers or cluster.workers(worth), models)
    parts = run.parts()
    summary = _summary(run, parts, done, time.monotonic() - began)
    _require_current(run)
    storage.write_json(storage.join(run.to, SUMMARY), summary)
    _remove_strays(run, parts)
    _say(run, summary)
    return summary


def _begin(options: Label, bundle: Bundle) -> _Run:
    """Find the folder, and what an earlier run left in it. Raises ConfigError."""
    feature = bundle.feature.with_hop(options.hop_s)
    made_with = {
        "bundle": bundle.fingerprint,
        "features": feature.fingerprint,
        "bucket": storage.absolute(options.bucket),
        "hop_s": feature.hop_s,
        "top_k": options.top_k,
        "embeddings": options.embeddings,
        **to_json(options.limits),
    }
    output, note = output_folder.claim(options.to, LABELS), None
    if not options.overwrite:
        to, note = label_set.find_version(output.uri, made_with, new_version=options.new_version)
        if to != output.uri:
            output = output_folder.claim(to, LABELS)
    note = note or {
        "format": FORMAT, "written_by": audiocnn.__version__, "made_with": made_with,
        "bundle": storage.absolute(options.bundle), "listings": [], "listing": None,
        "formats": ["parquet"],
    }  # fmt: skip
    # A format that was asked for once is kept up to date.
    note["formats"] = list(dict.fromkeys([*note["formats"], *options.formats]))
    return _Run(options=options, feature=feature, bundle=bundle, output=output, note=note)


def _is_unfinished(run: _Run) -> bool:
    """Whether there is a manifest of which something may be to do."""
    if run.note["listing"] is None or storage.exists(storage.join(run.to, SUMMARY)):
        return False
    # What failed is in parts of the same listing: to be read again, it is listed again.
    return not run.options.retry_failed and storage.exists(run.manifest)


def _remember_formats(run: _Run) -> None:
    note = label_set.read_note(run.to)
    if note["formats"] != run.note["formats"]:
        note["formats"] = run.note["formats"]
        storage.write_json(storage.join(run.to, NOTE), note)


def _list(run: _Run) -> _Run:
    """List the bucket into a manifest of what is to do; returns the run with it.

    Raises StorageError, also where there are no recordings.
    """
    terminal.step(f"list {terminal.short(run.options.bucket)}")
    name, census = uuid.uuid4().hex[:8], ListingCounts()
    # Manifests that the last run did not live to remove.
    ended = storage.exists(storage.join(run.to, SUMMARY))
    carried = [] if ended else run.note.get("replaced", [])
    manifest = storage.join(run.to, label_set.manifest_name(name))
    files = label_set.iter_bucket(run.options.bucket, run.options.to)
    with terminal.bar(0) as bar:
        rows = map(row_of, census.of_recordings(terminal.counted(files, bar, "files")))
        before: list[LabelPart] = []
        if run.note["listings"]:
            with compared(rows) as changes:
                _require_recordings(run, census)
                run = _begin_listing(run, name)
                # From here on no other run begins to add a part to these.
                before = run.parts()
                changes.against(before, retry_failed=run.options.retry_failed)
                for part, uris in changes.stale():
                    without(part.uri, uris, version=part.version)
                shards = write_manifest(manifest, changes.to_do())
            compared_with = {part.uri for part in before}
            for late in run.parts():  # was on its way: what is in it is done again
                if late.uri not in compared_with:
                    storage.remove(late.uri)
        else:
            first = next(rows, None)
            _require_recordings(run, census)
            run = _begin_listing(run, name)
            shards = write_manifest(manifest, filter(None, chain([first], rows)))
    found = {
        "id": name,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "listed": census.listed,
        "recordings": census.recordings,
        "bytes": census.bytes,
        "skipped": dict(census.skipped.most_common()),
        "shards": shards,
    }
    # Of a run that was listing at the same time, nothing was compared: its parts do not count.
    counted = dict.fromkeys([*(part.listing_id for part in before), name])
    note = {
        **run.note, "listing": found, "listings": list(counted),
        "replaced": list(dict.fromkeys([*carried, *run.note["listings"][-3:-1]])),
    }  # fmt: skip
    run = replace(run, note=note)
    storage.write_json(storage.join(run.to, NOTE), run.note)
    return run


def _require_recordings(run: _Run, census: ListingCounts) -> None:
    """Raise StorageError for a bucket without any: a mistake, and no reason to drop labels."""
    if not census.recordings:
        kinds = ", ".join(AUDIO_SUFFIXES)
        raise StorageError(
            f"{run.options.bucket}: none of its {census.listed} files is named {kinds}"
        )


def _begin_listing(run: _Run, name: str) -> _Run:
    """Say that the labels are not whole, before anything of them is changed."""
    if run.options.overwrite:
        kept: dict[str, str] = {}
        label_set.clear(run.output)
        clear_exports(run.to, kept.__setitem__)
        terminal.warn_kept("label", kept)
    note = {**run.note, "listings": [*run.note["listings"], name], "listing": None}
    storage.write_json(storage.join(run.to, NOTE), note)
    storage.remove(storage.join(run.to, SUMMARY))
    return replace(run, note=note)


def _do(run: _Run, workers: int, models: list[Any]) -> tuple[int, float]:
    """Do the shards that have no part yet; how many recordings, and the seconds that it took."""
    sizes = shard_sizes(run.manifest)
    there = {part.shard for part in run.parts() if part.listing_id == run.listed["id"]}
    to_do = [index for index in range(len(sizes)) if index not in there]
    before = sum(sizes) - sum(sizes[index] for index in to_do)
    _say_plan(run, sum(sizes), before)
    if not to_do:
        return 0, 0.0
    work = Work(
        to=run.to, listing_id=run.listed["id"], manifest=run.manifest, feature=run.feature,
        bundle=run.bundle.fingerprint,
        options=replace(run.options, bundle=storage.absolute(run.options.bundle)),
    )  # fmt: skip
    began, done, failed = time.monotonic(), before, 0
    with terminal.bar(sum(sizes), before) as bar:
        try:
            for counts in run_shards(
                LabelWorker,
                {"work": work, "models": models},
                to_do,
                verb="label",
                workers=workers,
                at_once=_AT_ONCE,
            ):
                done, failed = done + counts["done"], failed + counts["failed"]
                bar.count(done, failed, "recordings")
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{done} of {sum(sizes)} recordings are done, and "
                f"{terminal.same_command(run.options.overwrite)} goes on"
            ) from None
    return done - before, time.monotonic() - began


def _say_plan(run: _Run, to_do: int, before: int) -> None:
    """What is to be done, and what was before."""
    listed = run.listed
    text = f"label {terminal.short(run.options.bucket)}: {listed['recordings']} recordings"
    if listed["recordings"] > to_do:
        text += f", {to_do} of them new or changed"
    terminal.step(text)
    if before:
        terminal.say(f"going on with what was listed {listed['at']}: {before} are done")


def _summary(
    run: _Run, parts: list[LabelPart], done: tuple[int, float], seconds: float
) -> dict[str, Any]:
    """The summary; writes failures and events. Raises LedgerError where it does not add up."""
    done_now, done_s = done
    total, reasons, failed = label_set.collect(run.to, parts)
    recordings = run.listed["recordings"]
    if total.labelled + failed != recordings:
        _require_current(run)
        # Without it the same command does not trust the parts, and compares them with the bucket.
        storage.remove(run.manifest)
        raise LedgerError(
            f"{recordings} recordings listed, but {total.labelled} labelled and {failed} failed: "
            "was a part removed or copied? The same command compares all of them with the bucket, "
            "and does what is missing"
        )
    kept: dict[str, str] = {}
    batches = label_set.batches(parts, _EVENT_COLUMNS)
    rows = chain.from_iterable(batch.to_pylist() for batch in batches)
    written = export(
        run.note["formats"], merged(rows), run.to,
        bucket=storage.absolute(run.options.bucket),
        high_hz=run.options.limits.min_rate_hz / 2,  # no recording has a lower rate
        told=kept.__setitem__,
    )  # fmt: skip
    terminal.warn_kept("label", kept)
    return {
        "format": FORMAT,
        "bucket": storage.absolute(run.options.bucket),
        "bundle": run.bundle.fingerprint,
        "made_with": run.note["made_with"],
        "listed_at": run.listed["at"],
        "listed": run.listed["listed"],
        "labelled": total.labelled,
        "skipped": run.listed["listed"] - recordings,
        "failed": failed,
        "reasons": dict(reasons.most_common()),
        "skipped_by": run.listed["skipped"],
        "windows": total.windows,
        "hours": total.sound_s / 3600,
        "classes": dict(sorted(total.classes.items())),
        "score_histogram": total.scores,
        "parts": len(parts),
        "files": written,
        "done_now": done_now,
        "seconds": seconds,
        "recordings_per_s": done_now / done_s if done_s else None,
        "cpu_s": total.cpu_s,
        "gpu_s": total.gpu_s,
        "versions": {"audiocnn": audiocnn.__version__, "torch": torch.__version__},
    }


def _require_current(run: _Run) -> None:
    """Raise ConfigError where another run has begun: the parts are not this one's any more."""
    if not label_set.is_current(run.to, run.listed["id"]):
        raise ConfigError(f"--to {run.to}: another run of it began meanwhile, and goes on alone")


def _remove_strays(run: _Run, parts: list[LabelPart]) -> None:
    """What killed workers left, parts of a run that lost against this one, the manifest before."""
    kept = {label_set.part_name(part.listing_id, part.shard) for part in parts}
    others = label_set.sweep(run.to, {label_set.NOTE: run.note}, kept)
    output_folder.remove_temporary(run.to)
    terminal.warn_others(terminal.short(run.to), others)
    for name in run.note.get("replaced", ()):
        storage.remove(storage.join(run.to, label_set.manifest_name(name)))


def _say(run: _Run, summary: dict[str, Any]) -> None:
    to = terminal.short(run.to)
    terminal.say(
        f"{summary['listed']} listed = {summary['labelled']} labelled + {summary['skipped']} "
        f"skipped + {summary['failed']} failed; {summary['windows']} windows, "
        f"{summary['hours']:.2f} h of sound -> {to}",
        **{name: summary[name] for name in ("listed", "labelled", "skipped", "failed", "windows")},
    )
    if summary["done_now"]:
        terminal.say(
            f"{summary['done_now']} recordings in {summary['seconds']:.0f} s with the start, "
            f"{summary['recordings_per_s']:.0f} a second, {summary['cpu_s']:.0f} s of CPU"
        )
    if summary["failed"]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(summary["reasons"].items()))
        terminal.warn(
            f"{summary['failed']} recordings failed ({reasons}): see {to}/failures.parquet"
        )
    if summary["skipped"]:
        kinds = ", ".join(f"{n} {kind}" for kind, n in list(summary["skipped_by"].items())[:5])
        terminal.say(f"skipped, for they are no recordings by their names: {kinds}")
    for name in summary["files"].values():
        terminal.say(f"events in {to}/{name}")
    terminal.say(f"windows in {to}/parts: Parquet, which DuckDB, pandas and polars open")
