"""Label recordings: decode them in a separate process, score windows of several in one batch."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

import numpy as np

from audiocnn.errors import AudioError
from audiocnn.features.extractor import Extractor, RecordingEnd, WindowFeatures
from audiocnn.labels.part import LabelLedger, LabelWriter, Scored
from audiocnn.labels.shard_list import Entry
from audiocnn.model.bundle import Bundle
from audiocnn.model.predictor import Predictor

BATCH = 64
"""Number of windows to collect before they are scored; one batch may have more."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A model's output for windows; arrays are [windows, ...]."""

    scores: np.ndarray
    """[windows, n_classes]"""
    embeddings: np.ndarray | None
    """[windows, features] float16; None if they were not asked for."""
    gpu_s: float = 0.0
    """GPU time that it took, in seconds; 0 on a CPU."""


class Scorer:
    """A predictor with the interface that labelling uses."""

    def __init__(self, predictor: Predictor, *, embeddings: bool) -> None:
        self.predictor, self.embeddings = predictor, embeddings

    def score(self, logmel: np.ndarray) -> Scores:
        """Score log-mels, [windows, n_mels, n_frames] float16 decibels."""
        began = time.perf_counter()
        scores, embeddings = self.predictor.scores_and_embeddings(logmel)
        return Scores(
            scores=scores,
            embeddings=embeddings.astype(np.float16) if self.embeddings else None,
            gpu_s=time.perf_counter() - began if self.predictor.device.type == "cuda" else 0.0,
        )


def _not_numbers(found: list[Scored]) -> AudioError | None:
    """Return the error of a recording with a NaN or infinite score; None if all are finite."""
    for scored in found:
        good = np.isfinite(scored.scores).all(axis=1)
        if not good.all():
            at = scored.start_s[~good][0]
            return AudioError("scores", f"NaN or infinite in the window from {at:g} s")
    return None


Judge = Callable[[np.ndarray], Scores]
"""Function that scores log-mels, [windows, n_mels, n_frames] float16 decibels."""


class Labeller:
    """Labels recordings with a front end and a scoring function; the model may be elsewhere.

    Only one thread at a time may use it, because the same holds for its front end.
    """

    def __init__(
        self, bundle: Bundle, extractor: Extractor, score: Judge, top_k: int, *, embeddings: bool
    ) -> None:
        self.bundle, self.top_k, self.embeddings = bundle, top_k, embeddings
        self.extractor, self.score = extractor, score

    def part(self, entries: list[Entry], path: str, name: str = "") -> LabelLedger:
        """Label these recordings and write their part to a local file; return its ledger.

        `name` is as for `LabelWriter`. Raises AudioCNNError if the store cannot be reached or the
        file cannot be written.
        """
        began, before = time.thread_time(), self.extractor.cpu_s
        recordings = [entry.recording for entry in entries if entry.wrong is None]
        with LabelWriter(
            path, self.bundle, self.top_k, embeddings=self.embeddings, name=name
        ) as part:
            for entry in entries:
                if entry.wrong is not None:
                    part.fail(entry.recording, AudioError(*entry.wrong.split(": ", 1)))
            with closing(self.extractor.windows(recordings)) as stream:
                for ended, found in self._judged(stream, part.ledger):
                    error = ended.error or _not_numbers(found)
                    if error is None:
                        part.add(recordings[ended.at], found)
                    else:
                        part.fail(recordings[ended.at], error)
            part.ledger.cpu_s = time.thread_time() - began + self.extractor.cpu_s - before
            return part.finish()

    def _judged(
        self, stream: Iterator[WindowFeatures | RecordingEnd], ledger: LabelLedger
    ) -> Iterator[tuple[RecordingEnd, list[Scored]]]:
        """Yield each recording with all its scores; add the GPU seconds to the ledger."""
        held: list[WindowFeatures | RecordingEnd] = []
        scored: dict[tuple[int, int], list[Scored]] = defaultdict(list)
        for message in chain(stream, [None]):
            if message is not None:
                held.append(message)
                if sum(len(m.start_s) for m in held if isinstance(m, WindowFeatures)) < BATCH:
                    continue
            judged = self._judge([m for m in held if isinstance(m, WindowFeatures)], ledger)
            for found in held:
                if isinstance(found, WindowFeatures):
                    scored[found.at, found.attempt].append(next(judged))
                else:
                    yield found, scored[found.at, found.attempt]
                    scored.clear()  # with the scores of attempts that broke off
            held.clear()

    def _judge(self, found: list[WindowFeatures], ledger: LabelLedger) -> Iterator[Scored]:
        """Score all windows in one batch; yield the scores of each element of `found`."""
        if not found:
            return
        answer = self.score(np.concatenate([one.logmel for one in found]))
        ledger.gpu_s += answer.gpu_s
        start = 0
        for one in found:
            part = slice(start, start := start + len(one.start_s))
            yield Scored(
                start_s=one.start_s,
                duration_s=one.duration_s,
                level_dbfs=one.level_dbfs,
                channel=one.channel,
                scores=answer.scores[part],
                embeddings=None if answer.embeddings is None else answer.embeddings[part],
            )
