import numpy as np
import pytest

from model.data import DataError, load
from model.data.ts import find_files, read_header, read_ts

HEADER = """# a comment: with a colon

@problemName Gestures
@timeStamps false
@univariate false
@classLabel true Up Down
@data
"""
LINES = "1,2,3:10,20,30:Up\n-4.5e0:40:Down\n\n5,6:50,60:Up\n7:70:Down\n"


def write(folder, name, text=HEADER + LINES):
    path = folder / f"{name}.ts"
    path.write_text(text, encoding="utf-8")
    return path


def test_dimensions_become_features_and_labels_keep_their_case(tmp_path):
    train = read_ts(write(tmp_path, "G")).train
    assert [sequence.tolist() for sequence in train.sequences] == [
        [[1, 10], [2, 20], [3, 30]],
        [[-4.5, 40]],
        [[5, 50], [6, 60]],
        [[7, 70]],
    ]
    assert train.labels == ("Up", "Down", "Up", "Down")


def test_padding_at_the_end_is_stripped_to_the_true_length(tmp_path):
    text = HEADER + "1,2,NaN,?:10,20,nan,?:Up\n"
    assert read_ts(write(tmp_path, "G", text)).train.sequences[0].tolist() == [[1, 10], [2, 20]]


@pytest.mark.parametrize("values", ["1,?,3:10,20,30", "1,2,?:10,20,30"])
def test_a_value_missing_elsewhere_is_refused_with_its_place(tmp_path, values):
    with pytest.raises(DataError, match=r"G\.ts, line 8: step [12], feature 0 .* got nan"):
        load(str(write(tmp_path, "G", f"{HEADER}{values}:Up\n{LINES}")), seed=0)


def test_a_sequence_of_padding_only_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"G\.ts, line 8: got an empty sequence"):
        load(str(write(tmp_path, "G", f"{HEADER}?,?:?,?:Up\n{LINES}")), seed=0)


def test_timestamps_are_dropped_and_their_colons_do_not_split(tmp_path):
    text = HEADER.replace("@timeStamps false", "@timeStamps True")
    text += "(2007-01-01 00:00:00,-1.5),(2007-01-01 00:01:00,2):(0,3), (1,4):Up\n"
    assert read_ts(write(tmp_path, "G", text)).train.sequences[0].tolist() == [[-1.5, 3], [2, 4]]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("1,2:3:Up", "line 8, dimension 1: got 1 values, dimension 0 has 2"),
        ("1,two:3,4:Up", "line 8, dimension 0, step 1: got 'two', allowed is a number"),
        ("1,2:3,4:Left", r"line 8: got label 'Left', the header allows \['Up', 'Down'\]"),
        ("1,2:3,4", "line 8: got label '3,4'"),
        ("Up", "line 8: got a label without values"),
    ],
)
def test_a_malformed_line_is_refused_with_its_number(tmp_path, line, complaint):
    with pytest.raises(DataError, match=complaint):
        read_ts(write(tmp_path, "G", f"{HEADER}{line}\n"))


@pytest.mark.parametrize("tag", ["@targetLabel true", "@classLabel false", "# nothing"])
def test_a_set_that_is_not_for_classification_is_refused(tmp_path, tag):
    path = write(tmp_path, "G", HEADER.replace("@classLabel true Up Down", tag) + "1:2:0.5\n")
    assert read_header(path).labels == ()
    with pytest.raises(DataError, match="not a classification set"):
        read_ts(path)


def test_a_file_without_data_line_is_refused(tmp_path):
    with pytest.raises(DataError, match="got no @data line"):
        read_ts(write(tmp_path, "G", "sequence_id,step,label\n"))


def test_a_file_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "G.ts"
    path.write_bytes(b"# \xe9\n" + (HEADER + LINES).encode())
    with pytest.raises(DataError, match="does not read as UTF-8"):
        read_ts(path)


@pytest.mark.parametrize("given", ["G_TRAIN.ts", "G_TEST.ts", "G.ts", "G"])
def test_either_half_or_the_stem_finds_the_pair(tmp_path, given):
    write(tmp_path, "G_TRAIN", HEADER + LINES + LINES)
    write(tmp_path, "G_TEST")
    dataset = load(str(tmp_path / given), seed=0)
    assert dataset.name == "G"
    assert (len(dataset.train), len(dataset.test)) == (8, 4)
    assert np.array_equal(dataset.test.sequences[1], np.array([[-4.5, 40]], dtype=np.float32))


@pytest.mark.parametrize("present", ["G", "G_TRAIN", "G_TEST"])
def test_a_single_file_gets_a_stratified_held_out_split(tmp_path, present):
    dataset = load(str(write(tmp_path, present)), seed=0)
    assert dataset.name == "G"
    assert sorted(dataset.train.targets) == sorted(dataset.test.targets) == [0, 1]


def test_a_single_file_is_not_replaced_by_a_pair_of_its_name(tmp_path):
    write(tmp_path, "G_TRAIN")
    assert find_files(write(tmp_path, "G")).train.name == "G.ts"


@pytest.mark.parametrize("missing", ["G.ts", "G", "H_TRAIN.ts"])
def test_a_missing_file_is_refused_even_when_its_other_half_is_there(tmp_path, missing):
    write(tmp_path, "H_TEST")
    with pytest.raises(DataError, match="no such file"):
        load(str(tmp_path / missing), seed=0)


def test_a_byte_order_mark_does_not_hide_the_first_tag(tmp_path):
    path = write(tmp_path, "G", "\ufeff@classLabel true Up Down\n@data\n" + LINES)
    assert read_header(path).labels == ("Up", "Down")
    assert len(read_ts(path).train.sequences) == 4
