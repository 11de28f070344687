"""`audiocnn ingest --dry-run`: what is there, and what would become of it."""

import os
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from time import monotonic

from audiocnn import storage
from audiocnn.audio import AudioInfo, count_windows, read_info
from audiocnn.corpus import Clip, Corpus, with_folds
from audiocnn.errors import AudioCNNError, AudioError, UnreadableError
from audiocnn.extractor import Extractor
from audiocnn.layouts import read_corpus
from audiocnn.parts import item_of
from audiocnn.recordings import closing, open_recording
from pipelines import display
from pipelines.options import Ingest

_HEADERS = 256
_DECODED = 32
_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a sample of a corpus shows; `failures` are of the sample, by reason."""

    looked_at: int
    infos: list[AudioInfo]
    failures: list[tuple[Clip, AudioCNNError]]
    windows: float
    """Windows a clip, on average."""
    trial: "Trial"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What it took to ingest a few clips, on one core."""

    seconds_a_clip: float
    bytes_a_window: float


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
        trial=_try(options, corpus),
    )
    _say(options, corpus, found)
    return found


def _spread(clips: tuple[Clip, ...], most: int) -> list[Clip]:
    """Up to so many clips, evenly over the corpus."""
    step = max(1.0, len(clips) / most)
    return [clips[int(i * step)] for i in range(min(most, len(clips)))]


def _mean(values: list[int]) -> float:
    return sum(values) / max(1, len(values))


def _try(options: Ingest, corpus: Corpus) -> Trial:
    items = [item_of(clip) for clip in _spread(corpus.clips, _DECODED)]
    with (
        Extractor(options.feature, options.limits, options.storage_options) as extractor,
        tempfile.TemporaryDirectory(prefix="audiocnn-") as folder,
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
    size, seconds = windows * found.trial.bytes_a_window, found.trial.seconds_a_clip
    workers = options.workers or os.cpu_count() or 1
    time = display.duration(seconds * len(corpus.clips) / workers)
    display.say(
        f"about {windows:.0f} windows and {size / 1e6:.0f} MB of features; once started, {time} "
        f"with {workers} cores like this machine's, each {1e3 * seconds:.1f} ms a clip"
    )
    display.say("nothing was written")
