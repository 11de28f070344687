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
from audiocnn.labeller import Judged, Model
from audiocnn.predictor import Predictor
from pipelines import display, session
from pipelines.options import Label

_LOADING_S = 30.0
_TOGETHER_S = 5.0
"""How long the first model waits for the others, which load beside it."""
_AGAIN_S = 1.0
"""Between two looks for a model where none is there."""


class GpuModel:
    """A bundle on a share of a GPU, as an actor."""

    def __init__(self, options: Label, storage_options: dict[str, dict[str, Any]]) -> None:
        storage.configure(storage_options)
        self._options = options
        self._model: Model | None = None

    def load(self) -> Model:
        """The model, read where it is not yet. Raises AudioCNNError."""
        # Not by the constructor: of what that raises, Ray keeps the text alone.
        if self._model is None:
            # On the GPU that Ray gave it; under test, where torch has none, on a CPU.
            predictor = Predictor.load(self._options.bundle)
            self._model = Model(predictor, embeddings=self._options.embeddings)
        return self._model

    def ready(self) -> None:
        """Answered once the model is loaded. Raises AudioCNNError."""
        self.load()

    def judge(self, logmel: np.ndarray) -> Judged:
        """As `Model.judge`."""
        return self.load().judge(logmel)


def gpu_models(options: Label, cluster: session.Cluster) -> list[Any]:
    """The models on GPUs, one of them loaded at least; none where each worker has its own.

    Raises ConfigError where there can be too few GPUs, and what loading the bundle raises.
    """
    if not options.gpu:
        return []
    share = options.gpus_per_model
    count = options.models or max(1, int(cluster.gpus / share))
    if count * share > cluster.most_gpus and not cluster.grows:
        raise ConfigError(
            f"--gpu: {count} models of {share:g} GPU each, but the cluster has "
            f"{cluster.most_gpus} GPUs at most"
        )
    # A call is not tried again by Ray, which would wait for the model's next GPU with it.
    remote: Any = ray.remote(num_cpus=0, num_gpus=share, max_restarts=-1)
    kind = remote(GpuModel)
    options = replace(options, bundle=storage.absolute(options.bundle))
    models = [kind.remote(options, storage.configured()) for _ in range(count)]
    loaded = [model.ready.remote() for model in models]
    if not ray.wait(loaded, timeout=_LOADING_S)[0]:
        display.say("no model has a GPU yet: waiting for one")
    with session.user_errors():
        ray.get(ray.wait(loaded)[0])
    there, missing = ray.wait(loaded, num_returns=count, timeout=_TOGETHER_S)
    if missing:
        display.say(f"{len(there)} of {count} models have a GPU; the others join when they have")
    return models


class Reachable:
    """Models of which only those that are there are asked.

    One that has no GPU yet, or has lost its node, is left alone until it answers; what it was
    asked when it was lost, another one is asked. Safe for threads.
    """

    def __init__(self, models: list[Any]) -> None:
        self._lock = threading.Lock()
        self._there: list[Any] = []
        self._gone: RayActorError | None = None
        self._awaited = {model.ready.remote(): model for model in models}

    def judge(self, logmel: np.ndarray) -> Judged:
        """What any model says of windows; waits while there is none.

        Raises RayActorError where there will be none, and what a model raises.
        """
        while True:
            model = self._any()
            try:
                return cast(Judged, ray.get(model.judge.remote(logmel)))
            except (RayActorError, ObjectLostError):  # the answer may be lost with its node
                self._lose(model)

    def _any(self) -> Any:
        with self._lock:
            while True:
                self._look()
                if self._there:
                    return random.choice(self._there)  # noqa: S311
                if not self._awaited and self._gone is not None:
                    raise self._gone
                time.sleep(_AGAIN_S)

    def _look(self) -> None:
        """Find which of the awaited have come, at once where another one is there."""
        if not self._awaited:
            return
        most = len(self._awaited) if self._there else 1
        answers, _ = ray.wait(
            list(self._awaited), num_returns=most, timeout=0 if self._there else None
        )
        for answer in answers:
            model = self._awaited.pop(answer)
            try:
                ray.get(answer)
                self._there.append(model)
            except RayActorError as error:
                # Ray starts it again. Of a drained node's it says for ever that it died.
                if isinstance(error, ActorUnavailableError) or error.preempted:
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
