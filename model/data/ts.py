"""Read the `.ts` files of the UCR/UEA time series classification archive.

Layout (https://www.aeon-toolkit.org/en/stable/api_reference/data_format.html): comments, a header of `@tag
value` lines up to `@data`, then one sequence a line, `dimension:dimension:…:label`, each dimension a comma-separated
list of values or of `(timestamp,value)` pairs. aeon's own reader is not used: it lower-cases the labels, its timestamps
drop signs and exponents, and importing it takes seconds.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import DataError
from model.data.labelled import Halves, LabelledSequences

SUFFIX = ".ts"
TRAIN_ENDING, TEST_ENDING = "_TRAIN", "_TEST"
MISSING = ("?", "nan")
END_OF_DIMENSION = re.compile(r"\)\s*:\s*")
BETWEEN_PAIRS = re.compile(r"\)\s*,\s*\(")


@dataclass(frozen=True, slots=True)
class Header:
    """What the header says; `labels` is empty for a set that is not for classification."""

    labels: tuple[str, ...]
    has_timestamps: bool


@dataclass(frozen=True, slots=True)
class TsFiles:
    """The files of one set: `train` and `test`, or a single file that holds all of it."""

    name: str
    train: Path
    test: Path | None


def find_files(path: Path) -> TsFiles:
    """The files that `path` stands for: one half of a pair, the pair's stem (with or without `.ts`), or a single file.

    Raises `DataError` when there is no such file.
    """
    stem = path.with_suffix("") if path.suffix == SUFFIX else path
    name = stem.name.removesuffix(TRAIN_ENDING).removesuffix(TEST_ENDING)
    if name == stem.name and path.is_file():
        return TsFiles(name, path, None)
    candidates = [path.with_name(f"{name}{ending}{SUFFIX}") for ending in (TRAIN_ENDING, TEST_ENDING)]
    present = [candidate for candidate in candidates if candidate.is_file()]
    if not present or (path.suffix == SUFFIX and name != stem.name and path not in present):
        raise DataError(f"{path}: no such file, nor the pair {candidates[0].name} and {candidates[1].name} beside it")
    return TsFiles(name, present[0], present[1] if len(present) == 2 else None)


def read_ts(path: Path) -> Halves:
    """Read the set that `path` stands for (see `find_files`); raises `DataError` with the file and the line.

    Steps at the end of a sequence that are missing in every dimension are padding, and dropped.
    """
    files = find_files(path)
    return Halves(files.name, _read_file(files.train), None if files.test is None else _read_file(files.test))


def read_header(path: Path) -> Header:
    """Read no more than the header of one file."""
    with path.open(encoding="utf-8-sig") as file:
        return _header(path.name, enumerate(file, start=1))


def _header(file: str, lines: Iterator[tuple[int, str]]) -> Header:
    labels: tuple[str, ...] = ()
    has_target, has_timestamps = False, False
    for _, line in lines:
        tag, *values = line.split() or [""]
        match tag.lower(), values:
            case "@data", _:
                return Header(() if has_target else labels, has_timestamps)
            case "@classlabel", [flag, *names] if flag.lower() == "true":
                labels = tuple(names)
            case "@targetlabel", [flag, *_]:
                has_target = flag.lower() == "true"
            case "@timestamps", [flag, *_]:
                has_timestamps = flag.lower() == "true"
    raise DataError(f"{file}: got no @data line, allowed is a .ts file with a header that ends in one")


def _read_file(path: Path) -> LabelledSequences:
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = enumerate(file, start=1)
            header = _header(path.name, lines)
            if not header.labels:
                raise DataError(f"{path.name}: not a classification set: no '@classLabel true …' in its header")
            return _read_data(path.name, header, lines)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name}: got a file that does not read as UTF-8 text ({error})") from error


def _read_data(file: str, header: Header, lines: Iterable[tuple[int, str]]) -> LabelledSequences:
    sequences, labels, origins = [], [], []
    for number, line in lines:
        if not line.strip() or line.startswith(("#", "%")):
            continue
        origin = f"{file}, line {number}"
        *dimensions, label = END_OF_DIMENSION.split(line) if header.has_timestamps else line.split(":")
        if label.strip() not in header.labels:
            raise DataError(f"{origin}: got label {label.strip()!r:.60}, the header allows {list(header.labels)}")
        split = _pair_values if header.has_timestamps else _plain_values
        sequences.append(_sequence([split(dimension) for dimension in dimensions], origin))
        labels.append(label.strip())
        origins.append(origin)
    return LabelledSequences(tuple(sequences), tuple(labels), tuple(origins))


def _plain_values(dimension: str) -> list[str]:
    return dimension.split(",")


def _pair_values(dimension: str) -> list[str]:
    """The values of `(timestamp,value),(timestamp,value`; the order of the file is the order of the steps."""
    return [pair.rpartition(",")[2] for pair in BETWEEN_PAIRS.split(dimension.strip("() \n"))]


def _sequence(dimensions: list[list[str]], origin: str) -> NDArray[np.float64]:
    """`(T, F)` without the padding at its end; a missing value before that stays NaN for the common check to refuse."""
    if not dimensions:
        raise DataError(f"{origin}: got a label without values, allowed is dimension:dimension:…:label")
    for i, cells in enumerate(dimensions):
        if len(cells) != len(dimensions[0]):
            raise DataError(f"{origin}, dimension {i}: got {len(cells)} values, dimension 0 has {len(dimensions[0])}")
    columns = [_numbers(cells, f"{origin}, dimension {i}") for i, cells in enumerate(dimensions)]
    sequence = np.stack(columns, axis=1)  # (T, F)
    present = np.flatnonzero(~np.isnan(sequence).all(axis=1))
    return sequence[: present[-1] + 1 if len(present) else 0]


def _numbers(cells: list[str], origin: str) -> NDArray[np.float64]:
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        return np.array([_number(cell.strip(), f"{origin}, step {i}") for i, cell in enumerate(cells)])


def _number(cell: str, origin: str) -> float:
    if cell.lower() in MISSING:
        return float("nan")
    try:
        return float(cell)
    except ValueError as error:
        raise DataError(f"{origin}: got {cell!r}, allowed is a number") from error
