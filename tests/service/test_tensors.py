"""JSON ↔ arrays: what is accepted is numpy's float32, what is refused is named by sequence and step."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service import tensors
from service.errors import InvalidRequest
from service.tensors import PredictDecoder, PredictRequest, Sequences, State, encode_json, pad

FLOAT32_MAX = 3.4028234663852886e38

numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(-FLOAT32_MAX, FLOAT32_MAX, allow_nan=False),
    st.floats(-1e3, 1e3, width=32),
)


@st.composite
def ragged_batches(draw: st.DrawFn) -> tuple[list[list[list[float]]], int]:
    """Sequences (B, T, F) ragged in T as JSON would hold them, and F."""
    features = draw(st.integers(1, 4))
    step = st.lists(numbers, min_size=features, max_size=features)
    return draw(st.lists(st.lists(step, min_size=1, max_size=5), min_size=1, max_size=4)), features


def decode(body: bytes | str, *, input_size: int = 2) -> PredictRequest:
    return PredictDecoder().decode(
        body if isinstance(body, bytes) else body.encode(), input_size=input_size, max_rows=100
    )


def refusal(body: bytes | str, *, input_size: int = 2) -> str:
    with pytest.raises(InvalidRequest) as caught:
        decode(body, input_size=input_size)
    return str(caught.value)


def make_sequences(*lengths: int, features: int = 2, seed: int = 0) -> Sequences:
    rng = np.random.default_rng(seed)
    return Sequences(rng.normal(size=(sum(lengths), features)).astype(np.float32), np.array(lengths, np.int64))


@given(ragged_batches(), st.sampled_from([None, " ", 2]), st.booleans())
def test_sequences_come_out_as_numpy_makes_them_float32(
    batch: tuple[list[list[list[float]]], int], indent: str | int | None, trace_first: bool
) -> None:
    sent, features = batch
    fields = {"trace": False, "sequences": sent} if trace_first else {"sequences": sent}
    got = decode(json.dumps(fields, indent=indent), input_size=features).sequences
    assert got.values.dtype == np.float32
    assert got.lengths.dtype == np.int64
    assert got.lengths.tolist() == [len(sequence) for sequence in sent]
    for one, expected in zip(got, sent, strict=True):
        np.testing.assert_array_equal(one, np.array(expected, np.float64).astype(np.float32))


@pytest.mark.parametrize("lengths", [[3], [1, 2], [9_000, 2, 9_000]], ids=["one", "two", "many steps"])
def test_lengths_that_came_before_are_those_of_these_values(lengths: list[int]) -> None:
    for value in (1.0, 2.0):
        body = json.dumps({"sequences": [[[value] * 3] * length for length in lengths]})
        got = decode(body, input_size=3).sequences
        assert got.lengths.tolist() == lengths
        assert got.longest == max(lengths)
        np.testing.assert_array_equal(got.values, np.full((sum(lengths), 3), value))
        assert refusal(body, input_size=4) == "sequences[0][0]: 3 features, the model takes 4"
        assert refusal(body.replace("]]]", "], [1]]]"), input_size=3).endswith("1 features, the model takes 3")
        with pytest.raises(ValueError, match="read-only"):
            got.lengths[0] = 1  # of others' requests, too


def test_a_few_small_structures_are_remembered() -> None:
    known = tensors._known_lengths
    known.cache_clear()
    decode(json.dumps({"sequences": [[[1.0] * 3] * 14_000]}), input_size=3)
    assert known.cache_info().currsize == 0, "of 70 kB"
    for length in range(1, 200):
        decode(json.dumps({"sequences": [[[1.0] * 3] * length]}), input_size=3)
    assert known.cache_info().currsize == known.cache_info().maxsize == 64


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-0", 0.0),
        ("-12", -12.0),
        ("1e3", 1000.0),
        ("-2.5E-3", -0.0025),
        ("1e-999", 0.0),
        ("18446744073709551616", 2.0**64),
        ("3.4028235e38", FLOAT32_MAX),
        ("1" + "0" * 38, 1e38),
    ],
)
def test_every_way_to_write_a_number_is_read(text: str, value: float) -> None:
    assert decode(f'{{"sequences": [[[{text}]]]}}', input_size=1).sequences.values.tolist() == [[np.float32(value)]]


@pytest.mark.parametrize(("sent", "level"), [("false", None), ('"layers"', "layers"), ('"gates"', "gates")])
def test_each_trace_level_is_read(sent: str, level: str | None) -> None:
    assert decode(f'{{"sequences": [[[1, 2]]], "trace": {sent}}}').trace == level


@pytest.mark.parametrize("value", ["1e20", "-3.4028235e38", "1e38, 1e38"])
def test_numbers_whose_squares_are_large_are_read_once(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setattr(tensors, "_decode_slowly", None)
    values = [float(one) for one in value.split(",")]
    request = PredictDecoder().decode(f'{{"sequences": [[[{value}]]]}}'.encode(), input_size=len(values), max_rows=1)
    np.testing.assert_array_equal(request.sequences.values, np.array([values], np.float32))


def test_an_escaped_field_name_is_the_same_field() -> None:
    assert decode(b'{"sequenc\\u0065s": [[[1, 2]]]}').sequences.values.tolist() == [[1, 2]]


def test_a_byte_order_mark_is_passed_over() -> None:
    assert decode(b'\xef\xbb\xbf{"sequences": [[[1, 2]]]}').sequences.values.tolist() == [[1, 2]]
    assert "sequences[0][0]" in refusal(b'\xef\xbb\xbf{"sequences": [[[1]]]}')


GOOD = "[[1, 2], [3, 4]]"


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        # wrong rank
        ("1", "sequences: must be a list of sequences, got a number"),
        ("null", "sequences: must be a list of sequences, got null"),
        ("{}", "sequences: must be a list of sequences, got an object"),
        ('{"ab": [1, 2]}', "sequences: must be a list of sequences, got an object"),
        ('"ab"', "sequences: must be a list of sequences, got 'ab'"),
        ("[1, 2]", "sequences[0]: must be a list of time steps, got a number"),
        ("[[1, 2], [3, 4]]", "sequences[0][0]: must be a time step, a list of 2 numbers, got a number"),
        (f"[{GOOD}, [[[1, 2]], [[3, 4]]]]", "sequences[1][0]: 1 features, the model takes 2"),
        ("[[[[1], [2]]]]", "sequences[0][0][0]: must be a number, got a list"),
        ("[[[[1, 2], 3]]]", "sequences[0][0][0]: must be a number, got a list"),
        ("[[[1, [2]]], [3, 4]]", "sequences[0][0][1]: must be a number, got a list"),
        (f'[{GOOD}, {{"ab": [1, 2]}}]', "sequences[1]: must be a list of time steps, got an object"),
        ('[[{"a": 1, "b": 2}]]', "sequences[0][0]: must be a time step, a list of 2 numbers, got an object"),
        ('[[{"a": 1, "b": [2]}]]', "sequences[0][0]: must be a time step, a list of 2 numbers, got an object"),
        ('[["ab"]]', "sequences[0][0]: must be a time step, a list of 2 numbers, got 'ab'"),
        # wrong feature count, ragged rows
        (f"[{GOOD}, [[1, 2], [3, 4], [5, 6, 7]]]", "sequences[1][2]: 3 features, the model takes 2"),
        ("[[[1], [2, 3, 4]]]", "sequences[0][0]: 1 features, the model takes 2"),
        ("[[[1, 2], [3]], [[4, 5, 6]]]", "sequences[0][1]: 1 features, the model takes 2"),
        # not finite
        (f"[{GOOD}, [[1, 2], [NaN, 4]]]", "sequences[1][1][0]: must be finite as a 32-bit float, got nan"),
        ("[[[1, Infinity]]]", "sequences[0][0][1]: must be finite as a 32-bit float, got inf"),
        ("[[[1, -Infinity]]]", "sequences[0][0][1]: must be finite as a 32-bit float, got -inf"),
        ("[[[1, 1e999]]]", "sequences[0][0][1]: must be finite as a 32-bit float, got inf"),
        ("[[[1, 2], [-1e39, 0]]]", "sequences[0][1][0]: must be finite as a 32-bit float, got -1e+39"),
        ("[[[1, 3.4028236e38]]]", "sequences[0][0][1]: must be finite as a 32-bit float, got 3.40282e+38"),
        (f"[[[1, 1{'0' * 400}]]]", "sequences[0][0][1]: must be finite as a 32-bit float, got inf"),
        (f"[[[1, 1{'0' * 5000}]]]", "sequences[0][0][1]: must be finite as a 32-bit float, got inf"),
        # not numbers
        ('[[[1, "2"]]]', "sequences[0][0][1]: must be a number, got '2'"),
        ("[[[1, 2], [3, true]]]", "sequences[0][1][1]: must be a number, got a boolean"),
        (f"[{GOOD}, [[null, 2]]]", "sequences[1][0][0]: must be a number, got null"),
        ("[[[1, {}]]]", "sequences[0][0][1]: must be a number, got an object"),
        # nothing
        ("[]", "sequences: must not be empty"),
        ("[[]]", "sequences[0]: must not be empty"),
        (f"[{GOOD}, []]", "sequences[1]: must not be empty"),
        ("[[[]]]", "sequences[0][0]: 0 features, the model takes 2"),
    ],
)
def test_faulty_sequences_are_refused_by_sequence_and_step(sequences: str, message: str) -> None:
    assert refusal(f'{{"sequences": {sequences}}}') == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "malformed JSON: Expecting value"),
        (b'{"sequences": [[[1, 2]]', "malformed JSON: "),
        (b'{"sequences": [[[1, 2]]]} x', "malformed JSON: Extra data"),
        (b'{"sequences": [[[1, 2]]]}\x00', "malformed JSON: Extra data"),
        (b'{"sequences": [[[1, 02]]]}', "malformed JSON: "),
        (b'{"sequences": [[[1, 2],]]}', "malformed JSON: "),
        (b"{'sequences': [[[1, 2]]]}", "malformed JSON: "),
        (b"null", "body must be an object with 'sequences', got null"),
        (b"[[[1, 2]]]", "body must be an object with 'sequences', got a list"),
        (b'"sequences"', "body must be an object with 'sequences', got 'sequences'"),
        (b"{}", "'sequences' is missing"),
        (b'{"trace": false}', "'sequences' is missing"),
        (b'{"sequences": [[[1, 2]]], "sequence": 1}', "unknown field 'sequence'; allowed are 'sequences' and 'trace'"),
        (b'{"sequences": [[[1, 2]]], "sequences": null}', "a key appears twice in one object"),
        (b'{"sequences": [[[1, 2]]], "sequences": [[[1, 2]]]}', "a key appears twice in one object"),
        (b'{"trace": false, "trace": "gates", "sequences": [[[1, 2]]]}', "a key appears twice in one object"),
        (b'{"sequences": [[[1, {"a": 1, "a": 2}]]]}', "a key appears twice in one object"),
        (b'{"sequences": [[[1, 2]]]\xff}', "body is not UTF-8 at byte 24"),
        (b'{"sequences": [[[1, 2]]], "trace": "\xc3("}', "body is not UTF-8 at byte 36"),
        ('{"sequences": [[[1, 2]]]}'.encode("utf-16"), "body is not UTF-8 at byte 0"),
        (b"[" * 100_000, "JSON is nested too deep"),
        (b'{"sequences": ' + b"[" * 2000 + b"]" * 2000 + b"}", "JSON is nested too deep"),
        (b'{"a":' * 100_000, "JSON is nested too deep"),
    ],
)
def test_a_body_that_is_no_request_is_refused_with_the_reason(body: bytes, message: str) -> None:
    assert message in refusal(body)


@pytest.mark.parametrize(
    ("sent", "got"),
    [("true", "a boolean"), ("null", "null"), ("1", "a number"), ('"all"', "'all'"), ('["layers"]', "a list")],
)
def test_a_trace_level_that_is_none_is_refused_with_those_that_are(sent: str, got: str) -> None:
    message = refusal(f'{{"sequences": [[[1, 2]]], "trace": {sent}}}')
    assert message == f"trace: got {got}, allowed are false, 'layers' and 'gates'"


@pytest.mark.parametrize(
    "body",
    [
        '{"%s": 1}' % ("x" * 10_000),
        '{"sequences": [[[1, 2]]], "trace": "%s"}' % ("x" * 10_000),
        '{"sequences": [[[1, "%s"]]]}' % ("x" * 10_000),
        '{"sequences": [[["\\ud800\\n", 1]]]}',
    ],
)
def test_what_was_sent_is_shown_short_and_printable(body: str) -> None:
    message = refusal(body)
    assert len(message) < 200
    assert message.isprintable()


def test_the_first_faulty_sequence_is_named() -> None:
    assert "sequences[1][1]" in refusal('{"sequences": [[[1, 2]], [[1, 2], [1]], [[true, 1]]]}')


FAULTS: list[bytes] = [
    b"",
    b"\xff",
    b'{"sequences": [[[1]]]}',
    b'{"sequences": [[[1, 1e999]]]}',
    b'{"sequences": {}}',
    b'{"sequences": [[["a", 1]]]}',
    b"[" * 5000,
    b'{"a": 1}',
    b'{"sequences": [[[1, 2]]], "trace": 1}',
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_decoder_works_after_each_failure(fault: bytes) -> None:
    decoder = PredictDecoder()
    earlier = decoder.decode(b'{"sequences": [[[1, 2]]]}', input_size=2, max_rows=100)
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            decoder.decode(fault, input_size=2, max_rows=100)
        later = decoder.decode(b'{"sequences": [[[5, 6], [7, 8]]], "trace": "gates"}', input_size=2, max_rows=100)
        assert later.sequences.values.tolist() == [[5, 6], [7, 8]]
    assert earlier.sequences.values.tolist() == [[1, 2]], "an earlier answer shares no buffer with a later one"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=12,
)
bodies = st.one_of(
    st.binary(max_size=60),
    st.text(alphabet='{}[]",:sequnctra 0123456789.-eE\\u', max_size=60).map(str.encode),
    json_values.map(lambda value: json.dumps(value).encode()),
    json_values.map(lambda value: json.dumps({"sequences": value}).encode()),
    json_values.map(lambda value: json.dumps({"sequences": [[[1, 2]], value]}).encode()),
    json_values.map(lambda value: json.dumps({"sequences": [[[1, 2], value]]}).encode()),
    json_values.map(lambda value: json.dumps({"sequences": [[[1, value]]], "trace": value}).encode()),
)


@given(bodies)
@example(b'{"sequences": {}}')
@example(b'{"sequences": ""}')
def test_any_bytes_are_a_request_or_an_invalid_request(body: bytes) -> None:
    try:
        request = decode(body)
    except InvalidRequest:
        pass
    else:
        sent: dict[str, Any] = json.loads(body)
        assert [one.tolist() for one in request.sequences] == [
            np.array(sequence, np.float64).astype(np.float32).tolist() for sequence in sent["sequences"]
        ]


def read_plainly(body: bytes, input_size: int) -> tuple[list[list[list[float]]], str | None] | None:
    """What `body` asks for, by the standard library and a walk through every value; None if it is no request."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    def read_list(value: object) -> list[Any]:
        assert isinstance(value, list)
        assert value
        return value

    try:
        document = json.loads(body.decode("utf-8-sig"), object_pairs_hook=unique, parse_int=float)
        assert isinstance(document, dict)
        assert document.keys() <= {"sequences", "trace"}
        trace = document.get("trace", False)
        assert trace is False or (isinstance(trace, str) and trace in {"layers", "gates"})
        for sequence in read_list(document.get("sequences")):
            for step in read_list(sequence):
                assert len(read_list(step)) == input_size
                assert all(isinstance(value, float) for value in step)
                with np.errstate(over="ignore"):
                    assert np.isfinite(np.array(step).astype(np.float32)).all()
    except (AssertionError, ValueError, RecursionError):
        return None
    return document["sequences"], trace or None


