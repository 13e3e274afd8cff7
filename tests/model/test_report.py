import io
import sys

import pytest
from model_factories import CONTENTS, make_epoch, make_manifest, publish_made_up

from model.bundle import ONNX_INT8, Evaluation, FileEntry, Quantisation
from model.evaluate import Comparison
from model.report import (
    BAR_WIDTH,
    MAX_MATRIX_CLASSES,
    bar,
    comparison_text,
    evaluation_text,
    manifest_text,
    show,
    table,
    trace_table,
)


@pytest.mark.parametrize(
    ("value", "drawn"),
    [(1.0, "█" * BAR_WIDTH), (2.0, "█" * BAR_WIDTH), (0.5, "█" * (BAR_WIDTH // 2)), (0.0, ""), (0.03, "▋"), (-1.0, "")],
)
def test_a_bar_is_as_long_as_its_value(value, drawn):
    assert bar(value, full=1.0) == drawn


def test_a_bar_of_nothing_at_all_is_empty():
    assert bar(0.0, full=0.0) == ""


def test_columns_line_up():
    assert table(["a", "b"], [["10", "x"], ["2", "long"]], left=frozenset({1})) == " a  b\n10  x\n 2  long"


def test_the_trace_has_a_line_an_epoch_with_bar_and_observation():
    header, first, second = trace_table([make_epoch(1, 1.2, 0.4), make_epoch(2, 0.6, 0.75)]).splitlines()
    assert header.split() == ["epoch", "loss", "accuracy", "observation"]
    assert first.split(maxsplit=4) == ["1", "1.200", "█" * BAR_WIDTH, "40.0%", "what epoch 1 brought"]
    assert second.split(maxsplit=4) == ["2", "0.600", "█" * (BAR_WIDTH // 2), "75.0%", "what epoch 2 brought"]


def test_a_trace_with_validation_shows_it():
    line = trace_table([make_epoch(1, validation_loss=0.9, validation_accuracy=0.625)]).splitlines()[1]
    assert line.split()[3:6] == ["50.0%", "0.900", "62.5%"]


def test_each_graph_is_reported_and_whether_they_agree():
    evaluation = Evaluation(accuracy=0.75, macro_f1=0.7, confusion_matrix=((2, 1), (0, 1)))
    text = comparison_text(Comparison({"a": evaluation, "b": evaluation}, 0, 4, 1e-7), ["no", "yes"])
    assert "a: accuracy 0.7500, macro-F1 0.7000" in text
    assert "b: accuracy" in text
    assert "                no   2    1" in text
    assert "agree on every sequence of the 4; their probabilities differ by at most 1.0e-07" in text
    text = comparison_text(Comparison({"a": evaluation, "b": evaluation}, 3, 4, 0.5), ["no", "yes"])
    assert "disagree on 3 sequences of the 4" in text


def test_a_manifest_is_shown_with_pipeline_trace_and_evaluation(tmp_path):
    text = manifest_text(publish_made_up(tmp_path).manifest)
    for part in (
        "made-up, version 1",
        "1 LSTM layer of 3 units, 2 features a step",
        "lstm            B x T x 3",
        "what epoch 2 brought",
        "Held-out accuracy 0.7500",
        "epochs 2, batch size 4",
        "int8      none: there is no model.int8.onnx",
    ):
        assert part in text


def test_a_manifest_shows_what_8_bits_cost():
    entry = FileEntry(sha256="0" * 64, size_bytes=1)
    int8 = Quantisation(accuracy=0.5, max_difference=0.0312, input_bound=4.0)
    text = manifest_text(make_manifest("m", 1, dict.fromkeys([*CONTENTS, ONNX_INT8], entry), int8=int8))
    assert "int8      accuracy 0.5000, 0.7500 in float32; no probability changes by over 0.0312" in text


def test_of_many_classes_the_largest_confusions_are_shown_instead_of_the_matrix():
    count = MAX_MATRIX_CLASSES + 1
    labels = [f"class-{i}" for i in range(count)]
    matrix = [[0] * count for _ in labels]
    matrix[3][3], matrix[3][5], matrix[7][2] = 90, 4, 6
    evaluation = Evaluation(accuracy=0.9, macro_f1=0.8, confusion_matrix=tuple(map(tuple, matrix)))
    assert evaluation_text(evaluation, labels).splitlines() == [
        "accuracy 0.9000, macro-F1 0.8000",
        f"2 confusions of two of the {count} classes, the most frequent first",
        "true     predicted  count",
        "class-7  class-2        6",
        "class-3  class-5        4",
    ]


def test_what_the_terminal_cannot_encode_becomes_a_question_mark(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    show("loss █ 0.5")
    assert terminal.buffer.getvalue() == b"loss ? 0.5\n"
