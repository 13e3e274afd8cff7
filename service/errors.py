"""Every way in which a request can fail, and the one place that says with which status.

    ServiceError
    ├── InvalidRequest     400  malformed JSON, wrong rank or feature count, ragged rows, non-finite or empty
    ├── Unauthorized       401  no key, or not one of ours
    ├── NotFound           404  no such path, model or version
    ├── MethodNotAllowed   405
    ├── TooLarge           413  body, batch or sequence over its limit
    ├── QueueFull          429  too much waiting already; Retry-After
    ├── ClientGone         499  the client closed its connection; no one reads this
    ├── Unsupported        501  a part of the protocol that this service does not have
    ├── InternalError      500  a bug of ours, logged with its stack, told without it
    ├── Unavailable        503  not ready, draining, or the model is going; Retry-After
    └── DeadlineExceeded   504  the request's time ran out before its batch came up

The message is what the client reads: what was got, what is allowed. `reason` is the metrics' label, of a closed set.
"""

from typing import ClassVar

_RETRY = ((b"retry-after", b"1"),)


class ServiceError(Exception):
    """An answer other than 200. Raised anywhere, turned into a response in one place (`service.edge`)."""

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "internal"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class InvalidRequest(ServiceError):
    """The request is wrong and will be wrong again."""

    status = 400
    reason = "invalid"


class RequestStalled(InvalidRequest):
    """The rest of the request did not come."""

    headers = ((b"connection", b"close"),)

    def __init__(self, silence_s: float) -> None:
        super().__init__(f"nothing came for {silence_s:g} s, and the request is not complete")


class Unauthorized(ServiceError):
    """The request carries no valid key."""

    status = 401
    reason = "unauthorized"
    headers = ((b"www-authenticate", b"Bearer"),)


class NotFound(ServiceError):
    """Nothing is served under this path, model name or version."""

    status = 404
    reason = "not_found"


class MethodNotAllowed(ServiceError):
    """The path exists, with another method."""

    status = 405
    reason = "method_not_allowed"

    def __init__(self, method: str, *, allowed: str) -> None:
        super().__init__(f"method {method} is not allowed here; allowed: {allowed}")
        self.headers = ((b"allow", allowed.encode()),)


class TooLarge(ServiceError):
    """The body, the number of sequences or a sequence's length is over its limit."""

    status = 413
    reason = "too_large"
    headers = ((b"connection", b"close"),)  # the rest of a body that was not read must not be taken for a request


class QueueFull(ServiceError):
    """More work is waiting than the service will hold; it was refused at once."""

    status = 429
    reason = "queue_full"
    headers = _RETRY


class ClientGone(ServiceError):
    """The client closed its connection before its answer was ready. 499 is nginx's number for it."""

    status = 499
    reason = "disconnected"


class InternalError(ServiceError):
    """A bug of ours or of the runtime."""


class Unsupported(ServiceError):
    """The protocol has this, the service does not."""

    status = 501
    reason = "unsupported"


class UnknownEncoding(Unsupported):
    """A Content-Encoding that is not undone here."""

    headers = ((b"accept-encoding", b"gzip, deflate"),)


class Unavailable(ServiceError):
    """The service or the model cannot answer now: starting, draining, or unloading."""

    status = 503
    reason = "unavailable"
    headers = _RETRY


class DeadlineExceeded(ServiceError):
    """The request's time ran out."""

    status = 504
    reason = "deadline"