def check_against_plain_reading(body: bytes, input_size: int, decoder: PredictDecoder) -> bool:
    """Check that both take `body` and read the same in it, or both refuse it; return whether they take it."""
    plain = read_plainly(body, input_size)
    try:
        got = decoder.decode(body, input_size=input_size, max_rows=100)
    except InvalidRequest:
        assert plain is None, body
        return False
    assert plain is not None, body
    sequences, trace = plain
    assert got.trace == trace
    assert got.sequences.lengths.tolist() == [len(sequence) for sequence in sequences]
    assert got.sequences.longest == max(len(sequence) for sequence in sequences)
    assert (got.sequences.values.dtype, got.sequences.lengths.dtype) == (np.float32, np.int64)
    expected = np.array([step for sequence in sequences for step in sequence]).astype(np.float32)
    np.testing.assert_array_equal(got.sequences.values, expected, err_msg=repr(body))
    return True


digits = st.text("0123456789", min_size=1, max_size=25)
number_texts = st.one_of(
    numbers.map(json.dumps),
    st.sampled_from(["0", "-0", "0.0", "-0.0e-0", "1e38", "3.4028235677973366e38", "1e-45", "7e-46", "5e-324", "1E+2"]),
    st.builds("{}{}".format, st.integers(-9, 9), digits).map(lambda text: text.lstrip("0") or "0"),
    st.builds("{}.{}e{}".format, st.integers(-9, 9), digits, st.integers(-400, 30)),
)
blanks = st.text(" \t\r\n", max_size=2)


