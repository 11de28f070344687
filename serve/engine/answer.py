"""The parts of an endpoint's answers, as plain JSON values."""

import base64
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from audiocnn.audio.decode import AudioInfo, Samples, Window
from audiocnn.audio.encode import encode
from audiocnn.config import FeatureConfig
from audiocnn.features.logmel import band_centres
from audiocnn.model.predictor import WindowPrediction
from serve.engine.arrays import compact
from serve.engine.model import InferenceResult
from serve.options import PredictRequest


@dataclass(frozen=True, kw_only=True)
class DecodedRecording:
    """A decoded recording and its windows."""

    info: AudioInfo
    samples: Samples
    windows: list[Window]
    config: FeatureConfig

    @property
    def duration_s(self) -> float:
        """Length of the recording in seconds."""
        return len(self.samples) / self.config.sample_rate


def scores_of(prediction: WindowPrediction) -> dict[str, Any]:
    """Return the answer for a window or for a whole recording."""
    return {
        "start_s": prediction.start_s,
        "end_s": prediction.end_s,
        "label": prediction.label,
        "score": prediction.score,
        "known": prediction.known,
        "predictions": [{"class": name, "score": score} for name, score in prediction.top_k],
    }


def inside_of(
    decoded: DecodedRecording,
    result: InferenceResult,
    at: int,
    request: PredictRequest,
    cam_layer: str,
) -> dict[str, Any]:
    """Return the model's input for the window at index `at`, the window's maps and its evidence."""
    window, config = decoded.windows[at], decoded.config
    inside: dict[str, Any] = {}
    if result.logmel is not None:
        inside["input"] = {
            "window": at,
            "start_s": window.start_s,
            "end_s": window.start_s + config.window_s,
            "frame_s": config.hop_length / config.sample_rate,
            "band_hz": [round(float(hz), 1) for hz in band_centres(config)],
            "unit": "dB",
            "values": compact(result.logmel.astype(np.float32), request.arrays),
        }
    if result.maps:
        inside["maps"] = {k: compact(v, request.arrays) for k, v in result.maps.items()}
    if result.activations is not None:
        inside["activations"] = compact(result.activations, "float16")
    if result.cam is not None:
        inside["evidence"] = {
            "class": request.explain,
            "method": f"grad-cam {cam_layer}",
            "values": compact(result.cam, request.arrays),
        }
    if result.sound is not None:
        wav = encode(np.clip(result.sound, -1, 1), config.sample_rate)
        inside["evidence"]["wav"] = base64.b64encode(wav).decode("ascii")
    return inside


def waveform_of(decoded: DecodedRecording, count: int) -> dict[str, Any]:
    """Return the minimum and maximum sample of each of `count` equal stretches of time."""
    samples = decoded.samples
    count = max(1, min(count, len(samples)))
    edges = np.arange(count) * len(samples) // count
    return {
        "duration_s": decoded.duration_s,
        "min": compact(np.minimum.reduceat(samples, edges), "float16"),
        "max": compact(np.maximum.reduceat(samples, edges), "float16"),
    }


def nested(values: np.ndarray) -> dict[str, Any]:
    """Return an array as its shape and nested lists."""
    return {"shape": list(values.shape), "values": values.tolist()}


def timings_of(
    results: list[InferenceResult], began: float, decoded: float, computed: float
) -> dict[str, float]:
    """Return durations in milliseconds; `queue` and `model` are the longest of any window."""
    now = perf_counter()
    return {
        "decode": round((decoded - began) * 1e3, 2),
        "queue": round(max(one.queued_s for one in results) * 1e3, 2),
        "model": round(max(one.computed_s for one in results) * 1e3, 2),
        "encode": round((now - computed) * 1e3, 2),
        "total": round((now - began) * 1e3, 2),
    }
