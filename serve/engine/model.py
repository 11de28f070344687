"""A bundle's model in use: batches across requests, feature maps, evidence. Imports no Ray."""

import asyncio
import queue
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from threading import Thread
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from audiocnn.audio.decode import Samples
from audiocnn.model.bundle import Bundle
from audiocnn.model.grad_cam import grad_cam, marked_sound
from audiocnn.model.predictor import Predictor
from audiocnn.model.taps import Taps
from serve.engine.metrics import EndpointMetrics
from serve.options import Maps

_HANGS_S = 60.0
"""Seconds after which a forward pass counts as hung: then the model no longer answers."""


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """The results of a window's forward pass that are kept besides its scores."""

    maps: Maps = "none"
    layer: str | None = None
    channels: tuple[int, int] = (0, 0)
    evidence: int | None = None
    """Index of the class to compute evidence for."""
    sound: bool = False
    """Whether to keep the sound of that evidence too."""
    logmel: bool = False

    @property
    def anything(self) -> bool:
        """Whether anything besides the scores is kept."""
        return self.maps != "none" or self.evidence is not None or self.logmel


@dataclass(frozen=True, kw_only=True)
class InferenceResult:
    """The output of the model for one window."""

    scores: np.ndarray
    """[n_classes], with sum 1; all 0 for a silent window."""
    logmel: np.ndarray | None = None
    """[n_mels, n_frames] decibels, float16."""
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    """Maps of each layer, by its name: the mean over its channels, [bands, frames]. With
    maps="channels": the chosen channels of the chosen layer, [n, bands, frames]."""
    activations: np.ndarray | None = None
    """[channels], the mean of each channel of the layer; only with maps="channels"."""
    cam: np.ndarray | None = None
    """Grad-CAM [n_mels, n_frames], within 0 and 1."""
    sound: Samples | None = None
    batch: int
    """Number of windows that were computed together."""
    queued_s: float
    computed_s: float


class InferenceModel(Protocol):
    """The model of a bundle, on this machine or on another one."""

    async def infer(self, samples: Samples, wanted: Inspect) -> InferenceResult:
        """Return the output for one window of samples [window_samples]."""
        ...

    async def check(self) -> None:
        """Raise RuntimeError if the model no longer answers."""
        ...

    def close(self) -> None:
        """Release the model once all waiting windows are answered. Call nothing after this."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class _Waiting:
    """A window that waits for its forward pass."""

    samples: Samples
    wanted: Inspect
    answer: "Future[InferenceResult]"
    since: float


class BatchingModel:
    """A model in this process. When a forward pass ends, the waiting windows form the next batch.

    >>> model = BatchingModel(Bundle.read("bundle"))
    >>> inferred = await model.infer(samples, Inspect())

    A batch has at most `batch_size` windows, all of one length.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "cpu",
        *,
        batch_size: int = 16,
        metrics: EndpointMetrics | None = None,
    ) -> None:
        self._metrics = metrics or EndpointMetrics()
        self.predictor = Predictor(bundle, device)
        self._batch_size = batch_size
        self._computing_since: float | None = None
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    async def infer(self, samples: Samples, wanted: Inspect) -> InferenceResult:
        """See `InferenceModel.infer`."""
        answer: Future[InferenceResult] = Future()
        self._queue.put(
            _Waiting(samples=samples, wanted=wanted, answer=answer, since=perf_counter())
        )
        return await asyncio.wrap_future(answer)

    async def check(self) -> None:
        """See `InferenceModel.check`."""
        if not self._thread.is_alive():
            raise RuntimeError("the model's thread ended")
        since = self._computing_since
        if since is not None and perf_counter() - since > _HANGS_S:
            raise RuntimeError(f"a forward pass has taken over {_HANGS_S:g} s")

    def close(self) -> None:
        """See `InferenceModel.close`."""
        self._queue.put(None)

    def _work(self) -> None:
        torch.set_num_threads(1)  # one replica per core; OpenMP has one setting per thread
        threadpool_limits(1, user_api="blas")  # NumPy's BLAS, for the log-mel
        waiting: list[_Waiting] = []
        while True:
            window = None if waiting else self._queue.get()
            if window is None and not waiting:
                return
            waiting += [window] if window is not None else []
            with suppress(queue.Empty):
                while (window := self._queue.get_nowait()) is not None:
                    waiting.append(window)
                self._queue.put(None)  # close after all waiting windows are answered
            length = len(waiting[0].samples)
            # Fewer windows if they are longer than the trained ones, so that memory stays the same.
            most = max(1, self._batch_size * self.predictor.bundle.feature.window_samples // length)
            batch = [window for window in waiting if len(window.samples) == length]
            batch = batch[: min(most, self._batch_size)]
            waiting = [window for window in waiting if window not in batch]
            # Skip windows that were cancelled: their client disconnected.
            if batch := [
                window for window in batch if window.answer.set_running_or_notify_cancel()
            ]:
                self._answer(batch)

    def _answer(self, batch: list[_Waiting]) -> None:
        self._computing_since = perf_counter()
        try:
            answers = self._infer(batch)
            self._metrics.batch(len(batch), answers[0].queued_s, answers[0].computed_s)
            for window, inferred in zip(batch, answers, strict=True):
                window.answer.set_result(inferred)
        except BaseException as error:
            for window in batch:
                if not window.answer.done():
                    window.answer.set_exception(error)
        finally:
            self._computing_since = None

    def _infer(self, batch: list[_Waiting]) -> list[InferenceResult]:
        began = perf_counter()
        logmel = self.predictor.features([window.samples for window in batch])
        tapped = any(window.wanted.maps != "none" for window in batch)
        with Taps(self.predictor.model) if tapped else nullcontext({}) as maps:
            scores = self.predictor.scores(logmel)
        kept = [self._keep(window, logmel[row], maps, row) for row, window in enumerate(batch)]
        computed_s = perf_counter() - began
        return [
            InferenceResult(
                scores=scores[row],
                batch=len(batch),
                queued_s=began - window.since,
                computed_s=computed_s,
                **kept[row],
            )
            for row, window in enumerate(batch)
        ]

    def _keep(
        self, window: _Waiting, logmel: np.ndarray, maps: dict[str, torch.Tensor], row: int
    ) -> dict[str, Any]:
        wanted = window.wanted
        kept: dict[str, Any] = {}
        if wanted.logmel:
            kept["logmel"] = logmel
        if wanted.maps == "channels" and wanted.layer is not None:
            of_layer = maps[wanted.layer][row]
            kept["maps"] = {wanted.layer: _numpy(of_layer[slice(*wanted.channels)])}
            kept["activations"] = _numpy(of_layer.mean((1, 2)))
        elif wanted.maps != "none":
            names = self.predictor.model.layers if wanted.maps == "layers" else maps
            kept["maps"] = {name: _numpy(maps[name][row].mean(0)) for name in names}
        if wanted.evidence is not None:
            cam = grad_cam(self.predictor.model, logmel, wanted.evidence)
            kept["cam"] = cam
            if wanted.sound:
                kept["sound"] = marked_sound(window.samples, cam, self.predictor.bundle.feature)
        return kept


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
