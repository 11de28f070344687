"""A bundle that computes: batches over requests, feature maps, evidence. No Ray in it."""

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


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """What is to be kept of a window's forward beside its scores."""

    maps: Maps = "none"
    layer: str | None = None
    channels: tuple[int, int] = (0, 0)
    evidence: int | None = None
    """The class, by its place, whose evidence is wanted."""
    sound: bool = False
    """The sound of that evidence too."""
    logmel: bool = False

    @property
    def anything(self) -> bool:
        """Whether there is anything but scores to be kept."""
        return self.maps != "none" or self.evidence is not None or self.logmel


@dataclass(frozen=True, kw_only=True)
class InferenceResult:
    """What a model says of a window."""

    scores: np.ndarray
    """[n_classes], sum 1."""
    logmel: np.ndarray | None = None
    """[n_mels, n_frames] decibels, float16."""
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    """Means over channels [bands, frames]; with `channels`, some of a layer [n, bands, frames]."""
    activations: np.ndarray | None = None
    """With `channels`: each channel's mean, of all channels of that layer."""
    cam: np.ndarray | None = None
    """[n_mels, n_frames] within 0 and 1."""
    sound: Samples | None = None
    batch: int
    """Windows that were computed together."""
    queued_s: float
    computed_s: float


class InferenceModel(Protocol):
    """A bundle on this machine, or on another one."""

    async def infer(self, samples: Samples, wanted: Inspect) -> InferenceResult:
        """What the model says of a window of samples [window_samples]."""
        ...

    async def check(self) -> None:
        """Raise RuntimeError where it answers no more."""
        ...

    def close(self) -> None:
        """Release what it holds, once what waits is answered; nothing may be asked any more."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    samples: Samples
    wanted: Inspect
    answer: "Future[InferenceResult]"
    since: float


class BatchingModel:
    """A bundle in this process. Whatever waits when a forward ends is the next one's batch.

    >>> model = LocalModel(Bundle.read("bundle"))
    >>> inferred = await model.infer(samples, Wanted())
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "cpu",
        *,
        batch_size: int = 16,
        meters: EndpointMetrics | None = None,
    ) -> None:
        self._meters = meters or EndpointMetrics()
        self.predictor = Predictor(bundle, device)
        self._batch_size = batch_size
        self._computing_since: float | None = None
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    async def infer(self, samples: Samples, wanted: Inspect) -> InferenceResult:
        """As `Model.infer`."""
        answer: Future[InferenceResult] = Future()
        self._jobs.put(_Job(samples=samples, wanted=wanted, answer=answer, since=perf_counter()))
        return await asyncio.wrap_future(answer)

    async def check(self) -> None:
        """As `Model.check`."""
        if not self._thread.is_alive():
            raise RuntimeError("the model's thread ended")
        since = self._computing_since
        if since is not None and perf_counter() - since > _HANGS_S:
            raise RuntimeError(f"a forward has taken over {_HANGS_S:g} s")

    def close(self) -> None:
        """As `Model.close`."""
        self._jobs.put(None)

    def _work(self) -> None:
        torch.set_num_threads(1)  # a copy a core; OpenMP counts for each thread by itself
        threadpool_limits(1, user_api="blas")  # NumPy's, for the log-mel
        waiting: list[_Job] = []
        while True:
            job = None if waiting else self._jobs.get()
            if job is None and not waiting:
                return
            waiting += [job] if job is not None else []
            with suppress(queue.Empty):
                while (job := self._jobs.get_nowait()) is not None:
                    waiting.append(job)
                self._jobs.put(None)  # to be closed, once all that waits is answered
            length = len(waiting[0].samples)
            # Of longer windows than the trained ones fewer: the memory of a forward stays the same.
            most = max(1, self._batch_size * self.predictor.bundle.feature.window_samples // length)
            batch = [job for job in waiting if len(job.samples) == length]
            batch = batch[: min(most, self._batch_size)]
            waiting = [job for job in waiting if job not in batch]
            # Nobody waits any more for those whose client went away.
            if batch := [job for job in batch if job.answer.set_running_or_notify_cancel()]:
                self._answer(batch)

    def _answer(self, batch: list[_Job]) -> None:
        self._computing_since = perf_counter()
        try:
            answers = self._infer(batch)
            self._meters.batch(len(batch), answers[0].queued_s, answers[0].computed_s)
            for job, inferred in zip(batch, answers, strict=True):
                job.answer.set_result(inferred)
        except BaseException as error:
            for job in batch:
                if not job.answer.done():
                    job.answer.set_exception(error)
        finally:
            self._computing_since = None

    def _infer(self, batch: list[_Job]) -> list[InferenceResult]:
        began = perf_counter()
        logmel = self.predictor.features([job.samples for job in batch])
        tapped = any(job.wanted.maps != "none" for job in batch)
        with Taps(self.predictor.model) if tapped else nullcontext({}) as maps:
            scores = self.predictor.scores(logmel)
        kept = [self._keep(job, logmel[row], maps, row) for row, job in enumerate(batch)]
        computed_s = perf_counter() - began
        return [
            InferenceResult(
                scores=scores[row],
                batch=len(batch),
                queued_s=began - job.since,
                computed_s=computed_s,
                **kept[row],
            )
            for row, job in enumerate(batch)
        ]

    def _keep(
        self, job: _Job, logmel: np.ndarray, maps: dict[str, torch.Tensor], row: int
    ) -> dict[str, Any]:
        wanted = job.wanted
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
                kept["sound"] = marked_sound(job.samples, cam, self.predictor.bundle.feature)
        return kept


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
