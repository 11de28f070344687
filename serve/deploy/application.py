"""The Serve application: one deployment on CPUs; on GPUs a model behind an ingress on CPUs."""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Counter, Histogram

from audiocnn import storage
from audiocnn.audio.decode import Samples
from audiocnn.errors import MismatchError
from audiocnn.model.bundle import Bundle
from serve.api.app import make_app
from serve.api.gate import App
from serve.deploy import served_bundles
from serve.deploy.config_file import read_args
from serve.deploy.haproxy import TOKEN
from serve.engine.decoder import Decoder
from serve.engine.label_browser import Results
from serve.engine.metrics import EndpointMetrics
from serve.engine.model import BatchingModel, InferenceModel, InferenceResult, Inspect
from serve.engine.service import Service
from serve.options import Serve
from serve.problems import Problem

NAME = "audiocnn"
_LOG = logging.getLogger("ray.serve")
_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]
_COUNTS = [1.0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
_SPREAD = 3
"""Copies on a cluster that decode for models on GPUs, where there are as many: one is not all."""

Opened = tuple[Bundle, InferenceModel]


class Current:
    """The bundle that answers now. Another one takes its place once it has answered itself."""

    def __init__(
        self,
        open_bundle: Callable[[str, str | None], Opened],
        decoder: Decoder,
        longest_s: float,
    ) -> None:
        self._open, self._decoder, self._longest_s = open_bundle, decoder, longest_s
        self._service: Service | None = None

    def service(self) -> Service:
        """What answers. Raises Problem before there is anything."""
        if self._service is None:
            raise Problem("not-ready", "no bundle is loaded yet")
        return self._service

    async def roll(self, uri: str, fingerprint: str | None) -> None:
        """Load the bundle at a URI. One that does not load leaves the old one where it is.

        Raises AudioCNNError where there is no old one.
        """
        old = self._service
        if old is not None and old.bundle.fingerprint == fingerprint:
            return
        try:
            bundle, model = await asyncio.to_thread(self._open, uri, fingerprint)
            new = Service(bundle, model, self._decoder)
            await new.warm_up()
        except Exception as error:
            if old is None:
                raise
            _LOG.error(f"{uri} does not load, {old.bundle.fingerprint} stays: {error}")
            return
        self._service = new
        if old is not None:
            # Requests that began with it may ask it until their time is up.
            asyncio.get_running_loop().call_later(2 * self._longest_s, old.model.close)


class ModelReplica:
    """A copy of the model on a share of a GPU: windows in, what the model says of them out."""

    def __init__(self, options: Serve) -> None:
        storage.configure(options.storage_options)
        self.options = options
        self.meters = RayMeters()
        self._models: dict[str, BatchingModel] = {}
        self._loading = asyncio.Lock()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load a bundle before anybody asks for it; one that does not load changes nothing."""
        try:
            await self._model(user_config["bundle"], user_config.get("fingerprint"))
        except Exception as error:
            if not self._models:
                raise
            _LOG.error(f"{user_config['bundle']} does not load: {error}")

    async def infer(
        self, uri: str, fingerprint: str, samples: Samples, wanted: Inspect
    ) -> InferenceResult:
        """What a bundle says of a window. While one rolls in, there is one more."""
        model = self._models.get(fingerprint) or await self._model(uri, fingerprint)
        return await model.infer(samples, wanted)

    async def check_health(self) -> None:
        """Ray's question. Raises RuntimeError."""
        for model in self._models.values():
            await model.check()

    async def _model(self, uri: str, fingerprint: str | None) -> BatchingModel:
        async with self._loading:
            if fingerprint in self._models:
                return self._models[fingerprint]
            bundle = await asyncio.to_thread(read_bundle, uri, fingerprint)
            if bundle.fingerprint not in self._models:
                device = "cuda" if torch.cuda.is_available() else "cpu"
                model = BatchingModel(
                    bundle, device, batch_size=self.options.batch_size, meters=self.meters
                )
                kept = 2 if self.options.beside else 1
                for old in list(self._models)[:-kept]:
                    close = self._models.pop(old).close
                    asyncio.get_running_loop().call_later(2 * self.options.timeout_s, close)
                self._models[bundle.fingerprint] = model
            return self._models[bundle.fingerprint]


def read_bundle(uri: str, fingerprint: str | None) -> Bundle:
    """The bundle of a fingerprint where it is kept, or else the one at a URI.

    Raises AudioCNNError, also where that is not the one that was meant.
    """
    if fingerprint is not None and (found := served_bundles.read(fingerprint)) is not None:
        return found
    bundle = Bundle.read(uri)
    if fingerprint not in (None, bundle.fingerprint):
        raise MismatchError(f"{uri}: its fingerprint is {bundle.fingerprint}, not {fingerprint}")
    return bundle


class RemoteModel:
    """A bundle on the replicas of another deployment."""

    def __init__(self, replicas: DeploymentHandle[Any], uri: str, fingerprint: str) -> None:
        self._replicas, self._uri, self._fingerprint = replicas, uri, fingerprint

    async def infer(self, samples: Samples, wanted: Inspect) -> InferenceResult:
        """As `Model.infer`."""
        inferred: InferenceResult = await self._replicas.infer.remote(
            self._uri, self._fingerprint, samples, wanted
        )
        return inferred

    async def check(self) -> None:
        """As `Model.check`: Ray asks its replicas itself."""

    def close(self) -> None:
        """Nothing is held."""


class Endpoint:
    """The routes; with the model in the same process, or with handles to it."""

    def __init__(
        self,
        options: Serve,
        keys: tuple[str, ...],
        replicas: DeploymentHandle[Any] | None = None,
    ) -> None:
        storage.configure(options.storage_options)
        self.options, self.keys, self.replicas = options, keys, replicas
        self.meters = RayMeters()
        self.decoder = Decoder(options.limits, timeout_s=options.timeout_s / 2)
        self.current = Current(self._open, self.decoder, options.timeout_s)
        self.beside = (
            Current(self._open, self.decoder, options.timeout_s) if options.beside else None
        )
        self.results = Results(options.labels, options.timeout_s / 2) if options.labels else None

    def __serve_build_asgi_app__(self) -> App:
        """Ray's question, once in each replica."""
        return make_app(
            self.current.service,
            self.options,
            self.keys,
            self.meters,
            results=self.results,
            beside=self.beside.service if self.beside is not None else None,
            token=os.environ.get(TOKEN),
        )

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Roll in the bundle that a deployment's `user_config` names."""
        uri = user_config.get("bundle") or self.options.bundle
        await self.current.roll(uri, user_config.get("fingerprint"))
        if self.beside is not None:
            await self.beside.roll(str(self.options.beside), user_config.get("beside"))

    async def check_health(self) -> None:
        """Ray's question. Raises RuntimeError."""
        await self.current.service().model.check()

    def __del__(self) -> None:
        self.decoder.close()
        if self.results is not None:
            self.results.close()

    def _open(self, uri: str, fingerprint: str | None) -> Opened:
        bundle = read_bundle(uri, fingerprint)
        if self.replicas is not None:
            return bundle, RemoteModel(self.replicas, uri, bundle.fingerprint)
        model = BatchingModel(bundle, batch_size=self.options.batch_size, meters=self.meters)
        return bundle, model


class RayMeters(EndpointMetrics):
    """Counts that Ray exports to Prometheus beside its own, each with `ray_` before its name."""

    def __init__(self) -> None:
        self._requests = Counter(
            "audiocnn_requests", "Requests by route and status", tag_keys=("route", "status")
        )
        self._seconds = Histogram(
            "audiocnn_request_seconds", "From the first byte to the answer", _SECONDS, ("route",)
        )
        self._failures = Counter(
            "audiocnn_failures", "Requests answered with a problem", tag_keys=("reason",)
        )
        self._windows = Counter("audiocnn_windows", "Windows predicted")
        self._batches = Histogram("audiocnn_batch_windows", "Windows in a forward", _COUNTS)
        self._queued = Histogram("audiocnn_queue_seconds", "Waiting for the model", _SECONDS)
        self._computed = Histogram("audiocnn_model_seconds", "A batch's forward", _SECONDS)

    def request(self, route: str, status: int, seconds: float) -> None:
        """As `Meters.request`."""
        self._requests.inc(1, {"route": route, "status": str(status)})
        self._seconds.observe(seconds, {"route": route})

    def failure(self, reason: str) -> None:
        """As `Meters.failure`."""
        self._failures.inc(1, {"reason": reason})

    def windows(self, count: int) -> None:
        """As `Meters.windows`."""
        self._windows.inc(count)

    def batch(self, size: int, queued_s: float, computed_s: float) -> None:
        """As `Meters.batch`."""
        self._batches.observe(size)
        self._queued.observe(queued_s)
        self._computed.observe(computed_s)


def build(args: dict[str, Any]) -> serve.Application:
    """The application of a config file's `args`: see `read_args`. Raises AudioCNNError."""
    options, keys = read_args(args)
    fewest = options.replicas_range[0] if options.replicas_range else 1
    return application(options, keys, fewest=max(1, min(_SPREAD, fewest)))


def application(
    options: Serve,
    keys: tuple[str, ...],
    fingerprints: dict[str, str] | None = None,
    *,
    fewest: int = 1,
) -> serve.Application:
    """The application: `keys` are digests, `fewest` those copies that decode for models on GPUs.

    `fingerprints` are those of the bundle and of the one `beside`, where they are kept.
    """
    common: dict[str, Any] = {
        "user_config": {"bundle": options.bundle, **(fingerprints or {})},
        # The gate refuses what is too much, and says so; Serve would hold it, or cut its batch.
        "max_ongoing_requests": 100_000,
        "graceful_shutdown_timeout_s": options.timeout_s + 5,
        "health_check_period_s": 5,
        "logging_config": {"enable_access_log": False},
    }
    endpoint = serve.ingress()(Endpoint)
    one_cpu = {"num_cpus": 1}
    if not options.gpu:
        both: Any = serve.deployment(
            name="Endpoint", ray_actor_options=one_cpu, **_scaling(options), **common
        )(endpoint)
        return both.bind(options, keys)  # type: ignore[no-any-return]
    share = {"num_cpus": 0, "num_gpus": options.gpu}
    model: Any = serve.deployment(
        name="Model", ray_actor_options=share, **_scaling(options), **common
    )(ModelReplica)
    most = options.replicas_range[1] if options.replicas_range else 1
    # One that decodes and packs on a CPU keeps no GPU busy.
    several = _autoscaling(options, fewest, 4 * most)
    ingress: Any = serve.deployment(
        name="Endpoint", ray_actor_options=one_cpu, **several, **common
    )(endpoint)
    return ingress.bind(options, keys, model.bind(options))  # type: ignore[no-any-return]


def _scaling(options: Serve) -> dict[str, Any]:
    fewest, most = options.replicas_range or (1, 1)
    return {"num_replicas": most} if fewest == most else _autoscaling(options, fewest, most)


def _autoscaling(options: Serve, fewest: int, most: int) -> dict[str, Any]:
    return {
        "autoscaling_config": {
            "min_replicas": fewest,
            "max_replicas": most,
            # Half of what a copy takes at once: another one is there before the first refuses.
            "target_ongoing_requests": max(1, options.queue // 2),
            "upscale_delay_s": 5,
            "downscale_delay_s": 120,
        }
    }
