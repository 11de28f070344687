"""The answers of an endpoint: recordings in, plain JSON values out. Knows neither HTTP nor Ray."""

import asyncio
from time import perf_counter
from typing import Any

import numpy as np

from audiocnn.audio.decode import Window, count_windows, cut
from audiocnn.audio.encode import encode
from audiocnn.config import to_json
from audiocnn.errors import AudioError, InstallationError
from audiocnn.model import predictor
from audiocnn.model.bundle import Bundle
from serve.engine.answer import (
    DecodedRecording,
    inside_of,
    nested,
    scores_of,
    timings_of,
    waveform_of,
)
from serve.engine.decoder import Decoder
from serve.engine.model import InferenceModel, InferenceResult, Inspect
from serve.engine.request import inspection, windowing
from serve.options import MOST_WINDOWS, PredictRequest
from serve.problems import Problem

_WINDOWS_AHEAD = 16
"""Windows of one request that may wait for the model at once. Windows of other requests come
between these groups."""
_TUTORIAL_SAMPLES = 8_000


class Service:
    """Answer requests about recordings with one bundle."""

    def __init__(self, bundle: Bundle, model: InferenceModel, decoder: Decoder) -> None:
        self.bundle, self.model, self.decoder = bundle, model, decoder
        self._map_names = list(bundle.model.map_names)

    async def predict(self, body: bytes, request: PredictRequest) -> dict[str, Any]:
        """Return the answer of `POST /v1/predict` for an encoded recording. Raises Problem."""
        began = perf_counter()
        inspect = inspection(request, self.bundle)
        decoded = await self.decode(body, request)
        decoded_at = perf_counter()
        results, at = await self._infer(decoded, inspect, request.window)
        computed_at = perf_counter()
        prediction = self._prediction(decoded, results, request.top_k)
        answer = {
            **scores_of(prediction),
            "windows": [scores_of(window) for window in prediction.windows],
            "recording": {
                "container": decoded.info.container,
                "sample_rate_hz": decoded.info.sample_rate,
                "channels": decoded.info.channels,
                "duration_s": decoded.duration_s,
            },
            "waveform": waveform_of(decoded, request.peaks),
            **inside_of(decoded, results[at], at, request, self.bundle.model.cam_layer),
            "bundle": self.bundle.fingerprint,
        }
        answer["timings_ms"] = timings_of(results, began, decoded_at, computed_at)
        return answer

    async def tutorial(self, body: bytes) -> dict[str, Any]:
        """Return the answer of `POST /inference`, in the tutorial's format. Raises Problem."""
        decoded = await self.decode(body, PredictRequest())
        results, at = await self._infer(decoded, Inspect(maps="blocks", logmel=True), None)
        prediction = self._prediction(decoded, results, 3)
        one = results[at]
        samples = decoded.samples[:: -(-len(decoded.samples) // _TUTORIAL_SAMPLES)]
        return {
            "predictions": [
                {"class": name, "confidence": score} for name, score in prediction.top_k
            ],
            "visualization": {name: nested(values) for name, values in one.maps.items()},
            "input_spectrogram": nested(np.asarray(one.logmel, np.float32)),
            "waveform": {
                "values": samples.tolist(),
                "sample_rate": decoded.info.sample_rate,
                "duration": decoded.duration_s,
            },
        }

    def answer(self, window: Window, result: InferenceResult, top_k: int) -> dict[str, Any]:
        """Return the answer for one window alone."""
        whole = predictor.prediction_of(self.bundle, [window], result.scores[None], top_k)
        return {**scores_of(whole.windows[0]), "bundle": self.bundle.fingerprint}

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

    async def decode(self, body: bytes, request: PredictRequest) -> DecodedRecording:
        """Decode a recording and cut it into windows. Raises Problem."""
        if not body:
            raise Problem("empty", "the request has no body")
        config = windowing(request, self.bundle.feature)
        try:
            info, samples = await self.decoder.decode(body, config.sample_rate)
        except (AudioError, InstallationError) as error:
            raise Problem.of_decoder(error) from error
        duration_s = len(samples) / config.sample_rate
        count = count_windows(duration_s, config)
        if count > MOST_WINDOWS:
            raise Problem(
                "option",
                f"{count} windows, the limit is {MOST_WINDOWS}: hop_s is too small",
                more={"field": "hop_s"},
            )
        if request.window is not None and request.window >= count:
            raise Problem(
                "option",
                f"window {request.window}: the recording has {count} windows, from 0",
                more={"field": "window"},
            )
        return DecodedRecording(
            info=info, samples=samples, windows=list(cut([samples], config)), config=config
        )

    async def _infer(
        self, decoded: DecodedRecording, inspect: Inspect, window: int | None
    ) -> tuple[list[InferenceResult], int]:
        """Return the result of each window, and the index of the inspected window."""
        windows = [one.samples for one in decoded.windows]
        at = 0 if len(windows) == 1 else window
        plain = Inspect()
        results: list[InferenceResult] = []
        for start in range(0, len(windows), _WINDOWS_AHEAD):
            group = enumerate(windows[start : start + _WINDOWS_AHEAD], start)
            results += await asyncio.gather(
                *(self.model.infer(one, inspect if i == at else plain) for i, one in group)
            )
        if at is None:
            at = _most_telling(decoded.windows, results)
            if inspect.anything:
                results[at] = await self.model.infer(windows[at], inspect)
        return results, at

    def _prediction(
        self, decoded: DecodedRecording, results: list[InferenceResult], top_k: int
    ) -> predictor.Prediction:
        scores = np.stack([one.scores for one in results])
        return predictor.prediction_of(self.bundle, decoded.windows, scores, top_k)


def _most_telling(windows: list[Window], results: list[InferenceResult]) -> int:
    """Return the index of the window with the highest score of the whole recording's class."""
    scores = np.stack([one.scores for one in results])
    weights = np.array([window.duration_s for window in windows])
    return int(scores[:, (weights @ scores).argmax()].argmax())
