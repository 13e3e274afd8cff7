"""One loaded model version: its backend, its batcher, its tracer. Protocol-neutral: the APIs only translate to it."""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from time import perf_counter

import numpy as np

from model.bundle import EXAMPLES, Bundle, Manifest
from service import policy
from service.backends import Array, Backend, Runtime, load_backend
from service.backends.all_cores import AllCoresBackend
from service.backends.fastest import FastestBackend
from service.batcher import Batcher, QueueLimits
from service.cores import Cores
from service.costs import Costs, measure
from service.errors import DeadlineExceeded, InvalidRequest, ServiceError, TooLarge
from service.metrics import Metrics
from service.parts import Computed, Outputs
from service.policy import Limits
from service.tensors import Sequences, State, TraceLevel
from service.timing import Timing
from service.trace import Layer, Tracer

# What one run's input adds to the gates of a layer, 4 values for each hidden unit at each step, before it goes through
# the steps. ONNX Runtime keeps for good what memory that took once: 64 sequences of 1000 steps in two layers of 256
# brought a process to 729 MB, and bring it to 129 in runs of this size. With half of it two layers of 128 took a tenth
# longer for requests of 32 sequences of 100 steps, of which two no longer were one run.
_MAX_RUN_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model version that has been read, checked, loaded and warmed, and is not served yet."""

    bundle: Bundle
    backend: Backend
    costs: Costs
    tracer: Tracer
    examples: bytes
    duration_s: float
    max_run_steps: int | None = None  # as the batcher takes it


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What one engine takes on."""

    batch: Limits
    queue: QueueLimits
    max_sequence_length: int
    max_trace_values: int


@dataclass(slots=True)
class Query:
    """What is asked of an engine. `outputs`: names out of `Manifest.outputs`, which come beside the probabilities."""

    sequences: Sequences
    timeout_s: float
    outputs: frozenset[str] = frozenset()
    trace: TraceLevel | None = None
    priority: int = 0


@dataclass(slots=True)
class Prediction:
    """Graph outputs by name, `probabilities` float32 (B, K) among them, and, if asked for, each sequence's trace."""

    outputs: Outputs
    traces: list[list[Layer]] | None

    @property
    def probabilities(self) -> Array:
        """Float32 (B, K)."""
        return self.outputs["probabilities"]


def load(bundle: Bundle, runtime: Runtime, limits: EngineLimits) -> Loaded:
    """Load, time and so warm `bundle`; raise `BundleError` if it is refused, `BackendError` if the device is.

    Blocks for as long as that takes; call it in a thread.
    """
    start = perf_counter()
    backends = {name: load_backend(bundle, name, runtime) for name in runtime.backends}
    tracer = Tracer(bundle)
    max_run_steps = _max_run_steps(bundle.manifest, runtime)
    run_limits = replace(limits.batch, max_steps=min(limits.batch.max_steps, max_run_steps or limits.batch.max_steps))
    costs = Costs(measure(backends, bundle, run_limits, max_steps=limits.max_sequence_length))
    useful = {name: backends[name] for name in backends if name in costs.chosen_anywhere()}
    backend: Backend = FastestBackend(useful, costs) if len(useful) > 1 else next(iter(useful.values()))
    if runtime.lone_threads > runtime.threads and "onnx" in runtime.backends:
        all_cores = load_backend(bundle, "onnx", replace(runtime, threads=runtime.lone_threads, spins=True))
        measure({"onnx": all_cores}, bundle, Limits(1, 1), max_steps=1)  # only to warm it up
        backend = AllCoresBackend(backend, all_cores, costs, runtime.cores)
    return Loaded(bundle, backend, costs, tracer, bundle.read(EXAMPLES), perf_counter() - start, max_run_steps)


def _max_run_steps(manifest: Manifest, runtime: Runtime) -> int | None:
    """Sequences x steps of one run at most; None: any number.

    A backward direction begins at the end, and on a GPU no run takes long.
    """
    if manifest.bidirectional or runtime.device != "cpu":
        return None
    return _MAX_RUN_BYTES // (4 * manifest.hidden_size * np.dtype(np.float32).itemsize)


_PROBABILITIES = frozenset({"probabilities"})
_SERIALS = count()


# Called with what a submission came to.
Then = Callable[[Prediction | ServiceError], None]


