"""Models on GPUs, each in an actor, and the pool through which workers use those available."""

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

_MEND = "give each model a larger share of a GPU (--gpus-per-model), or lower --models"
_LOADING_S = 60.0
"""Seconds to wait for the first model before each message that no model is loaded yet."""
_TOGETHER_S = 5.0
"""Seconds to wait for more models after the first one, since they load at the same time."""
_POLL_S = 1.0
"""Seconds of one wait for a model if none is available."""
_RETRY_S = 0.2
"""Seconds of the pause after a model was lost while none is available."""


class GpuModel:
    """Actor with a bundle on a share of a GPU; a bundle with another fingerprint is refused."""

    def __init__(
        self, options: Label, fingerprint: str, storage_options: dict[str, dict[str, Any]]
    ) -> None:
        storage.configure(storage_options)
        self._options, self._fingerprint = options, fingerprint
        self._model: Scorer | None = None

    def load(self) -> Scorer:
        """Return the model; it is read at the first call. Raises AudioCNNError."""
        # Not in the constructor: Ray preserves only the message of its exceptions, not the type.
        if self._model is None:
            # On the GPU that Ray assigned; in tests, where torch has no GPU, on a CPU.
            with errors.gpu_memory(_MEND):
                predictor = Predictor.load(self._options.bundle, fingerprint=self._fingerprint)
            self._model = Scorer(predictor, embeddings=self._options.embeddings)
        return self._model

    def ready(self) -> None:
        """Return once the model is loaded. Raises AudioCNNError."""
        self.load()

    def score(self, logmel: np.ndarray) -> Scores:
        """Score windows [windows, n_mels, n_frames], see `Scorer.score`. Raises AudioCNNError."""
        model = self.load()
        with errors.gpu_memory(_MEND):
            return model.score(logmel)


def gpu_models(options: Label, fingerprint: str, cluster: session.Cluster) -> list[Any]:
    """Start the models on GPUs and wait until at least one is loaded; return their actors.

    The list is empty without --gpu: then each worker has its own model. `fingerprint` is the
    bundle's. Raises ConfigError if the cluster can never have enough GPUs, and the errors of
    loading the bundle.
    """
    if not options.gpu:
        return []
    share, count = options.gpus_per_model, how_many(options, cluster)
    # Ray must not retry the call of a lost model: the retry would wait until it has a GPU again.
    remote: Any = ray.remote(num_cpus=0, num_gpus=share, max_restarts=-1)
    kind = remote(GpuModel)
    options = replace(options, bundle=storage.absolute(options.bundle))
    models = [kind.remote(options, fingerprint, storage.configured()) for _ in range(count)]
    reachable, available = ModelPool(models), 0
    with errors.user_errors():
        while not (available := reachable.wait_until_loaded(_LOADING_S)):
            terminal.say("waiting: no model is loaded on a GPU yet")
    if available < count:
        terminal.say(f"{available} of {count} models are loaded; the others join when they are")
    return models


def how_many(options: Label, cluster: session.Cluster) -> int:
    """Return the number of models to start.

    It is `options.models`. If that is None, it is the number of models that fit on the GPUs that
    the cluster has now, or 1 if none fits. Raises ConfigError if the cluster can never have room
    for them.
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
    """Pool of models; calls go only to models that are available.

    A model without a GPU yet, or with a lost node, gets no calls until it is loaded again. If a
    model is lost during a call, another one gets the call. Safe for threads.
    """

    def __init__(self, models: list[Any]) -> None:
        self._lock = threading.Lock()
        self._available: list[Any] = []
        self._fatal_error: RayActorError | None = None
        self._loading = {model.ready.remote(): model for model in models}

    def score(self, logmel: np.ndarray) -> Scores:
        """Score windows [windows, n_mels, n_frames] by any model; wait while none is available.

        Raises RayActorError if there will be none any more, and the errors of a model.
        """
        while True:
            model = self._pick()
            try:
                return cast(Scores, ray.get(model.score.remote(logmel)))
            except (RayActorError, ObjectLostError):  # a result may be lost with its node
                self._mark_lost(model)

    def wait_until_loaded(self, within_s: float) -> int:
        """Wait for models to load; return the number of available ones.

        The first one may take `within_s` seconds, the others a few more. Raises as `score` does.
        """
        deadline = time.monotonic() + within_s
        with self._lock:
            while (now := time.monotonic()) < deadline and (self._loading or not self._available):
                before = len(self._available)
                self._collect_loaded(_POLL_S)
                if self._available and not before:
                    deadline = now + _TOGETHER_S
            return len(self._available)

    def _pick(self) -> Any:
        with self._lock:
            while True:
                self._collect_loaded(0 if self._available else _POLL_S)
                if self._available:
                    return random.choice(self._available)  # noqa: S311

    def _collect_loaded(self, within_s: float) -> None:
        """Wait up to `within_s` seconds for loading models; make the loaded ones available."""
        if not self._loading and not self._available and self._fatal_error is not None:
            raise self._fatal_error
        most = 1 if within_s else len(self._loading)
        answers: list[Any] = []
        if self._loading:
            answers, _ = ray.wait(list(self._loading), num_returns=most, timeout=within_s)
        for answer in answers:
            model = self._loading.pop(answer)
            try:
                ray.get(answer)
                self._available.append(model)
            except RayActorError as error:
                # Ray restarts the model in both cases. For a drained node (`preempted`), its error
                # says that the model is lost for good, which is wrong.
                if isinstance(error, ActorUnavailableError) or error.preempted:
                    time.sleep(0 if self._available else _RETRY_S)
                    self._await(model)
                else:
                    self._fatal_error = error
            except RayTaskError:  # the model could not be loaded
                self._await(model)
                raise

    def _mark_lost(self, model: Any) -> None:
        with self._lock:
            if model in self._available:  # another thread may have removed it
                self._available.remove(model)
                self._await(model)

    def _await(self, model: Any) -> None:
        self._loading[model.ready.remote()] = model
