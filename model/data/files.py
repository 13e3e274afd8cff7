"""Read a data set from a path: the format is chosen by the suffix, one reader a format."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from model.data import long_form, npz, ts
from model.data.dataset import DataError, Dataset
from model.data.labelled import assemble

READERS = {
    ".npz": npz.read_npz,
    ".csv": long_form.read_csv,
    ".parquet": long_form.read_parquet,
    ts.SUFFIX: ts.read_ts,
}


def is_file_name(dataset: str) -> bool:
    """Whether `dataset` means a path: it is a file, it looks like one, or it is the stem of a `.ts` pair."""
    path = Path(dataset)
    if path.suffix in READERS or "/" in dataset or path.is_file():
        return True
    return any(Path(f"{dataset}{ending}{ts.SUFFIX}").is_file() for ending in (ts.TRAIN_ENDING, ts.TEST_ENDING))


def load_file(path: Path, *, seed: int) -> Dataset:
    """Read and check the data set at `path`; its name is the file's stem (`X` for `X_TRAIN.ts`).

    `seed` chooses the held-out sequences of a file that has no test half. Raises `DataError` when there is no such
    file, when its suffix is unknown, and for whatever is wrong in it.
    """
    if path.suffix in READERS:
        reader = READERS[path.suffix]
    elif path.exists():
        raise DataError(f"{path}: got a {path.suffix or 'folder or a file without suffix'}, allowed: {list(READERS)}")
    else:  # it can only be the stem of a .ts pair
        reader = ts.read_ts
    if reader is not ts.read_ts and not path.is_file():
        raise DataError(f"{path}: no such file")
    halves = reader(path)
    data = assemble(halves, source=f"file {path.name}", licence="not stated in the file", seed=seed)
    if halves.test is not None or not path.is_file():
        return data
    return replace(data, sha256=sha256(path.read_bytes()).hexdigest())
