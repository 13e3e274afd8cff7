"""Bytes and JSON to arrays and back: the values that pass through the service, decoded once and never walked in Python.

A request's sequences travel as one `Sequences`: all time steps of all sequences beneath each other, with each length
beside them. Nothing is padded until a batch is put together.

The decoder reads JSON straight into a float buffer with simdjson, which flattens. What is nested in what is checked
apart, on the body's brackets and commas alone: walking through the rows takes longer than all the rest. Only a body
that fails is read again, slowly, to say what is wrong.
"""

import json
from collections.abc import Iterator, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Literal, NamedTuple, TypeGuard

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from service.errors import InvalidRequest, TooLarge

TraceLevel = Literal["layers", "gates"]

_FIELDS = {"sequences", "trace"}
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[],"))
# They take 11 MB at most, the lengths that they mean included: where a step has one feature.
_KNOWN_STRUCTURES, _MAX_KNOWN_STRUCTURE_BYTES = 64, 2**16
_OVERFLOW = 2.0**128 - 2.0**103  # the smallest float64 that is infinite as float32


@dataclass(frozen=True, slots=True)
class State:
    """What an LSTM begins with, for B sequences: `h0` and `c0`, float32 (L*D, B, H)."""

    h0: NDArray[np.float32]
    c0: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> "State":
        """The states at `rows`, in that order; a row may be taken more than once."""
        return State(self.h0[:, rows], self.c0[:, rows])


@dataclass(slots=True, eq=False)  # not frozen: a frozen one takes three times as long to make, 0.4 us
class Sequences:
    """A ragged batch: `values` float32 (S, F), the B sequences' steps one after another; `lengths` int64 (B), sum S.

    `state` is what each sequence goes on from; None is a beginning, from zeros. `longest` is T of the longest sequence,
    for whoever knows it already.
    """

    values: NDArray[np.float32]
    lengths: NDArray[np.int64]
    state: State | None = None
    longest: int = 0

    def __post_init__(self) -> None:
        if not self.longest:
            self.longest = int(self.lengths.max())

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Each sequence `(T, F)`, a view."""
        start = 0
        for length in self.lengths.tolist():
            yield self.values[start : start + length]
            start += length

    def take(self, rows: NDArray[np.int64]) -> "Sequences":
        """The sequences at `rows`, in that order."""
        ends, lengths = np.cumsum(self.lengths)[rows], self.lengths[rows]
        steps = [self.values[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
        return Sequences(np.concatenate(steps), lengths, None if self.state is None else self.state.take(rows))

    def head(self, steps: int) -> "Sequences":
        """The first `steps` of each sequence, or as many as it has."""
        values = self.values[:steps] if len(self) == 1 else self.values[self._positions() < steps]
        return Sequences(values, np.minimum(self.lengths, steps), self.state)

    def tail(self, steps: int, state: State) -> "Sequences":
        """What follows the first `steps` of each sequence that has more; `state` is what all of them have reached."""
        values = self.values[steps:] if len(self) == 1 else self.values[self._positions() >= steps]
        goes_on = np.flatnonzero(self.lengths > steps)
        return Sequences(values, self.lengths[goes_on] - steps, state.take(goes_on))

    def _positions(self) -> NDArray[np.int64]:
        """Of each of all steps (S), its number in its own sequence, from 0."""
        return np.arange(len(self.values)) - np.repeat(self.lengths.cumsum() - self.lengths, self.lengths)


def pad(parts: Sequence[Sequences]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Put ragged batches together: zero-padded sequences float32 (B, T, F) and their lengths int64 (B)."""
    if len(parts) == 1:
        values, lengths, longest = parts[0].values, parts[0].lengths, parts[0].longest
    else:
        values = np.concatenate([part.values for part in parts])
        lengths = np.concatenate([part.lengths for part in parts])
        longest = max([part.longest for part in parts])
    batch, features = len(lengths), values.shape[1]
    if len(values) == batch * longest:
        return values.reshape(batch, longest, features), lengths
    padded = np.zeros((batch, longest, features), np.float32)
    padded[np.arange(longest) < lengths[:, None]] = values
    return padded, lengths


