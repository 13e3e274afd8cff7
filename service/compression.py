"""Content-Encoding of requests and answers: gzip and deflate, which is zlib's format (RFC 9110, 8.4.1)."""

import zlib
from typing import Final

from service.errors import InvalidRequest, TooLarge, UnknownEncoding

# As `wbits` of zlib.
_WBITS: Final = {b"gzip": 31, b"deflate": 15}
_WORTH_IT_BYTES: Final = 1024


def compress(body: bytes, accepted: bytes | None) -> tuple[bytes, bytes | None]:
    """Compress `body` if `accepted` is one encoding of ours and it is worth it; return it and what it is encoded as.

    A list of encodings is left alone: libraries send one on their own, for clients that cannot undo any.
    """
    if accepted not in _WBITS or len(body) < _WORTH_IT_BYTES:
        return body, None
    encoder = zlib.compressobj(level=1, wbits=_WBITS[accepted])
    return encoder.compress(body) + encoder.flush(), accepted


def decompress(body: bytes, encoding: bytes | None, *, max_bytes: int) -> bytes:
    """Undo a request's Content-Encoding; raise `TooLarge` before more than `max_bytes` come of it."""
    if encoding is None or encoding == b"identity":
        return body
    if encoding not in _WBITS:
        raise UnknownEncoding(f"Content-Encoding {encoding.decode('latin-1')!r}, allowed are gzip and deflate")
    decoder = zlib.decompressobj(wbits=_WBITS[encoding])
    try:
        content = decoder.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not what Content-Encoding says: {error}") from None
    if len(content) > max_bytes:
        raise TooLarge(f"body of more than {max_bytes} bytes once decompressed, at most that many are taken")
    if not decoder.eof or decoder.unused_data:
        raise InvalidRequest("the compressed body is cut off, or more follows it")
    return content
