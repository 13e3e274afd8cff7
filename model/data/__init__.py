"""Data sets: the synthetic `reference`, the archive sets inside `aeon`, and files; all end in one `Dataset`.

`load` chooses; each source is a sibling file. No torch here.
"""

from pathlib import Path

from model.data.archives import load_archive, shipped_folder
from model.data.dataset import DataError, Dataset, Split, batches_by_length, stratified_split
from model.data.files import is_file_name, load_file
from model.data.reference import NAME as REFERENCE
from model.data.reference import load_reference

__all__ = ["DataError", "Dataset", "Split", "batches_by_length", "load", "stratified_split"]


def load(dataset: str, *, seed: int) -> Dataset:
    """Load `reference`, a path (`.npz`, `.csv`, `.parquet`, `.ts`) or an archive set that ships inside `aeon`.

    `seed` only chooses the held-out sequences where the source has none of its own; `reference` is always the same.
    Raises `DataError`, which says what is wrong and where, for anything that cannot be trained on.
    """
    if dataset == REFERENCE:
        return load_reference()
    if is_file_name(dataset):
        return load_file(Path(dataset), seed=seed)
    return load_archive(dataset, folder=shipped_folder(), seed=seed)
