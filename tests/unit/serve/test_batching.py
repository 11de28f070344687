"""Windows of different requests share a forward pass; metrics count requests and windows."""

import asyncio
from typing import Any

import numpy as np

from audiocnn.model.bundle import Bundle
from helpers.clients import Client, Counted
from helpers.hostile import sound
from serve.engine.decoder import Decoder
from serve.engine.model import BatchingModel, Inspect
from serve.engine.service import Service
from serve.options import LIMITS


def test_meters_count_requests_windows_and_reasons(client: Client, bundle: Bundle) -> None:
    metrics = Counted()
    own = Service(bundle, BatchingModel(bundle, metrics=metrics), Decoder(LIMITS))
    ask = client(own, metrics=metrics)
    ask.post("/v1/predict", content=sound("wav"))
    ask.post("/v1/predict", content=b"x")
    ask.get("/nothing")
    assert metrics.requests == [("/v1/predict", 200), ("/v1/predict", 415), ("other", 404)]
    assert metrics.failures == ["not-audio", "not-found"]
    assert metrics.count == 2
    assert sum(metrics.batches) == 3  # two windows, and one of them again for its spectrogram
    own.decoder.close()


def test_longer_windows_share_a_forward_by_fewer(bundle: Bundle) -> None:
    metrics = Counted()
    model = BatchingModel(bundle, metrics=metrics)

    async def run() -> None:
        windows = [np.zeros(8 * bundle.feature.window_samples, np.float32)] * 12
        await asyncio.gather(*(model.infer(one, Inspect()) for one in windows))

    asyncio.run(run())
    assert sum(metrics.batches) == 12
    assert max(metrics.batches) == 2  # as long as 16 windows of the trained length
    model.close()


def test_windows_of_different_requests_share_a_forward(bundle: Bundle) -> None:
    metrics = Counted()
    model = BatchingModel(bundle, metrics=metrics)
    service = Service(bundle, model, Decoder(LIMITS))

    async def run() -> list[dict[str, Any]]:
        asked = [service.tutorial(sound("wav")) for _ in range(6)]
        return await asyncio.gather(*asked)

    answers = asyncio.run(run())
    for answer in answers:
        np.testing.assert_allclose(
            [p["confidence"] for p in answer["predictions"]],
            [p["confidence"] for p in answers[0]["predictions"]],
            atol=1e-6,
        )
    assert max(metrics.batches) > 2
    assert sum(metrics.batches) >= 18
    model.close()
    service.decoder.close()