class Submission:
    """A query that was submitted: what waits for it is called, not woken, which costs a task and turns of the loop."""

    __slots__ = ("_done", "_engine", "_then", "_timing")

    def __init__(self, engine: "Engine", timing: Timing, then: Then) -> None:
        self._engine = engine
        self._timing = timing
        self._then = then
        self._done = False

    def done(self) -> bool:
        """Whether `then` was called, or never will be."""
        return self._done

    def cancel(self) -> None:
        """Give it up: `then` is not called, and no run begins for it."""
        self._done = True

    def set_result(self, computed: Computed) -> None:
        """Take what the batcher computed."""
        self._done = True
        self._timing.ran(computed.runs)
        try:
            prediction = self._engine.finish(computed.outputs, self._timing)
        except ServiceError as error:
            self._then(error)
        else:
            self._then(prediction)

    def set_exception(self, error: ServiceError) -> None:
        """Learn why the batcher computed nothing."""
        self._done = True
        self._then(error)


class _Users:
    """Entered by each request that was routed to an engine: it is answered there, however slowly its body comes."""

    def __init__(self) -> None:
        self._number = 0
        self._none_left: asyncio.Event | None = None

    def __enter__(self) -> None:
        self._number += 1

    def __exit__(self, *_: object) -> None:
        self._number -= 1
        if self._none_left is not None and not self._number:
            self._none_left.set()

    async def none_left(self) -> None:
        """Wait for all to leave."""
        self._none_left = asyncio.Event()
        if self._number:
            await self._none_left.wait()


