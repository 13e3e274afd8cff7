"""What is known of an inference request that takes `service.protocol`'s short way: its head, and then its body.

A client sends the same request line and headers again and again: heads that were parsed once are known by their bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from service.edge import Exchange, InferenceApi

_MAX_KNOWN_HEADS, _MAX_KNOWN_HEAD_BYTES = 256, 2048


class _Nobody:
    """Who waits for what uvicorn's protocol has to say to an inference request."""

    def set(self) -> None:
        """Wake nobody."""


@dataclass(frozen=True, slots=True)
class Head:
    """Request line and headers of an inference request that can take the short way."""

    api: InferenceApi
    method: str
    path: str
    headers: Mapping[bytes, bytes]  # of one that came twice the first
    lines: int
    content_length: int
    keep_alive: bool


class KnownHeads:
    """What the heads of requests mean that came before, by their bytes up to the empty line."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}

    def get(self, content: bytes) -> Head | None:
        """What `content` means; None if that is not known."""
        return self._heads.get(content)

    def add(self, content: bytes, head: Head) -> None:
        """Remember that `content` means `head`; forget all when there are too many.

        Only what every reader of HTTP must understand in the same way is remembered: each line ends with CR LF, and
        none is the continuation of another.
        """
        lines = content.count(b"\r\n")
        is_plain = content.startswith(b"POST ") and lines == content.count(b"\n") == head.lines
        if is_plain and len(content) <= _MAX_KNOWN_HEAD_BYTES:
            if len(self._heads) == _MAX_KNOWN_HEADS:
                self._heads.clear()
            self._heads[content] = head


class Inference:
    """An inference request on the short way. Satisfies `service.http.Request`, and stands in for uvicorn's cycle."""

    __slots__ = (
        "_body",
        "disconnected",
        "exchange",
        "gone",
        "head",
        "keep_alive",
        "method",
        "path",
        "response_complete",
    )

    message_event: Final = _Nobody()

    def __init__(self, head: Head) -> None:
        self.head = head
        self.method = head.method
        self.path = head.path
        self.keep_alive = head.keep_alive
        self.gone = False
        self.disconnected = False
        self.response_complete = False
        self.exchange: Exchange | None = None  # from when it is here in full until it is answered
        self._body: list[bytes] = []

    def header(self, name: bytes) -> bytes | None:
        """The first value of header `name` (lower case)."""
        return self.head.headers.get(name)

    def feed(self, piece: bytes) -> None:
        """Take more of the body."""
        self._body.append(piece)

    def take_body(self) -> bytes:
        """All of the body. It is kept no longer: a connection keeps its last request until the next one comes."""
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        return body

    def complete(self) -> None:
        """It is answered: let go of the exchange, which refers to it, and of a body that never came in full."""
        self.response_complete = True
        self.exchange = None
        self._body.clear()
