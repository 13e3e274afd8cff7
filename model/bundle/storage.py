"""Bundles on disk: open one and check it, list what a repository holds, publish a new version atomically.

Files are handed out as bytes whose hash has just been checked (`Bundle.read`), so that no one can swap a file between
check and use: `torch.jit.load` runs what it is given.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model.bundle.manifest import MANIFEST, NAME_PATTERN, BundleError, FileEntry, Manifest, parse_manifest
from model.bundle.triton import CONFIG, triton_config

_STAGING = ".staging-"
_MAX_MANIFEST_BYTES = 2**26
SEAL = f"{MANIFEST}.sha256"  # the manifest's own hash, in the format of `sha256sum --check`

Describe = Callable[[int, dict[str, FileEntry]], Manifest]
# Name, inode, size, time of change of each file of a folder.
Fingerprint = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk whose manifest is valid and whose files matched it when it was opened."""

    folder: Path
    manifest: Manifest

    def read(self, file: str) -> bytes:
        """Return the content of `file`, checked against the manifest; raise `BundleError` if it differs."""
        entry = self.manifest.files.get(file)
        if entry is None:
            raise BundleError(f"{self.folder / file}: not listed in {MANIFEST}")
        content = _read_regular(self.folder / file, max_bytes=entry.size_bytes)
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise BundleError(f"{self.folder / file}: content differs from the sha256 in {MANIFEST}")
        return content


def open_bundle(folder: Path) -> Bundle:
    """Open `REPOSITORY/NAME/VERSION`, checking its manifest and the hash of every file.

    Raises `BundleError` with the offending file's name: missing or unreadable, changed, a link, a newer schema, or a
    manifest that is not valid or belongs elsewhere.
    """
    path = folder / MANIFEST
    content = _read_regular(path, max_bytes=_MAX_MANIFEST_BYTES)
    if _read_regular(folder / SEAL, max_bytes=_MAX_MANIFEST_BYTES) != seal(content):
        raise BundleError(f"{path}: content differs from the sha256 in {SEAL}")
    manifest = parse_manifest(path, content)
    if (manifest.name, str(manifest.version)) != (folder.parent.name, folder.name):
        raise BundleError(
            f"{path}: is of {manifest.name}/{manifest.version}, found in {folder.parent.name}/{folder.name}"
        )
    bundle = Bundle(folder, manifest)
    for file in manifest.files:
        bundle.read(file)
    return bundle


def list_models(repository: Path) -> tuple[str, ...]:
    """The names of the models in `repository` that have a version, sorted. Empty if it does not exist."""
    try:
        return tuple(name for name in _list_names(repository) if list_versions(repository, name))
    except FileNotFoundError:
        return ()


def survey(repository: Path) -> dict[str, dict[int, Fingerprint] | BundleError]:
    """What `repository` holds, without reading a file: each model's versions with their fingerprints, or why it hides.

    A version's fingerprint stays the same for as long as nothing in its folder is added, removed, written or allowed.
    Raises `BundleError` if there is no repository or it cannot be listed.
    """
    try:
        names = _list_names(repository)
    except FileNotFoundError as error:
        raise BundleError(f"{repository}: missing") from error
    found: dict[str, dict[int, Fingerprint] | BundleError] = {}
    for name in names:
        try:
            versions = list_versions(repository, name)
        except BundleError as error:
            found[name] = error
        else:
            if versions:
                found[name] = {version: _fingerprint(repository / name / str(version)) for version in versions}
    return found


