"""The online half: LSTM inference over HTTP, batched, with a trace of every layer on request."""

import os

# numpy's BLAS starts a thread a core, and these spin between two calls: on two cores, with a worker each, they took
# half of what the runtimes needed. A worker has one core for all it does.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