@st.composite
def written_documents(draw: st.DrawFn) -> tuple[bytes, int]:
    """A request as a client might write it: ragged, in any spacing and any form of number; and its feature count."""
    features, blank = draw(st.integers(1, 3)), draw(blanks)
    step = st.lists(number_texts, min_size=features, max_size=features)
    sequences = draw(st.lists(st.lists(step, min_size=1, max_size=4), min_size=1, max_size=4))
    comma = f"{blank},{draw(blanks)}"

    def join(parts: Iterable[str]) -> str:
        return f"[{blank}{comma.join(parts)}{blank}]"

    fields = [f'"sequences"{blank}:{blank}{join(join(map(join, sequence)) for sequence in sequences)}']
    if trace := draw(st.sampled_from(["", "false", '"layers"', '"gates"', '"\\u0067ates"'])):
        fields.insert(draw(st.integers(0, 1)), f'"trace"{blank}:{blank}{trace}')
    return f"{blank}{{{blank}{comma.join(fields)}{blank}}}{blank}".encode(), features


TOKENS = [
    *(b"NaN Infinity -Infinity 1e999 -1E400 1e400 1e-999 1e39 -1e39 01 1. .5 +1 -1 1e").split(),
    *(b"0x1 1_0 1e5 null true false").split(),
    *(b'"1" "" "[" "[,]" "\\u0031" "\\ud800" {} {"a":1} {"a":[1,2]} {"a":1,"a":2} [] [[]] [1] [1,2] [[[1]]]').split(),
    *(b"9223372036854775807 9223372036854775808 18446744073709551615 18446744073709551616").split(),
    *(b"-9223372036854775808 -9223372036854775809").split(),
    *(b"[ ] { } , : - . e E 0 1 9 ,, ],[ ]],[[ [, ,] /*").split(),
    b"9" * 40, b"1" + b"0" * 400, b"1" * 5000, b"[" * 40, b"]" * 40, b"1 2", b"- 1",
    b'"trace":"gates",', b',"trace":false', b'"sequences":[[[1]]],', b'"x":1,', b'"sequ\\u0065nces"', b'"',
    b"\xff", b"\xc3(", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\x80", b"\x00", b"\x0b", b"\xc2\xa0", b" ", b"\n",
]  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(written_documents())
def test_every_way_to_write_a_request_is_read_as_the_standard_library_reads_it(written: tuple[bytes, int]) -> None:
    body, features = written
    assert check_against_plain_reading(body, features, PredictDecoder()) == (read_plainly(body, features) is not None)
    assert not check_against_plain_reading(body, features + 1, PredictDecoder())


