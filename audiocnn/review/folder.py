"""Write a folder for a person to review: short sounds, a page to listen and answer, a manifest.

The answers go into the manifest's empty column `label`; then `ingest` reads the manifest.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from audiocnn import storage
from audiocnn.audio.decode import Samples, decode
from audiocnn.audio.encode import wav
from audiocnn.audio.recording import Recording, closing_source, open_recording
from audiocnn.corpus.file_list import FileList, OnKept
from audiocnn.errors import AudioError, ChangedError, ConfigError, UnreadableError
from audiocnn.labels.reader import Labelled
from audiocnn.review.page import COLUMNS, ReviewClip, page
from audiocnn.review.selection import Pick
from audiocnn.storage import output_folder
from audiocnn.storage.csv_cells import csv_file
from audiocnn.storage.failures import failure_row
from audiocnn.storage.output_folder import REVIEW
from audiocnn.storage.stores import local

REVIEW_CSV = "review.csv"
"""Name of the manifest; it is written after the clips and the page."""
PAGE = "review.html"
_LIST = "review.json"
"""Name of the list of written files."""
_FORMAT = "audiocnn.review/1"


@dataclass(frozen=True, kw_only=True)
class Written:
    """The clips of a written review, and the recordings left out."""

    clips: list[ReviewClip]
    skipped: dict[str, str]
    """Reasons by URI of recordings that could not be read as they were when labelled."""


def claim(to: str, labels: Labelled, *, overwrite: bool) -> str:
    """Check that a review may be written to a folder; return its absolute URI.

    Raises ConfigError if a review is there, which may hold answers, and `overwrite` is false; if
    another verb wrote the folder; or if one of the folder and the bucket contains the other.
    """
    to = output_folder.claim(to, REVIEW).uri
    for there in (REVIEW_CSV, PAGE):
        if not overwrite and storage.exists(storage.join(to, there)):
            raise output_folder.there_already(to, there)
    real, bucket = storage.real(to), storage.real(labels.bucket)
    if storage.is_within(real, bucket) or storage.is_within(bucket, real):
        raise ConfigError(
            f"--to {to}: it is in the bucket, or contains it, so its clips would be labelled as "
            "recordings; name a folder elsewhere"
        )
    return to


def write_review(
    to: str,
    labels: Labelled,
    picks: Sequence[Pick],
    on_kept: OnKept = lambda path, kept: None,
) -> Written:
    """Write the review of some windows to a folder that `claim` returned.

    The files of an earlier review are removed. A file that somebody changed, for example a
    `review.csv` with answers, is copied first, and `on_kept` is called with its path and that of
    the copy. The numbers in `clips/NNNN.wav` are the places of the windows in `picks`; a number is
    missing if the recording cannot be read any more. Raises StorageError, and ConfigError if no
    window is left.
    """
    groups: dict[str, dict[int, Pick]] = defaultdict(dict)
    for number, pick in enumerate(picks, 1):
        groups[pick.uri][number] = pick
    files = FileList(to, _LIST, on_kept)
    files.clear(REVIEW_CSV, PAGE)
    clips: dict[int, ReviewClip] = {}
    rate = labels.feature.sample_rate
    skipped: dict[str, str] = {}
    for uri, group in groups.items():
        try:
            for number, samples in _sounds(labels, uri, group):
                path = f"clips/{number:04d}.wav"
                files.write_bytes(path, wav(samples, rate))
                clips[number] = ReviewClip(path=path, name=labels.name(uri), pick=group[number])
        except (AudioError, UnreadableError) as error:
            skipped[uri] = failure_row(uri, error)["reason"]
    if not clips:
        why = next(iter(skipped.values()), "all are silent, or there are none")
        raise ConfigError(f"{labels.uri}: no window to review: {why}")
    written = Written(clips=[clips[number] for number in sorted(clips)], skipped=skipped)
    content = page(written.clips, labels.classes, labels.bucket, labels.fingerprint)
    files.write_bytes(PAGE, content.encode("utf-8", "backslashreplace"))
    files.write_bytes(REVIEW_CSV, csv_file([COLUMNS, *(clip.cells for clip in written.clips)]))
    files.finish((), format=_FORMAT)
    return written


def _sounds(labels: Labelled, uri: str, group: dict[int, Pick]) -> Iterator[tuple[int, Samples]]:
    """Yield the number and the samples, without padding, of each window of one recording.

    Raises AudioError, StorageError, and ChangedError if the recording does not have the window.
    """
    feature = labels.feature
    version = next(iter(group.values())).version or None
    for number, pick in group.items():
        segment = pick.start_s, pick.start_s + feature.window_s
        recording = Recording(uri=uri, version=version, segment=segment)
        with closing_source(open_recording(recording, labels.limits.max_bytes)) as source:
            try:
                blocks = list(decode(source, feature.sample_rate, labels.limits, segment))
            except AudioError as error:
                if error.reason != "too_short":
                    raise
                blocks = []
        samples = np.concatenate([np.zeros(0, np.float32), *blocks])
        # Without a version, only the length shows that it is another recording.
        if len(samples) != round((pick.end_s - pick.start_s) * feature.sample_rate):
            raise ChangedError(f"{uri}: {local.CHANGED}")
        yield number, samples
