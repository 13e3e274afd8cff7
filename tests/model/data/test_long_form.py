import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.data import DataError, load
from model.data.labelled import Halves
from model.data.long_form import read_csv, read_parquet

HEADER = "sequence_id,step,x,y,label"
ROWS = (
    "p,0,1,10,up",
    "p,1,2,20,up",
    "q,0,3,30,down",
    "r,0,4,40,up",
    "s,0,5,50,down",
)


def csv_file(folder, *, header=HEADER, rows=ROWS, replaced=None):
    """A valid file, or one in which `replaced` = {line number: text}; the header is line 1."""
    lines = [header, *rows]
    for line, text in (replaced or {}).items():
        lines[line - 1] = text
    path = folder / "gestures.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def parquet_file(folder, **changes):
    columns = {
        "sequence_id": [7, 7, 8, 9, 10],
        "step": [1, 0, 0, 0, 0],
        "x": [2.0, 1.0, 3.0, 4.0, 5.0],
        "label": [1, 1, 2, 1, 2],
        **changes,
    }
    path = folder / "gestures.parquet"
    pd.DataFrame({name: column for name, column in columns.items() if column is not None}).to_parquet(path)
    return path


def contents(halves: Halves):
    return [sequence.tolist() for sequence in halves.train.sequences], list(halves.train.labels)


def test_rows_become_sequences_in_order_of_appearance_with_features_in_order_of_the_file(tmp_path):
    sequences, labels = contents(read_csv(csv_file(tmp_path)))
    assert sequences == [[[1, 10], [2, 20]], [[3, 30]], [[4, 40]], [[5, 50]]]
    assert labels == ["up", "down", "up", "down"]


def test_steps_are_sorted_as_numbers_within_their_sequence_wherever_their_rows_stand(tmp_path):
    rows = ("p,10,3,0,up", "q,0,9,0,down", "p,9,2,0,up", "p,-1.5,1,0,up")
    sequences, labels = contents(read_csv(csv_file(tmp_path, rows=rows)))
    assert sequences == [[[1, 0], [2, 0], [3, 0]], [[9, 0]]]
    assert labels == ["up", "down"]


def test_spaces_blank_lines_quotes_and_a_byte_order_mark_do_no_harm(tmp_path):
    header = "\ufeffsequence_id, step, x, y, label"
    path = csv_file(tmp_path, header=header, replaced={2: '"p", 0, 1, "10", up', 3: ""})
    sequences, labels = contents(read_csv(path))
    assert sequences[0] == [[1, 10]]
    assert labels[0] == "up"


def test_a_file_is_split_because_it_has_no_test_half(tmp_path):
    dataset = load(str(csv_file(tmp_path)), seed=0)
    assert (dataset.name, dataset.labels, dataset.input_size) == ("gestures", ("down", "up"), 2)
    assert (len(dataset.train), len(dataset.test)) == (2, 2)


def test_a_ragged_csv_is_refused_with_row_and_column(tmp_path):
    with pytest.raises(DataError, match=r"gestures\.csv, line 4, column 'label': the row ends before it"):
        read_csv(csv_file(tmp_path, replaced={4: "q,0,3,30"}))
    with pytest.raises(DataError, match=r"gestures\.csv, line 4: got 6 cells, allowed are the header's 5"):
        read_csv(csv_file(tmp_path, replaced={4: "q,0,3,30,down,1"}))


@pytest.mark.parametrize(
    ("line", "text", "complaint"),
    [
        (3, "p,1,two,20,up", "line 3, column 'x': got 'two', allowed is a finite number"),
        (3, "p,1,2,,up", "line 3, column 'y': got '', allowed is a finite number"),
        (3, "p,1,nan,20,up", "line 3, column 'x': got 'nan'"),
        (3, "p,1,2,inf,up", "line 3, column 'y': got 'inf'"),
        (3, "p,later,2,20,up", "line 3, column 'step': got 'later'"),
        (3, "p,0,2,20,up", "line 3, column 'step': got 0 a second time"),
        (3, "p,1,2,20,down", "line 3, column 'label': got 'down', the sequence began with 'up'"),
        (3, "p,1,2,20,", "line 3, column 'label': got an empty cell"),
        (3, ",1,2,20,up", "line 3, column 'sequence_id': got an empty cell"),
        (6, "s,0,1e39,50,down", "line 6, sequence 's': step 0, feature 0 .* got 1e.39"),
    ],
)
def test_a_bad_cell_is_refused_with_line_and_column(tmp_path, line, text, complaint):
    with pytest.raises(DataError, match=rf"gestures\.csv, {complaint}"):
        load(str(csv_file(tmp_path, replaced={line: text})), seed=0)


