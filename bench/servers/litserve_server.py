"""LitServe: FastAPI in front, Python processes behind a queue. Batches wait 1 ms: with 0 its idle processes spin."""

import os
from typing import Any

import litserve
import numpy as np

from bench.servers.classifier import INSTANCES, MAX_BATCH_SIZE, Array, Classifier


class Api(litserve.LitAPI):  # type: ignore[misc]  # litserve is in an environment of its own
    """LitServe's hooks: decode each request, predict a batch of them, encode each answer."""

    def setup(self, device: str) -> None:  # noqa: ARG002  # LitServe's signature
        """Load the model, in each process."""
        self._classifier = Classifier()

    def decode_request(self, request: dict[str, Any]) -> Array:
        """A request's sequences `(B, T, F)`."""
        return np.array(request["sequences"], np.float32)

    def batch(self, inputs: list[Array]) -> list[Array]:
        """Requests may hold several sequences, of lengths that differ: leave them apart."""
        return inputs

    def predict(self, requests: list[Array]) -> list[Array]:
        """The probabilities of each request of a batch."""
        return self._classifier.classify_requests(requests)

    def unbatch(self, output: list[Array]) -> list[Array]:
        """They already are apart."""
        return output

    def encode_response(self, output: Array) -> dict[str, Any]:
        """The answer, for FastAPI to write."""
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    api = Api(max_batch_size=MAX_BATCH_SIZE, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=INSTANCES)
    port = int(os.environ["BENCH_PORT"])
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")