def join_states(parts: Sequence[Sequences], shape: tuple[int, int]) -> State:
    """The initial states (L*D, B, H) of `parts` put together, zeros for those without; `shape` is (L*D, H)."""
    layers, hidden_size = shape
    h0 = np.zeros((layers, sum([len(part.lengths) for part in parts]), hidden_size), np.float32)
    if not any(part.state for part in parts):
        return State(h0, h0)
    c0 = np.zeros_like(h0)
    start = 0
    for part in parts:
        stop = start + len(part)
        if part.state is not None:
            h0[:, start:stop], c0[:, start:stop] = part.state.h0, part.state.c0
        start = stop
    return State(h0, c0)


@dataclass(slots=True)
class PredictRequest:
    """The body of a V1 predict request."""

    sequences: Sequences
    trace: TraceLevel | None


class PredictDecoder:
    """Decodes V1 predict bodies. Holds a parser's buffers, so one a thread."""

    def __init__(self) -> None:
        self._parser = simdjson.Parser()
        self._quiet = copy_context()  # entering it takes a fifth of the time that numpy.errstate does
        self._quiet.run(np.seterr, over="ignore")

    def decode(self, body: bytes, *, input_size: int, max_rows: int) -> PredictRequest:
        """Read `{"sequences": (B, T, F) ragged in T, "trace": …}`; raise `InvalidRequest` saying where it is wrong.

        Raises `TooLarge` for what has more than `max_rows` sequences and must be looked at row by row.
        """
        try:
            request = self._quiet.run(self._decode, body, input_size)
        except (
            ValueError,
            TypeError,
            RuntimeError,
            KeyError,
            AttributeError,
        ):  # what simdjson raises, by kind of fault
            request = None
            self._parser = simdjson.Parser()  # the old one refuses to go on while its document is referred to
        return request or _decode_slowly(body, input_size, max_rows)

    def _decode(self, body: bytes, input_size: int) -> PredictRequest | None:
        document: Any = self._parser.parse(body)
        fields = list(document.keys())  # a repeated one twice
        trace = None
        if fields != ["sequences"]:
            if sorted(fields) != ["sequences", "trace"] or not _is_trace_level(level := document["trace"]):
                return None
            trace = level or None
        # What is left holds no string with a bracket in it, and one comma between two fields.
        structure = body.translate(None, _NO_STRUCTURE).strip(b",")
        is_small = len(structure) <= _MAX_KNOWN_STRUCTURE_BYTES
        lengths = (_known_lengths if is_small else _read_lengths)(structure, input_size)
        flat = np.frombuffer(document["sequences"].as_buffer(of_type="d"))
        if lengths is None or len(flat) != lengths.total * input_size:
            return None
        # A sum of squares below this leaves no room for a value that is infinite as a float32, or not a number.
        if not (flat.dot(flat) < _OVERFLOW or np.abs(flat).max() < _OVERFLOW):
            return None
        values = flat.astype(np.float32).reshape(-1, input_size)
        return PredictRequest(Sequences(values, lengths.each, None, lengths.longest), trace)


class _Lengths(NamedTuple):
    """The time steps of each sequence, int64 (B), of the longest, and of all together."""

    each: NDArray[np.int64]
    longest: int
    total: int


def _read_lengths(structure: bytes, input_size: int) -> _Lengths | None:
    """The sequences' lengths, out of the brackets and commas of `(B, T, F)`; None if they are anything else.

    Of `[[[1,2],[3,4]],[[5,6]]]` they are `[[[,],[,]],[[,]]]`: two sequences, of 2 steps and 1, of 2 features each.
    """
    if not (structure.startswith(b"[[[") and structure.endswith(b"]]]")):
        return None
    commas = b"," * (input_size - 1)
    between = b"],[" + commas
    lengths: list[int] = []
    last = None
    for sequence in structure[3:-3].split(b"]],[["):
        if sequence != last:
            length = 1 + (len(sequence) - len(commas)) // len(between)
            if sequence != commas + between * (length - 1):
                return None
            last = sequence
        lengths.append(length)
    each = np.array(lengths)
    each.flags.writeable = False  # many requests share them
    return _Lengths(each, max(lengths), sum(lengths))


