"""The two deployments: replicas that hold the model, and replicas that answer HTTP."""

import asyncio
import logging
from typing import Any

import torch
from ray.serve.handle import DeploymentHandle

from audiocnn import storage
from audiocnn.audio.decode import Samples
from audiocnn.config import Variable
from audiocnn.errors import MismatchError
from audiocnn.model.bundle import Bundle
from serve.api.app import make_app
from serve.api.gate import App
from serve.deploy import served_bundles
from serve.deploy.current import Current, Opened
from serve.deploy.ray_metrics import RayMetrics
from serve.engine.decoder import Decoder
from serve.engine.label_browser import LabelBrowser
from serve.engine.model import BatchingModel, InferenceResult, Inspect
from serve.options import Serve

_LOG = logging.getLogger("ray.serve")


class ModelReplica:
    """A replica of the model on a share of a GPU: windows in, inference results out."""

    def __init__(self, options: Serve) -> None:
        storage.configure(options.storage_options)
        self.options = options
        self.metrics = RayMetrics()
        self._models: dict[str, BatchingModel] = {}
        self._loading = asyncio.Lock()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load a bundle before requests need it. If it does not load, the loaded ones stay.

        Raises the error if no bundle is loaded.
        """
        try:
            await self._model(user_config["bundle"], user_config.get("fingerprint"))
        except Exception as error:
            if not self._models:
                raise
            _LOG.error(f"{user_config['bundle']} does not load: {error}")

    async def infer(
        self, uri: str, fingerprint: str, samples: Samples, wanted: Inspect
    ) -> InferenceResult:
        """Return the output of a bundle for a window [window_samples].

        While a new bundle rolls in, the previous one stays loaded too.
        """
        model = self._models.get(fingerprint) or await self._model(uri, fingerprint)
        return await model.infer(samples, wanted)

    async def check_health(self) -> None:
        """Answer Ray's health check. Raises RuntimeError if a model no longer answers."""
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
                    bundle, device, batch_size=self.options.batch_size, metrics=self.metrics
                )
                kept = 2 if self.options.beside else 1
                for old in list(self._models)[:-kept]:
                    close = self._models.pop(old).close
                    asyncio.get_running_loop().call_later(2 * self.options.timeout_s, close)
                self._models[bundle.fingerprint] = model
            return self._models[bundle.fingerprint]


def read_bundle(uri: str, fingerprint: str | None) -> Bundle:
    """Read the bundle of this fingerprint from the cluster if it is kept there, else from the URI.

    Raises AudioCNNError, also if the bundle at the URI has another fingerprint.
    """
    if fingerprint is not None and (found := served_bundles.read(fingerprint)) is not None:
        return found
    bundle = Bundle.read(uri)
    if fingerprint not in (None, bundle.fingerprint):
        raise MismatchError(f"{uri}: its fingerprint is {bundle.fingerprint}, not {fingerprint}")
    return bundle


class RemoteModel:
    """The model of a bundle on the replicas of another deployment."""

    def __init__(self, replicas: DeploymentHandle[Any], uri: str, fingerprint: str) -> None:
        self._replicas, self._uri, self._fingerprint = replicas, uri, fingerprint

    async def infer(self, samples: Samples, wanted: Inspect) -> InferenceResult:
        """See `InferenceModel.infer`."""
        inferred: InferenceResult = await self._replicas.infer.remote(
            self._uri, self._fingerprint, samples, wanted
        )
        return inferred

    async def check(self) -> None:
        """Do nothing: Ray checks the health of the replicas itself."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


class Endpoint:
    """The routes, with the model in the same process or with a handle to its replicas."""

    def __init__(
        self,
        options: Serve,
        keys: tuple[str, ...],
        replicas: DeploymentHandle[Any] | None = None,
    ) -> None:
        storage.configure(options.storage_options)
        self.options, self.keys, self.replicas = options, keys, replicas
        self.metrics = RayMetrics()
        self.decoder = Decoder(options.limits, timeout_s=options.timeout_s / 2)
        self.current = Current(self._open, self.decoder, options.timeout_s)
        self.beside = (
            Current(self._open, self.decoder, options.timeout_s) if options.beside else None
        )
        self.labels = (
            LabelBrowser(options.labels, options.timeout_s / 2) if options.labels else None
        )

    def __serve_build_asgi_app__(self) -> App:
        """Build the application; Ray calls this once in each replica."""
        return make_app(
            self.current.service,
            self.options,
            self.keys,
            self.metrics,
            labels=self.labels,
            beside=self.beside.service if self.beside is not None else None,
            token=Variable.ENDPOINT_TOKEN.get(),
        )

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Roll in the bundles that the deployment's `user_config` names."""
        uri = user_config.get("bundle") or self.options.bundle
        await self.current.roll(uri, user_config.get("fingerprint"))
        if self.beside is not None:
            await self.beside.roll(str(self.options.beside), user_config.get("beside"))

    async def check_health(self) -> None:
        """Answer Ray's health check. Raises RuntimeError, or Problem if no bundle is loaded."""
        await self.current.service().model.check()

    def __del__(self) -> None:
        self.decoder.close()
        if self.labels is not None:
            self.labels.close()

    def _open(self, uri: str, fingerprint: str | None) -> Opened:
        bundle = read_bundle(uri, fingerprint)
        if self.replicas is not None:
            return bundle, RemoteModel(self.replicas, uri, bundle.fingerprint)
        model = BatchingModel(bundle, batch_size=self.options.batch_size, metrics=self.metrics)
        return bundle, model
