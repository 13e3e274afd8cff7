"""The classification sets of the UCR/UEA archive that ship inside the `aeon` package, by name.

Only the folder and the files are used: `aeon` itself is never imported, which takes seconds (numba).
"""

import difflib
import importlib.metadata
import importlib.util
from pathlib import Path

from model.data import ts
from model.data.dataset import DataError, Dataset
from model.data.labelled import assemble

PAGE = "https://timeseriesclassification.com/description.php?Dataset="
LICENCE = "not stated in the file; see timeseriesclassification.com"
# aeon's cut-down test sets, and the set that its documentation says they were cut from.
ORIGINALS = {"UnitTest": "Chinatown", "UnitTestTimeStamps": "Chinatown"}
# Sets that aeon stretched to one length: `JapaneseVowels_eq` is made from `JapaneseVowels`.
EQUAL_LENGTH_ENDING = "_eq"


def shipped_folder() -> Path:
    """The folder of one folder a set inside the installed `aeon`; raises `DataError` when it is not installed."""
    spec = importlib.util.find_spec("aeon")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "got the name of an archive data set, but aeon is not installed: pip install 'lstm-serve[train]'"
        )
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data"


def archive_names(folder: Path) -> tuple[str, ...]:
    """The classification sets under `folder`, sorted by name; reads the header of each file and nothing else."""
    return tuple(sorted(name for name, path in _find_sets(folder).items() if _is_classification(path)))


def load_archive(name: str, *, folder: Path, seed: int) -> Dataset:
    """Load the set `name` from `folder`; where a half is missing, `seed` chooses the held-out sequences.

    Raises `DataError` when `name` is unknown (what is allowed follows, close matches first), when it ships with aeon
    but is not a classification set, and for whatever is wrong in its files.
    """
    path = _find_sets(folder).get(name)
    if path is None or not _is_classification(path):
        raise DataError(_complaint(name, folder))
    original = ORIGINALS.get(name, name.removesuffix(EQUAL_LENGTH_ENDING))
    source = f"UCR/UEA time series classification archive, {PAGE}{original}, as shipped in aeon {_version()}"
    return assemble(ts.read_ts(path), source=source, licence=LICENCE, seed=seed)


def _find_sets(folder: Path) -> dict[str, Path]:
    """Name → the path of its pair without ending."""
    found = {}
    for ending in (ts.TRAIN_ENDING, ts.TEST_ENDING):
        for path in folder.glob(f"*/*{ending}{ts.SUFFIX}"):
            name = path.stem.removesuffix(ending)
            found[name] = path.with_name(name)
    return found


def _is_classification(path: Path) -> bool:
    return bool(ts.read_header(ts.find_files(path).train).labels)


def _complaint(name: str, folder: Path) -> str:
    names = archive_names(folder)
    folded = {candidate.lower(): candidate for candidate in names}
    close = [folded[match] for match in difflib.get_close_matches(name.lower(), folded, n=3)]
    allowed = ", ".join([*close, *(candidate for candidate in names if candidate not in close)])
    if name in _find_sets(folder) or name in {entry.name for entry in folder.iterdir()}:
        return f"{name!r} ships with aeon but is not a classification set; allowed: {allowed}"
    return f"unknown data set {name!r}; allowed: reference, the path of a file, or one of {allowed}"


def _version() -> str:
    try:
        return importlib.metadata.version("aeon")
    except importlib.metadata.PackageNotFoundError:
        return "(version unknown)"
