"""NVIDIA Triton through nvidia-pytriton: Triton's own HTTP server and batcher, the model in Python callables.

Triton waits for nothing: an idle instance takes what is queued. It makes batches only of requests of one shape.
"""

import os
import sysconfig

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from bench.servers.classifier import INSTANCES, MAX_BATCH_SIZE, Array, Classifier


class Instance:
    """One instance of the model; Triton calls each from a thread of its own."""

    def __init__(self) -> None:
        self._classifier = Classifier()

    @batch  # type: ignore[untyped-decorator]  # pytriton is in an environment of its own
    def __call__(self, sequences: Array) -> dict[str, Array]:
        """Probabilities `(B, K)` of a batch `(B, T, F)`."""
        return {"probabilities": self._classifier.probabilities(sequences)}


def main() -> None:
    """Serve until stopped."""
    # Triton embeds libpython: it must be this interpreter's, whose standard library it takes, not another's of 3.x.
    os.environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=int(os.environ["BENCH_PORT"]),
        allow_grpc=False,
        allow_metrics=False,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=os.environ["BENCH_NAME"],
            infer_func=[Instance() for _ in range(INSTANCES)],
            inputs=[Tensor(name="sequences", dtype=np.float32, shape=(-1, int(os.environ["BENCH_FEATURES"])))],
            outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=MAX_BATCH_SIZE, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()


if __name__ == "__main__":
    main()
