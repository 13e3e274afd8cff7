import numpy as np
import pytest

from bench.models import MEDIUM, TINY
from bench.workload import REQUESTS, SCENARIOS, Scenario, cells, mixed_sequences, requests_of


@pytest.mark.parametrize("scenario", [SCENARIOS["S1"], SCENARIOS["S3"]], ids=lambda scenario: scenario.name)
def test_requests_differ_and_have_the_scenarios_shape(scenario: Scenario) -> None:
    requests = requests_of(scenario, TINY)
    assert len(requests) == REQUESTS
    assert {len(request) for request in requests} == {scenario.sequences_per_request}
    assert {sequence.shape for request in requests for sequence in request} == {(10, 5)}
    assert len({request[0].tobytes() for request in requests}) == REQUESTS


def test_the_same_is_sent_in_every_run() -> None:
    first, again = (requests_of(SCENARIOS["spread"], MEDIUM) for _ in range(2))
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(first, again, strict=True))


def test_spread_lengths_are_log_uniform() -> None:
    lengths = np.array([len(sequence) for sequence in mixed_sequences("spread")])
    assert lengths.min() >= 10
    assert lengths.max() <= 500
    assert np.log(lengths).mean() == pytest.approx(np.log(10 * 500) / 2, abs=0.25)


def test_vowels_are_the_370_held_out_ones_in_mixed_order() -> None:
    lengths = [len(sequence) for sequence in mixed_sequences("vowels")]
    assert len(lengths) == 370
    assert (min(lengths), max(lengths)) == (7, 29)
    assert all(sequence.shape[1] == MEDIUM.input_size for sequence in mixed_sequences("vowels"))


def test_mixed_lengths_are_for_medium_alone() -> None:
    names = tuple(SCENARIOS)
    assert [scenario.name for scenario in cells(TINY, names)] == ["S1", "S2", "S3", "S4a", "S4b"]
    assert [scenario.name for scenario in cells(MEDIUM, names)] == list(names)
