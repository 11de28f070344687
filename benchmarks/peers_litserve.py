"""LitServe's server for `benchmarks.peers`, in its own module because its workers import it."""

import sys
from typing import Any

import litserve
from fastapi import UploadFile

from benchmarks.peers import BATCH, WORKERS, answer, load


class Api(litserve.LitAPI):  # type: ignore[misc]
    """The same answer, with LitServe's batches."""

    def setup(self, device: str) -> None:
        """Load the model of a worker."""
        self.predictor = load()

    def decode_request(self, request: UploadFile) -> bytes:
        """Return the content of the form's file."""
        return request.file.read()

    def predict(self, bodies: list[bytes]) -> list[dict[str, Any]]:
        """Return the answers for a batch of recordings."""
        return answer(self.predictor, bodies)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """Return an answer without change."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=BATCH, batch_timeout=0.005, api_path="/predict"),
        accelerator="cpu", devices=1, workers_per_device=WORKERS, timeout=False,
    )  # fmt: skip
    server.run(
        port=int(sys.argv[1]), host="127.0.0.1", log_level="warning", generate_client_file=False
    )
