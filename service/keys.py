"""Bearer keys: who may use the service, from a file that an operator can edit while it runs."""

import hmac
import logging
from hashlib import sha256
from pathlib import Path

from service.errors import Unauthorized
from service.settings import SettingsError

_Stamp = tuple[int, int, int]

logger = logging.getLogger(__name__)


class ApiKeys:
    """The keys of one file: one a line, empty lines and lines that start with `#` left out. Read again when it changes.

    Only hashes are kept, and every hash is compared in constant time, so that neither memory nor timing tells a key.
    """

    def __init__(self, path: Path) -> None:
        """Read `path`; raise `SettingsError` if it cannot be read or holds no key."""
        self._path = path
        try:
            self._stamp: _Stamp | None = self._read_stamp()
            self._hashes = self._read_hashes()
        except OSError as error:
            raise SettingsError(f"LSTM_API_KEYS_FILE: {path}: {error.strerror}") from error
        if not self._hashes:
            raise SettingsError(f"LSTM_API_KEYS_FILE: {path} holds no key")

    def check(self, authorization: bytes | None) -> None:
        """Raise `Unauthorized` unless `authorization` (the header's value) is `Bearer` and one of the keys."""
        self._refresh()
        scheme, _, key = (authorization or b"").partition(b" ")
        got = sha256(key.strip()).digest()
        known = False
        for one in self._hashes:
            known |= hmac.compare_digest(one, got)
        if scheme.lower() != b"bearer" or not known:
            raise Unauthorized("a valid API key is needed: Authorization: Bearer KEY")

    def _refresh(self) -> None:
        """Follow the file. While it cannot be read, no key is valid: a deleted file revokes all."""
        try:
            stamp = self._read_stamp()
            if stamp == self._stamp:
                return
            self._hashes, self._stamp = self._read_hashes(), stamp
            logger.info("API keys read again, %d of them", len(self._hashes))
        except OSError as error:
            if self._stamp is not None:
                logger.error("API keys cannot be read, none is valid now: %s", error.strerror)
            self._hashes, self._stamp = [], None

    def _read_stamp(self) -> _Stamp:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read_hashes(self) -> list[bytes]:
        lines = (line.strip() for line in self._path.read_bytes().splitlines())
        return [sha256(line).digest() for line in lines if line and not line.startswith(b"#")]
