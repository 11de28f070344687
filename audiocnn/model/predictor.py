"""Predictor: load, decode, predict, encode. Labelling and serving use it; it does not use Ray."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from audiocnn.audio.decode import AudioLimits, Samples, Source, Window, windows
from audiocnn.audio.recording import Recording, closing_source, open_recording
from audiocnn.config import UNKNOWN
from audiocnn.errors import AudioError
from audiocnn.features.logmel import LogMel
from audiocnn.features.torch_logmel import TorchLogMel
from audiocnn.model.bundle import Bundle
from audiocnn.model.clip_scores import clip_scores

__all__ = ["Prediction", "Predictor", "WindowPrediction"]


_WINDOWS_AT_ONCE = 64
"""Most windows in a forward pass."""


@dataclass(frozen=True, kw_only=True)
class WindowPrediction:
    """The prediction for one window; `top_k` are (class, score) pairs, best first."""

    start_s: float
    end_s: float
    top_k: tuple[tuple[str, float], ...]
    known: bool = True
    """Whether the best class reaches its threshold in the bundle."""

    @property
    def label(self) -> str:
        """The best class, or "unknown"."""
        return self.top_k[0][0] if self.known else UNKNOWN

    @property
    def score(self) -> float:
        """The best class's score, from 0 to 1; 0 for silence."""
        return self.top_k[0][1]


@dataclass(frozen=True, kw_only=True)
class Prediction(WindowPrediction):
    """The prediction for a recording, those for its windows, and the bundle that made them."""

    windows: tuple[WindowPrediction, ...]
    bundle: str
    """The bundle's fingerprint."""


class Predictor:
    """A bundle, loaded on a device.

    >>> predictor = Predictor.load("bundle")
    >>> predictor.predict("dog.wav").label
    'dog'
    """

    def __init__(self, bundle: Bundle, device: str | torch.device = "cpu") -> None:
        self.bundle = bundle
        self.device = torch.device(device)
        self.model = bundle.model.to(self.device).eval()
        self._on_cpu = LogMel(bundle.feature)
        self._on_device = TorchLogMel(bundle.feature).to(self.device)

    @staticmethod
    def load(
        uri: str | os.PathLike[str], device: str | None = None, *, fingerprint: str | None = None
    ) -> "Predictor":
        """Load the bundle at a URI, by default on a GPU if there is one.

        Raises the errors of `Bundle.read`.
        """
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return Predictor(Bundle.read(os.fspath(uri), fingerprint), device)

    def decode(
        self, data: Source, limits: AudioLimits | None = None, hop_s: float | None = None
    ) -> Iterator[Window]:
        """Decode a recording into windows; one starts every `hop_s` seconds (None: as in training).

        Raises AudioError during iteration, at the window where the fault is found.
        """
        return windows(data, self.bundle.feature.with_hop(hop_s), limits)

    def features(self, samples: list[Samples]) -> np.ndarray:
        """Convert [windows, window_samples] to [windows, n_mels, n_frames] float16 decibels.

        Features are stored as float16 too, so the model gets the same numbers in training and in
        use.
        """
        starts = range(0, len(samples), _WINDOWS_AT_ONCE)
        groups = [self._log_mels(samples[at : at + _WINDOWS_AT_ONCE]) for at in starts]
        # torch converts to float16 faster than NumPy.
        return np.concatenate([group.half().cpu().numpy() for group in groups])

    def _log_mels(self, samples: list[Samples]) -> torch.Tensor:
        if self.device.type == "cpu":
            return torch.from_numpy(self._on_cpu(samples))
        there: torch.Tensor = self._on_device(torch.from_numpy(np.stack(samples)).to(self.device))
        return there

    def scores(self, logmel: np.ndarray) -> np.ndarray:
        """Convert [windows, n_mels, n_frames] decibels to [windows, n_classes] scores with sum 1.

        If a whole window is at the floor of the front end, as digital silence is, all its scores
        are 0. Then it is unknown, has no weight in a recording's mean, and is not picked for an
        explanation.
        """
        return self.scores_and_embeddings(logmel)[0]

    @torch.inference_mode()
    def scores_and_embeddings(self, logmel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return `scores` and the pooled features behind them, [windows, features] float32."""
        temperature = self.bundle.calibration.temperature
        floor = float(np.float16(self.bundle.feature.floor_db))  # features are stored as float16
        scores, embeddings = [], []
        for group in torch.split(torch.from_numpy(logmel), _WINDOWS_AT_ONCE):
            group = group.to(self.device).float()
            embedding = self.model.embed(group)
            heard = group.amax((1, 2)) > floor
            found = torch.softmax(self.model.classify(embedding) / temperature, dim=1)
            scores.append((found * heard[:, None]).cpu())
            embeddings.append(embedding.cpu())
        return torch.cat(scores).numpy(), torch.cat(embeddings).numpy()

    def predict_windows(self, samples: list[Samples]) -> np.ndarray:
        """Convert windows of samples to [windows, n_classes] scores, see `scores`."""
        return self.scores(self.features(samples))

    def predict(
        self,
        recording: str | os.PathLike[str] | bytes,
        top_k: int = 3,
        limits: AudioLimits | None = None,
    ) -> Prediction:
        """Predict a recording from its URI or encoded bytes. Raises AudioError, StorageError."""
        limits = limits or AudioLimits()
        source: Source
        if isinstance(recording, bytes):
            source = recording
        else:
            source = open_recording(Recording(uri=os.fspath(recording)), limits.max_bytes)
        with closing_source(source):
            windows = list(self.decode(source, limits))
        scores = self.predict_windows([window.samples for window in windows])
        return self.encode(windows, scores, top_k)

    def encode(self, windows: list[Window], scores: np.ndarray, top_k: int = 3) -> Prediction:
        """Return the recording's prediction from its windows and scores [windows, n_classes]."""
        return prediction_of(self.bundle, windows, scores, top_k)


def prediction_of(
    bundle: Bundle, windows: list[Window], scores: np.ndarray, top_k: int
) -> Prediction:
    """Return the recording's prediction from its windows and scores [windows, n_classes].

    Raises AudioError with reason `scores` if a score is NaN or infinite.
    """
    if not np.isfinite(scores).all():
        raise AudioError("scores", f"NaN or infinite scores from bundle {bundle.fingerprint}")
    known = bundle.calibration.known
    answers = tuple(
        WindowPrediction(
            start_s=window.start_s,
            end_s=window.start_s + window.duration_s,
            top_k=_top_k(bundle, row, top_k),
            known=bool(row_known),
        )
        for window, row, row_known in zip(windows, scores, known(scores), strict=True)
    )
    durations = np.array([window.duration_s for window in windows])
    _, whole = clip_scores([""] * len(windows), durations, scores)
    return Prediction(
        start_s=0.0,
        end_s=answers[-1].end_s,
        top_k=_top_k(bundle, whole[0], top_k),
        known=bool(known(whole)[0]),
        windows=answers,
        bundle=bundle.fingerprint,
    )


def _top_k(bundle: Bundle, scores: np.ndarray, count: int) -> tuple[tuple[str, float], ...]:
    """Return the best classes and their scores from scores [n_classes], best first."""
    best = np.argsort(-scores, kind="stable")[:count]
    return tuple((bundle.classes[index], float(scores[index])) for index in best)
