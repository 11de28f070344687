"""Models on GPUs, an actor each, and how workers reach those that are there."""

import random
import threading
import time
from dataclasses import replace
from typing import Any, cast

import numpy as np
import ray
from ray.exceptions import ActorUnavailableError, ObjectLostError, RayActorError, RayTaskError

from audiocnn import storage
from audiocnn.errors import ConfigError
from audiocnn.labels.labeller import Scorer, Scores
from audiocnn.model.predictor import Predictor
from audiocnn.storage import machine
from pipelines.options import Label
from pipelines.runtime import errors, session, terminal

_MEND = "give each model more of a GPU (--gpus-per-model), or have fewer of them (--models)"
_LOADING_S = 60.0
"""How long a model may take to load before it is told that none has a GPU."""
_TOGETHER_S = 5.0
"""How long the first model waits for the others, which load beside it."""
_LOOK_S, _AGAIN_S = 1.0, 0.2
"""One look for a model where none is there, and the time to the next."""


class GpuModel:
    """A bundle on a share of a GPU, as an actor; another one in its place is refused."""

    def __init__(
        self, options: Label, fingerprint: str, storage_options: dict[str, dict[str, Any]]
    ) -> None:
        storage.configure(storage_options)
        self._options, self._fingerprint = options, fingerprint
        self._model: Scorer | None = None

    def load(self) -> Scorer:
        """The model, read where it is not yet. Raises AudioCNNError."""
        # Not by the constructor: of what that raises, Ray keeps the text alone.
        if self._model is None:
            # On the GPU that Ray gave it; under test, where torch has none, on a CPU.
            with errors.gpu_memory(_MEND):
                predictor = Predictor.load(self._options.bundle, fingerprint=self._fingerprint)
            self._model = Scorer(predictor, embeddings=self._options.embeddings)
        return self._model

    def ready(self) -> None:
        """Answered once the model is loaded. Raises AudioCNNError."""
        self.load()

    def score(self, logmel: np.ndarray) -> Scores:
        """As `Scorer.score`. Raises AudioCNNError."""
        model = self.load()
        with errors.gpu_memory(_MEND):
            return model.score(logmel)


def gpu_models(options: Label, fingerprint: str, cluster: session.Cluster) -> list[Any]:
    """The models on GPUs, one of them loaded at least; none where each worker has its own.

    `fingerprint` is that of the bundle that is meant. Raises ConfigError where there can be too few
    GPUs, and what loading the bundle raises.
    """
    if not options.gpu:
        return []
    share, count = options.gpus_per_model, how_many(options, cluster)
    # A call is not tried again by Ray, which would wait for the model's next GPU with it.
    remote: Any = ray.remote(num_cpus=0, num_gpus=share, max_restarts=-1)
    kind = remote(GpuModel)
    options = replace(options, bundle=storage.absolute(options.bundle))
    models = [kind.remote(options, fingerprint, storage.configured()) for _ in range(count)]
    reachable, there = ModelPool(models), 0
    with errors.user_errors():
        while not (there := reachable.arrived(_LOADING_S)):
            terminal.say("no model has a GPU yet: waiting for one")
    if there < count:
        terminal.say(f"{there} of {count} models have a GPU; the others join when they have")
    return models


def how_many(options: Label, cluster: session.Cluster) -> int:
    """Models to start: as many as were asked for, or as the GPUs that are there have room for.

    Raises ConfigError where there can never be room for them.
    """
    share = options.gpus_per_model
    count = options.models or max(1, machine.copies(cluster.gpus, share))
    room = machine.copies(cluster.most_gpus, share)
    if count > room and not cluster.grows:
        raise ConfigError(
            f"--gpu: {count} models of {share:g} GPU each, but the cluster has "
            f"{cluster.most_gpus} GPUs at most, with room for {room}"
        )
    return count


class ModelPool:
    """Models of which only those that are there are asked.

    One that has no GPU yet, or has lost its node, is left alone until it answers; what it was
    asked when it was lost, another one is asked. Safe for threads.
    """

    def __init__(self, models: list[Any]) -> None:
        self._lock = threading.Lock()
        self._there: list[Any] = []
        self._gone: RayActorError | None = None
        self._awaited = {model.ready.remote(): model for model in models}

    def score(self, logmel: np.ndarray) -> Scores:
        """What any model says of windows; waits while there is none.

        Raises RayActorError where there will be none, and what a model raises.
        """
        while True:
            model = self._any()
            try:
                return cast(Scores, ray.get(model.score.remote(logmel)))
            except (RayActorError, ObjectLostError):  # the answer may be lost with its node
                self._lose(model)

    def arrived(self, within_s: float) -> int:
        """How many are there: so long for the first, and a little for those that load beside it.

        Raises as `score`.
        """
        deadline = time.monotonic() + within_s
        with self._lock:
            while (now := time.monotonic()) < deadline and (self._awaited or not self._there):
                before = len(self._there)
                self._look(_LOOK_S)
                if self._there and not before:
                    deadline = now + _TOGETHER_S
            return len(self._there)

    def _any(self) -> Any:
        with self._lock:
            while True:
                self._look(0 if self._there else _LOOK_S)
                if self._there:
                    return random.choice(self._there)  # noqa: S311

    def _look(self, within_s: float) -> None:
        """Find which of the awaited have come."""
        if not self._awaited and not self._there and self._gone is not None:
            raise self._gone
        most = 1 if within_s else len(self._awaited)
        answers: list[Any] = []
        if self._awaited:
            answers, _ = ray.wait(list(self._awaited), num_returns=most, timeout=within_s)
        for answer in answers:
            model = self._awaited.pop(answer)
            try:
                ray.get(answer)
                self._there.append(model)
            except RayActorError as error:
                # Ray starts it again. Of a drained node's it says for ever that it died.
                if isinstance(error, ActorUnavailableError) or error.preempted:
                    time.sleep(0 if self._there else _AGAIN_S)
                    self._await(model)
                else:
                    self._gone = error
            except RayTaskError:  # it could not be loaded
                self._await(model)
                raise

    def _lose(self, model: Any) -> None:
        with self._lock:
            if model in self._there:  # not by two threads
                self._there.remove(model)
                self._await(model)

    def _await(self, model: Any) -> None:
        self._awaited[model.ready.remote()] = model
