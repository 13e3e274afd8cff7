"""One loaded model version: its backend, its batcher, its tracer. Protocol-neutral: the APIs only translate to it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np

from model.bundle import EXAMPLES, Bundle, BundleError, Manifest
from service import policy
from service.backends import Array, Backend, Batch, Runtime, load_backend
from service.batcher import Batcher, Outputs, QueueLimits
from service.errors import DeadlineExceeded, InvalidRequest, TooLarge
from service.metrics import Metrics
from service.policy import Limits
from service.tensors import Sequences, TraceLevel
from service.timing import Timing
from service.trace import Layer, Tracer


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model version that has been read, checked, loaded and warmed, and is not served yet."""

    bundle: Bundle
    backend: Backend
    tracer: Tracer
    examples: bytes
    duration_s: float


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What one engine takes on."""

    batch: Limits
    queue: QueueLimits
    max_sequence_length: int
    max_trace_values: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """Probabilities float32 (B, K) and, if asked for, each sequence's trace."""

    probabilities: Array
    traces: list[list[Layer]] | None


def load(bundle: Bundle, runtime: Runtime, limits: EngineLimits) -> Loaded:
    """Load and warm `bundle`; raise `BundleError` if it is refused, `BackendError` if the device is.

    Blocks for as long as that takes; call it in a thread.
    """
    start = perf_counter()
    backend = load_backend(bundle, runtime)
    tracer = Tracer(bundle)
    try:
        _warm_up(backend, bundle.manifest, limits)
    except Exception as error:  # the runtimes' exceptions share no class but Exception
        raise BundleError(f"{bundle.folder}: {backend.name} fails to run its graph: {error}") from error
    return Loaded(bundle, backend, tracer, bundle.read(EXAMPLES), perf_counter() - start)


def _warm_up(backend: Backend, manifest: Manifest, limits: EngineLimits) -> None:
    """Run the shapes to come: runtimes allocate, and TorchScript optimises anew, on the first runs of a shape."""
    states = manifest.num_layers * manifest.num_directions
    for length in sorted({manifest.data.min_length, manifest.data.max_length}):
        steps = min(length, limits.max_sequence_length)
        for rows in sorted({1, 2, min(limits.batch.max_rows, limits.batch.max_steps // steps)} - {0}):
            zeros = np.zeros((states, rows, manifest.hidden_size), np.float32)
            sequences = np.zeros((rows, steps, manifest.input_size), np.float32)
            batch = Batch(sequences, np.full(rows, steps, np.int64), zeros, zeros)
            for _ in range(3):
                backend.run(batch, manifest.outputs)


class Engine:
    """Answers for one model version. Belongs to the event loop that it was made on."""

    def __init__(self, loaded: Loaded, *, limits: EngineLimits, metrics: Metrics) -> None:
        self.manifest = loaded.bundle.manifest
        self.examples = loaded.examples
        self.backend = loaded.backend
        self.name = self.manifest.name
        self.version = str(self.manifest.version)
        self._limits = limits
        self._metrics = metrics
        self._tracer = loaded.tracer
        self._batcher = Batcher(
            loaded.backend,
            (self.manifest.num_layers * self.manifest.num_directions, self.manifest.hidden_size),
            limits=limits.batch,
            queue_limits=limits.queue,
            metrics=metrics,
        )
        self._trace_thread = ThreadPoolExecutor(1, thread_name_prefix="trace")

    async def predict(
        self, sequences: Sequences, trace: TraceLevel | None, *, timeout_s: float, timing: Timing
    ) -> Prediction:
        """Classify `sequences`, and trace them if asked to. Raises what `Batcher.infer` raises; fills `timing`.

        A traced request is computed in one batch with others; what only the trace needs is computed after it, in a
        thread of its own, when the others have their answers.
        """
        if sequences.longest > self._limits.max_sequence_length:
            row = int(sequences.lengths.argmax())
            limit = self._limits.max_sequence_length
            raise TooLarge(f"sequences[{row}]: {sequences.longest} time steps, at most {limit} are taken")
        if trace and (size := self._tracer.size(sequences, trace)) > self._limits.max_trace_values:
            limit = self._limits.max_trace_values
            raise TooLarge(
                f"these traces would hold {size} values, at most {limit} may; send fewer or shorter sequences"
            )
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        wanted = self._tracer.outputs() if trace else frozenset({"probabilities"})
        outputs = await self._batcher.infer(sequences, wanted, timeout_s=timeout_s, timing=timing)
        _check_finite(outputs["probabilities"])
        traces = await self._trace_until(deadline_s, sequences, outputs, trace) if trace else None
        probabilities = outputs["probabilities"]
        self._metrics.predicted(self.name, self.version, self.manifest.labels, probabilities)
        timing.completed = perf_counter()
        return Prediction(probabilities, traces)

    async def close(self) -> None:
        """Finish what was taken and release the backend.

        The trace's thread is left to go with the engine: answers that have just come from the backend still need it.
        """
        await self._batcher.close()

    async def _trace_until(
        self, deadline_s: float, sequences: Sequences, outputs: Outputs, level: TraceLevel
    ) -> list[list[Layer]]:
        try:
            async with asyncio.timeout_at(deadline_s):
                return await self._trace(deadline_s, sequences, outputs, level)
        except TimeoutError:
            raise DeadlineExceeded("the request's time ran out before it was traced") from None

    async def _trace(
        self, deadline_s: float, sequences: Sequences, outputs: Outputs, level: TraceLevel
    ) -> list[list[Layer]]:
        loop = asyncio.get_running_loop()
        traces = []
        for row, sequence in enumerate(sequences):
            ends = None
            if level == "gates" and self.manifest.bidirectional:
                ends = await self._prefix_probabilities(deadline_s, sequence)
            arrays = {name: _row(array, row, len(sequence)) for name, array in outputs.items()}
            trace = partial(self._tracer.trace, sequence, arrays, level, ends)
            traces.append(await loop.run_in_executor(self._trace_thread, trace))
        return traces

    async def _prefix_probabilities(self, deadline_s: float, sequence: Array) -> Array:
        """Probabilities (T, K) of every beginning of `sequence` (T, F), each run for itself, one batch at a time.

        With a backward direction, ending earlier changes every hidden state: there is no shorter way.
        """
        lengths = np.arange(1, len(sequence) + 1)
        probabilities = np.empty((len(sequence), len(self.manifest.labels)), np.float32)
        for rows in policy.split(lengths, self._limits.batch):
            prefixes = Sequences(np.concatenate([sequence[: row + 1] for row in rows]), lengths[rows])
            outputs = await self._batcher.infer(
                prefixes,
                frozenset({"probabilities"}),
                timeout_s=deadline_s - asyncio.get_running_loop().time(),
                timing=Timing.start(),
            )
            probabilities[rows] = outputs["probabilities"]
        return probabilities


def _check_finite(probabilities: Array) -> None:
    """Raise `InvalidRequest` for values so large that the network overflowed on them; ONNX Runtime saturates."""
    bad = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(bad):
        raise InvalidRequest(f"sequences[{bad[0]}]: values too large, the model's answer to them is not a number")


def _row(array: Array, row: int, length: int) -> Array:
    """One sequence's share of a graph output, without padding."""
    return array[row, :length] if array.ndim == 3 else array[row]
