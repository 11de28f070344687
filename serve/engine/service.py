"""The answers of an endpoint: recordings in, plain JSON values out. Knows neither HTTP nor Ray."""

import asyncio
import base64
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from audiocnn.audio.decode import AudioInfo, Samples, Window, count_windows, cut
from audiocnn.config import FeatureConfig, to_json
from audiocnn.corpus.synthetic import encode
from audiocnn.errors import AudioError, ConfigError
from audiocnn.features.logmel import band_centres
from audiocnn.model import predictor
from audiocnn.model.bundle import Bundle
from serve.engine.arrays import compact
from serve.engine.decoder import Decoder
from serve.engine.model import InferenceModel, InferenceResult, Inspect
from serve.options import MOST_WINDOWS, PredictRequest
from serve.problems import Problem

_WINDOWS_AHEAD = 16
"""Windows of one request that may wait for the model at once. Windows of other requests come
between these groups."""
_TUTORIAL_SAMPLES = 8_000
_LONGEST_WINDOW = 10
"""Longest window, in lengths of the trained window: a window is computed as a whole."""


@dataclass(frozen=True, kw_only=True)
class DecodedRecording:
    """A decoded recording and its windows."""

    info: AudioInfo
    samples: Samples
    windows: list[Window]
    config: FeatureConfig