def list_versions(repository: Path, name: str) -> tuple[int, ...]:
    """The published versions of model `name`, ascending."""
    check_name(name)
    try:
        entries = [entry.name for entry in (repository / name).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise BundleError(f"{repository / name}: cannot be listed: {error.strerror}") from error
    return tuple(sorted(int(entry) for entry in entries if re.fullmatch(r"[1-9][0-9]{0,8}", entry)))


def check_name(name: str) -> None:
    """Raise `BundleError` unless `name` can name a model: it becomes a folder and a part of URLs."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise BundleError(
            f"model name {name!r}: 1 to 100 letters, digits, '.', '_' or '-', the first a letter or a digit"
        )


def check_writable(repository: Path, name: str) -> None:
    """Find out before a training, not after it, whether `publish` can write; make the repository. Raises `OSError`."""
    _make_folder(repository)
    with _publishing(repository):
        folder = repository / name
        is_new = not folder.exists()
        _make_folder(folder)
        try:
            for place in (repository, folder):
                Path(tempfile.mkdtemp(prefix=_STAGING, dir=place)).rmdir()
        finally:
            if is_new:
                folder.rmdir()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder", str(folder)) from None


def publish(repository: Path, name: str, contents: Mapping[str, bytes], describe: Describe) -> Bundle:
    """Write `contents` as a new version of model `name` and make it visible in one step; return it, opened.

    `describe` makes the manifest once the version and the files' hashes are known. The version appears by a rename
    after all of it is on disk, so a reader, or a crash at any moment, finds a whole bundle or none. Publishers take
    turns. Beside the versions stands Triton's description of the model, that of the newest, or, after a crash, of the
    one that did not come.
    """
    check_name(name)
    repository.mkdir(parents=True, exist_ok=True)
    with _publishing(repository):
        version = max(list_versions(repository, name), default=0) + 1
        manifest = describe(version, {file: _entry(content) for file, content in sorted(contents.items())})
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=repository))
        try:
            for file, content in contents.items():
                _write_durably(staging / file, content)
            description = manifest.model_dump_json(indent=1).encode() + b"\n"
            _write_durably(staging / MANIFEST, description)
            _write_durably(staging / SEAL, seal(description))
            _write_durably(staging / CONFIG, triton_config(manifest).encode())
            staging.chmod(0o755)
            (repository / name).mkdir(exist_ok=True)
            (staging / CONFIG).replace(repository / name / CONFIG)
            _fsync(staging)
            folder = repository / name / str(version)
            staging.rename(folder)
            _fsync(folder.parent)
            _fsync(repository)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return open_bundle(folder)


def seal(manifest: bytes) -> bytes:
    """The content of `manifest.json.sha256` beside a manifest of this content."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


@contextmanager
def _publishing(repository: Path) -> Iterator[None]:
    """Hold the repository's publisher lock; under it, every staging folder that exists is one of a killed training."""
    with (repository / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in repository.glob(f"{_STAGING}*"):
            shutil.rmtree(stale, ignore_errors=True)
        yield


def _list_names(repository: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in repository.iterdir() if re.fullmatch(NAME_PATTERN, entry.name))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BundleError(f"{repository}: cannot be listed: {error.strerror}") from error


def _fingerprint(folder: Path) -> Fingerprint:
    """Empty if `folder` cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            stats = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
    except OSError:
        return ()
    return tuple(sorted((name, one.st_ino, one.st_size, one.st_ctime_ns) for name, one in stats.items()))


def _read_regular(path: Path, *, max_bytes: int) -> bytes:
    """The content of `path`; of a larger one no more than `max_bytes` are read, and it is refused."""
    try:
        with open(path, "rb", opener=_open_plainly) as file:  # Path.open takes no opener
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BundleError(f"{path}: not a readable regular file")
            content = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise BundleError(f"{path}: missing") from error
    except OSError as error:
        raise BundleError(f"{path}: not a readable regular file: {error.strerror}") from error
    if len(content) > max_bytes:
        raise BundleError(f"{path}: content differs: it is larger than {max_bytes} bytes")
    return content


def _open_plainly(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _entry(content: bytes) -> FileEntry:
    return FileEntry(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def _write_durably(path: Path, content: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # a full disk's names no file
        raise OSError(error.errno, error.strerror, str(path)) from error


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
