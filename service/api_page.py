"""The trace page, and what it asks for beyond the models: its files, held in memory and compressed once, and the shapes
of any `nn.LSTM`.

The page takes everything else from the public API, so what it shows, any client can have.
"""

import gzip
import mimetypes
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header
from fastapi.responses import Response as RawResponse

from service import openapi
from service.api_v2_control import Document
from service.errors import NotFound
from service.shapes import LSTMShapes, lstm_shapes

_FOLDER: Final = Path(__file__).parent / "static" / "page"
_INDEX: Final = "index.html"
# All that the page needs comes from where it came from; pictures are saved from blobs.
_POLICY: Final = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS: Final = {
    "cache-control": "no-cache",  # ask each time whether it has changed; the answer is a 304 without a body
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "vary": "accept-encoding",
    "x-content-type-options": "nosniff",
}
_SHAPES_BODY: Final = {
    **{name: {"type": "integer"} for name in ("input_size", "hidden_size", "num_layers")},
    **{name: {"type": "boolean"} for name in ("bias", "batch_first", "bidirectional")},
    **{name: {"type": "integer"} for name in ("sequence_length", "features")},
    "batch": {"type": ["integer", "null"]},
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page. `etag` is of its content."""

    media_type: str
    etag: str
    content: bytes
    compressed: bytes

    @classmethod
    def read(cls, path: Path) -> "Asset":
        """Read and compress a file."""
        content = path.read_bytes()
        media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return cls(media_type, f'"{sha256(content).hexdigest()[:32]}"', content, gzip.compress(content, mtime=0))

    def answer(self, asked: "Asked") -> RawResponse:
        """The file, or that the client has it."""
        headers = _HEADERS | {"etag": self.etag}
        if self.etag in (asked.if_none_match or "").replace("W/", ""):
            return RawResponse(status_code=304, headers=headers)
        if "gzip" not in (asked.accept_encoding or ""):
            return RawResponse(self.content, headers=headers, media_type=self.media_type)
        headers["content-encoding"] = "gzip"
        return RawResponse(self.compressed, headers=headers, media_type=self.media_type)


@dataclass(frozen=True, slots=True)
class Asked:
    """The headers of a request for a file that its answer depends on."""

    accept_encoding: Annotated[str | None, Header()] = None
    if_none_match: Annotated[str | None, Header()] = None


class PageApi:
    """Serves the page's files and the shape lab."""

    def __init__(self) -> None:
        self._assets = {path.name: Asset.read(path) for path in sorted(_FOLDER.iterdir()) if path.is_file()}

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter()
        router.add_api_route("/", self.page, include_in_schema=False)
        router.add_api_route("/static/page/{file}", self.file, include_in_schema=False)
        router.add_api_route(
            "/v1/shapes",
            self.shapes,
            methods=["POST"],
            tags=["shapes"],
            responses=openapi.errors(400, 401, 413, 500),
            openapi_extra=openapi.json_body(_SHAPES_BODY),
        )
        return router

    async def page(self, asked: Annotated[Asked, Depends()]) -> RawResponse:
        """The trace page."""
        return self._assets[_INDEX].answer(asked)

    async def file(self, file: str, asked: Annotated[Asked, Depends()]) -> RawResponse:
        """A style sheet or module of the page."""
        if file not in self._assets:
            raise NotFound(f"nothing is served under /static/page/{file}")
        return self._assets[file].answer(asked)

    async def shapes(self, document: Document) -> LSTMShapes:
        """Say which shapes a `torch.nn.LSTM` gives and how many parameters it has, or which error it raises."""
        return lstm_shapes(document)
