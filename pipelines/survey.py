"""`audiocnn ingest --dry-run`: what is there, and what would become of it."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from time import monotonic

from audiocnn import storage
from audiocnn.audio import AudioInfo, count_windows, read_info
from audiocnn.corpus import Clip, Corpus, with_folds
from audiocnn.errors import AudioCNNError, AudioError, UnreadableError
from audiocnn.extractor import Extractor, Windows
from audiocnn.layouts import read_corpus
from audiocnn.recordings import closing, open_recording
from pipelines import display
from pipelines.options import Ingest

_HEADERS = 256
_DECODED = 32
_AT_ONCE = 8
_PARQUET = 0.83
"""Size of the parts, as a part of their numbers' own: measured on real recordings with zstd."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a sample of a corpus shows; `failures` are of the sample, by reason."""

    looked_at: int
    infos: list[AudioInfo]
    failures: list[tuple[Clip, AudioCNNError]]
    windows: float
    """Windows a clip, on average."""
    seconds_a_clip: float
    """On one core: read, decoded, and its log-mels computed."""


def survey(options: Ingest) -> Survey:
    """Read the headers of clips spread over the corpus, and decode a few; prints what it found.

    Raises AudioCNNError for a corpus that cannot be used, and a store that is out of reach.
    """
    storage.configure(options.storage_options)
    corpus = with_folds(read_corpus(options.corpus), options.folds)
    display.step(f"dry run of {display.short(corpus.uri)}, {corpus.layout} layout")
    sample = _spread(corpus.clips, _HEADERS)
    infos: list[AudioInfo] = []
    failures: list[tuple[Clip, AudioCNNError]] = []

    def look(clip: Clip) -> AudioInfo | AudioCNNError:
        try:
            with closing(open_recording(clip.recording, options.limits.max_bytes)) as source:
                return read_info(source, options.limits)
        except (AudioError, UnreadableError) as error:
            return error

    with ThreadPoolExecutor(_AT_ONCE) as readers:
        for clip, answer in zip(sample, readers.map(look, sample), strict=True):
            if isinstance(answer, AudioInfo):
                infos.append(answer)
            else:
                failures.append((clip, answer))
    found = Survey(
        looked_at=len(sample),
        infos=infos,
        failures=failures,
        windows=_mean([count_windows(i.frames / i.sample_rate, options.feature) for i in infos]),
        seconds_a_clip=_seconds_a_clip(options, corpus),
    )
    _say(options, corpus, found)
    return found


def _spread(clips: tuple[Clip, ...], most: int) -> list[Clip]:
    """Up to so many clips, evenly over the corpus."""
    step = max(1.0, len(clips) / most)
    return [clips[int(i * step)] for i in range(min(most, len(clips)))]


def _mean(values: list[int]) -> float:
    return sum(values) / max(1, len(values))


def _seconds_a_clip(options: Ingest, corpus: Corpus) -> float:
    clips = _spread(corpus.clips, _DECODED)
    with Extractor(options.feature, options.limits, options.storage_options) as extractor:
        answers = extractor.extract(clip.recording for clip in clips)
        next(answers)  # while it starts
        began, count = monotonic(), 0
        for _, found in answers:
            count += isinstance(found, Windows)
        return (monotonic() - began) / max(1, count)


def _say(options: Ingest, corpus: Corpus, found: Survey) -> None:
    _say_classes(corpus)
    display.say(f"the headers of {found.looked_at} of {len(corpus.clips)} clips:")
    for name, values in (
        ("formats", [info.container for info in found.infos]),
        ("rates, Hz", [info.sample_rate for info in found.infos]),
        ("channels", [info.channels for info in found.infos]),
    ):
        counts = ", ".join(f"{n} {value}" for value, n in Counter(values).most_common(6))
        display.say(f"  {name}: {counts or 'none could be read'}")
    seconds = sorted(info.frames / info.sample_rate for info in found.infos)
    if seconds:
        display.say(
            f"  durations: {seconds[0]:.2f} to {seconds[-1]:.2f} s, median {median(seconds):.2f} s"
        )
    reasons = Counter(str(error).split(":")[0] for _, error in found.failures)
    for reason, count in reasons.most_common():
        clip, error = next(f for f in found.failures if str(f[1]).startswith(reason))
        display.warn(f"{count} of them would fail: {error} ({clip.clip_id})")
    if corpus.rejected:
        first = corpus.rejected[0]
        display.warn(
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
    display.table(["class", *(f"fold {fold}" for fold in folds), "clips"], rows)


def _say_estimate(options: Ingest, corpus: Corpus, found: Survey) -> None:
    windows = found.windows * len(corpus.clips) * len(found.infos) / max(1, found.looked_at)
    size = _PARQUET * windows * 2 * options.feature.n_mels * options.feature.n_frames
    workers = options.workers or os.cpu_count() or 1
    time = display.duration(found.seconds_a_clip * len(corpus.clips) / workers)
    display.say(
        f"about {windows:.0f} windows and {size / 1e6:.0f} MB of features; once started, {time} "
        f"with {workers} cores like this machine's, each {1e3 * found.seconds_a_clip:.1f} ms a clip"
    )
    display.say("nothing was written")
