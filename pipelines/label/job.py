"""`audiocnn label`: a bucket of recordings and a bundle -> labels in Parquet.

The bucket is listed once into a list of shards. Each shard becomes one part, which is written
completely or not at all, so the parts show which shards are done. A stopped run continues with its
shard list. A run after a finished one lists again, and labels new and changed recordings.
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
from audiocnn.labels.diff import compare_listing
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
"""Shards that a worker processes at once: decode one, score one, fetch or write one."""
_WORTH_A_WORKER = 1_000
"""Recordings that justify one more worker on an added node: half a minute's work for one core."""
_EVENT_COLUMNS = ["uri", "start_s", "end_s", "label", "score", "bundle"]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The inputs of a run; `note` is the content of `labels.json`."""

    options: Label
    feature: FeatureConfig
    bundle: Bundle
    output: Output
    note: dict[str, Any]

    @property
    def to(self) -> str:
        """URI of the labels."""
        return self.output.uri

    @property
    def listed(self) -> dict[str, Any]:
        """Id, time and counts of the listing."""
        found: dict[str, Any] = self.note["listing"]
        return found

    @property
    def manifest(self) -> str:
        """URI of the shard list."""
        return storage.join(self.to, label_set.manifest_name(self.listed["id"]))

    def parts(self) -> list[LabelPart]:
        """Return the existing parts that belong to the listings in the note."""
        return label_set.find_parts(self.to, self.note["listings"])


def label(options: Label) -> dict[str, Any]:
    """Run the job, or continue a stopped one; return the summary that it wrote.

    Raises AudioCNNError for a bucket that cannot be listed or holds no recordings, a bundle of
    another format, existing labels of another bundle or other options, or recordings that are
    neither labelled nor failed.
    """
    began = time.monotonic()
    storage.configure(options.storage_options)
    label_set.require_apart(options.bucket, options.to)
    # Read the whole bundle here: a damaged one gives one error, not a pool of failing workers.
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
    """Find the folder to write, and the note of an earlier run in it. Raises ConfigError."""
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
    # Formats that an earlier run wrote are updated too.
    note["formats"] = list(dict.fromkeys([*note["formats"], *options.formats]))
    return _Run(options=options, feature=feature, bundle=bundle, output=output, note=note)


def _is_unfinished(run: _Run) -> bool:
    """Return whether there is a shard list with shards that may be left to do."""
    if run.note["listing"] is None or storage.exists(storage.join(run.to, SUMMARY)):
        return False
    # Failed recordings are in parts of this listing: only a new listing can retry them.
    return not run.options.retry_failed and storage.exists(run.manifest)


def _remember_formats(run: _Run) -> None:
    note = label_set.read_note(run.to)
    if note["formats"] != run.note["formats"]:
        note["formats"] = run.note["formats"]
        storage.write_json(storage.join(run.to, NOTE), note)


def _list(run: _Run) -> _Run:
    """List the bucket and write a shard list of the recordings to label; return the run with it.

    Raises StorageError, also if there are no recordings.
    """
    terminal.step(f"list {terminal.short(run.options.bucket)}")
    name, census = uuid.uuid4().hex[:8], ListingCounts()
    # Old shard lists that the last run did not remove, because it was stopped before its end.
    carried = run.note.get("replaced", [])
    if storage.exists(storage.join(run.to, SUMMARY)):  # stopped after its summary, or not at all
        names = {old: storage.join(run.to, label_set.manifest_name(old)) for old in carried}
        carried = [old for old, uri in names.items() if storage.exists(uri)]
    manifest = storage.join(run.to, label_set.manifest_name(name))
    files = label_set.iter_bucket(run.options.bucket, run.options.to)
    with terminal.bar(0) as bar:
        rows = map(row_of, census.of_recordings(terminal.counted(files, bar, "files")))
        before: list[LabelPart] = []
        if run.note["listings"]:
            with compare_listing(rows) as comparison:
                _require_recordings(run, census)
                run = _begin_listing(run, name)
                # From here on, no worker of another run starts to add a part to these.
                before = run.parts()
                comparison.against(before, retry_failed=run.options.retry_failed)
                for part, uris in comparison.stale():
                    without(part.uri, uris, version=part.version)
                shards = write_manifest(manifest, comparison.to_do())
            compared_with = {part.uri for part in before}
            for late in run.parts():  # added since the comparison: done again instead
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
    # Parts of a run that listed at the same time were not compared: leave its listing out.
    counted = dict.fromkeys([*(part.listing_id for part in before), name])
    note = {
        **run.note, "listing": found, "listings": list(counted),
        "replaced": list(dict.fromkeys([*carried, *run.note["listings"][-3:-1]])),
    }  # fmt: skip
    run = replace(run, note=note)
    storage.write_json(storage.join(run.to, NOTE), run.note)
    return run


def _require_recordings(run: _Run, census: ListingCounts) -> None:
    """Raise StorageError for a bucket without recordings: a mistake, no reason to delete labels."""
    if not census.recordings:
        kinds = ", ".join(AUDIO_SUFFIXES)
        raise StorageError(
            f"{run.options.bucket}: none of its {census.listed} files ends in one of {kinds}"
        )


def _begin_listing(run: _Run, name: str) -> _Run:
    """Mark the labels as incomplete, before any of them is changed; return the run."""
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
    """Label the shards without a part; return the number of recordings and the time in seconds."""
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
                f"{done} of {sum(sizes)} recordings are done; run "
                f"{terminal.same_command(run.options.overwrite)} to continue"
            ) from None
    return done - before, time.monotonic() - began


def _say_plan(run: _Run, to_do: int, before: int) -> None:
    """Print the number of recordings to label, and of those that are done already."""
    listed = run.listed
    text = f"label {terminal.short(run.options.bucket)}: {listed['recordings']} recordings"
    if listed["recordings"] > to_do:
        text += f", {to_do} of them new or changed"
    terminal.step(text)
    if before:
        terminal.say(f"continuing with the listing of {listed['at']}: {before} are done")


def _summary(
    run: _Run, parts: list[LabelPart], done: tuple[int, float], seconds: float
) -> dict[str, Any]:
    """Write failures and events; return the summary. Raises LedgerError if counts do not add up."""
    done_now, done_s = done
    total, reasons, failed = label_set.collect(run.to, parts)
    recordings = run.listed["recordings"]
    if total.labelled + failed != recordings:
        _require_current(run)
        # Without its shard list, the same command compares all parts with a new listing.
        storage.remove(run.manifest)
        raise LedgerError(
            f"{recordings} recordings listed, but {total.labelled} labelled and {failed} failed: "
            "a part may have been removed or copied; run the same command again to compare all "
            "parts with the bucket and label what is missing"
        )
    kept: dict[str, str] = {}
    batches = label_set.batches(parts, _EVENT_COLUMNS)
    rows = chain.from_iterable(batch.to_pylist() for batch in batches)
    written = export(
        run.note["formats"], merged(rows), run.to,
        bucket=storage.absolute(run.options.bucket),
        high_hz=run.options.limits.min_rate_hz / 2,  # no recording has a lower sample rate
        on_kept=kept.__setitem__,
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
    """Raise ConfigError if another run has begun: the parts do not belong to this one any more."""
    if not label_set.is_current(run.to, run.listed["id"]):
        raise ConfigError(
            f"--to {run.to}: another run into this folder has started; this one stops, and the "
            "other continues"
        )


def _remove_strays(run: _Run, parts: list[LabelPart]) -> None:
    """Delete temporary files of killed workers, old shard lists, and parts of runs that lost.

    Files among the parts that no run wrote stay, with a warning.
    """
    kept = {label_set.part_name(part.listing_id, part.shard) for part in parts}
    others = label_set.sweep(run.to, {label_set.NOTE: run.note}, kept)
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
            f"{summary['done_now']} recordings in {summary['seconds']:.0f} s including the start; "
            f"{summary['recordings_per_s']:.0f} a second after it, {summary['cpu_s']:.0f} s of CPU"
        )
    if summary["failed"]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(summary["reasons"].items()))
        terminal.warn(
            f"{summary['failed']} recordings failed ({reasons}): see {to}/failures.parquet"
        )
    if summary["skipped"]:
        kinds = ", ".join(f"{n} {kind}" for kind, n in list(summary["skipped_by"].items())[:5])
        terminal.say(f"skipped files without the suffix of a recording: {kinds}")
    for name in summary["files"].values():
        terminal.say(f"events in {to}/{name}")
    terminal.say(f"windows in {to}/parts: Parquet, which DuckDB, pandas and polars can read")