class Service:
    """Answer requests about recordings with one bundle."""

    def __init__(self, bundle: Bundle, model: InferenceModel, decoder: Decoder) -> None:
        self.bundle, self.model, self.decoder = bundle, model, decoder
        self._map_names = list(bundle.model.map_names)

    async def predict(self, body: bytes, asked: PredictRequest) -> dict[str, Any]:
        """Return the answer of `POST /v1/predict` for an encoded recording. Raises Problem."""
        began = perf_counter()
        wanted = self._wanted(asked)
        heard = await self.hear(body, asked)
        decoded = perf_counter()
        inferred, looked_at = await self._infer(heard, wanted, asked.window)
        computed = perf_counter()
        prediction = self._prediction(heard, inferred, asked.top_k)
        answer = {
            **_answer(prediction),
            "windows": [_answer(window) for window in prediction.windows],
            "recording": {
                "container": heard.info.container,
                "sample_rate_hz": heard.info.sample_rate,
                "channels": heard.info.channels,
                "duration_s": _duration_s(heard),
            },
            "waveform": _waveform(heard, asked.peaks),
            **self._inside(heard, inferred[looked_at], looked_at, asked),
            "bundle": self.bundle.fingerprint,
        }
        answer["timings_ms"] = _timings(inferred, began, decoded, computed)
        return answer

    async def tutorial(self, body: bytes) -> dict[str, Any]:
        """Return the answer of `POST /inference`, in the tutorial's format. Raises Problem."""
        heard = await self.hear(body, PredictRequest())
        inferred, looked_at = await self._infer(heard, Inspect(maps="blocks", logmel=True), None)
        prediction = self._prediction(heard, inferred, 3)
        one = inferred[looked_at]
        samples = heard.samples[:: -(-len(heard.samples) // _TUTORIAL_SAMPLES)]
        return {
            "predictions": [
                {"class": name, "confidence": score} for name, score in prediction.top_k
            ],
            "visualization": {name: _nested(values) for name, values in one.maps.items()},
            "input_spectrogram": _nested(np.asarray(one.logmel, np.float32)),
            "waveform": {
                "values": samples.tolist(),
                "sample_rate": heard.info.sample_rate,
                "duration": _duration_s(heard),
            },
        }

    def answer(self, window: Window, inferred: InferenceResult, top_k: int) -> dict[str, Any]:
        """Return the answer for one window alone."""
        whole = predictor.encode(self.bundle, [window], inferred.scores[None], top_k)
        return {**_answer(whole.windows[0]), "bundle": self.bundle.fingerprint}

    def card(self) -> dict[str, Any]:
        """Return the answer of `GET /v1/model`."""
        bundle = self.bundle
        return {
            "bundle": bundle.fingerprint,
            "classes": list(bundle.classes),
            "feature": to_json(bundle.feature),
            "model": to_json(bundle.model.config),
            "calibration": bundle.calibration.to_json(),
            "metrics": bundle.metrics,
            "maps": self._map_names,
            "limits": {**to_json(self.decoder.limits), "max_windows": MOST_WINDOWS},
        }

    async def warm_up(self) -> None:
        """Answer requests about a second of silence, so that the first real one is no slower."""
        silence = encode(np.zeros(44_100), 44_100)
        for container in (silence, encode(np.zeros(44_100), 44_100, "flac")):
            await self.predict(container, PredictRequest())
        everything = PredictRequest(maps="blocks", explain=self.bundle.classes[0], sound=True)
        await self.predict(silence, everything)

    async def check(self) -> None:
        """Raise Problem if the model no longer answers."""
        try:
            await self.model.check()
        except RuntimeError as error:
            raise Problem("not-ready", str(error)) from error

    async def hear(self, body: bytes, asked: PredictRequest) -> DecodedRecording:
        """Decode a recording and cut it into windows. Raises Problem."""
        if not body:
            raise Problem("empty", "the request has no body")
        config = self._windowing(asked)
        try:
            info, samples = await self.decoder.decode(body, config.sample_rate)
        except AudioError as error:
            raise Problem.of_audio(error) from error
        duration_s = len(samples) / config.sample_rate
        count = count_windows(duration_s, config)
        if count > MOST_WINDOWS:
            raise Problem(
                "option",
                f"{count} windows, the limit is {MOST_WINDOWS}: hop_s is too small",
                more={"field": "hop_s"},
            )
        if asked.window is not None and asked.window >= count:
            raise Problem(
                "option",
                f"window {asked.window}: the recording has {count} windows, from 0",
                more={"field": "window"},
            )
        return DecodedRecording(
            info=info, samples=samples, windows=list(cut([samples], config)), config=config
        )

    def _windowing(self, asked: PredictRequest) -> FeatureConfig:
        feature = self.bundle.feature
        if asked.window_s is None and asked.hop_s is None:
            return feature
        window_s = asked.window_s or feature.window_s
        if window_s > _LONGEST_WINDOW * feature.window_s:
            raise Problem(
                "option",
                f"window_s {window_s:g}: the limit is {_LONGEST_WINDOW} times the trained length, "
                f"{feature.window_s:g} s",
                more={"field": "window_s"},
            )
        hop_s = asked.hop_s or min(feature.hop_s, window_s)
        try:
            return replace(
                feature,
                window_s=window_s,
                hop_s=hop_s,
                min_tail_s=min(feature.min_tail_s, window_s),
            )
        except ConfigError as error:
            raise Problem("option", str(error), more={"field": "window_s"}) from error

    def _wanted(self, asked: PredictRequest) -> Inspect:
        layer, evidence = None, None
        if asked.maps == "channels":
            layer = asked.layer or self.bundle.model.layers[0]
            if layer not in self._map_names:
                raise Problem(
                    "option",
                    f"layer {layer!r}: the layers are {', '.join(self._map_names)}",
                    more={"field": "layer"},
                )
        if asked.explain is not None:
            if asked.explain not in self.bundle.classes:
                raise Problem(
                    "option", f"explain {asked.explain!r}: no such class", more={"field": "explain"}
                )
            evidence = self.bundle.classes.index(asked.explain)
        return Inspect(
            maps=asked.maps,
            layer=layer,
            channels=asked.channels,
            evidence=evidence,
            sound=asked.sound,
            logmel=asked.spectrogram,
        )

    async def _infer(
        self, heard: DecodedRecording, wanted: Inspect, window: int | None
    ) -> tuple[list[InferenceResult], int]:
        """Return the result of each window, and the index of the inspected window."""
        windows = [one.samples for one in heard.windows]
        at = 0 if len(windows) == 1 else window
        plain = Inspect()
        inferred: list[InferenceResult] = []
        for start in range(0, len(windows), _WINDOWS_AHEAD):
            group = enumerate(windows[start : start + _WINDOWS_AHEAD], start)
            inferred += await asyncio.gather(
                *(self.model.infer(one, wanted if i == at else plain) for i, one in group)
            )
        if at is None:
            at = _most_telling(heard.windows, inferred)
            if wanted.anything:
                inferred[at] = await self.model.infer(windows[at], wanted)
        return inferred, at

    def _prediction(
        self, heard: DecodedRecording, inferred: list[InferenceResult], top_k: int
    ) -> predictor.Prediction:
        scores = np.stack([one.scores for one in inferred])
        return predictor.encode(self.bundle, heard.windows, scores, top_k)

    def _inside(
        self, heard: DecodedRecording, one: InferenceResult, at: int, asked: PredictRequest
    ) -> dict[str, Any]:
        """Return the model's input for one window, the window's maps and its evidence."""
        window, config = heard.windows[at], heard.config
        inside: dict[str, Any] = {}
        if one.logmel is not None:
            inside["input"] = {
                "window": at,
                "start_s": window.start_s,
                "end_s": window.start_s + config.window_s,
                "frame_s": config.hop_length / config.sample_rate,
                "band_hz": [round(float(hz), 1) for hz in band_centres(config)],
                "unit": "dB",
                "values": compact(one.logmel.astype(np.float32), asked.arrays),
            }
        if one.maps:
            inside["maps"] = {k: compact(v, asked.arrays) for k, v in one.maps.items()}
        if one.activations is not None:
            inside["activations"] = compact(one.activations, "float16")
        if one.cam is not None:
            inside["evidence"] = {
                "class": asked.explain,
                "method": f"grad-cam {self.bundle.model.cam_layer}",
                "values": compact(one.cam, asked.arrays),
            }
        if one.sound is not None:
            wav = encode(np.clip(one.sound, -1, 1), config.sample_rate)
            inside["evidence"]["wav"] = base64.b64encode(wav).decode("ascii")
        return inside


def _answer(prediction: predictor.WindowPrediction) -> dict[str, Any]:
    """Return the answer for a window or for a whole recording."""
    return {
        "start_s": prediction.start_s,
        "end_s": prediction.end_s,
        "label": prediction.label,
        "score": prediction.score,
        "known": prediction.known,
        "predictions": [{"class": name, "score": score} for name, score in prediction.top_k],
    }


def _duration_s(heard: DecodedRecording) -> float:
    return len(heard.samples) / heard.config.sample_rate


def _most_telling(windows: list[Window], inferred: list[InferenceResult]) -> int:
    """Return the index of the window with the highest score of the whole recording's class."""
    scores = np.stack([one.scores for one in inferred])
    weights = np.array([window.duration_s for window in windows])
    return int(scores[:, (weights @ scores).argmax()].argmax())


def _waveform(heard: DecodedRecording, count: int) -> dict[str, Any]:
    """Return the minimum and maximum sample of each of `count` equal stretches of time."""
    samples = heard.samples
    count = max(1, min(count, len(samples)))
    edges = np.arange(count) * len(samples) // count
    return {
        "duration_s": _duration_s(heard),
        "min": compact(np.minimum.reduceat(samples, edges), "float16"),
        "max": compact(np.maximum.reduceat(samples, edges), "float16"),
    }


def _nested(values: np.ndarray) -> dict[str, Any]:
    return {"shape": list(values.shape), "values": values.tolist()}


def _timings(
    inferred: list[InferenceResult], began: float, decoded: float, computed: float
) -> dict[str, float]:
    """Return durations in milliseconds; `queue` and `model` are the longest of any window."""
    now = perf_counter()
    return {
        "decode": round((decoded - began) * 1e3, 2),
        "queue": round(max(one.queued_s for one in inferred) * 1e3, 2),
        "model": round(max(one.computed_s for one in inferred) * 1e3, 2),
        "encode": round((now - computed) * 1e3, 2),
        "total": round((now - began) * 1e3, 2),
    }