@settings(deadline=None, max_examples=600)
@given(written_documents(), st.data())
def test_what_was_broken_is_refused_or_read_as_the_standard_library_reads_it(
    written: tuple[bytes, int], data: st.DataObject
) -> None:
    body, features = written
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(body)))
        stop = data.draw(st.one_of(st.just(start), st.integers(start, min(len(body), start + 8))))
        token = data.draw(st.one_of(st.just(b""), st.sampled_from(TOKENS), st.binary(max_size=3)))
        body = body[:start] + token + body[stop:]
    check_against_plain_reading(body, features, PredictDecoder())


@pytest.mark.parametrize("token", [b"", *TOKENS])
@pytest.mark.parametrize(
    ("body", "features", "values"),
    [
        (b'{"sequences": [[[1, 2.5], [3, 4]], [[5, 6]]], "trace": "gates"}', 2, b'1 2.5 [3,4] [[5,6]] "gates"'),
        (b'{"sequences": [[[1], [2]], [[3]]]}', 1, b"1 [2] [[3]]"),
    ],
)
def test_no_token_in_any_place_is_read_in_another_way_than_the_standard_library_reads_it(
    token: bytes, body: bytes, features: int, values: bytes
) -> None:
    decoder = PredictDecoder()
    assert check_against_plain_reading(body, features, decoder)
    for start in range(len(body) + 1):
        for stop in (start, start + 1):
            check_against_plain_reading(body[:start] + token + body[stop:], features, decoder)
    body = body.replace(b", ", b",")
    for value in values.split():
        assert value in body
        check_against_plain_reading(body.replace(value, token, 1), features, decoder)


