"""`audiocnn ingest --dry-run`: report the content of a corpus and an estimate of the result."""

import os
from collections import Counter
from dataclasses import dataclass
from time import monotonic

from audiocnn import storage
from audiocnn.corpus.clips import Clip, Corpus
from audiocnn.corpus.folds import with_folds
from audiocnn.corpus.read import read_corpus
from audiocnn.features.extractor import Extractor
from audiocnn.features.part import item_of
from audiocnn.storage import machine
from audiocnn.storage.scratch import Scratch
from pipelines.options import Ingest
from pipelines.runtime import terminal
from pipelines.runtime.headers import HEADERS, Headers, read_headers, say_headers

_DECODED = 32


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Findings of a dry run: headers of a sample of clips, and a trial ingest of a few."""

    headers: Headers
    trial: "Trial"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Cost of ingesting a few clips: seconds of one core, and bytes of a window in Parquet."""

    seconds_a_clip: float
    bytes_a_window: float


def survey(options: Ingest) -> Survey:
    """Read the headers of clips spread over the corpus and ingest a few; print and return results.

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
    """Return up to `most` clips, evenly spread over the corpus."""
    step = max(1.0, len(clips) / most)
    return [clips[int(i * step)] for i in range(min(most, len(clips)))]


def _try(options: Ingest, corpus: Corpus) -> Trial:
    items = [item_of(clip) for clip in _spread(corpus.clips, _DECODED)]
    with (
        Extractor(options.feature, options.limits, options.storage_options) as extractor,
        Scratch() as folder,
    ):
        part = os.path.join(folder, "part.parquet")
        extractor.part(items[:1], part)  # not timed: the process still starts
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
    """Print a table of the number of clips by class and fold."""
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
        f"about {windows:.0f} windows and {size / 1e6:.0f} MB of features in {time} without the "
        f"start-up, on {workers} cores like this machine's ({1e3 * seconds:.1f} ms for each clip)"
    )
    terminal.say("nothing was written")
