from pathlib import Path

import numpy as np
import pytest

from model.data import DataError, load


def arrays(**changes):
    """Eight sequences of up to four steps; whatever is beyond a length is NaN and must never be read."""
    X = np.arange(8 * 4 * 2, dtype=np.float64).reshape(8, 4, 2)
    lengths = np.array([4, 1, 2, 3, 4, 4, 4, 4])
    for i, length in enumerate(lengths):
        X[i, length:] = np.nan
    content = {"X": X, "lengths": lengths, "y": np.array(list("abababab")), **changes}
    return {name: array for name, array in content.items() if array is not None}


def saved(path, **changes):
    np.savez(path / "gestures.npz", **arrays(**changes))
    return str(path / "gestures.npz")


def test_sequences_end_at_their_lengths_and_padding_is_never_read(tmp_path):
    X, y, lengths = (arrays()[name] for name in ("X", "y", "lengths"))
    dataset = load(saved(tmp_path, X_test=X, y_test=y, lengths_test=lengths), seed=0)
    assert dataset.name == "gestures"
    assert [len(sequence) for sequence in dataset.train.sequences] == [4, 1, 2, 3, 4, 4, 4, 4]
    assert dataset.train.sequences[2].tolist() == [[16, 17], [18, 19]]
    assert [len(sequence) for sequence in dataset.test.sequences] == [4, 1, 2, 3, 4, 4, 4, 4]


def test_without_lengths_every_step_counts(tmp_path):
    dataset = load(saved(tmp_path, X=np.ones((8, 4, 2), dtype=np.int16), lengths=None), seed=0)
    assert {sequence.shape for sequence in dataset.train.sequences} == {(4, 2)}


def test_without_a_test_half_sequences_are_held_out(tmp_path):
    dataset = load(saved(tmp_path), seed=0)
    assert (len(dataset.train), len(dataset.test)) == (6, 2)


def test_integer_labels_become_their_digits(tmp_path):
    assert load(saved(tmp_path, y=np.array([9, 10] * 4)), seed=0).labels == ("9", "10")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"X": None}, r"no array 'X'; got \['lengths', 'y'\]"),
        ({"y": None}, "no array 'y'"),
        ({"y_test": np.array(["a"])}, "no array 'X_test'"),
        ({"X": np.zeros((8, 4))}, r"X: got shape \(8, 4\) float64, allowed is \(N, T, F\)"),
        ({"X": np.zeros((8, 4, 2), dtype=complex)}, "X: got shape .* complex128"),
        ({"y": np.zeros(8)}, r"y: got shape \(8,\) float64, allowed is \(8,\) of strings or integers"),
        ({"y": np.array(["a"] * 7)}, r"y: got shape \(7,\)"),
        ({"lengths": np.ones(8)}, r"lengths: got shape \(8,\) float64, allowed is \(8,\) of integers"),
        ({"lengths": np.array([4, 4, 0, 4, 4, 4, 4, 4])}, r"lengths\[2\]: got 0, allowed is 1 to 4"),
        ({"lengths": np.array([4, 4, 4, 5, 4, 4, 4, 4])}, r"lengths\[3\]: got 5, allowed is 1 to 4"),
        ({"lengths": np.array([4, 2, 2, 3, 4, 4, 4, 4])}, r"gestures\.npz, X\[1\]: step 1, feature 0 .* got nan"),
        ({"y": np.array([{"a": 1}] * 8, dtype=object)}, "does not load as .*Object arrays"),
    ],
)
def test_a_malformed_array_is_refused_by_name(tmp_path, changes, complaint):
    with pytest.raises(DataError, match=complaint):
        load(saved(tmp_path, **changes), seed=0)


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "gestures.npz"
    path.write_bytes(b"sequence_id,step,label\n")
    with pytest.raises(DataError, match="does not load as"):
        load(str(path), seed=0)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="a single array without a name"):
        load(str(path), seed=0)


def test_a_truncated_archive_is_refused(tmp_path):
    path = Path(saved(tmp_path))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="does not load as"):
        load(str(path), seed=0)


@pytest.mark.parametrize(
    ("record", "place", "damage"),
    [
        (b"{'descr'", 0, b"("),  # a header of NumPy's that does not tokenise
        (b"PK\x01\x02", 10, b"\x63"),  # a method of compression that there is not
        (b"PK\x01\x02", 8, b"\x01"),  # encrypted
    ],
)
def test_a_damaged_archive_is_refused_whatever_its_parser_raises(tmp_path, record, place, damage):
    path = Path(saved(tmp_path))
    content = bytearray(path.read_bytes())
    at = content.index(record) + place
    content[at : at + 1] = damage
    path.write_bytes(content)
    with pytest.raises(DataError, match="does not load as"):
        load(str(path), seed=0)