class Engine:
    """Answers for one model version. Belongs to the event loop that it was made on."""

    def __init__(self, loaded: Loaded, *, limits: EngineLimits, metrics: Metrics, cores: Cores | None = None) -> None:
        self.serial = next(_SERIALS)  # no other engine of this process ever has the same
        self.manifest = loaded.bundle.manifest
        self.examples = loaded.examples
        self.backend = loaded.backend
        self.costs = loaded.costs
        self.name = self.manifest.name
        self.version = str(self.manifest.version)
        self.traced_names = loaded.tracer.names
        self.metrics = metrics.of_model(self.name, self.version)
        self._limits = limits
        self._tracer = loaded.tracer
        self._batcher = Batcher(
            loaded.backend,
            (self.manifest.num_layers * self.manifest.num_directions, self.manifest.hidden_size),
            limits=limits.batch,
            queue_limits=limits.queue,
            metrics=self.metrics,
            cost=loaded.costs,
            cores=cores,
            max_run_steps=loaded.max_run_steps,
        )
        self._trace_thread = ThreadPoolExecutor(1, thread_name_prefix="trace")
        self.in_use = _Users()

    async def predict(self, query: Query, timing: Timing) -> Prediction:
        """Classify sequences, and trace them if asked to. Raises what `Batcher.infer` raises; fills `timing`.

        A traced request is computed in one batch with others; what only the trace needs is computed after it, in a
        thread of its own, when the others have their answers.
        """
        deadline_s = asyncio.get_running_loop().time() + query.timeout_s
        outputs = await self._batcher.infer(
            query.sequences,
            self._checked_outputs(query),
            timeout_s=query.timeout_s,
            timing=timing,
            priority=query.priority,
        )
        self._check_finite(outputs)
        traces = await self._trace_until(deadline_s, query, outputs, query.trace) if query.trace else None
        return self._predicted(outputs, traces, timing)

    def refuse_if_full(self) -> None:
        """Raise `QueueFull` if nothing more may wait."""
        self._batcher.refuse_if_full()

    def submit(self, query: Query, timing: Timing, then: Then) -> "Submission | None":
        """Classify sequences and call `then` with the prediction, or why there is none, as soon as it is there.

        Returns None, and does nothing, if that takes more than one run and its outputs; then `predict` it.
        """
        if query.trace is not None:
            return None
        outputs = self._checked_outputs(query)
        timing.decoded = perf_counter()
        submission = Submission(self, timing, then)
        taken = self._batcher.submit(
            query.sequences, outputs, submission, timeout_s=query.timeout_s, priority=query.priority
        )
        return submission if taken else None

    def finish(self, outputs: Outputs, timing: Timing) -> Prediction:
        """Make a prediction of `outputs`; raise `InvalidRequest` if they are not numbers."""
        self._check_finite(outputs)
        return self._predicted(outputs, None, timing)

    def _predicted(self, outputs: Outputs, traces: list[list[Layer]] | None, timing: Timing) -> Prediction:
        self.metrics.predicted(self.manifest.labels, outputs["probabilities"])
        timing.completed = perf_counter()
        return Prediction(outputs, traces)

    def _checked_outputs(self, query: Query) -> frozenset[str]:
        """The names of the graph's outputs that `query` takes; raise `TooLarge` if it is too much."""
        self._check_size(query.sequences, query.trace)
        wanted = self._tracer.outputs() if query.trace else _PROBABILITIES
        return wanted if query.outputs <= wanted else wanted | query.outputs

    def _check_finite(self, outputs: Outputs) -> None:
        """Raise `InvalidRequest` for values so large that the network overflowed on them; ONNX Runtime saturates."""
        probabilities = outputs["probabilities"]
        if math.isnan(probabilities.item(probabilities.argmax())):  # to argmax a NaN is the largest
            bad = int(np.isfinite(probabilities).all(axis=1).argmin())
            raise InvalidRequest(f"sequences[{bad}]: values too large, the model's answer to them is not a number")

    def _check_size(self, sequences: Sequences, trace: TraceLevel | None) -> None:
        if sequences.longest > self._limits.max_sequence_length:
            row = int(sequences.lengths.argmax())
            limit = self._limits.max_sequence_length
            raise TooLarge(f"sequences[{row}]: {sequences.longest} time steps, at most {limit} are taken")
        if trace and (size := self._tracer.size(sequences, trace)) > self._limits.max_trace_values:
            limit = self._limits.max_trace_values
            raise TooLarge(
                f"these traces would hold {size} values, at most {limit} may; send fewer or shorter sequences"
            )

    @property
    def run_s(self) -> float:
        """How long the run that is in progress has taken; 0 if none is."""
        return self._batcher.run_s

    async def close(self) -> None:
        """Wait for the requests that were routed here, finish what was taken, release the backend.

        The trace's thread is left to go with the engine: answers that have just come from the backend still need it.
        """
        await self.in_use.none_left()
        await self._batcher.close()

    async def _trace_until(
        self, deadline_s: float, query: Query, outputs: Outputs, level: TraceLevel
    ) -> list[list[Layer]]:
        try:
            async with asyncio.timeout_at(deadline_s):
                return await self._trace(deadline_s, query, outputs, level)
        except TimeoutError:
            raise DeadlineExceeded("the request's time ran out before it was traced") from None

    async def _trace(self, deadline_s: float, query: Query, outputs: Outputs, level: TraceLevel) -> list[list[Layer]]:
        loop = asyncio.get_running_loop()
        traces = []
        for row, sequence in enumerate(query.sequences):
            state = query.sequences.state and query.sequences.state.take(np.array([row]))
            ends = None
            if level == "gates" and self.manifest.bidirectional:
                ends = await self._prefix_probabilities(deadline_s, sequence, state, query.priority)
            arrays = {name: _row(outputs[name], row, len(sequence)) for name in self._tracer.outputs()}
            trace = partial(self._tracer.trace, sequence, arrays, level, state=state, ends=ends)
            traces.append(await loop.run_in_executor(self._trace_thread, trace))
        return traces

    async def _prefix_probabilities(
        self, deadline_s: float, sequence: Array, state: State | None, priority: int
    ) -> Array:
        """Probabilities (T, K) of every beginning of `sequence` (T, F), each run for itself, one batch at a time.

        With a backward direction, ending earlier changes every hidden state: there is no shorter way.
        """
        lengths = np.arange(1, len(sequence) + 1)
        probabilities = np.empty((len(sequence), len(self.manifest.labels)), np.float32)
        for rows in policy.split(lengths, self._limits.batch, self.costs):
            values = np.concatenate([sequence[: row + 1] for row in rows])
            prefixes = Sequences(values, lengths[rows], state and state.take(np.zeros_like(rows)))
            outputs = await self._batcher.infer(
                prefixes,
                frozenset({"probabilities"}),
                timeout_s=deadline_s - asyncio.get_running_loop().time(),
                timing=Timing(),
                priority=priority,
            )
            probabilities[rows] = outputs["probabilities"]
        return probabilities


def _row(array: Array, row: int, length: int) -> Array:
    """One sequence's share of a graph output, without padding."""
    return array[row, :length] if array.ndim == 3 else array[row]
