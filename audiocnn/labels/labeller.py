"""Recordings -> a part of labels: decoded in a process beside, scored in batches over files."""

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
"""Windows that the model gets at once."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model says of windows; arrays are [windows, ...]."""

    scores: np.ndarray
    """[windows, n_classes]"""
    embeddings: np.ndarray | None
    """[windows, features] float16, where they were asked for."""
    gpu_s: float = 0.0
    """Seconds of a GPU that it took."""


class Scorer:
    """A predictor, as labelling asks it."""

    def __init__(self, predictor: Predictor, *, embeddings: bool) -> None:
        self.predictor, self.embeddings = predictor, embeddings

    def score(self, logmel: np.ndarray) -> Scores:
        """[windows, n_mels, n_frames] float16 decibels -> what the model says of them."""
        began = time.perf_counter()
        scores, embeddings = self.predictor.scores_and_embeddings(logmel)
        return Scores(
            scores=scores,
            embeddings=embeddings.astype(np.float16) if self.embeddings else None,
            gpu_s=time.perf_counter() - began if self.predictor.device.type == "cuda" else 0.0,
        )


def _not_numbers(found: list[Scored]) -> AudioError | None:
    """What is wrong with a recording of which a window's scores are NaN or infinite."""
    for scored in found:
        good = np.isfinite(scored.scores).all(axis=1)
        if not good.all():
            at = scored.start_s[~good][0]
            return AudioError("scores", f"NaN or infinite in the window from {at:g} s")
    return None


Judge = Callable[[np.ndarray], Scores]
"""[windows, n_mels, n_frames] float16 decibels -> what the model says of them."""


class Labeller:
    """A bundle's configs, a front end, and a model wherever it is.

    Used by one thread at a time, as its front end is.
    """

    def __init__(
        self, bundle: Bundle, extractor: Extractor, score: Judge, top_k: int, *, embeddings: bool
    ) -> None:
        self.bundle, self.top_k, self.embeddings = bundle, top_k, embeddings
        self.extractor, self.score = extractor, score

    def part(self, entries: list[Entry], path: str, name: str = "") -> LabelLedger:
        """Write the part of these recordings to a file of this machine; returns its ledger.

        `name` is as for `LabelWriter`. Raises AudioCNNError where the store is out of reach or the
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
        """Each recording with its scores, once they are all there; GPU seconds are noted."""
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
                    scored.clear()  # of attempts that broke off too
            held.clear()

    def _judge(self, found: list[WindowFeatures], ledger: LabelLedger) -> Iterator[Scored]:
        """One answer of the model, cut to what it was asked for."""
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