@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=4))
def test_padding_is_that_of_a_plain_loop(parts: list[list[int]]) -> None:
    made = [make_sequences(*lengths, seed=seed) for seed, lengths in enumerate(parts)]
    padded, lengths = pad(made)
    rows = [row for part in made for row in part]
    expected = np.zeros((len(rows), max(len(row) for row in rows), 2), np.float32)
    for number, row in enumerate(rows):
        expected[number, : len(row)] = row
    np.testing.assert_array_equal(padded, expected)
    assert padded.dtype == np.float32
    assert lengths.tolist() == [len(row) for row in rows]


def test_iterating_gives_each_sequence_without_a_copy() -> None:
    sequences = make_sequences(2, 1, 3)
    assert [len(one) for one in sequences] == [2, 1, 3]
    assert len(sequences) == 3
    assert sequences.longest == 3
    assert all(np.shares_memory(one, sequences.values) for one in sequences)
    np.testing.assert_array_equal(np.concatenate(list(sequences)), sequences.values)


def test_taking_rows_keeps_the_order_that_was_asked_for() -> None:
    sequences = make_sequences(2, 1, 3)
    taken = sequences.take(np.array([2, 0]))
    assert taken.lengths.tolist() == [3, 2]
    every = list(sequences)
    for one, expected in zip(taken, [every[2], every[0]], strict=True):
        np.testing.assert_array_equal(one, expected)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 10))
