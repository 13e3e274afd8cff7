import json
from pathlib import Path

import pytest
from model_factories import CONTENTS, make_manifest
from pydantic import ValidationError

from model.bundle import ONNX_INT8, FileEntry, Quantisation, lower_outputs, lstm_names
from model.bundle.manifest import parse_manifest

HUGE = FileEntry(sha256="0" * 64, size_bytes=2**40)
FILES = {name: FileEntry(sha256="0" * 64, size_bytes=1) for name in CONTENTS}
MEASURED = Quantisation(accuracy=0.5, max_difference=0.01, input_bound=4.0)


def test_the_pipeline_of_one_layer_shows_every_stage_with_its_shape():
    stages = make_manifest("m", 1, FILES).pipeline()
    assert [(stage.name, stage.shape) for stage in stages] == [
        ("input_sequence", ("B", "T", 2)),
        ("standardised", ("B", "T", 2)),
        ("lstm", ("B", "T", 3)),
        ("last_hidden", ("B", 3)),
        ("linear", ("B", 2)),
        ("softmax", ("B", 2)),
    ]


def test_a_bidirectional_stack_shows_each_layer_twice_as_wide():
    stages = make_manifest("m", 1, FILES, num_layers=2, bidirectional=True).pipeline()
    assert [(stage.name, stage.shape) for stage in stages[2:5]] == [
        ("lstm_0", ("B", "T", 6)),
        ("lstm_1", ("B", "T", 6)),
        ("last_hidden", ("B", 6)),
    ]


def test_only_a_stack_has_lower_outputs_and_numbered_layers():
    assert (lower_outputs(1), lstm_names(1)) == ((), ("lstm",))
    assert (lower_outputs(3), lstm_names(3)) == (("hidden_states_0", "hidden_states_1"), ("lstm_0", "lstm_1", "lstm_2"))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"input_size": 3}, "input_size=3"),
        ({"labels": ("no", "no")}, "labels must differ"),
        ({"labels": ("no", "yes", "maybe")}, "3 by 3"),
        ({"files": {}}, "missing"),
        ({"files": FILES | {"../model.onnx": FILES["model.onnx"]}}, "plain file name"),
        ({"files": FILES | {"/etc/passwd": FILES["model.onnx"]}}, "plain file name"),
        ({"files": FILES | {ONNX_INT8: FILES["model.onnx"]}}, "come together or not at all"),
        ({"files": FILES | {"model.onnx": HUGE}}, "'model.onnx' of 1099511627776 bytes, at most"),
        ({"int8": MEASURED}, "come together or not at all"),
        ({"name": "../elsewhere"}, "name"),
        ({"version": 0}, "version"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_a_manifest_that_contradicts_itself_cannot_be_made(changes, complaint):
    with pytest.raises(ValidationError, match=complaint):
        make_manifest(**({"name": "m", "version": 1, "files": FILES} | changes))


def test_a_manifest_of_the_schema_before_int8_is_valid():
    content = make_manifest("m", 1, FILES, schema_version=1).model_dump(mode="json")
    del content["int8"]
    assert parse_manifest(Path("manifest.json"), json.dumps(content).encode()).int8 is None
