"""The metrics' values when there are several workers: in prometheus_client's files, but series can go again.

Its own class keeps every series that ever was, in its files and in a list: a service that is given a new version every
few minutes would grow without end, and so would every scrape. The files' names and format are its own, for its
collector to add them up. Setting `values.ValueClass` is its way to have others
(https://github.com/prometheus/client_python/issues/509). Not safe for threads: metrics belong to the event loop's.
"""

import json
import os
import warnings
from collections.abc import Set
from pathlib import Path
from typing import Any

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import mark_process_dead


class _File:
    """The values of one kind of metric in one process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = _open(path)

    def read(self, key: str) -> float:
        """Read one series' value, 0 if it is new."""
        value, _ = self._content.read_value(key)
        return float(value)

    def write(self, key: str, value: float) -> None:
        """Keep one series' value."""
        self._content.write_value(key, value, 0.0)

    def forget(self, versions: Set[tuple[str, str]]) -> None:
        """Replace the file, in one step for whoever reads it, by one without the series of these."""
        entries = [(*entry, json.loads(entry[0])[2]) for entry in self._content.read_all_values()]
        kept = [entry for *entry, labels in entries if (labels.get("model"), labels.get("version")) not in versions]
        if len(kept) == len(entries):
            return
        path = self._path.with_suffix(".new")
        path.unlink(missing_ok=True)
        before, content = self._content, _open(path)
        for entry in kept:
            content.write_value(*entry)
        path.replace(self._path)
        self._content = content
        before.close()


def _open(path: Path) -> Any:
    return MmapedDict(str(path))  # type: ignore[no-untyped-call]  # prometheus_client's, as all its methods


_files: dict[Path, _File] = {}


class SharedValue:
    """One series' value, in a file that other processes read. Takes and offers what prometheus_client's metrics ask."""

    def __init__(self, typ: str, *series: Any, multiprocess_mode: str = "", **_: Any) -> None:
        """Take up the value of `series`, the five arguments of `mmap_key`."""
        kind = f"{typ}_{multiprocess_mode}" if typ == "gauge" else typ
        path = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"], f"{kind}_{os.getpid()}.db")
        self._file = _files.get(path) or _files.setdefault(path, _File(path))
        self._key = mmap_key(*series)
        self._value = self._file.read(self._key)

    def inc(self, amount: float) -> None:
        """Add to the value."""
        self.set(self._value + amount)

    def set(self, value: float, timestamp: float | None = None) -> None:  # noqa: ARG002  # none of our gauges needs it
        """Replace the value."""
        self._value = value
        self._file.write(self._key, value)

    def get(self) -> float:
        """Tell this process's value."""
        return self._value

    def get_exemplar(self) -> None:
        """Tell that there is none."""


def share_values() -> None:
    """Let all metrics that are made from now on keep their values in files of `PROMETHEUS_MULTIPROC_DIR`."""
    values.ValueClass = SharedValue
    warnings.filterwarnings("ignore", "Removal of labels has not been implemented", UserWarning)  # in its own files


def forget(versions: Set[tuple[str, str]]) -> None:
    """Take what this process counted of these models and versions out of its files."""
    for file in _files.values():
        file.forget(versions)


def forget_gauges(process_id: int) -> None:
    """Take what a process that has ended said of itself out of the scrape; what it counted stays."""
    mark_process_dead(process_id)  # type: ignore[no-untyped-call]  # prometheus_client's