def test_lines_are_counted_in_the_file_blank_ones_included(tmp_path):
    with pytest.raises(DataError, match="line 5, column 'x': got 'four'"):
        read_csv(csv_file(tmp_path, replaced={3: "", 5: "r,0,four,40,up"}))


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ("sequence_id,step,x,y,class", r"no column 'label'; got \['sequence_id', 'step', 'x', 'y', 'class'\]"),
        ("id,step,x,y,label", "no column 'sequence_id'"),
        ("sequence_id,t,x,y,label", "no column 'step'"),
        ("sequence_id,step,x,x,label", "a column name occurs twice"),
        (",sequence_id,step,label,a", "column 1 has no name; .*index=False"),
    ],
)
def test_a_header_of_another_layout_is_refused(tmp_path, header, complaint):
    with pytest.raises(DataError, match=complaint):
        read_csv(csv_file(tmp_path, header=header))


def test_a_table_without_features_or_rows_or_anything_is_refused(tmp_path):
    with pytest.raises(DataError, match="no feature column"):
        read_csv(csv_file(tmp_path, header="sequence_id,step,label", rows=["p,0,up"]))
    with pytest.raises(DataError, match="got no training sequences"):
        load(str(csv_file(tmp_path, rows=())), seed=0)
    with pytest.raises(DataError, match="no column 'sequence_id'"):
        read_csv(csv_file(tmp_path, header="", rows=()))


def test_a_csv_in_another_encoding_or_with_a_stray_quote_is_refused(tmp_path):
    path = tmp_path / "gestures.csv"
    path.write_bytes(HEADER.encode() + b"\np,0,1,2,\xe9\n")
    with pytest.raises(DataError, match="does not read as UTF-8 CSV"):
        read_csv(path)
    path.write_text(HEADER + '\np,0,1,2,"up')
    with pytest.raises(DataError, match="does not read as UTF-8 CSV"):
        read_csv(path)


def test_parquet_gives_the_same_as_csv(tmp_path):
    sequences, labels = contents(read_parquet(parquet_file(tmp_path)))
    assert sequences == [[[1], [2]], [[3]], [[4]], [[5]]]
    assert labels == ["1", "2", "1", "2"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"x": [1.0, 2.0, None, 4.0, 5.0]}, "row 3, column 'x': got None, allowed is a finite number"),
        ({"x": ["1", "2", "3", "many", "5"]}, "row 4, column 'x': got 'many'"),
        ({"x": [[1.0], [2.0], [3.0], [4.0], [5.0]]}, "row 1, column 'x': got array"),
        ({"x": [[1.0], [2.0, 3.0], [3.0], [4.0], [5.0]]}, "row 1, column 'x': got array"),
        ({"x": pd.date_range("2024-01-01", periods=5)}, "row 1, column 'x': got Timestamp"),
        ({"label": ["a", "a", None, "a", "b"]}, "row 3, column 'label': got an empty cell"),
        ({"step": [0, 0, 0, 0, 0]}, "row 2, column 'step': got 0 a second time"),
        ({"label": None}, "no column 'label'"),
    ],
)
def test_a_bad_parquet_cell_is_refused_with_row_and_column(tmp_path, changes, complaint):
    with pytest.raises(DataError, match=rf"gestures\.parquet[,:] {complaint}"):
        read_parquet(parquet_file(tmp_path, **changes))


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    path = tmp_path / "gestures.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="does not read as parquet"):
        read_parquet(path)


def test_a_parquet_file_with_damaged_metadata_or_text_is_refused(tmp_path):
    path = tmp_path / "gestures.parquet"
    table = pa.table({"sequence_id": [1, 2], "step": [0, 0], "x": [1.0, 2.0], "label": ["up", "down"]})
    pq.write_table(table.replace_schema_metadata({b"pandas": b"{}"}), path)
    with pytest.raises(DataError, match="does not read as parquet"):
        read_parquet(path)
    pq.write_table(table, path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"down", b"d\xffwn"))
    with pytest.raises(DataError, match="does not read as parquet"):
        read_parquet(path)
