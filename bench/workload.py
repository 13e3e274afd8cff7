"""What is sent: the scenarios of issue 4, and the sequences that each of them sends."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from bench.models import MEDIUM, MODELS, SEED, ModelSize

Sequences = tuple[NDArray[np.float32], ...]  # each (T, F)
Encoding = Literal["json", "binary"]
Lengths = Literal["fixed", "vowels", "spread"]

REQUESTS: Final = 32  # different requests of a scenario of one length; the client sends them in turn
SPREAD_SEQUENCES: Final = 256
SPREAD_STEPS: Final = (10, 500)
CURVE_CONNECTIONS: Final = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way to load a server in a closed loop: each connection sends its next request when it has its answer.

    `lengths`: every sequence as long as the model's `steps`; or JapaneseVowels' held-out ones, 7 to 29 steps; or
    random ones of 10 to 500 steps, whose logarithms are uniform.
    """

    name: str
    encoding: Encoding
    connections: int
    sequences_per_request: int = 1
    lengths: Lengths = "fixed"
    title: str = ""

    def runs_on(self, model: ModelSize) -> bool:
        """Mixed lengths are for `medium` alone, which has the features of JapaneseVowels."""
        return self.lengths == "fixed" or model == MEDIUM


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("S1", "json", 1, title="one sequence, JSON, 1 connection"),
        Scenario("S2", "json", 64, title="one sequence, JSON, 64 connections"),
        Scenario("S3", "json", 8, 32, title="32 sequences, JSON, 8 connections"),
        Scenario("S4a", "binary", 64, title="one sequence, binary, 64 connections"),
        Scenario("S4b", "binary", 8, 32, title="32 sequences, binary, 8 connections"),
        Scenario("vowels", "json", 64, lengths="vowels", title="JapaneseVowels, JSON, 64 connections"),
        Scenario("vowels-b", "binary", 64, lengths="vowels", title="JapaneseVowels, binary, 64 connections"),
        Scenario("spread", "json", 64, lengths="spread", title="10 to 500 steps, JSON, 64 connections"),
        Scenario("spread-b", "binary", 64, lengths="spread", title="10 to 500 steps, binary, 64 connections"),
    )
}


def curve_point(connections: int) -> Scenario:
    """S2 at another number of connections: a point of the plot of latency against load."""
    return Scenario(f"C{connections}", "json", connections, title=f"one sequence, JSON, {connections} connections")


def requests_of(scenario: Scenario, model: ModelSize) -> tuple[Sequences, ...]:
    """The sequences of each request that `scenario` sends in turn; the same at every call."""
    size = scenario.sequences_per_request
    if scenario.lengths == "fixed":
        pool = _random_sequences(model, np.full(REQUESTS * size, model.steps))
    else:
        pool = mixed_sequences(scenario.lengths)
    return tuple(pool[start : start + size] for start in range(0, len(pool), size))


def mixed_sequences(lengths: Lengths) -> Sequences:
    """Sequences of mixed lengths for `medium`, in the order in which they are sent."""
    if lengths == "vowels":
        from model.data import load

        held_out = load("JapaneseVowels", seed=0).test.sequences
        order = np.random.default_rng(SEED).permutation(len(held_out))  # the file has them sorted by speaker
        return tuple(held_out[position] for position in order)
    rng = np.random.default_rng(SEED)
    shortest, longest = np.log(SPREAD_STEPS)
    return _random_sequences(MEDIUM, np.exp(rng.uniform(shortest, longest, SPREAD_SEQUENCES)).round().astype(np.int64))


def _random_sequences(model: ModelSize, lengths: NDArray[np.int64]) -> Sequences:
    rng = np.random.default_rng([SEED, *model.name.encode()])
    return tuple(rng.standard_normal((length, model.input_size), np.float32) for length in lengths)


def cells(model: ModelSize, scenarios: tuple[str, ...]) -> tuple[Scenario, ...]:
    """The chosen scenarios that fit `model`, in their own order."""
    return tuple(scenario for scenario in SCENARIOS.values() if scenario.name in scenarios and scenario.runs_on(model))


def models_named(names: tuple[str, ...]) -> tuple[ModelSize, ...]:
    """The chosen models, smallest first."""
    return tuple(model for model in MODELS.values() if model.name in names)
