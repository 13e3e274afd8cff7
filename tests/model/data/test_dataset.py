from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data import Dataset, Split, batches_by_length, stratified_split
from model.data.dataset import MAX_BATCH_STEPS


def make_split(targets):
    """Sequence i is one step whose only value is i, so that it can be recognised afterwards."""
    sequences = tuple(np.full((1, 1), i, dtype=np.float32) for i in range(len(targets)))
    return Split(sequences, np.array(targets, dtype=np.int64))


def ids(split):
    return [int(sequence[0, 0]) for sequence in split.sequences]


@given(
    targets=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_split_loses_nothing_keeps_the_order_and_puts_every_class_on_both_sides(targets, fraction, seed):
    rest, held_out = stratified_split(make_split(targets), fraction=fraction, seed=seed)
    assert sorted(ids(rest) + ids(held_out)) == list(range(len(targets)))
    for side in (rest, held_out):
        assert ids(side) == sorted(ids(side))
        assert side.targets.tolist() == [targets[i] for i in ids(side)]
    for target in set(targets):
        assert target in rest.targets
        assert (target in held_out.targets) == (targets.count(target) >= 2)


def test_the_same_seed_holds_out_the_same_sequences_and_another_seed_does_not():
    split = make_split([0, 1] * 50)
    first = ids(stratified_split(split, fraction=0.3, seed=7)[1])
    assert first == ids(stratified_split(split, fraction=0.3, seed=7)[1])
    assert first != ids(stratified_split(split, fraction=0.3, seed=8)[1])


def test_each_class_gives_up_the_asked_fraction():
    _, held_out = stratified_split(make_split([0] * 50 + [1] * 10), fraction=0.2, seed=0)
    assert np.bincount(held_out.targets).tolist() == [10, 2]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_that_leaves_one_side_empty_is_refused(fraction):
    with pytest.raises(ValueError, match="allowed is 0 < fraction < 1"):
        stratified_split(make_split([0, 0]), fraction=fraction, seed=0)


def test_the_input_size_is_the_number_of_features_not_of_steps():
    split = Split((np.zeros((4, 3), dtype=np.float32),), np.zeros(1, dtype=np.int64))
    assert Dataset(name="x", source="", licence="", labels=("a",), train=split, test=split).input_size == 3


@given(st.lists(st.integers(1, 40) | st.just(MAX_BATCH_STEPS // 3) | st.just(2 * MAX_BATCH_STEPS), max_size=40))
def test_batches_hold_every_row_once_the_shortest_first_and_no_more_than_may_be(lengths):
    batches = [batch.tolist() for batch in batches_by_length(lengths, most=8)]
    rows = [row for batch in batches for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths)
    for batch in batches:
        assert 1 <= len(batch) <= 8
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= MAX_BATCH_STEPS
    for batch, following in pairwise(batches):
        fuller = len(batch) + 1
        assert fuller > 8 or fuller * lengths[following[0]] > MAX_BATCH_STEPS
