"""Read long-form tables, `.csv` and `.parquet`: one row a step, one column a feature.

Columns `sequence_id`, `step`, `label`, and every other column is a feature, in the order of the file. Rows may come in
any order: `step` sorts them within their sequence. Sequences keep the order in which they first appear.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.data.dataset import DataError
from model.data.labelled import Halves, LabelledSequences

ID, STEP, LABEL = "sequence_id", "step", "label"
LAYOUT = f"allowed are {ID}, {STEP}, {LABEL} and one or more feature columns"


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Cells by column, as read, with the name of every row: `"line 7"` of a CSV file, `"row 6"` of a parquet file."""

    file: str
    rows: tuple[str, ...]
    columns: Mapping[str, Sequence[object]]

    def refuse(self, row: int, column: str, complaint: str) -> NoReturn:
        """Raise the `DataError` for one cell."""
        raise DataError(f"{self.file}, {self.rows[row]}, column {column!r}: {complaint}")

    def numbers(self, column: str) -> NDArray[np.float64]:
        """One column as finite numbers `(rows,)`; raises `DataError` at the first cell that is none."""
        cells = self.columns[column]
        try:
            values = np.array(cells, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.array([_number(cell) for cell in cells])
        if values.ndim != 1:  # every cell is a list
            values = np.full(len(cells), np.nan)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            self.refuse(bad[0], column, f"got {cells[bad[0]]!r}, allowed is a finite number")
        return values

    def texts(self, column: str) -> NDArray[np.str_]:
        """One column as strings `(rows,)`; raises `DataError` at the first empty cell."""
        texts = ["" if cell is None else str(cell).strip() for cell in self.columns[column]]
        if "" in texts:
            self.refuse(texts.index(""), column, "got an empty cell, allowed is any text")
        return np.array(texts, dtype=np.str_)


def read_csv(path: Path) -> Halves:
    """Read a UTF-8, comma-separated `path` with a header; raises `DataError` with the line and the column."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            header = [cell.strip() for cell in next(reader, [])]
            numbered = [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name}: got a file that does not read as UTF-8 CSV ({error})") from error
    for line, cells in numbered:
        if len(cells) < len(header):
            raise DataError(f"{path.name}, line {line}, column {header[len(cells)]!r}: the row ends before it")
        if len(cells) > len(header):
            raise DataError(f"{path.name}, line {line}: got {len(cells)} cells, allowed are the header's {len(header)}")
    _check_header(path.name, header)
    columns = {name: [cells[i] for _, cells in numbered] for i, name in enumerate(header)}
    rows = tuple(f"line {line}" for line, _ in numbered)
    return Halves(path.stem, _sequences(Table(path.name, rows, columns)), None)


def read_parquet(path: Path) -> Halves:
    """Read a parquet table; raises `DataError` with the row, counted from 1, and the column."""
    try:
        frame = pd.read_parquet(path)
        cells = [frame.iloc[:, i].tolist() for i in range(frame.shape[1])]
    except (
        Exception
    ) as error:  # a damaged file makes pyarrow and pandas raise nearly anything, text only when it is used
        raise DataError(f"{path.name}: got a file that does not read as parquet ({error})") from error
    header = [str(name) for name in frame.columns]
    _check_header(path.name, header)
    columns = {
        name: [None if pd.isna(cell) is True else cell for cell in column]
        for name, column in zip(header, cells, strict=True)
    }
    rows = tuple(f"row {i + 1}" for i in range(len(frame)))
    return Halves(path.stem, _sequences(Table(path.name, rows, columns)), None)


def _check_header(file: str, header: list[str]) -> None:
    for required in (ID, STEP, LABEL):
        if required not in header:
            raise DataError(f"{file}: no column {required!r}; got {header}, {LAYOUT}")
    if "" in header:
        place = header.index("") + 1
        raise DataError(f"{file}: column {place} has no name; if it is pandas' index, write with to_csv(index=False)")
    if len(set(header)) < len(header):
        raise DataError(f"{file}: a column name occurs twice; got {header}")
    if len(header) < 4:
        raise DataError(f"{file}: no feature column; got {header}, {LAYOUT}")


def _sequences(table: Table) -> LabelledSequences:
    """Group the rows by sequence and sort each by step."""
    features = [name for name in table.columns if name not in (ID, STEP, LABEL)]
    ids, labels, steps = table.texts(ID), table.texts(LABEL), table.numbers(STEP)
    values = np.stack([table.numbers(feature) for feature in features], axis=1)  # (rows, F)
    groups = _groups(ids, steps)
    for group in groups:
        _check_group(table, group, steps=steps, labels=labels)
    return LabelledSequences(
        sequences=tuple(values[group] for group in groups),
        labels=tuple(str(labels[group[0]]) for group in groups),
        origins=tuple(f"{table.file}, {table.rows[min(group)]}, sequence {str(ids[group[0]])!r}" for group in groups),
    )


def _groups(ids: NDArray[np.str_], steps: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """For each sequence, in order of first appearance, its rows in order of step."""
    _, first_rows, inverse = np.unique(ids, return_index=True, return_inverse=True)
    order = np.lexsort((steps, first_rows[inverse]))  # (rows,)
    starts = np.flatnonzero(np.diff(first_rows[inverse][order])) + 1
    return np.split(order, starts) if len(order) else []


def _check_group(
    table: Table, group: NDArray[np.intp], *, steps: NDArray[np.float64], labels: NDArray[np.str_]
) -> None:
    repeated = np.flatnonzero(np.diff(steps[group]) == 0)
    if len(repeated):
        row = group[repeated[0] + 1]
        table.refuse(row, STEP, f"got {steps[row]:g} a second time, allowed is each step once in a sequence")
    first = min(group)
    for row in sorted(group[labels[group] != labels[first]]):
        table.refuse(row, LABEL, f"got {str(labels[row])!r}, the sequence began with {str(labels[first])!r}")


def _number(cell: object) -> float:
    """The cell as a float, NaN where it is none."""
    if isinstance(cell, np.ndarray):  # a list cell; NumPy would convert one of a single value
        return float("nan")
    try:
        return float(cell)  # type: ignore[arg-type]  # what cannot be converted is what is caught
    except (TypeError, ValueError):
        return float("nan")
