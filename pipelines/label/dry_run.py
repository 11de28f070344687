"""`audiocnn label --dry-run`: report the content of a bucket and the time to label it."""

import os
import random
from collections.abc import Iterable
from dataclasses import replace
from time import monotonic

from audiocnn import storage
from audiocnn.audio.recording import Recording
from audiocnn.errors import StorageError
from audiocnn.features.extractor import Extractor
from audiocnn.labels.label_set import iter_bucket, require_apart
from audiocnn.labels.labeller import Labeller, Scorer
from audiocnn.labels.shard_list import Entry, ListingCounts
from audiocnn.model.bundle import Bundle
from audiocnn.model.predictor import Predictor
from audiocnn.storage import machine
from audiocnn.storage.listing import StoredFile
from audiocnn.storage.scratch import Scratch
from pipelines.options import Label
from pipelines.runtime import terminal
from pipelines.runtime.headers import HEADERS, Headers, read_headers, say_headers

_LABELLED = 24


def prospect(options: Label) -> tuple[ListingCounts, Headers]:
    """List the bucket, read some headers, label a few recordings; print and return the findings.

    Nothing is written. Raises AudioCNNError for a bundle, a bucket or a folder of labels that
    cannot be used.
    """
    storage.configure(options.storage_options)
    require_apart(options.bucket, options.to)
    bundle = Bundle.read(options.bundle)
    bundle = replace(bundle, feature=bundle.feature.with_hop(options.hop_s))
    terminal.step(f"dry run of {terminal.short(options.bucket)}")
    census = ListingCounts()
    with terminal.bar(0) as bar:
        files = iter_bucket(options.bucket, options.to)
        sample = _sampled(census.of_recordings(terminal.counted(files, bar, "files")), HEADERS)
    if not sample:
        raise StorageError(f"{options.bucket}: none of its {census.listed} files is a recording")
    headers = read_headers(sample, options.limits)
    _say(options, census, headers, _seconds_each(options, bundle, sample[:_LABELLED]), bundle)
    return census, headers


def _sampled(files: Iterable[StoredFile], most: int) -> list[Recording]:
    """Return a random sample of up to `most` files, each equally likely; only it is in memory.

    Source: Vitter, Random Sampling with a Reservoir, 1985, algorithm R.
    """
    chance = random.Random(0)  # noqa: S311
    kept: list[Recording] = []
    for count, file in enumerate(files):
        place = count if count < most else chance.randrange(count + 1)
        recording = Recording(uri=file.uri, size=file.size, version=file.version or None)
        if place == len(kept):
            kept.append(recording)
        elif place < most:
            kept[place] = recording
    chance.shuffle(kept)
    return kept


def _seconds_each(options: Label, bundle: Bundle, sample: list[Recording]) -> float:
    """Return the mean time to label one of these recordings, in seconds of one core."""
    entries = [Entry(recording=recording, wrong=None) for recording in sample]
    with (
        Extractor(bundle.feature, options.limits, options.storage_options) as extractor,
        Scratch() as folder,
    ):
        score = Scorer(Predictor(bundle), embeddings=options.embeddings).score
        labeller = Labeller(bundle, extractor, score, options.top_k, embeddings=options.embeddings)
        path = os.path.join(folder, "part.parquet")
        labeller.part(entries[:1], path)  # not timed: the process still starts
        began = monotonic()
        labeller.part(entries, path)
        return (monotonic() - began) / len(entries)


def _say(
    options: Label, census: ListingCounts, headers: Headers, seconds_each: float, bundle: Bundle
) -> None:
    terminal.say(
        f"{census.listed} files: {census.recordings} recordings of {census.bytes / 1e6:.0f} MB"
        + "".join(
            f", {count} {kind or 'without a suffix'}"
            for kind, count in census.skipped.most_common(5)
        )
    )
    say_headers(headers, census.recordings, "recordings")
    share = census.recordings / headers.looked_at
    hours = sum(headers.seconds()) * share / 3600
    failures = len(headers.failures) * share
    windows = headers.windows(bundle.feature) * census.recordings
    workers = options.workers or machine.cpus()
    terminal.say(
        f"about {hours:.1f} hours of sound, {windows:.0f} windows and {failures:.0f} failures"
    )
    terminal.say(
        f"about {terminal.duration(seconds_each * census.recordings / workers)} without the "
        f"start-up, on {workers} cores like this machine's ({1e3 * seconds_each:.0f} ms for each "
        "recording)"
    )
    terminal.say("nothing was written")
