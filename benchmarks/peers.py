"""The endpoint's peers: the same model and answer behind FastAPI, LitServe and BentoML.

Each peer has one process per core, with one thread for the model, and batches if it offers them.
Handlers are written as by a careful user. They have no peaks, limits, keys or maps, unlike ours.
"""

import os
import sys
from typing import Any

import torch

from audiocnn.model.predictor import Predictor

BUNDLE = os.environ.get("AUDIOCNN_BENCH_BUNDLE", "")
WORKERS = int(os.environ.get("AUDIOCNN_BENCH_WORKERS", "2"))
BATCH = 16


def load() -> Predictor:
    """Return the predictor of a worker."""
    torch.set_num_threads(1)
    return Predictor.load(BUNDLE, "cpu")


def answer(predictor: Predictor, bodies: list[bytes]) -> list[dict[str, Any]]:
    """Return the answers for recordings of one window each."""
    parts = [next(predictor.decode(body)) for body in bodies]
    scores = predictor.predict_windows([part.samples for part in parts])
    found = [predictor.encode([p], s[None]) for p, s in zip(parts, scores, strict=True)]
    return [{"label": one.label, "predictions": one.top_k} for one in found]


def fastapi_app() -> Any:
    """Return the FastAPI app; uvicorn calls this once in each worker."""
    from fastapi import FastAPI, Request
    from fastapi.concurrency import run_in_threadpool

    app, predictor = FastAPI(), load()

    @app.post("/predict")
    async def _predict(request: Request) -> dict[str, Any]:
        body = await request.body()
        return (await run_in_threadpool(answer, predictor, [body]))[0]

    return app


def run_fastapi(port: int) -> None:
    """Serve with uvicorn until this process is killed."""
    import uvicorn

    uvicorn.run(
        "benchmarks.peers:fastapi_app", factory=True, host="127.0.0.1", port=port,
        workers=WORKERS, access_log=False, log_level="warning",
    )  # fmt: skip


def command(peer: str, python: str, port: int) -> list[str]:
    """Return the command that starts a peer from the repository's root."""
    if peer == "bentoml":
        serve = ["-m", "bentoml", "serve", "benchmarks.peers_bentoml:Service"]
        return [python, *serve, "--host", "127.0.0.1", "--port", str(port)]
    module = "benchmarks.peers" if peer == "fastapi" else "benchmarks.peers_litserve"
    return [python, "-m", module, str(port)]


def multipart(body: bytes, name: str) -> tuple[bytes, str]:
    """Return a form with one file, and its content type."""
    head = (
        f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    )
    return head.encode() + body + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


if __name__ == "__main__":
    run_fastapi(int(sys.argv[1]))
