"""mosec: a Rust front that makes batches and hands them to Python processes over a socket.

The shortest wait for a batch is 1 ms (0 means the default of 10), and it is waited for whenever a batch is not full. So
a batch takes half the connections of most scenarios: with 64, one process had all requests and waited for more, which
took a quarter of its speed; 16 and 8 were slower too. Two processes take JSON and two take raw bytes: mosec
has a worker a route, and those of the route that is not called sleep. Address and port are in `MOSEC_*`.
"""

from typing import Any, Final

import numpy as np
import orjson
from mosec import Server, ValidationError, Worker

from bench.servers.classifier import INSTANCES, Array, Classifier, from_raw, to_raw

_MAX_BATCH_SIZE: Final = 32


class Json(Worker):  # type: ignore[misc]  # mosec is in an environment of its own
    """Takes and gives JSON."""

    def __init__(self) -> None:
        super().__init__()
        self._classifier = Classifier()

    def deserialize(self, data: bytes) -> Any:
        """A request's sequences `(B, T, F)`."""
        try:
            return np.array(orjson.loads(data)["sequences"], np.float32)
        except (ValueError, KeyError) as error:
            raise ValidationError(str(error)) from error

    def serialize(self, data: Any) -> bytes:
        """An answer of probabilities `(B, K)`."""
        return orjson.dumps({"probabilities": data}, option=orjson.OPT_SERIALIZE_NUMPY)

    def forward(self, data: list[Array]) -> list[Array]:
        """The probabilities of each request of a batch."""
        return self._classifier.classify_requests(data)


class Raw(Json):
    """Takes and gives float32."""

    def deserialize(self, data: bytes) -> Any:
        """A request's sequences `(B, T, F)`."""
        return from_raw(data)

    def serialize(self, data: Any) -> bytes:
        """An answer of probabilities `(B, K)`."""
        return to_raw(data)


if __name__ == "__main__":
    server = Server()
    for worker, route in ((Json, "/predict"), (Raw, "/raw")):
        server.append_worker(worker, num=INSTANCES, max_batch_size=_MAX_BATCH_SIZE, max_wait_time=1, route=route)
    server.run()