# Most requests are of one sequence, or of several of one length, and few lengths are ever sent.
_known_lengths = lru_cache(_KNOWN_STRUCTURES)(_read_lengths)


def encode_json(document: object) -> bytes:
    """JSON of plain values and C-contiguous numpy arrays; float32 as its shortest decimal."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _decode_slowly(body: bytes, input_size: int, max_rows: int) -> PredictRequest:
    """Decode what the fast path refused; it is nearly always wrong, and then the first fault is named."""
    try:
        document = json.loads(body.decode("utf-8-sig"), object_pairs_hook=unique, parse_int=float)
    except RecursionError:
        raise InvalidRequest("JSON is nested too deep; sequences are numbers in 3 levels of lists") from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"malformed JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequest(f"body must be an object with 'sequences', got {_shown(document)}")
    if unknown := sorted(document.keys() - _FIELDS):
        raise InvalidRequest(f"unknown field {_shown(unknown[0])}; allowed are 'sequences' and 'trace'")
    if "sequences" not in document:
        raise InvalidRequest("'sequences' is missing")
    if not _is_trace_level(trace := document.get("trace", False)):
        raise InvalidRequest(f"trace: got {_shown(trace)}, allowed are false, 'layers' and 'gates'")
    sequences = _filled_list(document["sequences"], "sequences", "a list of sequences")
    if len(sequences) > max_rows:
        raise TooLarge(f"{len(sequences)} sequences in one request, at most {max_rows} may wait")
    rows = [_read_sequence(sequence, input_size, f"sequences[{i}]") for i, sequence in enumerate(sequences)]
    lengths = np.array([len(row) for row in rows], np.int64)
    return PredictRequest(Sequences(np.concatenate(rows), lengths), trace or None)


def _read_sequence(sequence: object, input_size: int, place: str) -> NDArray[np.float32]:
    """Check and convert one sequence `(T, F)`. Only a faulty one is walked value by value: a body may hold millions."""
    steps = _filled_list(sequence, place, "a list of time steps")
    for t, step in enumerate(steps):
        if not isinstance(step, list):
            raise InvalidRequest(
                f"{place}[{t}]: must be a time step, a list of {input_size} numbers, got {_shown(step)}"
            )
        if len(step) != input_size:
            raise InvalidRequest(f"{place}[{t}]: {len(step)} features, the model takes {input_size}")
    if set(map(type, chain.from_iterable(steps))) == {float}:
        with np.errstate(over="ignore"):
            values = np.array(steps, np.float32)
        if np.isfinite(values).all():
            return values
    raise _faulty_value(steps, place)


def _faulty_value(steps: list[list[object]], place: str) -> InvalidRequest:
    """The error that names the first value of `steps` which is no finite float32."""
    for t, step in enumerate(steps):
        for f, value in enumerate(step):
            if not isinstance(value, float):
                return InvalidRequest(f"{place}[{t}][{f}]: must be a number, got {_shown(value)}")
            if not abs(value) < _OVERFLOW:  # not a NaN either
                return InvalidRequest(f"{place}[{t}][{f}]: must be finite as a 32-bit float, got {value:g}")
    raise AssertionError("called for a sequence without a fault")


def _filled_list(value: object, place: str, expected: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidRequest(f"{place}: must be {expected}, got {_shown(value)}")
    if not value:
        raise InvalidRequest(f"{place}: must not be empty")
    return value


def _is_trace_level(trace: object) -> TypeGuard[TraceLevel | Literal[False]]:
    return trace is False or (isinstance(trace, str) and trace in {"layers", "gates"})


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What `json` is to make of an object: a dict, or `InvalidRequest` if a key comes twice."""
    document = dict(pairs)
    if len(document) != len(pairs):
        raise InvalidRequest("a key appears twice in one object")
    return document


def _shown(value: object) -> str:
    """A JSON value as an error message shows it: short, whatever was sent."""
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else f"{value[:40]}…")
    return {dict: "an object", list: "a list", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