def test_a_head_and_its_tail_are_the_whole(lengths: list[int], steps: int) -> None:
    whole = make_sequences(*lengths)
    reached = State(*np.arange(2 * 3 * len(lengths), dtype=np.float32).reshape(2, 1, len(lengths), 3))
    head = whole.head(steps)
    for one, of_whole in zip(head, whole, strict=True):
        np.testing.assert_array_equal(one, of_whole[:steps])
    goes_on = [row for row, length in enumerate(lengths) if length > steps]
    if not goes_on:
        return
    tail = whole.tail(steps, reached)
    for one, row in zip(tail, goes_on, strict=True):
        np.testing.assert_array_equal(one, list(whole)[row][steps:])
    assert tail.longest == max(lengths) - steps
    assert tail.state is not None
    np.testing.assert_array_equal(tail.state.h0, reached.h0[:, goes_on])
    np.testing.assert_array_equal(tail.state.c0, reached.c0[:, goes_on])


def test_a_head_begins_with_the_states_of_the_whole() -> None:
    state = State(np.ones((1, 2, 3), np.float32), np.zeros((1, 2, 3), np.float32))
    whole = Sequences(np.zeros((5, 2), np.float32), np.array([2, 3]), state)
    assert whole.head(1).state is state


def test_arrays_are_encoded_as_the_shortest_decimal_of_their_float32() -> None:
    assert encode_json({"a": np.array([[0.1, 1.0]], np.float32), "b": ("x",)}) == b'{"a":[[0.1,1.0]],"b":["x"]}'
