"""`service.parts`: what is put together of several runs is what one would have given."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.backends import Array
from service.parts import Progress
from service.tensors import Sequences, State
from service.timing import Run

FEATURES, LAYERS = 2, 3
OTHER = Run(0.0, 0.0, 0.0)


def give(sequences: Sequences) -> dict[str, Array]:
    """Outputs of each shape that show which step of which sequence they are of."""
    padded = np.zeros((len(sequences), sequences.longest, FEATURES), np.float32)
    for row, values in enumerate(sequences):
        padded[row, : len(values)] = values
    last = np.stack([values[-1] for values in sequences])
    return {"hidden_states": padded, "probabilities": last, "hn": np.stack([last] * LAYERS)}


def state_of(sequences: Sequences) -> State:
    hn = give(sequences)["hn"]
    return State(hn, -hn)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.lists(st.integers(1, 9), min_size=9, max_size=9))
def test_runs_of_any_steps_put_together_what_one_gives(lengths: list[int], runs: list[int]) -> None:
    steps = np.arange(1, sum(lengths) + 1, dtype=np.float32)
    whole = Sequences(steps[:, None] * np.ones((1, FEATURES), np.float32), np.array(lengths))
    progress = Progress.begin(whole)
    for steps_of_run in runs:
        head = progress.rest.head(steps_of_run)
        for _ in range(2):  # the second time changes nothing
            progress.write(give(head))
        if progress.rest.longest <= steps_of_run:
            break
        progress = progress.after(steps_of_run, give(head), state_of(head), OTHER)
        left = [length - progress.steps for length in lengths if length > progress.steps]
        assert progress.rest.lengths.tolist() == left
        assert [lengths[row] for row in progress.rows] == [length for length in lengths if length > progress.steps]
        assert progress.rest.state is not None
        first = np.stack([values[0] for values in progress.rest])
        np.testing.assert_array_equal(progress.rest.state.h0, np.stack([first - 1] * LAYERS), "values count on")
        np.testing.assert_array_equal(progress.rest.state.c0, -progress.rest.state.h0)
    expected = give(whole)
    assert progress.outputs.keys() == expected.keys()
    for name, array in progress.outputs.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_all_runs_are_remembered_in_their_order() -> None:
    progress = Progress.begin(Sequences(np.zeros((3, FEATURES), np.float32), np.array([3])))
    runs = [Run(10.0, 11.0, 13.0), Run(20.0, 22.0, 26.0)]
    for run in runs:
        head = progress.rest.head(1)
        progress = progress.after(1, give(head), state_of(head), run)
    assert [*progress.runs] == runs
