import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.compression import compress, decompress
from service.errors import InvalidRequest, ServiceError, TooLarge, UnknownEncoding

ENCODINGS = (b"gzip", b"deflate")


@given(st.binary(max_size=3000), st.sampled_from(ENCODINGS))
def test_there_and_back_is_the_same_body(body: bytes, encoding: bytes) -> None:
    compressed, used = compress(body, encoding)
    assert used == (encoding if len(body) >= 1024 else None)
    assert decompress(compressed, used, max_bytes=3000) == body


def test_these_are_the_formats_that_the_names_stand_for() -> None:
    assert decompress(gzip.compress(b"body"), b"gzip", max_bytes=4) == b"body"
    assert decompress(zlib.compress(b"body"), b"deflate", max_bytes=4) == b"body"


@pytest.mark.parametrize("accepted", [None, b"", b"identity", b"br", b"gzip, deflate", b"gzip;q=1", b"GZIP"])
def test_an_answer_is_compressed_only_for_one_encoding_by_its_name(accepted: bytes | None) -> None:
    assert compress(bytes(5000), accepted) == (bytes(5000), None)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_more_than_the_limit_comes_of_a_body(encoding: bytes) -> None:
    body, _ = compress(bytes(100_000), encoding)
    assert decompress(body, encoding, max_bytes=100_000) == bytes(100_000)
    with pytest.raises(TooLarge, match="more than 99999 bytes once decompressed"):
        decompress(body, encoding, max_bytes=99_999)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_body_that_is_cut_off_or_followed_by_more_is_refused(encoding: bytes) -> None:
    body, _ = compress(b"x" * 2000, encoding)
    for wrong in (b"", body[:-1], body[: len(body) // 2], body + b"x", b"x" + body):
        with pytest.raises(InvalidRequest):
            decompress(wrong, encoding, max_bytes=5000)


@given(st.binary(max_size=100), st.sampled_from([*ENCODINGS, b"br", b"x-gzip"]))
def test_arbitrary_bytes_raise_nothing_but_our_errors(body: bytes, encoding: bytes) -> None:
    try:
        decompress(body, encoding, max_bytes=50)
    except ServiceError:
        return


def test_an_unknown_encoding_is_told_the_known_ones() -> None:
    with pytest.raises(UnknownEncoding, match="'br', allowed are gzip and deflate") as raised:
        decompress(b"", b"br", max_bytes=1)
    assert dict(raised.value.headers) == {b"accept-encoding": b"gzip, deflate"}
