"""Shared by the tests of the endpoint: a bundle, a service that uses it, and clients."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from audiocnn.config import ModelConfig
from audiocnn.model.bundle import Bundle
from audiocnn.model.calibration import Calibration
from audiocnn.model.resnet import AudioCNN
from helpers.clients import Client
from helpers.common import SMALL
from serve.api.app import make_app
from serve.engine.decoder import Decoder
from serve.engine.metrics import EndpointMetrics
from serve.engine.model import BatchingModel
from serve.engine.service import Service
from serve.options import LIMITS, Serve


@pytest.fixture(scope="package")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    config = ModelConfig(stages=(1, 2, 1, 1), channels=8)
    return Bundle(
        model=AudioCNN(config, SMALL.n_mels, 3).eval(),
        feature=SMALL,
        classes=("<b>bell</b>", "dog", "rain"),
        calibration=Calibration(temperature=0.5, thresholds=(0.0, 0.0, 0.0)),
    ).write(str(tmp_path_factory.mktemp("bundle") / "b"))


@pytest.fixture(scope="package")
def service(bundle: Bundle) -> Iterator[Service]:
    decoder = Decoder(LIMITS)
    model = BatchingModel(bundle)
    yield Service(bundle, model, decoder)
    model.close()
    decoder.close()


@pytest.fixture
def client(service: Service) -> Client:
    """A function that makes a client of the endpoint with these options."""

    def make(
        service: Service = service,
        keys: tuple[str, ...] = (),
        metrics: EndpointMetrics | None = None,
        base: str = "http://127.0.0.1:8000",
        beside: Service | None = None,
        **options: Any,
    ) -> TestClient:
        other = (lambda: beside) if beside is not None else None
        app = make_app(lambda: service, Serve(bundle="b", **options), keys, metrics, beside=other)
        return TestClient(app, base_url=base, raise_server_exceptions=False)

    return make
