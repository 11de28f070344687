"""`audiocnn ingest --dry-run`: what is there, and what would become of it.

What the headers of some recordings tell is here for `audiocnn label --dry-run` too.
"""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import median
from time import monotonic

from audiocnn import storage
from audiocnn.audio.decode import AudioInfo, AudioLimits, WindowConfig, count_windows, read_info
from audiocnn.audio.recording import Recording, closing_source, open_recording
from audiocnn.corpus.clips import Clip, Corpus, with_folds
from audiocnn.corpus.read import read_corpus
from audiocnn.errors import AudioCNNError, AudioError, UnreadableError
from audiocnn.features.extractor import Extractor
from audiocnn.features.part import item_of
from audiocnn.storage import machine
from audiocnn.storage.scratch import Scratch
from pipelines.options import Ingest
from pipelines.runtime import terminal

HEADERS = 256
"""Recordings whose headers a dry run reads."""
_DECODED = 32
_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Headers:
    """What the headers of some recordings show."""

    infos: list[AudioInfo]
    failures: list[tuple[Recording, AudioCNNError]]

    @property
    def looked_at(self) -> int:
        """How many."""
        return len(self.infos) + len(self.failures)

    def seconds(self) -> list[float]:
        """Lengths that are told, shortest first."""
        return sorted(info.frames / info.sample_rate for info in self.infos)

    def windows(self, config: WindowConfig) -> float:
        """Windows a recording on average, those that would fail too."""
        counts = [count_windows(i.frames / i.sample_rate, config) for i in self.infos]
        return sum(counts) / max(1, self.looked_at)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a sample of a corpus shows."""

    headers: Headers
    trial: "Trial"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What it took to ingest a few clips, on one core."""

    seconds_a_clip: float
    bytes_a_window: float


def read_headers(recordings: list[Recording], limits: AudioLimits) -> Headers:
    """Read the headers of recordings. Raises StorageError for a store that is out of reach."""

    def look(recording: Recording) -> AudioInfo | AudioCNNError:
        try:
            with closing_source(open_recording(recording, limits.max_bytes)) as source:
                return _of_segment(read_info(source, limits), recording)
        except (AudioError, UnreadableError) as error:
            return error

    headers = Headers(infos=[], failures=[])
    with ThreadPoolExecutor(_AT_ONCE) as readers:
        for recording, answer in zip(recordings, readers.map(look, recordings), strict=True):
            if isinstance(answer, AudioInfo):
                headers.infos.append(answer)
            else:
                headers.failures.append((recording, answer))
    return headers


def _of_segment(info: AudioInfo, recording: Recording) -> AudioInfo:
    """As long as what is meant of the recording, where the header tells."""
    if recording.segment is None:
        return info
    first, end = (round(time * info.sample_rate) for time in recording.segment)
    return replace(info, frames=max(0, min(info.frames, end) - first))


def say_headers(headers: Headers, total: int, unit: str) -> None:
    """Print what the headers show of so many recordings."""
    terminal.say(f"the headers of {headers.looked_at} of {total} {unit}:")
    for name, values in (
        ("formats", [info.container for info in headers.infos]),
        ("rates, Hz", [info.sample_rate for info in headers.infos]),
        ("channels", [info.channels for info in headers.infos]),
    ):
        counts = ", ".join(f"{n} {value}" for value, n in Counter(values).most_common(6))
        terminal.say(f"  {name}: {counts or 'none could be read'}")
    seconds = headers.seconds()
    if seconds:
        terminal.say(
            f"  durations: {seconds[0]:.2f} to {seconds[-1]:.2f} s, median {median(seconds):.2f} s"
        )
    reasons = Counter(str(error).split(":")[0] for _, error in headers.failures)
    for reason, count in reasons.most_common():
        recording, error = next(f for f in headers.failures if str(f[1]).startswith(reason))
        name = terminal.short(storage.printable(recording.uri))
        terminal.warn(f"{count} of them would fail: {error} ({name})")


def survey(options: Ingest) -> Survey:
    """Read the headers of clips spread over the corpus, and decode a few; prints what it found.

    Raises AudioCNNError for a corpus that cannot be used, and a store that is out of reach.
    """
    storage.configure(options.storage_options)
    corpus = with_folds(read_corpus(options.corpus), options.folds)
    terminal.step(f"dry run of {terminal.short(corpus.uri)}, {corpus.layout} layout")
    sample = [clip.recording for clip in _spread(corpus.clips, HEADERS)]
    found = Survey(headers=read_headers(sample, options.limits), trial=_try(options, corpus))
    _say(options, corpus, found)
    return found


def _spread(clips: tuple[Clip, ...], most: int) -> list[Clip]:
    """Up to so many clips, evenly over the corpus."""
    step = max(1.0, len(clips) / most)
    return [clips[int(i * step)] for i in range(min(most, len(clips)))]


def _try(options: Ingest, corpus: Corpus) -> Trial:
    items = [item_of(clip) for clip in _spread(corpus.clips, _DECODED)]
    with (
        Extractor(options.feature, options.limits, options.storage_options) as extractor,
        Scratch() as folder,
    ):
        part = os.path.join(folder, "part.parquet")
        extractor.part(items[:1], part)  # while it starts
        began = monotonic()
        ledger = extractor.part(items, part)
        return Trial(
            seconds_a_clip=(monotonic() - began) / max(1, len(ledger.ingested)),
            bytes_a_window=os.path.getsize(part) / max(1, sum(ledger.windows.values())),
        )


def _say(options: Ingest, corpus: Corpus, found: Survey) -> None:
    for remark in corpus.remarks:
        terminal.say(remark)
    _say_classes(corpus)
    say_headers(found.headers, len(corpus.clips), "clips")
    if corpus.rejected:
        first = corpus.rejected[0]
        terminal.warn(
            f"{len(corpus.rejected)} entries cannot be used; the first: "
            f"{first.uri}: {first.reason}: {first.detail}"
        )
    _say_estimate(options, corpus, found)


def _say_classes(corpus: Corpus) -> None:
    """Clips by class and fold."""
    folds = list(corpus.folds)
    counts = Counter((clip.label, clip.fold) for clip in corpus.clips)
    rows = [
        [
            name,
            *(str(counts[name, fold]) for fold in folds),
            str(sum(counts[name, f] for f in folds)),
        ]
        for name in corpus.classes
    ]
    total = [sum(counts[name, fold] for name in corpus.classes) for fold in folds]
    rows.append(["all", *map(str, total), str(sum(total))])
    terminal.table(["class", *(f"fold {fold}" for fold in folds), "clips"], rows)


def _say_estimate(options: Ingest, corpus: Corpus, found: Survey) -> None:
    windows = found.headers.windows(options.feature) * len(corpus.clips)
    size, seconds = windows * found.trial.bytes_a_window, found.trial.seconds_a_clip
    workers = options.workers or machine.cpus()
    time = terminal.duration(seconds * len(corpus.clips) / workers)
    terminal.say(
        f"about {windows:.0f} windows and {size / 1e6:.0f} MB of features; once started, {time} "
        f"with {workers} cores like this machine's, each {1e3 * seconds:.1f} ms a clip"
    )
    terminal.say("nothing was written")
